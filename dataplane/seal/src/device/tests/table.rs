//! Every message in every state of a device: what it answers with, and where that leaves it.

use super::node::{Node, SLOT, address, packet, seconds, settle};
use crate::rejected::Rejected;

/// What a device can be in towards its peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing was ever exchanged.
    Fresh,
    /// It waits for a response.
    Waiting,
    /// It has answered and waits for proof.
    Answered,
    /// It has a session that it began.
    Initiator,
    /// It has a session that the peer began.
    Responder,
    /// It has a session that it began, and waits for the response of the next handshake.
    Rekeying,
    /// Its session is too old.
    Expired,
}

/// What can happen to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Packet,
    Tick,
    Initiation,
    OldInitiation,
    Response,
    OldResponse,
    StrayCookie,
    Data,
    OldData,
    Removed,
}

const STATES: [State; 7] = [
    State::Fresh,
    State::Waiting,
    State::Answered,
    State::Initiator,
    State::Responder,
    State::Rekeying,
    State::Expired,
];

const EVENTS: [Event; 10] = [
    Event::Packet,
    Event::Tick,
    Event::Initiation,
    Event::OldInitiation,
    Event::Response,
    Event::OldResponse,
    Event::StrayCookie,
    Event::Data,
    Event::OldData,
    Event::Removed,
];

/// The types of the messages it sends, `!` and a letter for a refusal (index, stale, malformed, replay,
/// cookie, expired), `-` for nothing, and `?` where the event cannot happen. Rows as [`STATES`],
/// columns as [`EVENTS`].
const TABLE: [&str; 7] = [
    "1 - 2 ?  ? ?  !i ? ?  -",  // Fresh
    "- - 2 ?  4 ?  !i ? ?  -",  // Waiting
    "1 - 2 !s ? ?  !i - ?  -",  // Answered
    "4 - 2 ?  ? !i !i - !r -",  // Initiator
    "4 - 2 !s ? ?  !i - !r -",  // Responder
    "4 - 2 ?  4 !i !i - !r -",  // Rekeying
    "1 - 2 ?  ? !i !i !i !i -", // Expired
];

/// The nodes, and messages for the first one that events use.
struct Scene {
    nodes: [Node; 2],
    now: u64,
    old_initiation: Option<Vec<u8>>,
    response: Option<Vec<u8>>,
    old_response: Option<Vec<u8>>,
    data: Option<Vec<u8>>,
    old_data: Option<Vec<u8>>,
}

impl Scene {
    fn new(state: State) -> Self {
        let (old_initiation, response, old_response) = (None, None, None);
        let mut scene = Self {
            nodes: Node::pair(1),
            now: 10,
            old_initiation,
            response,
            old_response,
            data: None,
            old_data: None,
        };
        match state {
            State::Fresh => {}
            State::Waiting => scene.begin(),
            State::Answered => scene.answer(),
            State::Responder => {
                scene.answer();
                scene.use_data();
            }
            State::Initiator | State::Rekeying | State::Expired => {
                scene.begin();
                scene.old_response = scene.response.take();
                let response = scene.old_response.clone().unwrap();
                scene.give(&response).unwrap();
                settle(seconds(scene.now), &mut scene.nodes);
                scene.make_data();
                scene.use_data();
            }
        }
        match state {
            State::Rekeying => {
                scene.now = 20;
                scene.begin();
            }
            State::Expired => {
                scene.nodes[0].tick(seconds(21));
                scene.now = 300;
                scene.nodes[0].tick(seconds(300));
            }
            _ => {}
        }
        scene.nodes[0].sent.clear();
        scene
    }

    /// The first node sends an initiation, which the other has answered.
    fn begin(&mut self) {
        let now = seconds(self.now);
        self.nodes[0].with(now, |device, context| device.handle_wanted(context, SLOT));
        let initiation = self.nodes[0].only_sent();
        self.nodes[1].receive(now, address(1), &initiation).unwrap();
        self.response = Some(self.nodes[1].only_sent());
    }

    /// The first node answers an initiation of the other, which has data to send then.
    fn answer(&mut self) {
        let now = seconds(self.now);
        self.nodes[1].send(now, &packet(1));
        let initiation = self.nodes[1].only_sent();
        self.give(&initiation).unwrap();
        self.old_initiation = Some(initiation);
        let response = self.nodes[0].only_sent();
        self.nodes[1].receive(now, address(2), &response).unwrap();
        self.data = Some(self.nodes[1].only_sent());
    }

    fn make_data(&mut self) {
        self.nodes[1].send(seconds(self.now), &packet(2));
        self.data = Some(self.nodes[1].only_sent());
    }

    /// The first node gets data; there is more.
    fn use_data(&mut self) {
        let data = self.data.take().unwrap();
        self.give(&data).unwrap();
        self.old_data = Some(data);
        self.make_data();
    }

    fn give(&mut self, datagram: &[u8]) -> Result<(), Rejected> {
        self.nodes[0].receive(seconds(self.now), address(2), datagram).map(|_| ())
    }

    /// A new initiation of the other node, which has lost everything.
    fn initiation(&mut self) -> Vec<u8> {
        let mut other = Node::new(2, 77);
        other.add(&self.nodes[0]);
        other.wall += seconds(1000);
        other.with(seconds(self.now), |device, context| device.handle_wanted(context, SLOT));
        other.only_sent()
    }

    fn run(&mut self, event: Event) -> Option<Result<(), Rejected>> {
        let now = seconds(self.now) + std::time::Duration::from_millis(50);
        let datagram = match event {
            Event::Packet => {
                self.nodes[0].send(now, &packet(3));
                return Some(Ok(()));
            }
            Event::Tick => {
                self.nodes[0].tick(now);
                return Some(Ok(()));
            }
            Event::Removed => {
                self.nodes[0].with(now, |device, _| device.remove_peer(SLOT));
                return Some(Ok(()));
            }
            Event::Initiation => Some(self.initiation()),
            Event::OldInitiation => self.old_initiation.clone(),
            Event::Response => self.response.clone(),
            Event::OldResponse => self.old_response.clone(),
            Event::StrayCookie => {
                let mut cookie = vec![7; 64];
                cookie[..4].copy_from_slice(&[3, 0, 0, 0]);
                Some(cookie)
            }
            Event::Data => self.data.clone(),
            Event::OldData => self.old_data.clone(),
        };
        let received = self.nodes[0].receive(now, address(2), &datagram?);
        Some(received.map(|_| ()))
    }

    fn outcome(&mut self, event: Event) -> String {
        match self.run(event) {
            None => "?".to_owned(),
            Some(Err(Rejected::UnknownIndex)) => "!i".to_owned(),
            Some(Err(Rejected::StaleTimestamp)) => "!s".to_owned(),
            Some(Err(Rejected::Replayed)) => "!r".to_owned(),
            Some(Err(other)) => format!("!{other:?}"),
            Some(Ok(())) => {
                let kinds: String = self.nodes[0].kinds().iter().map(u8::to_string).collect();
                if kinds.is_empty() { "-".to_owned() } else { kinds }
            }
        }
    }
}

#[test]
fn every_event_in_every_state() {
    for (state, row) in STATES.into_iter().zip(TABLE) {
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells.len(), EVENTS.len());
        for (event, expected) in EVENTS.into_iter().zip(cells) {
            let mut scene = Scene::new(state);
            assert_eq!(scene.outcome(event), expected, "{event:?} when {state:?}");
            // Whatever it was, it leaves nothing behind that a restart of both would trip over.
            if event == Event::Removed {
                assert!(scene.nodes[0].device.indices.is_empty());
                assert!(scene.nodes[0].installed.is_empty());
                continue;
            }
            let again = scene.outcome(event);
            let is_once = matches!(event, Event::Initiation | Event::Response | Event::Data);
            assert!(!is_once || again.starts_with(['!', '?']), "{event:?} twice when {state:?}");
        }
    }
}
