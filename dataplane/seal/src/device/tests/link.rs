//! Two devices over a link that loses, reorders, duplicates, delays and forges, in simulated time.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::node::{Node, Random, SLOT, packet, seconds};
use crate::device::TICK;

/// How a link treats datagrams, by its seed.
#[derive(Clone, Copy, Debug)]
struct Weather {
    loss_percent: u64,
    duplicate_percent: u64,
    forge_percent: u64,
    delay_ms_max: u64,
    /// A packet each way, of so many ticks out of a hundred.
    traffic_percent: u64,
    /// One side forgets everything but what is on disk.
    restarts: bool,
}

struct World {
    nodes: [Node; 2],
    random: Random,
    weather: Weather,
    now: Duration,
    /// Datagrams on their way, by arrival.
    flying: BTreeMap<(Duration, u64), (usize, Vec<u8>)>,
    launched: u64,
    /// Whatever went by once, for replays.
    seen: Vec<(usize, Vec<u8>)>,
    /// Packets that were asked to be sent, each with a number of its own.
    numbered: u64,
    /// Numbers that arrived, at each side.
    arrived: [HashSet<u64>; 2],
    /// Index and counter of every data message: no nonce may come twice.
    nonces: HashSet<(usize, [u8; 12])>,
    /// How long each side has been alive; indices begin anew with a restart.
    lives: [u64; 2],
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let weather = Weather {
            loss_percent: [0, 1, 10, 40][random.below(4) as usize],
            duplicate_percent: [0, 5, 30][random.below(3) as usize],
            forge_percent: [0, 5][random.below(2) as usize],
            delay_ms_max: [1, 50, 900, 4000][random.below(4) as usize],
            traffic_percent: [2, 20, 100][random.below(3) as usize],
            restarts: random.percent(20),
        };
        Self {
            nodes: Node::pair(seed),
            random,
            weather,
            now: seconds(1),
            flying: BTreeMap::new(),
            launched: 0,
            seen: Vec::new(),
            numbered: 0,
            arrived: [HashSet::new(), HashSet::new()],
            nonces: HashSet::new(),
            lives: [0; 2],
        }
    }

    fn step(&mut self, traffic_percent: u64) {
        self.now += TICK;
        for from in 0..2 {
            if self.random.percent(traffic_percent) {
                self.numbered += 1;
                self.nodes[from].send(self.now, &packet(self.numbered));
            }
            self.nodes[from].tick(self.now);
            self.launch(from);
        }
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (to, datagram) = entry.remove();
            self.deliver(to, &datagram);
        }
    }

    fn launch(&mut self, from: usize) {
        for (_, datagram) in std::mem::take(&mut self.nodes[from].sent) {
            if datagram[0] == 4 {
                let nonce = datagram[4..16].try_into().unwrap();
                assert!(self.nonces.insert((from, nonce)), "a nonce came twice");
            }
            if self.seen.len() < 500 {
                self.seen.push((1 - from, datagram.clone()));
            }
            if self.random.percent(self.weather.loss_percent) {
                continue;
            }
            let copies = 1 + u64::from(self.random.percent(self.weather.duplicate_percent));
            for _ in 0..copies {
                self.fly(1 - from, datagram.clone());
            }
        }
    }

    fn fly(&mut self, to: usize, mut datagram: Vec<u8>) {
        if self.random.percent(self.weather.forge_percent) {
            let bit = self.random.below(datagram.len() as u64 * 8) as usize;
            datagram[bit / 8] ^= 1 << (bit % 8);
        }
        let delay = Duration::from_millis(self.random.below(self.weather.delay_ms_max));
        self.launched += 1;
        self.flying.insert((self.now + delay, self.launched), (to, datagram));
    }

    fn deliver(&mut self, to: usize, datagram: &[u8]) {
        let from = self.nodes[1 - to].address;
        if let Ok(Some(packet)) = self.nodes[to].receive(self.now, from, datagram) {
            let number = u64::from_be_bytes(packet[20..28].try_into().unwrap());
            assert!((1..=self.numbered).contains(&number), "a packet nobody sent");
            assert!(self.arrived[to].insert(number), "packet {number} was accepted twice");
        }
        self.launch(to);
    }

    /// Everything seen so far once more.
    fn replay(&mut self) {
        for (to, datagram) in self.seen.clone() {
            self.deliver(to, &datagram);
        }
    }

    fn restart(&mut self, which: usize) {
        self.lives[which] += 1;
        let kept = self.nodes[which].device.greatest_sent();
        let wall = self.nodes[which].wall;
        let seed = self.random.next();
        let mut node = Node::started([1, 2][which], seed, kept);
        // Clocks come up wrong.
        node.wall = wall.saturating_sub(seconds(self.random.below(1000)));
        node.add(&self.nodes[1 - which]);
        self.nodes[which] = node;
    }

    /// After the storm: packets go through both ways within the time that the rules give them.
    fn recovers(&mut self) {
        self.weather.loss_percent = 0;
        self.weather.forge_percent = 0;
        self.weather.delay_ms_max = 2;
        for _ in 0..300 {
            let before = [0, 1].map(|side: usize| self.arrived[side].len());
            self.step(100);
            let after = [0, 1].map(|side: usize| self.arrived[side].len());
            if before[0] < after[0] && before[1] < after[1] {
                return;
            }
        }
        panic!("no recovery under {:?}", self.weather);
    }
}

/// A whole life: traffic in bad weather, a pause, replays, maybe restarts, and always a recovery.
fn run(seed: u64, ticks: u64) {
    let mut world = World::new(seed);
    let traffic = world.weather.traffic_percent;
    for tick in 0..ticks {
        world.step(traffic);
        if world.weather.restarts && tick == ticks / 2 {
            let which = world.random.below(2) as usize;
            world.restart(which);
        }
    }
    world.replay();
    world.recovers();
    // A pause, of any length up to beyond the life of a session.
    world.now += seconds(world.random.below(400));
    world.replay();
    world.recovers();
    assert!(world.nodes.iter().all(|node| node.device.indices.len() <= 4));
    assert!(world.nodes.iter().all(|node| node.published.contains_key(&SLOT)));
}

#[test]
fn ten_thousand_links_recover() {
    for seed in 0..10_000 {
        let result = std::panic::catch_unwind(|| run(seed, 40));
        assert!(result.is_ok(), "seed {seed}");
    }
}

/// Long enough for several sessions each.
#[test]
fn links_live_through_rekeys() {
    for seed in 100_000..100_100 {
        let result = std::panic::catch_unwind(|| run(seed, 6_000));
        assert!(result.is_ok(), "seed {seed}");
    }
}
