//! WireGuard's data messages, a train at a time.

use std::{fmt, net::SocketAddr, ops::Range, sync::Arc, time::Duration};

use arrayvec::ArrayVec;
use weft_forward::drops::DropReason;
use weft_seal::{
    aead::Aead,
    message::{DATA_HEADER_LENGTH, DATA_OVERHEAD, Message},
    rejected::Rejected,
    session::{Authentic, Counters, Load, Session, inner_packet, sealed_length},
};
use weft_sys::{gather::Gather, ring::Datagram};

use super::{ADMITTED_MAX, Framer, Origin, Room, Segment, Senders, Unframed};
use crate::sealing::{News, Outgoing, PeerName, Sealing};

/// Datagrams of a train that are looked at. The kernel joins at most 64 (`UDP_GRO_CNT_MAX`).
const TRAIN_MAX: usize = 128;

/// What became of one datagram of the train that was opened last.
type Opened = Result<Option<(Range<usize>, PeerName)>, DropReason>;

/// The framer of sealed traffic.
pub(crate) struct Sealed<A> {
    sealing: Arc<Sealing<A>>,
    now: Duration,
    /// What the peer that was admitted last is sent with.
    admitted: Option<(Arc<Outgoing<A>>, Counters)>,
    /// One for each datagram of the train that was opened last.
    opened: Vec<Opened>,
}

impl<A> fmt::Debug for Sealed<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sealed").finish_non_exhaustive()
    }
}

/// Messages of one session in a row, authenticated and not yet admitted.
struct Run<'a, A> {
    session: &'a Session<A>,
    peer: PeerName,
    /// Which datagrams of the train they are.
    numbers: ArrayVec<usize, TRAIN_MAX>,
    messages: ArrayVec<Authentic, TRAIN_MAX>,
}

impl<A: Aead> Sealed<A> {
    pub(crate) fn new(sealing: Arc<Sealing<A>>) -> Self {
        let now = sealing.now();
        Self { sealing, now, admitted: None, opened: Vec::with_capacity(TRAIN_MAX) }
    }

    /// A handshake's message goes to the thread that makes them.
    fn hand_over(&self, from: Option<SocketAddr>, datagram: &[u8]) -> Opened {
        let Some(from) = from else { return Err(DropReason::UnknownSender) };
        let bytes = datagram.into();
        if self.sealing.tell(News::Datagram { from, bytes }) {
            Ok(None)
        } else {
            Err(DropReason::HandshakesBusy)
        }
    }

    /// Decides about the messages of a run, whose datagrams are `size` bytes apart in `train`.
    fn admit_run(&mut self, run: Run<'_, A>, from: Option<SocketAddr>, train: &[u8], size: usize) {
        let Run { session, peer, numbers, messages } = run;
        let mut number = numbers.iter();
        let opened = &mut self.opened;
        let was_confirmed = session.is_confirmed();
        let mut is_used = false;
        session.admit(&messages, self.now, |admitted| {
            let number = *number.next().expect("one number for each message");
            let datagram = &train[number * size..train.len().min((number + 1) * size)];
            is_used |= admitted.is_ok();
            let inner = admitted.and_then(|padded| inner_packet(datagram, padded));
            opened[number] = inner.map(|range| Some((range?, peer))).map_err(reason);
        });
        if !is_used {
            return;
        }
        // Lost news come again with the next train, or are noticed by the handshake thread's ticks.
        let local = session.local();
        if !was_confirmed {
            self.sealing.tell(News::Used { local });
        }
        if let Some(from) = from.filter(|from| !self.sealing.is_place_of(peer.slot, *from)) {
            self.sealing.tell(News::Roamed { local, from });
        }
    }
}

impl<A: Aead> Framer for Sealed<A> {
    const SENDERS: Senders = Senders::Key;

    fn overhead(&self, _peer: PeerName) -> usize {
        DATA_OVERHEAD
    }

    fn is_plain(&self, _peer: PeerName) -> bool {
        false
    }

    fn begin_turn(&mut self) {
        self.now = self.sealing.now();
    }

    fn admit(&mut self, peer: PeerName, count: usize) -> Result<Option<SocketAddr>, DropReason> {
        self.admitted = None;
        let outgoing = self.sealing.outgoing(peer).ok_or(DropReason::NoSession)?;
        let count = count.min(ADMITTED_MAX);
        let counters = outgoing.session.reserve(count, Load::Packet, self.now);
        let counters = counters.map_err(|_| DropReason::NoSession)?;
        let to = outgoing.to;
        self.admitted = Some((outgoing, counters));
        Ok(Some(to))
    }

    fn keep(&mut self, peer: PeerName, packet: &[u8]) -> bool {
        self.sealing.tell(News::Packet { peer, bytes: packet.into() })
    }

    fn want(&mut self, peer: PeerName) {
        // Lost news come again with the next packet.
        self.sealing.tell(News::Wanted { peer });
    }

    #[inline]
    fn room(&self, segment: &Segment<'_>, mtu: usize) -> Room {
        self.room_copy(segment.len(), mtu)
    }

    #[inline]
    fn frame(&mut self, segment: &Segment<'_>, mtu: usize, train: &mut Gather) {
        let (outgoing, counters) = self.admitted.as_mut().expect("the peer was admitted");
        let counter = counters.next().expect("no more are framed than were admitted");
        let length = segment.len();
        let datagram = train.push_space(sealed_length(length, mtu));
        let packet = &segment.frame.bytes()[segment.offset..];
        let (header, payload) = (segment.plan.header_len(), segment.plan.payload(segment.index));
        let inner = &mut datagram[DATA_HEADER_LENGTH..DATA_HEADER_LENGTH + length];
        let (head, body) = inner.split_at_mut(header);
        if header > 0 {
            segment.plan.write_header(packet, segment.index, head, segment.sum);
        }
        body.copy_from_slice(&packet[payload]);
        outgoing.session.seal_in_place(counter, datagram, length, mtu);
    }

    fn room_copy(&self, length: usize, mtu: usize) -> Room {
        let length = sealed_length(length, mtu);
        Room { length, written: length, copy: 0 }
    }

    fn frame_copy(&mut self, packet: &[u8], mtu: usize, train: &mut Gather) {
        let (outgoing, counters) = self.admitted.as_mut().expect("the peer was admitted");
        let counter = counters.next().expect("no more are framed than were admitted");
        let datagram = train.push_space(sealed_length(packet.len(), mtu));
        outgoing.session.seal(counter, &[packet], datagram, mtu);
    }

    fn recover(&self, peer: PeerName, datagram: &mut [u8]) -> Option<Range<usize>> {
        let outgoing = self.sealing.outgoing(peer)?;
        let padded = outgoing.session.reopen(datagram)?;
        inner_packet(datagram, padded).ok().flatten()
    }

    fn open(&mut self, datagram: &mut Datagram, size: usize) -> usize {
        let from = datagram.sender;
        self.opened.clear();
        let Some(train) = datagram.payload.bytes_mut() else { return 0 };
        let sealing = Arc::clone(&self.sealing);
        let receiving = sealing.receiving();
        let mut run: Option<Run<'_, A>> = None;
        let count = train.len().div_ceil(size).min(TRAIN_MAX);
        for number in 0..count {
            let end = train.len().min((number + 1) * size);
            let message = &mut train[number * size..end];
            let receiver = match Message::parse(message) {
                Ok(Message::Data { receiver, .. }) => receiver,
                Ok(_) => {
                    let opened = self.hand_over(from, message);
                    self.opened.push(opened);
                    continue;
                }
                Err(rejected) => {
                    self.opened.push(Err(refusal(message, rejected)));
                    continue;
                }
            };
            // Filled in when the run is admitted.
            self.opened.push(Err(DropReason::BadSeal));
            let same = run.as_ref().is_some_and(|run| run.session.local() == receiver);
            if !same {
                if let Some(run) = run.take() {
                    self.admit_run(run, from, train, size);
                }
                let Some(incoming) = receiving.get(&receiver) else {
                    self.opened[number] = Err(DropReason::NoSessionHere);
                    continue;
                };
                let (session, peer) = (&*incoming.session, incoming.peer);
                let (numbers, messages) = Default::default();
                run = Some(Run { session, peer, numbers, messages });
            }
            let message = &mut train[number * size..end];
            let run = run.as_mut().expect("a run was begun");
            match run.session.authenticate(message, self.now) {
                Ok(authentic) => {
                    run.numbers.push(number);
                    run.messages.push(authentic);
                }
                Err(rejected) => self.opened[number] = Err(reason(rejected)),
            }
        }
        if let Some(run) = run {
            self.admit_run(run, from, train, size);
        }
        self.opened.iter().filter(|opened| matches!(opened, Ok(None))).count()
    }

    #[inline]
    fn unframe(&mut self, number: usize, _datagram: &[u8]) -> Result<Option<Unframed>, DropReason> {
        let opened = self.opened.get_mut(number).ok_or(DropReason::BadSeal)?;
        match opened {
            Ok(Some((range, peer))) => {
                Ok(Some(Unframed { range: range.clone(), origin: Origin::Peer(*peer) }))
            }
            Ok(None) => Ok(None),
            Err(reason) => Err(*reason),
        }
    }
}

/// Why a datagram that is no message of the protocol is refused: an IP packet is one in flannel's format.
fn refusal(datagram: &[u8], rejected: Rejected) -> DropReason {
    match datagram.first().map(|first| first >> 4) {
        Some(4 | 6) => DropReason::NotSealed,
        _ => reason(rejected),
    }
}

fn reason(rejected: Rejected) -> DropReason {
    match rejected {
        Rejected::UnknownIndex => DropReason::NoSessionHere,
        Rejected::Expired => DropReason::SessionExpired,
        Rejected::Replayed | Rejected::BelowWindow => DropReason::Replayed,
        Rejected::BadTag => DropReason::BadSeal,
        _ => DropReason::BadMessage,
    }
}
