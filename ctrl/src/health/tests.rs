//! Nodes that probe each other over links that do what a test says.

mod faults;
mod load;
mod net;
