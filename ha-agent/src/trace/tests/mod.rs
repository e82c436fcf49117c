//! The trace against the data plane itself, on the same state.

mod parity;
mod scene;
mod told;
mod written;
