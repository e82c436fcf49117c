//! What a program of the data plane comes to: an end, or another program.

use ha_common::reason::Reason;
use ha_common::stage::Stage;

/// Where a packet goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nowhere: this became of it.
    Done(Reason),
    /// In this program.
    Next(Stage),
}
