//! Where leases are kept.
//!
//! A source hands out raw records; whether they are believed is decided elsewhere, so that every
//! source treats bad ones alike.

pub mod acquire;
pub mod directory;

/// A lease as it is stored, unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The last part of its key or file name.
    pub name: String,
    /// The JSON value.
    pub value: Vec<u8>,
}

/// What a watched source tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Everything that exists now. Told when changes may have been missed; what is absent may have
    /// been deleted, or the store may have lost it.
    Snapshot(Vec<Record>),
    /// Changes that were seen happening, in order.
    Changes(Vec<Change>),
    /// The network config may have changed.
    Config,
}

/// One change of one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Written, or written again.
    Put(Record),
    /// Deleted; the name stays.
    Deleted(String),
}
