//! The SSH keys of both nodes, all derived from the key of the pair: nothing is exchanged, nothing stored.
//!
//! Each node has a host key and a client key for its place in the pair. While the pair's key is being
//! changed it has two of each; a node shows the one that signs, and believes the partner's either.

use std::fmt;
use std::sync::Arc;

use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, PublicKey};

use crate::keys::PairKeys;

/// What a node shows, and what it believes.
#[derive(Clone)]
pub struct ChannelKeys {
    /// Own host key.
    pub(super) host: Option<PrivateKey>,
    /// Own client keys, the one that signs first.
    pub(super) client: Vec<Arc<PrivateKey>>,
    /// The partner's host keys.
    pub(super) partner_host: Vec<PublicKey>,
    /// The partner's client keys.
    pub(super) partner_client: Vec<PublicKey>,
}

impl fmt::Debug for ChannelKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelKeys").finish_non_exhaustive()
    }
}

impl ChannelKeys {
    /// Those of the first node of a pair, or of the second.
    pub fn new(keys: &PairKeys, first: bool) -> Self {
        let private = |purpose: &'static str, first: bool| {
            keys.iter().map(move |key| {
                PrivateKey::from(Ed25519Keypair::from_seed(&key.ssh_seed(purpose, first)))
            })
        };
        let public = |purpose| {
            let keys = private(purpose, !first);
            keys.map(|key| key.public_key().clone()).collect()
        };
        Self {
            host: private("host", first).next(),
            client: private("client", first).map(Arc::new).collect(),
            partner_host: public("host"),
            partner_client: public("client"),
        }
    }
}

/// Whether a key is one of these, whatever comment it bears.
pub(super) fn is_one_of(key: &PublicKey, known: &[PublicKey]) -> bool {
    let mut known = known.iter();
    known.any(|known| known.key_data() == key.key_data())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::PairKey;

    fn pair(secrets: &[u8]) -> PairKeys {
        let keys = secrets
            .iter()
            .map(|secret| PairKey::new(*secret, [*secret; 32]));
        PairKeys::new(keys.collect())
    }

    #[test]
    fn each_node_believes_the_other_and_nobody_else() {
        let [first, second] = [true, false].map(|first| ChannelKeys::new(&pair(&[7]), first));
        let host = |keys: &ChannelKeys| keys.host.as_ref().unwrap().public_key().clone();
        let client = |keys: &ChannelKeys| keys.client[0].public_key().clone();
        assert!(is_one_of(&host(&first), &second.partner_host));
        assert!(is_one_of(&client(&second), &first.partner_client));
        // Not itself, not a host as a client, not another pair.
        assert!(!is_one_of(&client(&first), &first.partner_client));
        assert!(!is_one_of(&host(&second), &first.partner_client));
        let other = ChannelKeys::new(&pair(&[8]), false);
        assert!(!is_one_of(&client(&other), &first.partner_client));
        assert!(!is_one_of(&host(&other), &first.partner_host));
    }

    #[test]
    fn a_key_is_changed_in_steps() {
        // Old and new; on one node the new one signs already.
        let first = ChannelKeys::new(&pair(&[9, 7]), true);
        let second = ChannelKeys::new(&pair(&[7, 9]), false);
        let host = first.host.as_ref().unwrap().public_key();
        assert!(is_one_of(host, &second.partner_host));
        assert!(is_one_of(
            second.client[0].public_key(),
            &first.partner_client
        ));
    }

    #[test]
    fn no_secret_is_shown() {
        let keys = ChannelKeys::new(&pair(&[7]), true);
        assert_eq!(format!("{keys:?}"), "ChannelKeys { .. }");
    }
}
