//! First inputs of every target: flannel's own packets, and one example of everything else.

use std::fs;
use std::io;
use std::path::Path;

use etherparse::PacketBuilder;
use weft_forward::virtio::{self, Gso};

/// A recording of flanneld; `dataplane/forward/tests/data/README.md` says what is in it.
const CAPTURE: &[u8] =
    include_bytes!("../../../dataplane/forward/tests/data/flanneld-0.20.2-udp.pcap");
const CAPTURE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
/// Ethernet, IPv4 and UDP in front of each inner packet.
const OUTER_HEADERS: usize = 14 + 20 + 8;

const LEASES: &[&str] = &[
    r#"{"PublicIP":"192.168.1.5","PublicIPv6":null}"#,
    r#"{"PublicIP":"192.168.1.5","PublicIPv6":"2001:db8::5","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"ca:fe:00:00:00:01"},"BackendV6Data":{}}"#,
    r#"{"PublicIP":"10.5.0.1","PublicIPv6":"fe80::1"}"#,
    r#"{"PublicIP":"192.0.2.7","Weft":{"v":1,"id":"0123456789abcdef0123456789abcdef","paths":["udp"],"port":8285,"ports":4,"addrs":["192.0.2.8","2001:db8::8"],"mtu":1472,"v6":true}}"#,
    r#"{"publicip":"1.2.3.4","PUBLICIP":null,"Weft":{"v":2}}"#,
    r#"[1.0e5,-0,"\u212a\ud800",{"a":{"a":[]}}]"#,
];

const CONFIGS: &[&str] = &[
    r#"{"Network":"10.5.0.0/16","SubnetLen":24,"Backend":{"Type":"udp","Port":8285}}"#,
    r#"{"Network":"10.244.0.0/16","SubnetMin":"10.244.16.0","SubnetMax":"10.244.31.0","Backend":{"Type":"UDP","MTU":1400,"AllowedSources":["10.0.0.0/8"],"StrictSource":true}}"#,
    r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":64,"IPv6SubnetMin":"fc00:0:0:1::","IPv6SubnetMax":"fc00:0:0:f::","EnableNFTables":true}"#,
    r#"{"Network":"0.0.0.0/0","SubnetLen":30,"EnableIPv6":true,"IPv6Network":"::/0","IPv6SubnetLen":126}"#,
    r#"{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan","VNI":1,"DirectRouting":true}}"#,
    r#"{"network":null,"Backend":null,"Backend":{"Type":"udp","SourcePorts":1,"Paths":["udp"],"PSK":""}}"#,
    "null",
];

const LEAVES: &[&str] = &[
    "10.5.34.0-24",
    "10.12.13.0-24&fd00:12:13::-56",
    "0.0.0.0-0&fd00::-64",
    "/coreos.com/network/subnets/10.5.1.0-24",
    "255.255.255.255-31&::ffff-127",
    "10.5.1.0-32",
];

const SUBNET_FILES: &[&str] = &[
    "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n",
    "# note\nexport FLANNEL_SUBNET=\"10.5.72.1/24\" # ours\nFLANNEL_IPV6_SUBNET: 'fd00:0:0:7::1/64,x'\n",
    "FLANNEL_SUBNET=10.5.72.1/24,10.5.73.1/24\n",
];

const REQUESTS: &[&str] = &[
    "{\"cmd\":\"status\"}\n",
    "{\"cmd\":\"peers\"}\n{\"cmd\":\"drops\"}\n",
    "{\"cmd\":\"stop\",\"x\":[1]}\n\n[\"status\"]",
];

const FLAGS: &[&str] = &[
    "--lease-dir=/tmp/x\n--ip-masq\n-iface\neth0\n--v=0x_1f\n;\nPUBLIC-IP=192.0.2.1\nWITHOUT=udp-gro,tun-uso\n",
    "--lease-dir=/a\n--healthz-port=9090\n--healthz-ip=::\n--subnet-file=/b/c.env\n--subnet-lease-renew-margin=60\n--workers=1\n--engine=uring\n--\nrest\n",
    "--etcd-endpoints=http://127.0.0.1:4001\n--etcd-password=secret-password\n--kube-subnet-mgr\n--version=f\n",
    "-h\n",
    "--nonsense\nvalue\n---v\n-=1\n--iface\n;\nV=99999999999\nIP-MASQ=maybe\n",
];

/// Writes the first inputs of every target below `corpus`, each target in its own directory.
///
/// # Errors
/// If a directory or file cannot be written.
pub fn write(corpus: &Path) -> io::Result<()> {
    for (target, _) in crate::TARGETS {
        let directory = corpus.join(target);
        fs::create_dir_all(&directory)?;
        for (number, seed) in of(target).iter().enumerate() {
            fs::write(directory.join(format!("seed-{number:03}")), seed)?;
        }
    }
    Ok(())
}

fn of(target: &str) -> Vec<Vec<u8>> {
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    let packets = || flannels_packets().into_iter().chain(made_packets());
    let behind = |prefix: &'static [u8]| {
        packets().map(|packet| [prefix, &packet[..]].concat()).collect::<Vec<_>>()
    };
    match target {
        "packet" => behind(&[3]),
        "segment" => supers(&[15, 100]),
        "outbound" => supers(&[15, 5, 0, 100]),
        "fragment" | "mss" => behind(&[2, 0, 7, 4]),
        "icmp" => behind(&[2, 0, 23, 4]),
        "checksum" => vec![vec![1, 5, 0, 0xff, 0xfe, 1], vec![0; 64], vec![0xff; 130]],
        "control" => vec![control(1420), [control(0), control(65_535)].concat()],
        "address" => vec![
            [&2_u16.to_ne_bytes()[..], &[0x20, 0x5d, 10, 1, 2, 3], &[0; 8]].concat(),
            [&10_u16.to_ne_bytes()[..], &[0x20; 26]].concat(),
        ],
        "coalesce" => trains(),
        "inbound" => inbound_trains(),
        "table" => vec![pattern(200, 3), pattern(120, 77), pattern(40, 5)],
        "leaf" => texts(LEAVES),
        "lease" => texts(LEASES),
        "leases" => histories(),
        "config" => texts(CONFIGS),
        "subnet_file" => texts(SUBNET_FILES),
        "admin_request" | "admin_socket" => texts(REQUESTS),
        "flags" => texts(FLAGS),
        "probe" => crate::probe::seeds(),
        "seal_message" => messages(),
        "seal_open" => vec![
            [&[20, 0x45, 0, 0, 20][..], &pattern(16, 1), &[1, 0, 1, 0, 2, 0, 0, 30, 1]].concat(),
            [&[0, 8][..], &pattern(8, 2), &[4], &pattern(4, 3), &[5, 1, 5, 0, 5, 1]].concat(),
        ],
        "seal_device" => conversations(),
        _ => unreachable!("every target has its seeds"),
    }
}

/// Each message, and a datagram that is one byte too long to be one.
fn messages() -> Vec<Vec<u8>> {
    [(1, 148), (2, 92), (3, 64), (4, 32), (4, 80), (1, 149)]
        .map(|(kind, length)| [&[kind, 0, 0, 0][..], &pattern(length - 4, kind)].concat())
        .to_vec()
}

/// A packet each way behind a handshake, then silence; both beginning at once; a changed response.
fn conversations() -> Vec<Vec<u8>> {
    vec![
        vec![0, 0, 2, 0, 2, 0, 2, 0, 0x84, 0, 2, 0, 1, 80, 0x81, 80, 1, 255, 0x81, 255],
        vec![0, 0, 0x84, 0, 2, 1, 2, 1, 2, 1, 2, 1, 2, 0, 2, 0, 2, 1],
        vec![0, 0, 2, 0, 4, 0, 0, 50, 1, 2, 0, 2, 0, 5, 9, 4, 0, 0, 0, 1, 2, 3, 4, 5],
    ]
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    crate::packets::pattern(length, seed).collect()
}

/// The inner packets of the recording, of each kind a few.
fn flannels_packets() -> Vec<Vec<u8>> {
    let mut rest = &CAPTURE[CAPTURE_HEADER..];
    let mut packets = Vec::new();
    while let Some((record, behind)) = rest.split_at_checked(RECORD_HEADER) {
        let length = u32::from_le_bytes([record[8], record[9], record[10], record[11]]) as usize;
        let (frame, behind) = behind.split_at(length);
        packets.push(frame[OUTER_HEADERS..].to_vec());
        rest = behind;
    }
    let short = packets.iter().filter(|packet| packet.len() <= 200).step_by(4);
    let long = packets.iter().filter(|packet| packet.len() > 200).step_by(24);
    short.chain(long).cloned().collect()
}

/// What the recording does not have.
fn made_packets() -> Vec<Vec<u8>> {
    let mut made = Vec::new();
    let mut add = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = Vec::new();
        write(&mut packet);
        made.push(packet);
    };
    let v4 = || PacketBuilder::ipv4([10, 244, 1, 2], [10, 244, 2, 3], 63);
    let (source, destination) = (address_v6(1), address_v6(2));
    let v6 = || PacketBuilder::ipv6(source, destination, 63);
    add(&|out| v4().udp(1000, 2000).write(out, &[7; 40]).expect("memory"));
    add(&|out| v6().udp(1000, 2000).write(out, &[7; 41]).expect("memory"));
    add(&|out| v4().tcp(1000, 2000, 5, 6).ack(9).psh().write(out, &[7; 64]).expect("memory"));
    add(&|out| v6().tcp(1000, 2000, 5, 6).ack(9).write(out, &[7; 64]).expect("memory"));
    add(&|out| {
        use etherparse::TcpOptionElement::{MaximumSegmentSize, Noop};
        let options = [Noop, MaximumSegmentSize(1460)];
        let handshake = v4().tcp(1000, 2000, 5, 6).syn().options(&options).expect("they fit");
        handshake.write(out, &[]).expect("memory");
    });
    add(&|out| v6().icmpv6_echo_request(1, 2).write(out, &[7; 20]).expect("memory"));
    let mut extended = made[1].clone();
    // Hop-by-hop options, then a fragment header, in front of the datagram.
    let headers = [44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9];
    extended.splice(40..40, headers);
    extended[6] = 0;
    crate::packets::mend(&mut extended, crate::packets::LENGTHS);
    made.push(extended);
    let mut options = made[0].clone();
    options.splice(20..20, [0x94, 4, 0, 0, 7, 3, 4, 0]);
    options[0] = 0x47;
    crate::packets::mend(&mut options, crate::packets::MEND_ALL);
    made.push(options);
    made
}

fn address_v6(subnet: u8) -> [u8; 16] {
    [0xfd, 0, 2, 0x44, 0, 0, 0, subnet, 0, 0, 0, 0, 0, 0, 0, 9]
}

/// Packets behind a virtio header that asks for cutting.
fn supers(prefix: &[u8]) -> Vec<Vec<u8>> {
    let kinds = [Gso::None, Gso::Udp, Gso::TcpV4, Gso::TcpV6].into_iter().cycle();
    let one = |(packet, gso): (Vec<u8>, Gso)| {
        let header = virtio::Header { gso, segment_size: 500, ..virtio::Header::NONE };
        let mut encoded = [0; virtio::LENGTH];
        header.write(&mut encoded);
        [prefix, &encoded, &packet].concat()
    };
    flannels_packets().into_iter().chain(made_packets()).zip(kinds).map(one).collect()
}

fn control(size: i32) -> Vec<u8> {
    // `SOL_UDP` is 17 and `UDP_GRO` 104, `SOL_SOCKET` 1 and `SO_RXQ_OVFL` 40.
    let header = |level: i32, kind: i32, value: i32| {
        let length = 20_usize.to_ne_bytes();
        let numbers = [level, kind, value, 0].map(i32::to_ne_bytes).concat();
        [&length[..], &numbers].concat()
    };
    [header(17, 104, size), header(1, 40, 3)].concat()
}

/// A first packet of each flow, then continuations of both.
fn trains() -> Vec<Vec<u8>> {
    let train = |packets: &[Vec<u8>], switches: u8| {
        let mut input = vec![switches];
        for (number, packet) in packets.iter().enumerate() {
            let mut packet = packet.clone();
            packet.resize(packet.len().next_multiple_of(4), 0);
            input.extend([4 + number as u8, (packet.len() / 4) as u8]);
            input.extend(packet);
        }
        for step in 0..30_u8 {
            input.extend([step % 2 + (step % 5 / 4) * 8, 20 - step % 7 / 6]);
            input.extend([8, 33].iter().take(usize::from(step % 5 / 4) * 2));
        }
        input
    };
    let made = made_packets();
    made.chunks(2).chain([&flannels_packets()[..2]]).map(|two| train(two, 0)).collect()
}

fn inbound_trains() -> Vec<Vec<u8>> {
    let train = |packet: &Vec<u8>| {
        let control = control(packet.len() as i32);
        let head = [15, 0, control.len() as u8];
        [&head[..], &control, packet, packet, packet].concat()
    };
    made_packets().iter().map(train).collect()
}

fn histories() -> Vec<Vec<u8>> {
    let free = |value: &str| {
        let name = "10.5.6.0-24";
        let head = [0, 0, 3, name.len() as u8];
        [&head[..], name.as_bytes(), &[7, value.len() as u8], value.as_bytes()].concat()
    };
    let mut seeds: Vec<Vec<u8>> = LEASES
        .iter()
        .filter(|value| value.len() < 256)
        .map(|value| [&[0][..], &free(value)].concat())
        .collect();
    seeds.push(vec![0, 0, 0, 8, 16, 0, 0, 8, 24, 1, 3, 1, 12, 4, 255, 3, 0, 255, 3, 0, 255, 2, 8]);
    seeds
}
