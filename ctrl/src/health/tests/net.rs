//! Virtual time and links.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::config::PathKind;
use crate::health::{
    Assessment, Candidate, Choice, Datagram, Prober, Standing, TICK, Target, choose,
};

pub(super) const SIZE: usize = 1422;

/// Time on a link.
const DELAY: Duration = Duration::from_millis(2);

/// Says whether a packet of a size gets from one node to another on a path. Gets chance, too.
pub(super) type Link = Box<dyn FnMut(usize, PathKind, usize, &mut StdRng) -> bool>;

pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) nodes: Vec<Prober>,
    pub(super) link: Link,
    pub(super) sent: u64,
    pub(super) chance: StdRng,
    paths: Vec<PathKind>,
    /// By arrival and order: to whom, from whom, what.
    under_way: BTreeMap<(Instant, u64), (usize, usize, Datagram)>,
}

pub(super) fn open() -> Link {
    Box::new(|_, _, _, _| true)
}

fn address(node: usize) -> ipnet::IpNet {
    format!("10.5.{}.0/24", node + 1).parse().unwrap()
}

impl Net {
    /// Nodes that have these paths to each other.
    pub(super) fn new(nodes: usize, paths: &[PathKind], seed: u64) -> Self {
        let now = Instant::now();
        let mut chance = StdRng::seed_from_u64(seed);
        let identity = |node: usize| format!("{:032x}", node + 1).parse().unwrap();
        let mut probers = Vec::new();
        for own in 0..nodes {
            let mut prober = Prober::new(identity(own), chance.random(), SIZE, now);
            let others = (0..nodes).filter(|other| *other != own);
            let target = |other| Target {
                subnet: address(other),
                identity: identity(other),
                paths: paths.to_vec(),
            };
            prober.set_targets(others.map(target).collect(), now, &mut || chance.random());
            probers.push(prober);
        }
        let under_way = BTreeMap::new();
        Self {
            now,
            nodes: probers,
            link: open(),
            sent: 0,
            chance,
            paths: paths.to_vec(),
            under_way,
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            for node in 0..self.nodes.len() {
                let chance = &mut self.chance;
                let requests = self.nodes[node].handle_time(self.now, &mut || chance.random());
                requests.into_iter().for_each(|datagram| self.send(node, datagram));
            }
            self.now += TICK;
            self.deliver();
        }
    }

    fn send(&mut self, from: usize, datagram: Datagram) {
        self.sent += 1;
        let to = (0..self.nodes.len()).find(|to| address(*to).network() == datagram.to).unwrap();
        if (self.link)(from, datagram.path, datagram.bytes.len() + 28, &mut self.chance) {
            let key = (self.now + DELAY, self.sent);
            self.under_way.insert(key, (to, from, datagram));
        }
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.under_way.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            let arrival = entry.key().0;
            let (to, from, Datagram { path, bytes, .. }) = entry.remove();
            let from_address = address(from).network();
            let length = bytes.len();
            let reply = self.nodes[to].handle_datagram(arrival, path, from_address, &bytes);
            if let Some(reply) = reply {
                assert!(reply.bytes.len() <= length, "a reply is never longer");
                self.send(to, reply);
            }
        }
    }

    pub(super) fn assessment(&self, node: usize, path: PathKind) -> Assessment {
        let other = address(1 - node);
        self.nodes[node].assessments(&other).find(|(one, _)| *one == path).unwrap().1
    }

    /// What the first two nodes choose.
    pub(super) fn choice(&self, node: usize) -> Choice {
        let candidate = |path: &PathKind| Candidate {
            path: *path,
            standing: Standing::Probed(self.assessment(node, *path)),
        };
        choose(&self.paths.iter().map(candidate).collect::<Vec<_>>()).unwrap()
    }

    pub(super) fn paths(&self) -> [PathKind; 2] {
        [self.choice(0).path, self.choice(1).path]
    }

    /// Time until both nodes use a path.
    pub(super) fn time_to(&mut self, path: PathKind, most: Duration) -> Duration {
        let start = self.now;
        while self.paths() != [path; 2] {
            assert!(self.now < start + most, "still {:?}: {}", self.paths(), self.choice(0).reason);
            self.run(TICK);
        }
        self.now - start
    }
}
