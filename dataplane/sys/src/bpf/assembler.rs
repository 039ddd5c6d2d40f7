//! Instructions, and a program that is put together from them.

use std::os::fd::RawFd;

/// `struct bpf_insn` of `include/uapi/linux/bpf.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    code: u8,
    /// Destination and source register, four bits each.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const _: () = assert!(size_of::<Instruction>() == 8);

/// R0 has what a call gave, R1 to R5 are its arguments and lost by it, R6 to R9 stay, R10 is the end of
/// the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// How many bytes are loaded or stored: 4, 2, 1 and 8.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Size {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
    Double = 0x18,
}

/// A register or a number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operand {
    Register(Register),
    Value(i32),
}

impl From<Register> for Operand {
    fn from(register: Register) -> Operand {
        Operand::Register(register)
    }
}

impl From<i32> for Operand {
    fn from(value: i32) -> Operand {
        Operand::Value(value)
    }
}

/// What the kernel does for a program (`enum bpf_func_id`).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Helper {
    MapLookup = 1,
    Nanoseconds = 5,
    StorePacket = 9,
    Redirect = 23,
    LoadPacket = 26,
    SumDifference = 28,
    FlowHash = 34,
    ChangeHead = 43,
    AdjustRoom = 50,
    RedirectNeighbour = 152,
}

/// Classes, modes and operations of `bpf_common.h` and `bpf.h`.
const LD: u8 = 0x00;
const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const ALU: u8 = 0x04;
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const ALU64: u8 = 0x07;
const ABSOLUTE: u8 = 0x20;
const INDIRECT: u8 = 0x40;
const MEMORY: u8 = 0x60;
const ATOMIC: u8 = 0xc0;
const FROM_REGISTER: u8 = 0x08;

/// A program under construction. A jump names the label that it leads to, which comes later.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    code: Vec<Instruction>,
    /// Jumps to labels that have not come yet.
    open: Vec<(usize, &'static str)>,
}

impl Assembler {
    /// The whole program.
    pub(crate) fn finish(self) -> Vec<Instruction> {
        assert!(self.open.is_empty(), "jumps without a label: {:?}", self.open);
        self.code
    }

    /// Jumps to `name` lead to what comes next.
    pub(crate) fn label(&mut self, name: &'static str) {
        let here = self.code.len();
        for (at, wanted) in std::mem::take(&mut self.open) {
            if wanted == name {
                // Counted from the instruction behind the jump.
                let distance = i16::try_from(here - at - 1).expect("the program is short");
                self.code[at].offset = distance;
            } else {
                self.open.push((at, wanted));
            }
        }
    }

    pub(crate) fn copy(&mut self, to: Register, from: impl Into<Operand>) {
        self.calculate(ALU64 | 0xb0, to, from);
    }

    pub(crate) fn add(&mut self, to: Register, what: impl Into<Operand>) {
        self.calculate(ALU64, to, what);
    }

    pub(crate) fn subtract(&mut self, from: Register, what: impl Into<Operand>) {
        self.calculate(ALU64 | 0x10, from, what);
    }

    pub(crate) fn multiply(&mut self, to: Register, by: impl Into<Operand>) {
        self.calculate(ALU64 | 0x20, to, by);
    }

    pub(crate) fn shift_left(&mut self, to: Register, bits: i32) {
        self.calculate(ALU64 | 0x60, to, bits);
    }

    pub(crate) fn shift_right(&mut self, to: Register, bits: i32) {
        self.calculate(ALU64 | 0x70, to, bits);
    }

    pub(crate) fn xor(&mut self, to: Register, with: impl Into<Operand>) {
        self.calculate(ALU64 | 0xa0, to, with);
    }

    /// Of the lower 32 bits; the upper ones become zero.
    pub(crate) fn and(&mut self, to: Register, with: i32) {
        self.calculate(ALU | 0x50, to, with);
    }

    /// From host to network order and back, of the lower 16 bits; all others become zero.
    pub(crate) fn swap_to_network(&mut self, register: Register) {
        self.push(ALU | 0xd0 | FROM_REGISTER, [register, Register::R0], 0, 16);
    }

    pub(crate) fn load(&mut self, size: Size, to: Register, base: Register, offset: i16) {
        self.push(LDX | MEMORY | size as u8, [to, base], offset, 0);
    }

    pub(crate) fn store(&mut self, size: Size, base: Register, offset: i16, from: Register) {
        self.push(STX | MEMORY | size as u8, [base, from], offset, 0);
    }

    pub(crate) fn store_value(&mut self, size: Size, base: Register, offset: i16, value: i32) {
        self.push(ST | MEMORY | size as u8, [base, Register::R0], offset, value);
    }

    /// Adds to eight bytes of memory that others add to as well.
    pub(crate) fn add_shared(&mut self, base: Register, offset: i16, from: Register) {
        self.push(STX | ATOMIC | Size::Double as u8, [base, from], offset, 0);
    }

    /// Loads from the packet into R0, in host order. The packet's context has to be in R6; R1 to R5 are
    /// lost, and a place behind the packet's end ends the program with 0.
    pub(crate) fn load_packet(&mut self, size: Size, offset: i32) {
        self.push(LD | ABSOLUTE | size as u8, [Register::R0, Register::R0], 0, offset);
    }

    /// The same, `offset` bytes behind the place that a register has.
    pub(crate) fn load_packet_behind(&mut self, size: Size, place: Register, offset: i32) {
        self.push(LD | INDIRECT | size as u8, [Register::R0, place], 0, offset);
    }

    /// Loads what a helper takes as the map.
    pub(crate) fn map(&mut self, to: Register, map: RawFd) {
        /// `BPF_PSEUDO_MAP_FD`, in the place of the source register.
        const MAP_FD: Register = Register::R1;
        self.push(LD | Size::Double as u8, [to, MAP_FD], 0, map);
        // The upper half of a number of 64 bits.
        self.push(0, [Register::R0, Register::R0], 0, 0);
    }

    pub(crate) fn call(&mut self, helper: Helper) {
        self.push(JMP | 0x80, [Register::R0, Register::R0], 0, helper as i32);
    }

    pub(crate) fn exit(&mut self) {
        self.push(JMP | 0x90, [Register::R0, Register::R0], 0, 0);
    }

    pub(crate) fn jump(&mut self, label: &'static str) {
        self.branch(JMP, Register::R0, 0, label);
    }

    pub(crate) fn if_equal(&mut self, a: Register, b: impl Into<Operand>, label: &'static str) {
        self.branch(JMP | 0x10, a, b, label);
    }

    pub(crate) fn if_not_equal(&mut self, a: Register, b: impl Into<Operand>, label: &'static str) {
        self.branch(JMP | 0x50, a, b, label);
    }

    /// By the lower 32 bits, so that a number may be any of that length.
    pub(crate) fn if_other_word(&mut self, a: Register, b: i32, label: &'static str) {
        self.branch(JMP32 | 0x50, a, b, label);
    }

    /// The same.
    pub(crate) fn if_same_word(&mut self, a: Register, b: i32, label: &'static str) {
        self.branch(JMP32 | 0x10, a, b, label);
    }

    /// Without sign.
    pub(crate) fn if_greater(&mut self, a: Register, b: impl Into<Operand>, label: &'static str) {
        self.branch(JMP | 0x20, a, b, label);
    }

    /// Without sign.
    pub(crate) fn if_less(&mut self, a: Register, b: impl Into<Operand>, label: &'static str) {
        self.branch(JMP | 0xa0, a, b, label);
    }

    /// With sign.
    pub(crate) fn if_below(&mut self, a: Register, b: impl Into<Operand>, label: &'static str) {
        self.branch(JMP | 0xc0, a, b, label);
    }

    fn branch(&mut self, code: u8, a: Register, b: impl Into<Operand>, label: &'static str) {
        self.open.push((self.code.len(), label));
        self.calculate(code, a, b);
    }

    fn calculate(&mut self, code: u8, to: Register, operand: impl Into<Operand>) {
        match operand.into() {
            Operand::Register(from) => self.push(code | FROM_REGISTER, [to, from], 0, 0),
            Operand::Value(value) => self.push(code, [to, Register::R0], 0, value),
        }
    }

    fn push(&mut self, code: u8, [to, from]: [Register; 2], offset: i16, immediate: i32) {
        let (to, from) = (to as u8, from as u8);
        // Bit fields: the first one is in the low bits where bytes are little-endian.
        let registers =
            if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
        self.code.push(Instruction { code, registers, offset, immediate });
    }
}
