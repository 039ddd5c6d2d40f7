//! What the engine without a ring is made of: readiness, and one packet a call.

use std::net::{Ipv4Addr, UdpSocket as StdSocket};

use weft_sys::poll::{Poller, Ready};
use weft_sys::ring::{Errno, Files};
use weft_sys::tun::{Tun, TunOptions, VNET_HEADER_LENGTH, WithoutOffloads};
use weft_sys::udp::{SockAddr, SocketOptions, UdpSocket};
use weft_sys::wake::{self, Waker, wake_pair};

use crate::buffers::{Buffers, send};
use crate::namespace::{in_new_namespace_with_tun, ip};

fn open() -> (Files, Waker) {
    ip("link set lo up");
    let options =
        TunOptions { name: "flannel0", queue_length: 100, without: WithoutOffloads::default() };
    let tun = Tun::open(&options).unwrap();
    ip("link set flannel0 addrgenmode none mtu 1472");
    ip("link set flannel0 up");
    ip("address add 10.244.1.1/16 dev flannel0");
    let options = SocketOptions {
        receive_buffer: 1 << 20,
        send_buffer: 20_000,
        gro: true,
        gso: true,
        reuse_port: false,
    };
    let sockets = ["127.0.0.1:8285", "[::1]:8285"];
    let sockets = sockets.map(|local| UdpSocket::bind(local.parse().unwrap(), &options).unwrap());
    let (waker, wake) = wake_pair().unwrap();
    (Files { tun, sockets: sockets.into(), wake }, waker)
}

fn pod() -> StdSocket {
    StdSocket::bind((Ipv4Addr::new(10, 244, 1, 1), 7000)).unwrap()
}

fn news(poller: &mut Poller, sleep: bool) -> Vec<Ready> {
    poller.wait(sleep).unwrap();
    assert_eq!(poller.has_news(), poller.ready().next().is_some());
    poller.ready().collect()
}

fn readable(number: usize) -> Ready {
    Ready::Socket { number, readable: true, writable: false }
}

#[test]
fn readiness_is_told_once_for_each_file() {
    in_new_namespace_with_tun("readiness_is_told_once_for_each_file", || {
        let (files, waker) = open();
        let mut poller = Poller::new(&files).unwrap();
        assert_eq!(news(&mut poller, false), []);

        waker.wake();
        assert_eq!(news(&mut poller, true), [Ready::Wake]);
        assert_eq!(news(&mut poller, false), []);
        wake::clear(&files.wake);
        waker.wake();
        assert_eq!(news(&mut poller, true), [Ready::Wake]);

        for (number, to) in ["127.0.0.1:8285", "[::1]:8285"].into_iter().enumerate() {
            let to = SockAddr::from(to.parse::<std::net::SocketAddr>().unwrap());
            send(&files.sockets[number], &to, b"hello", None).unwrap();
            assert_eq!(news(&mut poller, true), [readable(number)]);
            assert_eq!(news(&mut poller, false), [], "it is still there, but that was said");
            send(&files.sockets[number], &to, b"again", None).unwrap();
            assert_eq!(news(&mut poller, true), [readable(number)]);
        }

        let pod = pod();
        for _ in 0..2 {
            pod.send_to(b"hello", "10.244.2.7:7001").unwrap();
            assert_eq!(news(&mut poller, true), [Ready::Tun]);
        }
        ip("link delete flannel0");
        assert_eq!(news(&mut poller, true), [Ready::Tun]);
        let buffers = Buffers::new();
        assert_eq!(files.tun.read_packet(&buffers.pool).unwrap_err(), Errno::BADFD);
        assert_eq!(files.tun.write_packet(&buffers.gather(&[0; 60])), Err(Errno::BADFD));
    });
}

#[test]
fn room_is_told_only_to_who_asks() {
    in_new_namespace_with_tun("room_is_told_only_to_who_asks", || {
        let (files, _waker) = open();
        let mut poller = Poller::new(&files).unwrap();
        assert_eq!(news(&mut poller, false), [], "there is room, but nobody asked");
        let writable = Ready::Socket { number: 1, readable: false, writable: true };
        for _ in 0..2 {
            poller.watch_writable(&files, 1, true).unwrap();
            assert_eq!(news(&mut poller, true), [writable]);
            poller.watch_writable(&files, 1, false).unwrap();
            assert_eq!(news(&mut poller, false), []);
        }
    });
}

#[test]
fn packets_are_read_and_written_one_by_one() {
    in_new_namespace_with_tun("packets_are_read_and_written_one_by_one", || {
        let (files, _waker) = open();
        let buffers = Buffers::new();
        let read = || files.tun.read_packet(&buffers.pool);
        assert_eq!(read().unwrap_err(), Errno::AGAIN);
        assert_eq!(buffers.pool.held(), 0, "the frame that was not filled goes back");
        let pod = pod();
        for number in 0..9 {
            pod.send_to(&[number; 40], "10.244.2.7:7001").unwrap();
        }
        let frames: Vec<_> = (0..8).map(|_| read().unwrap()).collect();
        for (number, frame) in frames.iter().enumerate() {
            assert_eq!(frame.len(), VNET_HEADER_LENGTH + 28 + 40);
            assert!(frame.bytes().ends_with(&[number as u8; 40]));
        }
        assert_eq!(read().unwrap_err(), Errno::NOBUFS, "all frames are held");
        let mut packet = frames[0].bytes().to_vec();
        drop(frames);
        assert!(read().unwrap().bytes().ends_with(&[8; 40]), "the ninth has waited");

        // Send the first one back: addresses and ports swapped, UDP checksum left out.
        packet[..VNET_HEADER_LENGTH].fill(0);
        let ip_start = VNET_HEADER_LENGTH;
        packet[ip_start + 12..ip_start + 20].rotate_left(4);
        packet[ip_start + 20..ip_start + 24].rotate_left(2);
        packet[ip_start + 26..ip_start + 28].fill(0);
        let gather = buffers.gather(&packet);
        assert_eq!(files.tun.write_packet(&gather), Ok(packet.len() as u32));
        let mut buffer = [1; 50];
        let (length, from) = pod.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..length], [0; 40]);
        assert_eq!(from, (Ipv4Addr::new(10, 244, 2, 7), 7001).into());

        assert_eq!(files.tun.write_packet(&buffers.gather(&[0; 5])), Err(Errno::INVAL));
        ip("link set flannel0 down");
        assert_eq!(files.tun.write_packet(&gather), Err(Errno::IO));
    });
}
