use std::error::Error;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;

use rustix::thread::CapabilitySet;
use weft_sys::tun::{Offloads, Tun, TunError, TunOptions, VNET_HEADER_LENGTH, WithoutOffloads};

use crate::namespace::{give_up, in_new_namespace_with_tun, ip, skip};

const OPTIONS: TunOptions<'static> = TunOptions {
    name: "flannel0",
    queue_length: 2000,
    without: WithoutOffloads { checksum: false, tso: false, uso: false },
};

fn open() -> Tun {
    Tun::open(&OPTIONS).unwrap()
}

#[test]
fn opens_the_device_asked_for() {
    in_new_namespace_with_tun("opens_the_device_asked_for", || {
        let tun = open();
        assert_eq!(tun.name(), "flannel0");
        let link = ip("-details link show flannel0");
        assert!(link.starts_with(&format!("{}: flannel0:", tun.index())), "{link}");
        assert!(link.contains("qlen 2000"), "{link}");
        assert!(link.contains("tun type tun pi off vnet_hdr on persist off"), "{link}");
        assert!(!link.contains("multi_queue on"), "{link}");
    });
}

#[test]
fn knows_that_the_device_was_deleted() {
    in_new_namespace_with_tun("knows_that_the_device_was_deleted", || {
        let tun = open();
        let same = tun.try_clone().unwrap();
        assert!(tun.is_attached() && same.is_attached());
        ip("link delete flannel0");
        assert!(!tun.is_attached() && !same.is_attached());
        let another = open();
        assert!(another.is_attached() && !tun.is_attached());
    });
}

#[test]
fn negotiates_all_offloads() {
    const NAME: &str = "negotiates_all_offloads";
    in_new_namespace_with_tun(NAME, || {
        let offloads = open().offloads();
        if !offloads.uso {
            skip(NAME, "of all offloads that for large UDP packets, which Linux 6.2 has first");
        }
        let all = Offloads { checksum: true, tso: true, tso_ecn: true, uso: offloads.uso };
        assert_eq!(offloads, all);
    });
}

#[test]
fn leaves_out_offloads_not_wanted() {
    in_new_namespace_with_tun("leaves_out_offloads_not_wanted", || {
        let uso = open().offloads().uso;
        let without = WithoutOffloads { tso: true, ..WithoutOffloads::default() };
        let tun = Tun::open(&TunOptions { without, ..OPTIONS }).unwrap();
        let expected = Offloads { checksum: true, uso, ..Offloads::default() };
        assert_eq!(tun.offloads(), expected);
        drop(tun);

        let without = WithoutOffloads { checksum: true, ..WithoutOffloads::default() };
        let tun = Tun::open(&TunOptions { without, ..OPTIONS }).unwrap();
        assert_eq!(tun.offloads(), Offloads::default());
    });
}

#[test]
fn is_exclusive() {
    in_new_namespace_with_tun("is_exclusive", || {
        let first = open();
        let Err(TunError::Taken { name, has_carrier }) = Tun::open(&OPTIONS) else {
            panic!("the second open must find the name taken");
        };
        assert_eq!((name.as_str(), has_carrier), ("flannel0", false), "it is still down");

        ip("link set flannel0 up");
        let error = Tun::open(&OPTIONS).unwrap_err();
        assert!(matches!(error, TunError::Taken { has_carrier: true, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("flannel0") && text.contains("Stop that process"), "{text}");
        drop(first);
    });
}

/// A left-over persistent device, and one that is no TUN at all, are not taken over either.
#[test]
fn does_not_take_over_a_device() {
    in_new_namespace_with_tun("does_not_take_over_a_device", || {
        for add in ["tuntap add dev flannel0 mode tun vnet_hdr", "link add flannel0 type veth"] {
            ip(add);
            ip("link set flannel0 up");
            let error = Tun::open(&OPTIONS).unwrap_err();
            assert!(matches!(error, TunError::Taken { has_carrier: false, .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("ip link delete"), "{text}");
            ip("link delete flannel0");
        }
    });
}

#[test]
fn goes_away_when_dropped_and_opens_again() {
    in_new_namespace_with_tun("goes_away_when_dropped_and_opens_again", || {
        for _ in 0..3 {
            drop(open());
            assert!(!ip("link show").contains("flannel0"));
        }
        let _again = open();
    });
}

#[test]
fn refuses_a_template_for_a_name() {
    in_new_namespace_with_tun("refuses_a_template_for_a_name", || {
        let error = Tun::open(&TunOptions { name: "flannel%d", ..OPTIONS }).unwrap_err();
        assert!(matches!(&error, TunError::InvalidName { name } if name == "flannel%d"));
        assert!(!ip("link show").contains("flannel"));
    });
}

/// An absurd queue length is refused late, when the device exists already.
#[test]
fn leaves_no_device_behind_after_an_error() {
    in_new_namespace_with_tun("leaves_no_device_behind_after_an_error", || {
        let error = Tun::open(&TunOptions { queue_length: u32::MAX, ..OPTIONS }).unwrap_err();
        assert_eq!(error.to_string(), "Could not set the queue length");
        assert!(error.source().is_some());
        assert!(!ip("link show").contains("flannel0"));
    });
}

#[test]
fn names_the_missing_capability() {
    in_new_namespace_with_tun("names_the_missing_capability", || {
        give_up(CapabilitySet::NET_ADMIN);
        let error = Tun::open(&OPTIONS).unwrap_err();
        assert!(matches!(error, TunError::NoPermission { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("CAP_NET_ADMIN") && text.contains("--cap-add"), "{text}");
        assert!(error.source().is_some());
    });
}

/// One packet each way: a datagram from the kernel with an unfinished checksum, and one from us.
#[test]
fn moves_packets_with_their_header() {
    in_new_namespace_with_tun("moves_packets_with_their_header", || {
        let tun = open();
        ip("address add 10.5.0.1/24 dev flannel0");
        ip("link set flannel0 up");
        let mut device = File::from(tun.as_fd().try_clone_to_owned().unwrap());
        let socket = UdpSocket::bind((Ipv4Addr::new(10, 5, 0, 1), 4000)).unwrap();
        socket.send_to(b"weft", (Ipv4Addr::new(10, 5, 0, 2), 4001)).unwrap();

        let mut packet = read_udp_to(&mut device, 4001);
        // VIRTIO_NET_HDR_F_NEEDS_CSUM, no segmentation, checksum starts behind the IPv4 header.
        assert_eq!(packet[..2], [1, 0]);
        assert_eq!(u16::from_ne_bytes([packet[6], packet[7]]), 20);
        assert_eq!(packet[VNET_HEADER_LENGTH + 28..], *b"weft");

        // Send it back: addresses and ports swapped, sums unchanged by that.
        packet[..VNET_HEADER_LENGTH].fill(0);
        let ip_start = VNET_HEADER_LENGTH;
        packet[ip_start + 12..ip_start + 20].rotate_left(4);
        packet[ip_start + 20..ip_start + 24].rotate_left(2);
        packet[ip_start + 26..ip_start + 28].fill(0); // no UDP checksum
        device.write_all(&packet).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..length], *b"weft");
        assert_eq!(from, (Ipv4Addr::new(10, 5, 0, 2), 4001).into());

        let error = drain(&mut device).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "the device does not block");
    });
}

/// The kernel also announces itself on a new device (IPv6); look past that.
fn read_udp_to(device: &mut File, port: u16) -> Vec<u8> {
    loop {
        let mut packet = vec![0; 2048];
        let length = device.read(&mut packet).expect("the datagram is queued");
        packet.truncate(length);
        let ip_packet = &packet[VNET_HEADER_LENGTH..];
        if ip_packet[0] == 0x45 && ip_packet[22..24] == port.to_be_bytes() {
            return packet;
        }
    }
}

fn drain(device: &mut File) -> std::io::Result<()> {
    while device.read(&mut [0; 2048])? > 0 {}
    Ok(())
}
