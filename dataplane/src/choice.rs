//! Which engine moves the packets, and why.
//!
//! What `uring` takes is found out by setting it up, step by step; the first thing that is missing
//! is the reason for `epoll`.

use std::{net::IpAddr, sync::Arc};

use weft_sys::{
    gather::Gather,
    ring::{Files, Ring},
};

use crate::{
    engine::{Core, Engine, Io},
    epoll::Epoll,
    framer::{Framer, Offered, Plain, Sealed},
    inbound::Inbound,
    memory::{self, GATHERS, TRAIN_ARENA, TRAIN_ARENA_SEALED, TRAINS},
    outbound::Outbound,
    peers::Peers,
    progress::Progress,
    sealing::Mode,
    shared::{IcmpLimits, Shared},
    uring::Uring,
    worker::{EngineWish, Parts, StartError, WorkerOptions},
    writes::Writes,
};

/// The engine that was taken.
#[derive(Debug)]
pub(crate) struct Choice {
    /// Its name.
    pub engine: &'static str,
    /// Why this one.
    pub reason: String,
}

/// Why an engine was taken that was named.
const ASKED_FOR: &str = "asked for";

/// Why `uring` was taken though it was not named.
const NOTHING_MISSING: &str = "the kernel has all that it takes";

/// An engine that was made, whichever it is.
pub(crate) type Made = Box<dyn Turns>;

/// What an engine does once it is made.
pub(crate) trait Turns {
    /// Receives, and turns until told to stop.
    ///
    /// # Errors
    /// Why it cannot go on.
    fn run(&mut self) -> Result<(), String>;
}

impl<F: Framer, I: Io> Turns for Engine<F, I> {
    fn run(&mut self) -> Result<(), String> {
        Engine::run(self)
    }
}

/// Makes the engine that is wished for, on the thread that will run it.
pub(crate) fn choose(options: WorkerOptions, parts: Parts) -> Result<(Choice, Made), StartError> {
    match options.sealing.clone() {
        None => choose_for(options, parts, || Plain, TRAIN_ARENA),
        Some(sealing) => match sealing.mode() {
            Mode::Require => {
                let framer = || Sealed::new(Arc::clone(&sealing));
                choose_for(options, parts, framer, TRAIN_ARENA_SEALED)
            }
            Mode::Offer => {
                let framer = || Offered::new(Arc::clone(&sealing));
                choose_for(options, parts, framer, TRAIN_ARENA_SEALED)
            }
        },
    }
}

fn choose_for<F: Framer + 'static>(
    options: WorkerOptions,
    parts: Parts,
    framer: impl Fn() -> F,
    train_arena: usize,
) -> Result<(Choice, Made), StartError> {
    let WorkerOptions {
        number: _,
        tun,
        mut sockets,
        senders,
        segments_max,
        joined_max,
        inner_mtu,
        table,
        engine: wish,
        without,
        habits,
        sealing: _,
    } = options;
    let offloads = tun.offloads();
    sockets.extend(senders);
    let locals: Vec<IpAddr> = sockets.iter().map(|socket| socket.local().ip()).collect();
    let files = Files { tun, sockets, wake: parts.wake };
    let core = move |mut gathers: Vec<Gather>| {
        let for_writes = gathers.split_off(usize::from(TRAINS));
        let sockets = locals.len();
        let shared = Shared {
            peers: Peers::new(&table, inner_mtu),
            table,
            counters: parts.counters,
            events: parts.events,
            writes: Writes::new(for_writes),
            sum: parts.sum,
            inner_mtu,
            now_ms: 0,
            progress: Progress::new(parts.marks),
            icmp_limits: IcmpLimits::new(),
            locals,
        };
        let outbound = Outbound::new(framer(), gathers, segments_max, sockets);
        let inbound = Inbound::new(framer(), offloads, joined_max, parts.sum);
        Core::new(outbound, inbound, shared, parts.talk, habits)
    };
    let (files, reason) = match wish {
        EngineWish::Epoll => (files, ASKED_FOR.to_owned()),
        EngineWish::Uring | EngineWish::Auto => {
            let (pools, gathers) = memory::lay_out(train_arena).map_err(StartError::Memory)?;
            match Ring::new(files, pools, GATHERS, without) {
                Ok(ring) => {
                    let asked_for = wish == EngineWish::Uring;
                    let reason = if asked_for { ASKED_FOR } else { NOTHING_MISSING };
                    return Ok(made(core(gathers), Uring::new(ring), reason.to_owned()));
                }
                Err(refused) => match *refused {
                    (error, _) if wish == EngineWish::Uring => return Err(StartError::Ring(error)),
                    (error, files) => (files, error.to_string()),
                },
            }
        }
    };
    let (pools, gathers) = memory::lay_out(train_arena).map_err(StartError::Memory)?;
    let epoll = Epoll::new(files, pools).map_err(StartError::Poller)?;
    Ok(made(core(gathers), epoll, reason))
}

fn made<F: Framer + 'static, I: Io + 'static>(
    core: Core<F>,
    io: I,
    reason: String,
) -> (Choice, Made) {
    (Choice { engine: I::NAME, reason }, Box::new(Engine::new(core, io)))
}
