//! From stored leases and the config to the table that the workers use. Pure: time is an argument.

mod book;
mod slots;
mod view;

pub use book::{ABSENT_SECONDS_MAX, Book};
pub use slots::Slots;
pub use view::{Accepted, Rejected, Skipped, View, Viewer};
