//! The machine against its partner, and against everything else.

mod families;
mod pair;
mod park;
mod stories;
