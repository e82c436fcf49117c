//! The machine against its partner, and against everything else.

mod alarms;
mod families;
mod keys;
mod pair;
mod park;
mod random;
mod scripted;
mod stories;
mod timing;
mod transitions;
