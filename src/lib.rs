//! The weft program as a library: the command line, the daemon that ties the control loop to the
//! packet workers, and the commands that ask a running daemon.

pub mod flags;
