//! What the unit tests use: the machines of a worker without a kernel, packets built by another
//! implementation, and counters compared as a whole.

mod packets;
mod rig;

pub(crate) use self::{
    packets::{Inner, Transport},
    rig::{ALL, Rig, Sent, deliver, table_input},
};
