//! The kernel's objects as text.

mod object;
