//! The packet workers.
