//! What happened to an election machine and what it did, as text that can be read and replayed.
//!
//! One line for each input and each output:
//!
//! ```text
//! # whatever a person should know
//! 1.000000000 ! begin {"config":{..},"keys":{..},"seed":1,"first_term":0}
//! 1.000000000 < timer
//! 1.000000000 > role_changed {"from":"init","to":"init","reason":"started","term":0}
//! 1.000000000 = state {"role":"init",..}
//! 1.050000000 < hello {"link":0,"source":"10.0.0.12","at":1050000000,"payload":"4841.."} # standby term 0 ..
//! ```
//!
//! The first column is the machine's monotonic clock in seconds, the second the kind of line: `!` sets the
//! machine up, `<` went in, `>` came out, `=` is what the machine says of itself afterwards. Then a name, its
//! fields as JSON (times in nanoseconds, packets in hexadecimal), and a comment.
//!
//! The conformance cases and the failing seeds of the simulator share this format. It never holds a secret:
//! the keys in `begin` are those of a test, and packets signed with true keys are signed anew with
//! [stand-ins](StandIn) before they are written.

mod account;
mod describe;
mod line;
mod replay;
mod stand_in;
mod text;

#[cfg(test)]
mod tests;

pub use account::{Account, State};
pub use line::{Begin, Happened, Keys, Line, Resume, Setup, TrailerKey};
pub use replay::{Difference, Player, annotate, bless, replay};
pub use stand_in::StandIn;
pub use text::{DecodeError, decode};
