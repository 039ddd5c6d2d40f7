//! The weft program as a library: the command line, the daemon that ties the control loop to the
//! packet workers, and the commands that ask a running daemon.

pub mod admin;
pub mod cli;
mod daemon;
mod doctor;
pub mod flags;
mod generate;
mod install_cni;
pub mod logging;
pub mod options;
mod plan;
mod top;
mod trace;
mod uninstall;
