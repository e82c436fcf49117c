//! Giving key and configuration to a new node that has the one-time code.

use std::borrow::Cow;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use russh::keys::PublicKey;
use russh::server::{
    self, Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, MethodKind, MethodSet, SshId};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::warn;
use zeroize::Zeroizing;

use super::channel::{self, HangUp, Place, count};
use super::keys::{ChannelKeys, is_one_of};
use crate::config::model::Mode;
use crate::control::{Refusal, Reply};
use crate::events::{Entry, Kind};
use crate::pairing::code::Code;
use crate::pairing::{Gift, PairReply, PairRequest, TAKEN_MAX, Taken};
use crate::shell::agent::{Shared, lock};
use crate::shell::clock;

/// Name of the subsystem.
pub(super) const SUBSYSTEM: &str = "ha-agent-pairing";
/// Whom a new node logs in as.
pub(super) const USER: &str = "ha-agent-pair";
/// How a new node names itself: that tells it from the partner before keys are chosen.
pub(super) const IDENTITY: &str = "SSH-2.0-ha-agent-pair";
/// How long a client may take to name itself.
const NAME_TIME: Duration = Duration::from_secs(1);
/// How often it is looked.
const NAME_LOOK: Duration = Duration::from_millis(5);
/// How long a new node may take for everything.
const SESSION: Duration = Duration::from_secs(30);

/// Whether a client that has just connected is a new node; what it says stays to be read.
pub(super) async fn is_new_node(stream: &TcpStream) -> bool {
    let named = async {
        let mut said = [0; IDENTITY.len()];
        loop {
            let length = stream.peek(&mut said).await.unwrap_or(0);
            let begin = said.get(..length).unwrap_or_default();
            if length == 0 || !IDENTITY.as_bytes().starts_with(begin) {
                return false;
            }
            if length == IDENTITY.len() {
                return true;
            }
            sleep(NAME_LOOK).await;
        }
    };
    timeout(NAME_TIME, named).await.unwrap_or(false)
}

/// One session with somebody who says to be the new node.
pub(super) async fn session(
    stream: TcpStream,
    from: IpAddr,
    shared: &Arc<Shared>,
    keys: Arc<ChannelKeys>,
) -> Result<(), russh::Error> {
    let Some(host) = keys.host.clone() else {
        return Ok(());
    };
    let _hang_up = HangUp::new(&stream)?;
    let config = server::Config {
        server_id: SshId::Standard(Cow::Borrowed(channel::IDENTITY)),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: Duration::ZERO,
        keys: vec![host],
        preferred: channel::preferred(),
        max_auth_attempts: 1,
        inactivity_timeout: Some(SESSION),
        nodelay: true,
        ..server::Config::default()
    };
    let claimed = Arc::new(AtomicBool::new(false));
    let guest = Guest {
        shared: Arc::clone(shared),
        keys: Arc::clone(&keys),
        from,
        claimed: Arc::clone(&claimed),
        gift: None,
        channel: None,
    };
    let whole = async {
        server::run_stream(Arc::new(config), stream, guest)
            .await?
            .await
    };
    let ended = timeout(SESSION, whole).await;
    let replica = &shared.replica;
    if claimed.load(Ordering::Relaxed) {
        // Whoever has answered is not concerned by this.
        let ended = Err("the connection ended".to_owned());
        replica.pairing.answered(&keys, ended);
    } else if replica.pairing.missed(&keys) {
        warn!(%from, "the code for a new node is void: it was tried with wrong codes too often");
    }
    ended.unwrap_or_else(|_elapsed| {
        count(&replica.counters.timed_out);
        Ok(())
    })
}

/// Somebody who may have the code.
struct Guest {
    shared: Arc<Shared>,
    keys: Arc<ChannelKeys>,
    from: IpAddr,
    /// What was to be given is this session's.
    claimed: Arc<AtomicBool>,
    gift: Option<Arc<Zeroizing<Vec<u8>>>>,
    channel: Option<Channel<Msg>>,
}

impl Guest {
    fn judge(&self, user: &str, key: &PublicKey) -> Auth {
        if user == USER && is_one_of(key, &self.keys.partner_client) {
            Auth::Accept
        } else {
            Auth::reject()
        }
    }
}

impl server::Handler for Guest {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(self.judge(user, offer.public_key))
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(self.judge(user, key.public_key))
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        let pairing = &self.shared.replica.pairing;
        self.gift = pairing.claim(clock::now(), &self.keys, &self.from.to_string());
        self.claimed.store(self.gift.is_some(), Ordering::Relaxed);
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.channel.is_none() {
            self.channel = Some(channel);
            reply.accept().await;
        }
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let wanted = self.channel.take_if(|channel| channel.id() == id);
        let wanted = wanted.filter(|_| name == SUBSYSTEM);
        let (Some(channel), Some(gift)) = (wanted, self.gift.take()) else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        let (shared, keys, from) = (Arc::clone(&self.shared), Arc::clone(&self.keys), self.from);
        tokio::spawn(async move {
            let mut stream = channel.into_stream();
            let answer = give(&mut stream, &gift).await;
            let answer = answer.map_err(|error| error.to_string());
            let what = match &answer {
                Ok(Taken::Done(name)) => {
                    format!("key and configuration given to {name} at {from}")
                }
                Ok(Taken::Refused(why)) => format!("{from} could not be made a node: {why}"),
                Err(why) => {
                    format!("{from} broke off while it was told key and configuration: {why}")
                }
            };
            shared
                .events
                .record(Entry::new(Kind::Paired, "new node", what));
            shared.replica.pairing.answered(&keys, answer);
            // Now the node may leave.
            let _gone = stream.shutdown().await;
        });
        Ok(())
    }
}

/// Tells what the node is to have, and hears what became of it.
async fn give(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    gift: &[u8],
) -> io::Result<Taken> {
    channel::write_short(stream, gift).await?;
    let answer = channel::read_short(stream, TAKEN_MAX).await?;
    let taken: Taken = serde_json::from_slice(&answer)?;
    Ok(taken.cleaned())
}

impl Shared {
    /// Carries out `ha-agent pair offer`.
    pub(in crate::shell) fn pair(&self, request: &PairRequest) -> Reply<PairReply> {
        let pairing = &self.replica.pairing;
        match request {
            PairRequest::Offer { minutes } => self.offer(*minutes),
            PairRequest::Watch { number } => Ok(pairing.watch(clock::now(), *number)),
            PairRequest::Withdraw { number } => {
                pairing.withdraw(*number);
                Ok(pairing.watch(clock::now(), *number))
            }
        }
    }

    fn offer(&self, minutes: u32) -> Reply<PairReply> {
        let (file, mode) = {
            let loaded = lock(&self.loaded);
            (loaded.text().to_owned(), loaded.config.node.mode)
        };
        if mode == Mode::Off {
            return Err(Refusal::new(
                "this node is not part of a pair",
                "set node.mode to first, and restart the agent",
            ));
        }
        let place = Place::find(self).ok_or_else(|| {
            Refusal::new(
                "there is no interface over which a new node could be told",
                "set ha.update_interface to one on which both nodes have an address",
            )
        })?;
        let links = self.election.published().election.links.clone();
        if links.iter().any(|link| link.heard) {
            return Err(Refusal::new(
                "the partner is there: this pair is whole",
                "to replace it, end its agent first (`systemctl stop ha-agent`, or `ha-agent reset`)",
            ));
        }
        let gift = self.gift(&file)?;
        let made = Code::generate().ok().zip(serde_json::to_vec(&gift).ok());
        let Some((code, gift)) = made else {
            return Err(Refusal::new("the system gave no random bytes", "try again"));
        };
        let time = Duration::from_secs(u64::from(minutes.clamp(1, 60)) * 60);
        let number = self.replica.pairing.open(clock::now(), &code, gift, time);
        Ok(PairReply::Offered {
            number,
            code: code.shown().to_string(),
            address: place.listens(),
        })
    }

    fn gift(&self, file: &str) -> Reply<Gift> {
        let node = self.config().node;
        let read = |path: &std::path::Path| {
            std::fs::read_to_string(path).map_err(|error| {
                Refusal::new(
                    format!("{}: {error}", path.display()),
                    "put the file back in place",
                )
            })
        };
        let directory = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        Ok(Gift {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            directory: directory
                .parent()
                .map_or_else(String::new, |parent| parent.to_string_lossy().into_owned()),
            file: file.to_owned(),
            key: read(&node.key_file)?,
            passphrase: node.carp_passphrase_file.as_deref().map(read).transpose()?,
        })
    }
}
