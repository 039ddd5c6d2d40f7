//! Any packets, any answers of the kernel, in any order: nothing overtakes, nothing is lost
//! without being counted.

use std::{collections::BTreeMap, net::SocketAddr};

use proptest::{collection::vec, prelude::*};
use weft_sys::ring::Errno;

use super::*;
use crate::testing::{deliver, table_input};

#[derive(Clone, Debug)]
enum Step {
    /// The device gives a packet for peer number `peer`; there is one more than there are peers.
    /// Cut into `size` bytes each by us, if that is given.
    Read { peer: usize, length: usize, size: Option<u16>, keep: bool },
    /// A turn; the kernel answers the trains with these, over and over.
    Turn(Vec<Answer>),
    /// A socket takes data again.
    Writable(usize),
    /// A table in which one peer is the same, another one, or missing. If it is there, it takes
    /// several source ports or does not.
    Adopt { peer: usize, change: u8, source_ports: bool },
    /// Milliseconds pass.
    Wait(u64),
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Taken,
    Full,
    Refused(i32),
}

fn read() -> impl Strategy<Value = Step> {
    let size = prop_oneof![3 => Just(None), 1 => (400..1432_u16).prop_map(Some)];
    let length = prop_oneof![Just(20_usize), Just(300), 1..1400_usize];
    (0..4_usize, length, size, any::<bool>()).prop_map(|(peer, length, size, keep)| {
        let length = if size.is_some() { length * 20 + 500 } else { length };
        Step::Read { peer, length, size, keep }
    })
}

fn turn(answer: impl Strategy<Value = Answer>) -> impl Strategy<Value = Step> {
    vec(answer, 1..5).prop_map(Step::Turn)
}

fn full_or_taken() -> impl Strategy<Value = Answer> {
    prop_oneof![3 => Just(Answer::Taken), 1 => Just(Answer::Full)]
}

fn anything() -> impl Strategy<Value = Answer> {
    // EIO, EINVAL, EMSGSIZE, EHOSTUNREACH, EPERM.
    let refused = proptest::sample::select(vec![5, 22, 90, 113, 1]).prop_map(Answer::Refused);
    prop_oneof![3 => Just(Answer::Taken), 1 => Just(Answer::Full), 2 => refused]
}

fn adopt(change: impl Strategy<Value = u8>) -> impl Strategy<Value = Step> {
    let parts = (0..3_usize, change, any::<bool>());
    parts.prop_map(|(peer, change, source_ports)| Step::Adopt { peer, change, source_ports })
}

/// A worker in the hands of a test, and what came of it.
struct Run {
    rig: Rig,
    /// IPv4 id of the next wire packet: it goes up, and so says what came first.
    id: u16,
    expected: BTreeMap<SocketAddr, Vec<Vec<u8>>>,
    taken: BTreeMap<SocketAddr, Vec<Vec<u8>>>,
}

impl Run {
    fn new() -> Run {
        Run { rig: Rig::new(), id: 0, expected: BTreeMap::new(), taken: BTreeMap::new() }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Read { peer, length, size, keep } => self.read(peer, length, size, keep),
            Step::Turn(answers) => {
                let trains = self.rig.send();
                self.rig.write_plain();
                self.answer(trains, &answers);
            }
            Step::Writable(socket) => self.rig.outbound.handle_writable(socket),
            Step::Adopt { peer, change, source_ports } => {
                let mut input = table_input();
                input.peers[peer].source_ports = source_ports;
                match change {
                    0 => {}
                    1 => drop(input.peers.remove(peer)),
                    generation => input.peers[peer].generation = u32::from(generation),
                }
                self.rig.adopt(input);
            }
            Step::Wait(milliseconds) => self.rig.shared.now_ms += milliseconds,
        }
    }

    fn read(&mut self, peer: usize, length: usize, size: Option<u16>, keep: bool) {
        let destination = AT.get(peer).copied().unwrap_or("10.244.77.1");
        let packet = udp(destination, length).with(|packet| {
            packet.id = self.id;
            packet.dont_fragment = keep;
        });
        let (read, wire) = match size {
            None => {
                let (header, bytes) = packet.build_partial(0);
                (self.rig.read(header, &bytes), vec![packet.build()])
            }
            Some(size) => {
                let (header, bytes) = packet.build_partial(size);
                (self.rig.read(header, &bytes), build(&packet.cut(usize::from(size))))
            }
        };
        if read {
            self.id += wire.len() as u16;
            let to = SocketAddr::from(([127, 0, 0, peer as u8 + 2], 8285));
            self.expected.entry(to).or_default().extend(wire);
        }
    }

    fn answer(&mut self, trains: Vec<Sent>, answers: &[Answer]) {
        let mut answers = answers.iter().cycle();
        let taken = deliver(&mut self.rig, trains, |_| match answers.next().unwrap() {
            Answer::Taken => Ok(()),
            Answer::Full => Err(Errno::AGAIN),
            Answer::Refused(number) => Err(Errno(*number)),
        });
        for (to, datagrams) in taken {
            self.taken.entry(to).or_default().extend(datagrams);
        }
    }

    /// From now on the kernel takes everything.
    fn finish(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "the machine comes to no end");
            for socket in 0..2 {
                self.rig.outbound.handle_writable(socket);
            }
            if !self.rig.outbound.has_work() {
                break;
            }
            let trains = self.rig.send();
            self.rig.write_plain();
            self.answer(trains, &[Answer::Taken]);
        }
    }
}

fn id_of(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[4], packet[5]])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn order_and_bytes_survive_a_full_socket(
        steps in vec(
            prop_oneof![
                4 => read(),
                2 => turn(full_or_taken()),
                1 => (0..2_usize).prop_map(Step::Writable),
                1 => adopt(Just(0)),
            ],
            0..80,
        ),
    ) {
        let mut run = Run::new();
        steps.into_iter().for_each(|step| run.step(step));
        run.finish();
        run.expected.remove(&SocketAddr::from(([127, 0, 0, 5], 8285)));
        prop_assert_eq!(run.taken, run.expected);
        run.rig.assert_accounted();
        prop_assert_eq!(run.rig.held(), (0, 0));
    }

    #[test]
    fn everything_is_accounted_for(
        steps in vec(
            prop_oneof![
                6 => read(),
                3 => turn(anything()),
                2 => (0..2_usize).prop_map(Step::Writable),
                1 => adopt(0..4_u8),
                1 => (0..400_000_u64).prop_map(Step::Wait),
            ],
            0..80,
        ),
        stops_early: bool,
    ) {
        let mut run = Run::new();
        steps.into_iter().for_each(|step| run.step(step));
        if !stops_early {
            run.finish();
        }
        run.rig.stop();
        run.rig.assert_accounted();
        // Every packet went once, whole or in pieces, and none was overtaken.
        for (to, taken) in &run.taken {
            let ids: Vec<u16> = taken.iter().map(|packet| id_of(packet)).collect();
            prop_assert!(ids.is_sorted(), "{to}: {ids:?}");
            for packet in taken {
                let whole = Ipv4Header::from_slice(packet).unwrap().0;
                if !whole.is_fragmenting_payload() {
                    prop_assert!(run.expected[to].contains(packet));
                }
            }
        }
    }
}
