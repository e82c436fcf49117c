//! A live node's packets without its secrets.
//!
//! A tag or digest in a log would let its reader guess passphrases at leisure, and a log without them
//! could not be replayed. So every packet is verified with the true keys when it is written down, and
//! then signed anew with keys that everybody knows; what was not genuine gets a signature that is wrong.

use std::net::IpAddr;

use ha_common::carp::{HEADER_LEN, TRAILER_LEN, TRAILER_MAGIC, field, trailer as at};
use ha_common::siphash::TAG_LEN;

use super::line::Happened;
use crate::proto::carp::trailer::{DecodeError, Signer, name_hash};
use crate::proto::carp::wire::{Group, Header};
use crate::proto::carp::{Action, ElectionConfig, ElectionKeys, LinkConfig};

/// The passphrase that stands in for the true one.
const PASSPHRASE: &[u8] = b"stand-in";

/// Signs packets anew.
pub struct StandIn {
    config: ElectionConfig,
    keys: ElectionKeys,
    real: Signer,
    known: Signer,
    links: Vec<Link>,
}

struct Link {
    name: [u8; TAG_LEN],
    real: Group,
    known: Group,
}

impl StandIn {
    /// For a node with these settings and secrets.
    pub fn new(config: &ElectionConfig, keys: &ElectionKeys) -> Self {
        let trailer: Vec<(u8, [u8; 16])> = keys
            .trailer
            .iter()
            .map(|(id, _)| (*id, [*id; 16]))
            .collect();
        let link = |link: &LinkConfig| {
            let group = |phrase: &[u8]| Group::new(phrase, config.vhid, &link.shared);
            Link {
                name: name_hash(&link.name),
                real: group(&keys.carp_passphrase),
                known: group(PASSPHRASE),
            }
        };
        Self {
            config: config.clone(),
            real: Signer::new(config.vhid, keys.trailer.clone()),
            known: Signer::new(config.vhid, trailer.clone()),
            links: config.links.iter().map(link).collect(),
            keys: ElectionKeys {
                carp_passphrase: PASSPHRASE.to_vec(),
                trailer,
            },
        }
    }

    /// For the same node after its secrets have changed.
    #[must_use]
    pub fn with_keys(&self, keys: &ElectionKeys) -> Self {
        Self::new(&self.config, keys)
    }

    /// The stand-ins.
    pub fn keys(&self) -> &ElectionKeys {
        &self.keys
    }

    /// An input as it may be written down.
    pub fn input(&self, happened: &mut Happened) {
        match happened {
            Happened::Advert {
                link,
                source,
                payload,
                ..
            } => self.advert(*link, *source, payload),
            Happened::Hello {
                link,
                source,
                payload,
                ..
            } => self.hello(*link, *source, payload),
            Happened::Timer
            | Happened::Carrier { .. }
            | Happened::Gateway { .. }
            | Happened::Multicast { .. }
            | Happened::Ready(_)
            | Happened::Disputed(_)
            | Happened::Generation(_)
            | Happened::Settings(_)
            | Happened::Keys(_)
            | Happened::TermReserved(_)
            | Happened::Overtaken(_)
            | Happened::Command(_) => {}
        }
    }

    /// An output as it may be written down.
    pub fn output(&self, action: &mut Action) {
        match action {
            Action::SendAdvert {
                link,
                source,
                payload,
            } => self.advert(*link, *source, payload),
            Action::SendHello {
                link,
                source,
                payload,
            } => self.hello(*link, *source, payload),
            Action::Gate(_)
            | Action::HandOver { .. }
            | Action::ClaimAddresses
            | Action::ReleaseAddresses
            | Action::Announce
            | Action::ReserveTerm { .. }
            | Action::RoleChanged { .. }
            | Action::Alarm { .. }
            | Action::Refused(_)
            | Action::Reexec(_)
            | Action::Stopped => {}
        }
    }

    fn advert(&self, link: usize, source: IpAddr, payload: &mut Vec<u8>) {
        payload.truncate(HEADER_LEN + TRAILER_LEN);
        let link = self.links.get(link);
        let (Some(link), Ok(header)) = (link, Header::decode(payload)) else {
            return blank(payload, field::DIGEST);
        };
        let tag = self.real.open_advert(source, payload);
        let mut disguised = header;
        disguised.digest = link.known.digest(header.counter);
        if !link.real.verify(&header) {
            disguised.digest[0] ^= 0xff;
        }
        if let Some(bytes) = payload.first_chunk_mut::<HEADER_LEN>() {
            *bytes = disguised.encode();
        }
        let trailer = payload.get(HEADER_LEN..).unwrap_or_default();
        if trailer.first_chunk() == Some(&TRAILER_MAGIC) {
            let known = self.known.retag_advert(source, payload);
            settle(known, tag.map(|_| ()), HEADER_LEN, payload);
        } else {
            payload.truncate(HEADER_LEN);
        }
    }

    fn hello(&self, link: usize, source: IpAddr, payload: &mut Vec<u8>) {
        payload.truncate(TRAILER_LEN);
        let Some(link) = self.links.get(link) else {
            return blank(payload, at::TAG);
        };
        let tag = self.real.open_hello(source, &link.name, payload);
        let known = self.known.retag_hello(source, &link.name, payload);
        settle(known, tag.map(|_| ()), 0, payload);
    }
}

/// Makes the new tag as good as the old one was.
fn settle(known: bool, was: Result<(), DecodeError>, offset: usize, payload: &mut [u8]) {
    match was {
        // The tag is checked before the fields are.
        Ok(()) | Err(DecodeError::Field) if known => {}
        Err(DecodeError::BadTag) if known => {
            if let Some(byte) = payload.get_mut(offset + at::TAG) {
                *byte ^= 0xff;
            }
        }
        Ok(()) | Err(_) => blank(payload, offset + at::TAG),
    }
}

/// What nobody can read may hold anything.
fn blank(payload: &mut [u8], from: usize) {
    let bad = Header::decode(payload).is_err();
    payload.iter_mut().skip(from).for_each(|byte| *byte = 0);
    if bad
        && Header::decode(payload).is_ok()
        && let Some(byte) = payload.get_mut(field::DIGEST)
    {
        *byte = 1;
    }
}
