//! What became of a train, and what goes again.

use weft_sys::ring::Errno;

use super::*;
use crate::{
    testing::{deliver, table_input},
    worker::Event,
};

/// Trains that packets from the device may take at once; the others are for what comes back.
const FRESH: usize = 56;

/// Packets with payloads of these sizes, numbered, so that no two are equal.
fn sized(destination: &str, sizes: &[usize]) -> Vec<Vec<u8>> {
    let packet = |(id, size): (u16, &usize)| udp(destination, *size).with(|packet| packet.id = id);
    (0..).zip(sizes).map(packet).map(|packet| packet.build()).collect()
}

fn read_all(rig: &mut Rig, packets: &[Vec<u8>]) {
    for packet in packets {
        rig.read_plain(packet);
    }
}

fn bytes(trains: &[Sent]) -> Vec<Vec<u8>> {
    trains.iter().flat_map(Sent::datagrams).collect()
}

#[test]
fn a_full_socket_keeps_the_order_and_nothing_newer_passes() {
    let mut rig = Rig::new();
    let first = sized(AT[0], &[10, 20, 30]);
    read_all(&mut rig, &first);
    let trains = rig.send();
    assert_eq!(trains.len(), 3);
    let mut watched = Vec::new();
    for (place, train) in trains.into_iter().enumerate() {
        let result = [Ok(38), Err(Errno::AGAIN), Err(Errno::CANCELED)][place];
        watched.extend(rig.sent(train, result));
    }
    assert_eq!(watched, [0]);
    rig.assert_moved(&[
        ("out.segments_in", 3),
        ("out.segments_out", 1),
        ("out.trains_out", 1),
        ("out.bytes_out", 38),
        ("send_retries", 1),
    ]);

    // Newer packets, also to another peer, wait behind.
    let newer = [sized(AT[0], &[5]), sized(AT[1], &[6])].concat();
    read_all(&mut rig, &newer);
    assert!(!rig.outbound.has_work());
    assert!(rig.send().is_empty());
    rig.assert_moved(&[]);

    rig.outbound.handle_writable(0);
    assert!(rig.outbound.has_work());
    let trains = rig.send();
    let expected = [&first[1..], &newer[..]].concat();
    assert_eq!(bytes(&trains), expected);
    let linked: Vec<_> = trains.iter().map(|train| train.linked).collect();
    assert_eq!(linked, [true, true, false, false], "old and new of one peer are one chain");
    rig.accept(trains);
    rig.assert_moved(&[
        ("out.segments_in", 2),
        ("out.segments_out", 4),
        ("out.trains_out", 4),
        ("out.bytes_out", (48 + 58 + 33 + 34)),
    ]);
}

/// Two chains meet the full socket in one turn: it is watched once.
#[test]
fn a_full_socket_is_watched_once() {
    let mut rig = Rig::new();
    read_all(&mut rig, &[sized(AT[0], &[5]), sized(AT[1], &[6])].concat());
    let trains = rig.send();
    let watched: Vec<_> =
        trains.into_iter().map(|train| rig.sent(train, Err(Errno::AGAIN))).collect();
    assert_eq!(watched, [Some(0), None]);
    rig.outbound.handle_writable(0);
    let again = rig.send();
    let watched: Vec<_> =
        again.into_iter().map(|train| rig.sent(train, Err(Errno::AGAIN))).collect();
    assert_eq!(watched, [Some(0), None]);
    rig.assert_moved(&[("out.segments_in", 2), ("send_retries", 4)]);
}

#[test]
fn a_path_that_shrank_is_learned_and_the_train_goes_in_parts() {
    let mut rig = Rig::new();
    let keeps = tcp(AT[0], 1400).with(|packet| packet.dont_fragment = false).build();
    let asks = tcp(AT[0], 1400).build();
    read_all(&mut rig, &[keeps.clone(), asks.clone()]);
    let mut trains = rig.send();
    assert_eq!((trains.len(), trains[0].segment), (1, Some(1440)));
    assert_eq!(rig.sent(trains.remove(0), Err(Errno::MSGSIZE)), None);
    // The path is loopback and takes more, which does not explain that 1440 is too much: half of
    // the way to 524 is next.
    assert_eq!(rig.events.try_recv(), Ok(Event::PathMtu { slot: 0, generation: 1, mtu: 982 }));
    rig.assert_moved(&[("out.segments_in", 2), ("path_mtu_lowered", 1)]);

    assert!(rig.outbound.has_work());
    let trains = rig.send();
    let problem = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 982 };
    assert_eq!(rig.write_plain(), [icmp_v4(&asks, problem)]);
    assert_eq!(oversize::reassemble(&bytes(&trains)), keeps);
    rig.assert_moved(&[("out.drop.packet_too_big", 1), ("fragments_made", 2), ("icmp_sent", 1)]);
    rig.accept(trains);
    rig.assert_accounted();
    assert!(!rig.outbound.has_work());
}

/// Below the floor nothing is learned any more, so the packet has to be dropped.
#[test]
fn a_path_below_the_floor_ends_in_a_drop() {
    let mut rig = Rig::new();
    read_all(&mut rig, &sized(AT[0], &[400]));
    let mut trains = rig.send();
    assert_eq!(rig.sent(trains.remove(0), Err(Errno::MSGSIZE)), None);
    assert!(rig.send().is_empty());
    let told = Event::PathMtu { slot: 0, generation: 1, mtu: 524 };
    assert_eq!(rig.events.try_recv(), Ok(told));
    rig.assert_moved(&[
        ("out.segments_in", 1),
        ("path_mtu_lowered", 1),
        ("out.drop.send_failed", 1),
    ]);
}

#[test]
fn segmentation_is_switched_off_for_one_peer_only() {
    for error in [Errno::IO, Errno::INVAL] {
        let mut rig = Rig::new();
        let sizes = [50, 50, 50, 70, 70];
        let refused = sized(AT[0], &sizes);
        let other = sized(AT[1], &sizes);
        read_all(&mut rig, &[refused.clone(), other.clone()].concat());
        let trains = rig.send();
        // The second train of the peer is linked behind the first and so cancelled.
        let taken = deliver(&mut rig, trains, |train| {
            if train.to.ip().to_string() == "127.0.0.2" { Err(error) } else { Ok(()) }
        });
        let taken: Vec<_> = taken.into_iter().flat_map(|(_, datagrams)| datagrams).collect();
        assert_eq!(taken, other);
        let told = Event::SegmentationOff { slot: 0, generation: 1, error };
        assert_eq!(rig.events.try_recv(), Ok(told));
        assert!(rig.events.is_empty());
        rig.assert_moved(&[
            ("out.segments_in", 10),
            ("out.segments_out", 5),
            ("out.trains_out", 2),
            ("out.bytes_out", 3 * 78 + 2 * 98),
            ("segmentation_off", 1),
        ]);

        let trains = rig.send();
        assert!(trains.iter().all(|train| train.segment.is_none()));
        assert_eq!(bytes(&trains), refused);
        rig.accept(trains);
        rig.assert_accounted();

        // From now on too, and only for that peer.
        read_all(&mut rig, &[sized(AT[0], &[9, 9]), sized(AT[1], &[9, 9])].concat());
        let segments: Vec<_> = rig.send().iter().map(|train| train.segment).collect();
        assert_eq!(segments, [None, None, Some(37)]);
        assert!(rig.events.is_empty());
    }
}

/// A refusal is believed for a minute. Then a train is tried; nothing is lost if it is refused too,
/// and the control side hears of it only when it was not.
#[test]
fn segmentation_is_tried_again_after_a_while() {
    let mut rig = Rig::new();
    let packets = sized(AT[0], &[9, 9]);
    let exchange = |rig: &mut Rig, outcome: Result<(), Errno>| {
        read_all(rig, &packets);
        let trains = rig.send();
        let was_train = trains[0].segment.is_some();
        let arrived =
            deliver(rig, trains, |train| if train.segment.is_some() { outcome } else { Ok(()) });
        let again = rig.send();
        let arrived_again = bytes(&again);
        rig.accept(again);
        let arrived: Vec<_> = arrived.into_iter().flat_map(|(_, datagrams)| datagrams).collect();
        assert_eq!([arrived, arrived_again].concat(), packets);
        was_train
    };
    assert!(exchange(&mut rig, Err(Errno::IO)));
    let off = Event::SegmentationOff { slot: 0, generation: 1, error: Errno::IO };
    assert_eq!(rig.events.try_recv(), Ok(off));
    rig.shared.now_ms = 60 * 1000 - 1;
    assert!(!exchange(&mut rig, Ok(())));
    rig.shared.now_ms += 1;
    assert!(exchange(&mut rig, Err(Errno::IO)), "a trial");
    assert!(!exchange(&mut rig, Ok(())));
    assert!(rig.events.is_empty(), "a trial that fails is no news");
    rig.shared.now_ms += 60 * 1000;
    assert!(exchange(&mut rig, Ok(())), "the next trial");
    assert_eq!(rig.events.try_recv(), Ok(Event::SegmentationOn { slot: 0, generation: 1 }));
    assert!(exchange(&mut rig, Ok(())));
    assert!(rig.events.is_empty());
    assert_eq!(rig.shared.counters.segmentation_off.value(), 1);
    rig.assert_accounted();
}

/// Older kernels say EINVAL of a train whose segments do not fit the path. A single one of them
/// tells the truth, and then the kernel may cut again.
#[test]
fn a_refusal_that_was_the_path_switches_segmentation_on_again() {
    let mut rig = Rig::new();
    let packets = sized(AT[0], &[1300, 1300]);
    read_all(&mut rig, &packets);
    let trains = rig.send();
    deliver(&mut rig, trains, |_| Err(Errno::INVAL));
    let trains = rig.send();
    assert_eq!(trains.len(), 2);
    deliver(&mut rig, trains, |_| Err(Errno::MSGSIZE));
    assert!(rig.send().is_empty());
    let told: Vec<Event> = rig.events.try_iter().collect();
    assert_eq!(told[1], Event::SegmentationOn { slot: 0, generation: 1 });
    assert_eq!(told.len(), 3, "off, on, and the path: {told:?}");
    rig.assert_moved(&[
        ("out.segments_in", 2),
        ("segmentation_off", 1),
        ("path_mtu_lowered", 1),
        ("out.drop.packet_too_big", 2),
        ("icmp_sent", 2),
    ]);
    read_all(&mut rig, &sized(AT[0], &[9, 9]));
    assert_eq!(rig.send()[0].segment, Some(37));
}

/// One train to each of three sizes, the head of which is refused with `error`; how the packets
/// behind it are treated is left to the caller.
fn refuse_head(rig: &mut Rig, error: Errno) -> Vec<Vec<u8>> {
    let packets = sized(AT[0], &[10, 20, 30]);
    read_all(rig, &packets);
    let mut trains = rig.send().into_iter();
    assert_eq!(rig.sent(trains.next().unwrap(), Err(error)), None);
    for cancelled in trains {
        assert_eq!(rig.sent(cancelled, Err(Errno::CANCELED)), None);
    }
    packets
}

#[test]
fn other_refusals_are_drops_and_the_tail_goes_again() {
    for error in [Errno::INVAL, Errno::IO, Errno::NOBUFS] {
        let mut rig = Rig::new();
        let packets = refuse_head(&mut rig, error);
        rig.assert_moved(&[("out.segments_in", 3), ("out.drop.send_failed", 1)]);
        let trains = rig.send();
        assert_eq!(bytes(&trains), packets[1..]);
        rig.accept(trains);
        rig.assert_accounted();
    }
}

/// A host or firewall that refuses one datagram to a peer refuses the next: going again one train
/// a turn would keep the trains from everybody else.
#[test]
fn a_peer_that_the_host_refuses_loses_the_whole_chain() {
    let cases = [
        (Errno::HOSTUNREACH, "out.drop.send_unreachable"),
        (Errno::NETUNREACH, "out.drop.send_unreachable"),
        (Errno::PERM, "out.drop.send_failed"),
        (Errno::ACCES, "out.drop.send_failed"),
    ];
    for (error, reason) in cases {
        let mut rig = Rig::new();
        refuse_head(&mut rig, error);
        rig.assert_moved(&[("out.segments_in", 3), (reason, 3)]);
        assert!(!rig.outbound.has_work());
        let next = sized(AT[0], &[40]);
        read_all(&mut rig, &next);
        let trains = rig.send();
        assert_eq!(bytes(&trains), next, "the next turn tries anew");
        rig.accept(trains);
        rig.assert_accounted();
    }
}

/// Packets each of which needs a train of its own, more of them than there are trains.
#[test]
fn without_a_free_train_packets_wait_and_none_is_lost() {
    let mut rig = Rig::new();
    let sizes: Vec<usize> = (0..100).map(|size| size + 300).collect();
    let packets = sized(AT[0], &sizes);
    read_all(&mut rig, &packets);
    let trains = rig.send();
    assert_eq!(trains.len(), FRESH);
    assert!(rig.outbound.has_work(), "nobody may sleep on it");
    assert!(rig.send().is_empty(), "there is nothing to do without a train");
    let mut sent = bytes(&trains);
    rig.accept(trains);
    assert!(rig.outbound.has_work());
    let trains = rig.send();
    sent.extend(bytes(&trains));
    assert_eq!(sent, packets);
    rig.accept(trains);
    assert!(!rig.outbound.has_work());
    rig.assert_accounted();
}

/// A super-packet of more trains than there are is cut where they end, and goes on from there.
#[test]
fn a_super_packet_resumes_in_the_middle() {
    let mut rig = Rig::with(4, Offloads::default());
    let packet = tcp(AT[0], 40_000);
    let (header, partial) = packet.build_partial(100);
    assert!(rig.read(header, &partial));
    rig.read_plain(&udp(AT[0], 5).build());
    let mut sent = Vec::new();
    loop {
        let trains = rig.send();
        if trains.is_empty() {
            break;
        }
        sent.extend(bytes(&trains));
        rig.accept(trains);
    }
    assert_eq!(sent.len(), 401);
    assert_eq!(sent[..400], build(&packet.cut(100)));
    assert_eq!(sent[400], udp(AT[0], 5).build());
    rig.assert_accounted();
    assert_eq!(rig.held(), (0, 0));
}

/// A train is taken apart, and what is left of it opens a train. The next one goes again whole, so
/// what comes behind that must not board the one in front.
#[test]
fn what_is_taken_apart_is_not_boarded_across_a_whole_train() {
    let mut rig = Rig::new();
    let packets = sized(AT[0], &[800, 700, 20, 20, 750, 20]);
    read_all(&mut rig, &packets);
    let trains = rig.send();
    assert_eq!(trains.len(), 3);
    deliver(&mut rig, trains, |_| Err(Errno::MSGSIZE));
    rig.shared.peers.state(0).unwrap().lower_path_mtu(760 + 1, Some(760), 0);
    let trains = rig.send();
    assert_eq!(bytes(&trains), [&packets[1..4], &packets[5..]].concat());
}

/// As many trains as there can be are refused, each of them to be sent one by one: there must be
/// room to take them apart in, and what comes back meanwhile goes before what still waits.
#[test]
fn all_trains_at_once_can_be_taken_apart() {
    let mut rig = Rig::new();
    let sizes: Vec<usize> = (0..FRESH).flat_map(|size| [size + 100; 2]).collect();
    let packets = sized(AT[0], &sizes);
    read_all(&mut rig, &packets);
    let trains = rig.send();
    assert_eq!(trains.len(), FRESH);
    deliver(&mut rig, trains, |_| Err(Errno::IO));
    let mut sent = Vec::new();
    for full in [true, false].into_iter().cycle() {
        let trains = rig.send();
        if trains.is_empty() {
            break;
        }
        let mut count = 0;
        let taken = deliver(&mut rig, trains, |_| {
            count += 1;
            if full && count == 3 { Err(Errno::AGAIN) } else { Ok(()) }
        });
        sent.extend(taken.into_iter().flat_map(|(_, datagrams)| datagrams));
        rig.outbound.handle_writable(0);
    }
    assert_eq!(sent, packets);
    rig.assert_accounted();
}

/// Every train waits, and all would have to go in more parts than they are: that comes to an end,
/// and what could not go is counted.
#[test]
fn trains_that_block_each_other_are_dropped() {
    let mut rig = Rig::with(1, Offloads::default());
    rig.shared.peers.state(0).unwrap().lower_path_mtu(1000 + 1, Some(1000), 0);
    for size in 1000..1100 {
        let packet = udp(AT[0], size).with(|packet| packet.dont_fragment = false);
        rig.read_plain(&packet.build());
    }
    // The fragments of packets from the device may take all trains.
    let trains = rig.send();
    assert!(trains.len() > FRESH);
    deliver(&mut rig, trains, |_| Err(Errno::AGAIN));
    rig.outbound.handle_writable(0);
    rig.shared.peers.state(0).unwrap().lower_path_mtu(600 + 1, Some(600), 0);
    let mut rounds = 0;
    while rig.outbound.has_work() {
        let trains = rig.send();
        rig.accept(trains);
        rounds += 1;
        assert!(rounds < 1000, "the machine comes to no end");
    }
    rig.assert_accounted();
    let now = rig.shared.counters.snapshot().outbound;
    assert_eq!(now.segments_in, 100);
    let reason = weft_forward::drops::DropReason::SendFailed;
    assert!((1..=3).contains(&now.drops.value(reason)), "{now:?}");
    assert_eq!(rig.held(), (0, 0));
}

#[test]
fn peers_that_take_several_source_ports_see_the_workers_own() {
    let mut rig = Rig::new();
    let read = [sized(AT[0], &[10]), sized(AT[2], &[20])].concat();
    let sockets = |rig: &mut Rig| {
        read_all(rig, &read);
        let trains = rig.send();
        let sockets: Vec<usize> = trains.iter().map(|train| train.socket).collect();
        rig.accept(trains);
        sockets
    };
    assert_eq!(sockets(&mut rig), [0, 1]);
    let mut input = table_input();
    (input.peers[0].source_ports, input.peers[2].source_ports) = (true, false);
    rig.adopt(input);
    assert_eq!(sockets(&mut rig), [1, 0], "it may begin and end");
    // The first worker has no port of its own besides the one that everybody knows.
    rig.shared.locals.truncate(1);
    assert_eq!(sockets(&mut rig), [0, 0]);
}

#[test]
fn a_peer_of_a_family_without_a_socket_is_unreachable() {
    let mut rig = Rig::new();
    let mut input = table_input();
    input.peers[0].outer = "[::1]:8285".parse().unwrap();
    rig.adopt(input);
    read_all(&mut rig, &[sized(AT[0], &[10]), sized(AT[1], &[20])].concat());
    let trains = rig.send();
    assert_eq!(bytes(&trains), sized(AT[1], &[20]), "others go on");
    rig.assert_moved(&[("out.segments_in", 2), ("out.drop.send_unreachable", 1)]);
}

#[test]
fn a_new_table_keeps_what_was_learned_of_peers_that_stay() {
    let mut rig = Rig::new();
    for slot in 0..3 {
        rig.shared.peers.state(slot).unwrap().lower_path_mtu(1000 + 1, Some(1000), 0);
        rig.shared.peers.state(slot).unwrap().segmentation.refuse(0);
    }
    let mut input = table_input();
    input.peers[1].generation = 2;
    input.peers[2].outer = "127.0.0.9:8285".parse().unwrap();
    rig.adopt(input);
    let mut learned = |slot: u16| {
        let state = rig.shared.peers.state(slot).unwrap();
        (state.path_mtu(0), state.segmentation.is_on(0), state.outer.to_string())
    };
    assert_eq!(learned(0), (1000, false, "127.0.0.2:8285".to_owned()));
    assert_eq!(learned(1), (1472, true, "127.0.0.3:8285".to_owned()), "another peer");
    assert_eq!(learned(2), (1472, true, "127.0.0.9:8285".to_owned()), "another path");
    assert!(rig.shared.peers.state(3).is_none());
    assert!(rig.shared.peers.same(1, 1).is_none());
    assert!(rig.shared.peers.same(1, 2).is_some());
}

#[test]
fn a_peer_that_left_while_its_train_waited_is_counted() {
    for replaced in [false, true] {
        let mut rig = Rig::new();
        let stays = sized(AT[1], &[40]);
        read_all(&mut rig, &[sized(AT[0], &[50, 50, 70]), stays.clone()].concat());
        let trains = rig.send();
        deliver(&mut rig, trains, |_| Err(Errno::AGAIN));
        let mut input = table_input();
        if replaced {
            input.peers[0].generation = 2;
        } else {
            input.peers.remove(0);
        }
        rig.adopt(input);
        rig.outbound.handle_writable(0);
        let trains = rig.send();
        assert_eq!(bytes(&trains), stays);
        rig.assert_moved(&[("out.segments_in", 4), ("out.drop.peer_gone", 3), ("send_retries", 2)]);
        rig.accept(trains);
        rig.assert_accounted();
    }
}

#[test]
fn a_peer_that_left_in_the_middle_of_a_packet_is_counted() {
    let mut rig = Rig::with(1, Offloads::default());
    let (header, partial) = tcp(AT[0], 10_000).build_partial(100);
    assert!(rig.read(header, &partial));
    let trains = rig.send();
    assert_eq!(trains.len(), FRESH);
    rig.accept(trains);
    let mut input = table_input();
    input.peers[0].generation = 9;
    rig.adopt(input);
    assert!(rig.send().is_empty());
    let sent = FRESH as u64;
    rig.assert_moved(&[
        ("out.segments_in", 100),
        ("out.super_packets_in", 1),
        ("out.segments_out", sent),
        ("out.trains_out", sent),
        ("out.bytes_out", sent * 140),
        ("out.drop.peer_gone", 100 - sent),
    ]);
}

#[test]
fn what_still_waits_at_the_end_is_counted() {
    let mut rig = Rig::with(1, Offloads::default());
    // One waiting to go again, a packet half done, and a frame that nobody looked at.
    rig.read_plain(&udp(AT[1], 5).build());
    let trains = rig.send();
    deliver(&mut rig, trains, |_| Err(Errno::AGAIN));
    rig.outbound.handle_writable(0);
    let (header, partial) = tcp(AT[0], 10_000).build_partial(100);
    assert!(rig.read(header, &partial));
    rig.read_plain(&udp(AT[1], 6).build());
    let trains = rig.send();
    assert_eq!(trains.len(), FRESH);
    deliver(&mut rig, trains, |_| Err(Errno::AGAIN));
    rig.stop();
    let moved = [
        ("out.segments_in", 1 + 100 + 1),
        ("out.super_packets_in", 1),
        ("out.drop.stopped", 1 + 100 + 1),
        ("send_retries", 3),
    ];
    rig.assert_moved(&moved);
}
