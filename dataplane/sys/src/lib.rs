//! System calls of the packet side.
