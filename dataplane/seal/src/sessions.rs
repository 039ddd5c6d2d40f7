//! The sessions of one peer: the one we send with, the one before it, which still receives, and one
//! that we answered and whose keys the peer has not yet used.

use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::aead::Aead;
use crate::session::Session;

/// Sessions that are no longer used, for whoever knows them by their index.
pub(crate) type Retired<A> = ArrayVec<Arc<Session<A>>, 3>;

pub(crate) struct Sessions<A> {
    previous: Option<Arc<Session<A>>>,
    current: Option<Arc<Session<A>>>,
    next: Option<Arc<Session<A>>>,
}

impl<A: Aead> Sessions<A> {
    pub(crate) fn new() -> Self {
        Self { previous: None, current: None, next: None }
    }

    /// The one to send with, if any.
    pub(crate) fn current(&self) -> Option<&Arc<Session<A>>> {
        self.current.as_ref()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Session<A>>> {
        [&self.previous, &self.current, &self.next].into_iter().flatten()
    }

    /// We got a response: the session is sent with at once. One that we answered meanwhile may be what
    /// the peer sends with, so it stays.
    #[must_use]
    pub(crate) fn initiated(&mut self, session: Arc<Session<A>>) -> Retired<A> {
        let before = self.current.replace(session);
        let (kept, retired) = match self.next.take() {
            Some(next) => (Some(next), before),
            None => (before, None),
        };
        let previous = std::mem::replace(&mut self.previous, kept);
        previous.into_iter().chain(retired).collect()
    }

    /// We answered: the session waits for the peer to use it.
    #[must_use]
    pub(crate) fn answered(&mut self, session: Arc<Session<A>>) -> Retired<A> {
        self.next.replace(session).into_iter().collect()
    }

    /// Sends with the waiting session if the peer has used it. `None` if nothing has changed.
    #[must_use]
    pub(crate) fn promote(&mut self) -> Option<Retired<A>> {
        let next = self.next.take_if(|next| next.is_confirmed())?;
        let before = self.current.replace(next);
        Some(std::mem::replace(&mut self.previous, before).into_iter().collect())
    }

    /// Forgets sessions that are too old.
    #[must_use]
    pub(crate) fn expire(&mut self, now: Duration) -> Retired<A> {
        [&mut self.previous, &mut self.current, &mut self.next]
            .into_iter()
            .filter_map(|place| place.take_if(|session| session.has_expired(now)))
            .collect()
    }

    /// Forgets all sessions.
    #[must_use]
    pub(crate) fn clear(&mut self) -> Retired<A> {
        [self.previous.take(), self.current.take(), self.next.take()]
            .into_iter()
            .flatten()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aead::Portable;
    use crate::handshake::Keys;
    use crate::keys::Secret;

    fn session(local: u32, is_initiator: bool) -> Arc<Session<Portable>> {
        let keys = Keys {
            sending: Secret::default(),
            receiving: Secret::default(),
            local,
            remote: 0,
            is_initiator,
        };
        Arc::new(Session::new(&keys, Duration::from_secs(u64::from(local))))
    }

    fn confirm(session: &Session<Portable>) {
        let same = Session::<Portable>::new(
            &Keys {
                sending: Secret::default(),
                receiving: Secret::default(),
                local: 0,
                remote: session.local(),
                is_initiator: true,
            },
            session.made(),
        );
        let counter = same.reserve(1, crate::session::Load::Nothing, session.made());
        let mut datagram = [0; 32];
        same.seal(counter.unwrap().next().unwrap(), &[], &mut datagram, 0);
        session.open(&mut datagram, session.made()).unwrap();
    }

    fn indices(sessions: &Sessions<Portable>) -> [u32; 3] {
        [&sessions.previous, &sessions.current, &sessions.next]
            .map(|place| place.as_ref().map_or(0, |session| session.local()))
    }

    fn retired(retired: &Retired<Portable>) -> Vec<u32> {
        retired.iter().map(|session| session.local()).collect()
    }

    /// Every combination of filled places, and every event.
    #[test]
    fn every_event_in_every_state() {
        for state in 0..8_u32 {
            let filled = || {
                let place = |bit: u32| (state >> bit & 1 == 1).then(|| session(bit + 1, bit != 2));
                Sessions { previous: place(0), current: place(1), next: place(2) }
            };
            let [previous, current, next] = indices(&filled());

            let mut sessions = filled();
            let gone = retired(&sessions.initiated(session(9, true)));
            let kept = if next != 0 { next } else { current };
            assert_eq!(indices(&sessions), [kept, 9, 0]);
            let expected = [previous, if next != 0 { current } else { 0 }];
            assert_eq!(gone, expected.into_iter().filter(|one| *one != 0).collect::<Vec<_>>());

            let mut sessions = filled();
            let gone = retired(&sessions.answered(session(9, false)));
            assert_eq!(indices(&sessions), [previous, current, 9]);
            assert_eq!(gone.iter().sum::<u32>(), next);

            let mut sessions = filled();
            assert!(sessions.promote().is_none());
            assert_eq!(indices(&sessions), [previous, current, next]);
            if let Some(next) = &sessions.next {
                confirm(next);
                let gone = retired(&sessions.promote().unwrap());
                assert_eq!(indices(&sessions), [current, 3, 0]);
                assert_eq!(gone.iter().sum::<u32>(), previous);
            }

            let mut sessions = filled();
            let gone = retired(&sessions.expire(Duration::from_secs(182)));
            assert_eq!(gone.iter().sum::<u32>(), previous + current);
            assert_eq!(indices(&sessions), [0, 0, next]);

            let mut sessions = filled();
            assert_eq!(retired(&sessions.clear()).iter().sum::<u32>(), previous + current + next);
            assert_eq!(indices(&sessions), [0, 0, 0]);
        }
    }
}
