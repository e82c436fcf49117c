//! What a line says.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::account::Account;
use crate::proto::carp::{
    Action, Command, Election, ElectionConfig, ElectionKeys, Input, Settings,
};
use crate::proto::hex;
use crate::proto::rng::Rng;
use crate::proto::time::Instant;

/// A line of a journal.
#[derive(Clone, Debug)]
pub enum Line {
    /// For people; empty for an empty line.
    Comment(String),
    /// A machine comes into being.
    Setup(Instant, Setup),
    /// Something happens to it.
    Input(Instant, Happened),
    /// It wants something done.
    Output(Instant, Action),
    /// What it says of itself.
    Account(Instant, Account),
}

/// Where a machine comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setup {
    /// It is new.
    Begin(Box<Begin>),
    /// It had been running; this is its state.
    State(Box<Resume>),
    /// So many lines before this one were lost; a `state` follows.
    Lost(u64),
}

/// What a new machine is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    /// Its settings.
    pub config: ElectionConfig,
    /// Its secrets.
    pub keys: Keys,
    /// Seed of its generator.
    pub seed: u64,
    /// Lowest term that no earlier start has reserved.
    pub first_term: u64,
}

/// A machine that had been running.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// The secrets that the packets of this journal are signed with.
    pub keys: Keys,
    /// All of its state that is not secret.
    pub machine: Election,
}

/// Secrets of a test, or stand-ins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// Passphrase of the CARP digest.
    pub passphrase: String,
    /// Trailer keys, the signing one first.
    pub trailer: Vec<TrailerKey>,
}

/// A trailer key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrailerKey {
    /// Its id.
    pub id: u8,
    /// 16 bytes.
    #[serde(with = "hex")]
    pub key: Vec<u8>,
}

impl From<&ElectionKeys> for Keys {
    fn from(keys: &ElectionKeys) -> Self {
        let trailer = keys.trailer.iter().map(|(id, key)| TrailerKey {
            id: *id,
            key: key.to_vec(),
        });
        Self {
            passphrase: String::from_utf8_lossy(&keys.carp_passphrase).into_owned(),
            trailer: trailer.collect(),
        }
    }
}

impl From<&Keys> for ElectionKeys {
    /// A key that is too short is filled up with zeros.
    fn from(keys: &Keys) -> Self {
        let trailer = keys.trailer.iter().map(|TrailerKey { id, key }| {
            let mut bytes = [0; 16];
            for (to, from) in bytes.iter_mut().zip(key) {
                *to = *from;
            }
            (*id, bytes)
        });
        Self {
            carp_passphrase: keys.passphrase.clone().into_bytes(),
            trailer: trailer.collect(),
        }
    }
}

impl Setup {
    /// The machine, if this makes one.
    pub fn machine(&self, now: Instant) -> Option<Election> {
        match self {
            Self::Begin(begin) => Some(Election::new(
                begin.config.clone(),
                (&begin.keys).into(),
                Rng::new(begin.seed),
                begin.first_term,
                now,
            )),
            Self::State(resume) => Some(resume.machine.clone().with_keys((&resume.keys).into())),
            Self::Lost(_) => None,
        }
    }
}

/// [`Input`], owned, the timer, and a change of the keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Happened {
    /// [`Election::handle_timeout`] was called.
    Timer,
    /// [`Input::Advert`].
    Advert {
        /// Index of the link.
        link: usize,
        /// Source address.
        source: IpAddr,
        /// When the kernel received it.
        at: Instant,
        /// What follows the IP header.
        #[serde(with = "hex")]
        payload: Vec<u8>,
    },
    /// [`Input::Hello`].
    Hello {
        /// Index of the link.
        link: usize,
        /// Source address.
        source: IpAddr,
        /// When the kernel received it.
        at: Instant,
        /// What follows the UDP header.
        #[serde(with = "hex")]
        payload: Vec<u8>,
    },
    /// [`Input::Carrier`].
    Carrier {
        /// Index of the link.
        link: usize,
        /// Whether it works.
        up: bool,
    },
    /// [`Input::Gateway`].
    Gateway {
        /// Index of the link.
        link: usize,
        /// Whether it answers.
        reachable: bool,
    },
    /// [`Input::Multicast`].
    Multicast {
        /// Index of the link.
        link: usize,
        /// Whether it is heard.
        heard: bool,
    },
    /// [`Input::Ready`].
    Ready(bool),
    /// [`Input::Disputed`].
    Disputed(bool),
    /// [`Input::Generation`].
    Generation(u64),
    /// [`Input::Settings`].
    Settings(Settings),
    /// [`Election::set_keys`].
    Keys(Keys),
    /// [`Input::TermReserved`].
    TermReserved(u64),
    /// [`Input::Overtaken`].
    Overtaken(u64),
    /// [`Input::Command`].
    Command(Command),
}

impl From<Input<'_>> for Happened {
    fn from(input: Input<'_>) -> Self {
        match input {
            Input::Advert {
                link,
                source,
                payload,
                at,
            } => Self::Advert {
                link,
                source,
                at,
                payload: payload.to_vec(),
            },
            Input::Hello {
                link,
                source,
                payload,
                at,
            } => Self::Hello {
                link,
                source,
                at,
                payload: payload.to_vec(),
            },
            Input::Carrier { link, up } => Self::Carrier { link, up },
            Input::Gateway { link, reachable } => Self::Gateway { link, reachable },
            Input::Multicast { link, heard } => Self::Multicast { link, heard },
            Input::Ready(ready) => Self::Ready(ready),
            Input::Disputed(disputed) => Self::Disputed(disputed),
            Input::Generation(generation) => Self::Generation(generation),
            Input::Settings(settings) => Self::Settings(settings),
            Input::TermReserved(term) => Self::TermReserved(term),
            Input::Overtaken(term) => Self::Overtaken(term),
            Input::Command(command) => Self::Command(command),
        }
    }
}

impl Happened {
    /// The machine's input; `None` for the timer and the keys.
    pub fn input(&self) -> Option<Input<'_>> {
        Some(match self {
            Self::Timer | Self::Keys(_) => return None,
            Self::Advert {
                link,
                source,
                at,
                payload,
            } => Input::Advert {
                link: *link,
                source: *source,
                payload,
                at: *at,
            },
            Self::Hello {
                link,
                source,
                at,
                payload,
            } => Input::Hello {
                link: *link,
                source: *source,
                payload,
                at: *at,
            },
            Self::Carrier { link, up } => Input::Carrier {
                link: *link,
                up: *up,
            },
            Self::Gateway { link, reachable } => Input::Gateway {
                link: *link,
                reachable: *reachable,
            },
            Self::Multicast { link, heard } => Input::Multicast {
                link: *link,
                heard: *heard,
            },
            Self::Ready(ready) => Input::Ready(*ready),
            Self::Disputed(disputed) => Input::Disputed(*disputed),
            Self::Generation(generation) => Input::Generation(*generation),
            Self::Settings(settings) => Input::Settings(*settings),
            Self::TermReserved(term) => Input::TermReserved(*term),
            Self::Overtaken(term) => Input::Overtaken(*term),
            Self::Command(command) => Input::Command(*command),
        })
    }
}
