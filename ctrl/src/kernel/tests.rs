//! The kernel's objects as text; the plan from text to text; and a model of the kernel.

mod model;
mod object;
mod plan;
mod text;
