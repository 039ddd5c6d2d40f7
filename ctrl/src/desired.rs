//! From stored leases and the config to the table that the workers use, or to the kernel's state. Pure: time is an argument.

mod book;
pub mod demand;
pub mod kernel;
pub mod paths;
mod slots;
mod view;

pub use book::{ABSENT_SECONDS_MAX, Book};
pub use slots::Slots;
pub use view::{Accepted, Hop, Reach, Rejected, Skipped, View, Viewer};
