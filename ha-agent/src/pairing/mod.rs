//! Pairing: how a new node gets the key and the configuration of the node that is to be its partner.
//!
//! ```text
//! pair offer ─▶ agent makes a code, opens a window      person carries the code
//!                        ▲                                      │
//!                        └── SSH, keys of both ends from the code ── pair join ─▶ files of the new node
//! ```
//!
//! The [code](code::Code) is the only secret both ends have. [`Gift`] is what travels, [`newcomer`] makes a file of it.

pub mod code;
pub mod newcomer;

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

/// Longest gift: a configuration file, and a key.
pub const GIFT_MAX: u32 = (16 << 20) + (64 << 10);
/// Longest answer to one.
pub const TAKEN_MAX: u32 = 8 << 10;
/// Longest reason that is shown.
const REASON_MAX: usize = 512;
/// Longest name of a node.
const NAME_MAX: usize = 63;

/// What a node gives to its new partner.
#[derive(Serialize, Deserialize)]
pub struct Gift {
    /// Version of the giver.
    pub version: String,
    /// Where the giver's configuration file is: what lies beside it lies beside the new one.
    pub directory: String,
    /// The giver's configuration file.
    pub file: String,
    /// The key file.
    pub key: String,
    /// The file of the CARP passphrase, if there is one.
    pub passphrase: Option<String>,
}

impl fmt::Debug for Gift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gift")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Drop for Gift {
    fn drop(&mut self) {
        self.key.zeroize();
        self.passphrase.zeroize();
    }
}

/// What the new node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Taken {
    /// Everything is in place on this node.
    Done(String),
    /// Nothing is, for this reason.
    Refused(String),
}

impl Taken {
    /// Without anything that could move a cursor, and not too long.
    #[must_use]
    pub fn cleaned(self) -> Self {
        let clean = |text: String, most: usize| -> String {
            let shown = text.chars().filter(|c| !c.is_control());
            shown.take(most).collect()
        };
        match self {
            Self::Done(name) => Self::Done(clean(name, NAME_MAX)),
            Self::Refused(why) => Self::Refused(clean(why, REASON_MAX)),
        }
    }
}

/// What to do about pairing, as `{"command":"pair","op":"offer","minutes":10}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum PairRequest {
    /// Make a code, and wait for a new node. A code before it is void.
    Offer {
        /// For how long it is good.
        minutes: u32,
    },
    /// What has become of a code; nobody asking for some seconds voids it.
    Watch {
        /// Which.
        number: u64,
    },
    /// Void it.
    Withdraw {
        /// Which.
        number: u64,
    },
}

/// What has become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairReply {
    /// A code was made.
    Offered {
        /// Names it.
        number: u64,
        /// For a person to carry over.
        code: String,
        /// Where the new node reaches this one.
        address: SocketAddr,
    },
    /// Nobody has come yet.
    Waiting {
        /// How long the code is still good.
        seconds: u64,
        /// Wrong codes that may still be tried.
        attempts: u32,
    },
    /// A node has come, and is being told.
    Telling,
    /// The new node has everything.
    Given {
        /// Its name.
        name: String,
        /// Its address.
        to: String,
    },
    /// The code is void, and nothing was given, or it is not known to be in place.
    Void {
        /// Why.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown_and_nothing_shown_moves_a_cursor() {
        let gift = Gift {
            version: "0.1.0".to_owned(),
            directory: "/etc/ha-agent".to_owned(),
            file: "version: 1\n".to_owned(),
            key: "1 00".to_owned(),
            passphrase: Some("secret".to_owned()),
        };
        let shown = format!("{gift:?}");
        assert!(
            !shown.contains("1 00") && !shown.contains("secret"),
            "{shown}"
        );
        let hostile = Taken::Refused(format!("\u{1b}[2J{}", "x".repeat(5000)));
        let Taken::Refused(why) = hostile.cleaned() else {
            panic!("another answer");
        };
        assert!(why.starts_with("[2J") && why.len() == REASON_MAX);
        assert_eq!(
            Taken::Done("l\nb2".to_owned()).cleaned(),
            Taken::Done("lb2".to_owned())
        );
    }
}
