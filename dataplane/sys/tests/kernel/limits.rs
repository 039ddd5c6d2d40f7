use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;
use weft_sys::limits::raise_memlock;

use crate::namespace::{give_up, in_new_namespace};

/// The limit belongs to the whole process; no other test here depends on it.
#[test]
fn raises_the_limit_of_pinned_memory() {
    in_new_namespace("raises_the_limit_of_pinned_memory", || {
        let set = |current, maximum| setrlimit(Resource::Memlock, Rlimit { current, maximum });
        set(Some(1 << 16), Some(1 << 20)).unwrap();
        assert_eq!(raise_memlock(1 << 17).unwrap(), 1 << 17, "within the hard limit");
        assert_eq!(raise_memlock(1 << 16).unwrap(), 1 << 17, "never down");
        let permitted = rustix::thread::capabilities(None).unwrap().effective;
        let reached = raise_memlock(1 << 23).unwrap();
        let beyond = permitted.contains(CapabilitySet::SYS_RESOURCE);
        assert_eq!(reached, if beyond { 1 << 23 } else { 1 << 20 });

        set(Some(1 << 16), Some(1 << 20)).unwrap();
        give_up(CapabilitySet::SYS_RESOURCE);
        assert_eq!(raise_memlock(1 << 23).unwrap(), 1 << 20, "not beyond it without permission");
        assert_eq!(getrlimit(Resource::Memlock).current, Some(1 << 20));
    });
}
