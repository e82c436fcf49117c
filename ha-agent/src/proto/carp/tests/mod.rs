//! The machine against its partner, and against everything else.

mod alarms;
mod families;
mod pair;
mod park;
mod stories;
