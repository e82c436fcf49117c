//! How both nodes of a pair come to have the same configuration.
//!
//! What is replicated is the *document*: everything in the file but the section `node`. It is opaque here;
//! a [`Version`] names it by a number, the generation, and by a hash of what it says.
//!
//! # Rules
//!
//! * A new generation is made where the active role is: by an edit, and by a node that becomes active
//!   with a file that was changed while no agent ran.
//! * A node takes another content over only with a higher generation than its own. So it never goes
//!   backwards, and of two orders in which messages arrive both end with the same version.
//! * Two contents with the same generation are what a split leaves, or a file that was changed while no agent
//!   ran. The active node's stays, else the changed one, else the first node's; the node that has it
//!   gives it the next generation. So: higher generation, then active, then changed, then first.
//! * A content that is replaced without being an ancestor of what replaces it is lost work: the shell is
//!   told to keep it.
//! * Contents travel whole or not at all, and what is applied is what was checked.
//!
//! # Exchanges
//!
//! A node asks, its partner answers, one question at a time in each direction; which node asks does not
//! matter. Both ask at once after a change, every second while they differ or do not know of each other, and every
//! 15 seconds else.

mod machine;
#[cfg(test)]
mod tests;
mod version;
mod wire;

pub use machine::{
    Action, ConfSync, Counters, Input, NotEditable, RECONCILE, RETRY, RETRY_REFUSED, Snapshot,
    Start,
};
pub use version::{ANCESTORS_MAX, Claim, ContentHash, Record, Version};
pub use wire::{DOCUMENT_MAX, HEADER_MAX, PREFIX, Request, Response, WireError, lengths};
