//! eBPF programs written out in place, their maps, and where they are put in: no compiler, no object
//! file, and a verifier in the kernel that reads them more strictly than any reviewer.
#![expect(unsafe_code, reason = "bpf has no wrapper in the standard library")]

mod assembler;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

pub(crate) use assembler::{Assembler, Helper, Instruction, Register, Size};

/// Commands of `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;

/// Helpers that only programs under the GPL may call are not among ours.
const LICENSE: &std::ffi::CStr = c"Apache-2.0";

/// What calls a program, and so what it may do (`enum bpf_prog_type`).
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum ProgramKind {
    /// It gets a packet and gives a number.
    SocketFilter = 1,
    /// It gets a packet on its way into or out of a device and gives a verdict.
    Classifier = 3,
}

/// `enum bpf_map_type`.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum MapKind {
    /// Found by its key; an entry takes memory while it is there.
    Hash = 1,
    /// Found by its number; all entries are there from the beginning, zero.
    Array = 2,
}

/// Where a program stands (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum Hook {
    /// Before IP sees what a device has received.
    Ingress = 46,
    /// Before a device gets what IP sends.
    Egress = 47,
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` has to have.
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The same for `BPF_MAP_CREATE`.
#[repr(C)]
struct Create {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries_max: u32,
    flags: u32,
}

/// The same for the commands about one entry of a map.
#[repr(C)]
struct Entry {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The same for `BPF_LINK_CREATE` at a device (`tcx`).
#[repr(C)]
struct Attach {
    program: u32,
    device: u32,
    hook: u32,
    flags: u32,
    neighbour: u32,
    padding: u32,
    revision: u64,
}

const _: () = assert!(size_of::<Load>() == 48 && size_of::<Create>() == 20);
const _: () = assert!(size_of::<Entry>() == 32 && size_of::<Attach>() == 32);

/// Calls `bpf` with one of the structures above.
///
/// # Safety
///
/// `attributes` is what `command` takes, and every address in it is one that the kernel may read, or
/// write where the command does, as long as the call lasts.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads as many bytes from the second argument as the third one says, which is
    // the size of `attributes`; of the addresses in it the caller is sure.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(RawFd::try_from(result).expect("a descriptor, or zero, is an int"))
}

fn number(fd: &OwnedFd) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("an open descriptor is not negative")
}

/// A program that the kernel has taken. It lives on where it is in use.
#[derive(Debug)]
pub(crate) struct Program(OwnedFd);

impl Program {
    pub(crate) fn load(kind: ProgramKind, code: &[Instruction]) -> io::Result<Program> {
        let attributes = Load {
            kind: kind as u32,
            instruction_count: u32::try_from(code.len()).expect("the program is short"),
            instructions: code.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads as many instructions as `code` has, and a text that ends with a
        // zero. Both outlive the call, none is written to, and no address is kept.
        let fd = unsafe { bpf(PROG_LOAD, &attributes) }?;
        // SAFETY: `fd` was returned by `bpf` just now and not shown to anybody, so this is its only
        // owner.
        Ok(Program(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Puts the program behind those that stand there already. Needs Linux 6.6.
    pub(crate) fn attach(&self, hook: Hook, device: u32) -> io::Result<Link> {
        let attributes = Attach {
            program: number(&self.0),
            device,
            hook: hook as u32,
            flags: 0,
            neighbour: 0,
            padding: 0,
            revision: 0,
        };
        // SAFETY: there is no address in `attributes`.
        let fd = unsafe { bpf(LINK_CREATE, &attributes) }?;
        // SAFETY: `fd` was returned by `bpf` just now and not shown to anybody, so this is its only
        // owner.
        Ok(Link { _fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }
}

/// A program in its place. Dropping this takes it out, as does the end of the process.
#[derive(Debug)]
pub(crate) struct Link {
    _fd: OwnedFd,
}

/// What programs remember, with keys of `K` bytes and values of `V`.
#[derive(Debug)]
pub(crate) struct Map<const K: usize, const V: usize>(OwnedFd);

impl<const K: usize, const V: usize> Map<K, V> {
    pub(crate) fn create(kind: MapKind, entries_max: u32) -> io::Result<Self> {
        /// `BPF_F_NO_PREALLOC`.
        const ON_DEMAND: u32 = 1;
        let attributes = Create {
            kind: kind as u32,
            key_size: u32::try_from(K).expect("a key is short"),
            value_size: u32::try_from(V).expect("a value is short"),
            entries_max,
            flags: if matches!(kind, MapKind::Hash) { ON_DEMAND } else { 0 },
        };
        // SAFETY: there is no address in `attributes`.
        let fd = unsafe { bpf(MAP_CREATE, &attributes) }?;
        // SAFETY: `fd` was returned by `bpf` just now and not shown to anybody, so this is its only
        // owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(crate) fn get(&self, key: &[u8; K]) -> io::Result<[u8; V]> {
        let mut value = [0; V];
        let entry = self.entry(key, value.as_mut_ptr() as u64);
        // SAFETY: the kernel reads `K` bytes of the key and writes `V` bytes of the value, which are
        // what the map was made with; both outlive the call.
        unsafe { bpf(MAP_LOOKUP_ELEM, &entry) }?;
        Ok(value)
    }

    pub(crate) fn set(&self, key: &[u8; K], value: &[u8; V]) -> io::Result<()> {
        let entry = self.entry(key, value.as_ptr() as u64);
        // SAFETY: the kernel reads `K` bytes of the key and `V` bytes of the value, which are what the
        // map was made with; both outlive the call.
        unsafe { bpf(MAP_UPDATE_ELEM, &entry) }.map(drop)
    }

    pub(crate) fn remove(&self, key: &[u8; K]) -> io::Result<()> {
        let entry = self.entry(key, 0);
        // SAFETY: the kernel reads `K` bytes of the key, which is what the map was made with; it
        // outlives the call.
        unsafe { bpf(MAP_DELETE_ELEM, &entry) }.map(drop)
    }

    fn entry(&self, key: &[u8; K], value: u64) -> Entry {
        Entry { map: number(&self.0), padding: 0, key: key.as_ptr() as u64, value, flags: 0 }
    }
}
