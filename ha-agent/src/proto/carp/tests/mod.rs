//! The machine against its partner, and against everything else.

mod pair;
mod stories;
