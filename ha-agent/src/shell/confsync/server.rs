//! Answering the partner.

use std::borrow::Cow;
use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::PublicKey;
use russh::server::{
    self, Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, MethodKind, MethodSet, SshId};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::channel::{self, HangUp, IDENTITY, Place, ReadError, SUBSYSTEM, USER, count};
use super::keys::{ChannelKeys, is_one_of};
use super::{Replica, giver, operator};
use crate::proto::confsync::{DOCUMENT_MAX, Request};
use crate::shell::agent::Shared;
use crate::shell::alarms::Kind;
use crate::shell::clock;

/// Connections of strangers at a time, of which the partner's take nothing.
const STRANGERS_MAX: usize = 4;
/// Connections of the partner's address at a time.
const PARTNER_MAX: usize = 4;
/// How long nothing may be heard from a client.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long a client may take to prove who it is.
const LOGIN_MAX: Duration = Duration::from_secs(3);
/// How long the place of a stranger who proved nothing stays taken when it has left: so many places, so many handshakes
/// a second.
const STRANGER_REST: Duration = Duration::from_millis(500);
/// How often it is looked whether the interface is still the same one.
const LOOK: Duration = Duration::from_secs(1);
/// Keys that may be shown: an operator's client tries all it has.
const ATTEMPTS_MAX: usize = 6;
/// How long a refused key waits for its answer.
const REJECTION: Duration = Duration::from_millis(300);

/// Listens as long as the agent runs, also on an interface that is made anew.
pub(super) async fn serve(shared: Arc<Shared>) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let partners = Arc::new(Semaphore::new(PARTNER_MAX));
    let mut told = false;
    loop {
        let place = Place::find(&shared);
        let listener = match place.as_ref().map(Place::listen) {
            Some(Ok(listener)) => listener,
            Some(Err(error)) => {
                if !told {
                    warn!(%error, "the configuration channel does not listen; trying again");
                    told = true;
                }
                sleep(LOOK).await;
                continue;
            }
            None => {
                sleep(LOOK).await;
                continue;
            }
        };
        told = false;
        if let Some(place) = &place {
            info!(%place, "configuration channel open");
        }
        while Place::find(&shared) == place {
            let accepted = match timeout(LOOK, accept(&listener)).await {
                Ok(accepted) => accepted,
                Err(_elapsed) => continue,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%error, "configuration connection not accepted");
                    sleep(REJECTION).await;
                    continue;
                }
            };
            let is_partner = place.as_ref().is_some_and(|place| place.is_partner(from));
            let places = if is_partner { &partners } else { &strangers };
            let Ok(permit) = Arc::clone(places).try_acquire_owned() else {
                count(&shared.replica.counters.too_many);
                continue;
            };
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let shown = session(stream, from, &shared).await;
                let shown = shown.unwrap_or_else(|error| {
                    debug!(%error, %from, "configuration session ended");
                    Shown::Nothing
                });
                if !is_partner && shown != Shown::Right {
                    sleep(STRANGER_REST).await;
                }
                drop(permit);
            });
        }
    }
}

async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, IpAddr)> {
    let (stream, from) = listener.accept().await?;
    Ok((stream, from.ip().to_canonical()))
}

/// One session, to its end or to the end of patience.
async fn session(
    stream: TcpStream,
    from: IpAddr,
    shared: &Arc<Shared>,
) -> Result<Shown, russh::Error> {
    if let Some(keys) = shared.replica.pairing.keys(clock::now())
        && giver::is_new_node(&stream).await
    {
        giver::session(stream, from, shared, keys).await?;
        return Ok(Shown::Nothing);
    }
    let keys = shared.replica.keys.load_full();
    let Some(host) = keys.host.clone() else {
        return Ok(Shown::Nothing);
    };
    stream.set_nodelay(true)?;
    let _hang_up = HangUp::new(&stream)?;
    let config = server::Config {
        server_id: SshId::Standard(Cow::Borrowed(IDENTITY)),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REJECTION,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![host],
        preferred: channel::preferred(),
        max_auth_attempts: ATTEMPTS_MAX,
        inactivity_timeout: Some(SILENCE_MAX),
        nodelay: true,
        ..server::Config::default()
    };
    let (shows, mut shown) = watch::channel(Shown::Nothing);
    let visitor = Visitor {
        shared: Arc::clone(shared),
        keys,
        from,
        shows,
        operator: None,
        channel: None,
    };
    let whole = async {
        server::run_stream(Arc::new(config), stream, visitor)
            .await?
            .await
    };
    let counters = &shared.replica.counters;
    let mut looked = shown.clone();
    let ended = tokio::select! {
        ended = whole => ended,
        () = patience(&mut shown) => {
            count(&counters.timed_out);
            return Ok(*looked.borrow_and_update());
        }
    };
    let shown = *looked.borrow_and_update();
    if shown == Shown::Nothing {
        count(&counters.unproven);
    }
    if let Err(error) = ended {
        debug!(%error, %from, "configuration session ended");
    }
    Ok(shown)
}

/// Ends when a session has lasted too long.
async fn patience(shown: &mut watch::Receiver<Shown>) {
    let right = shown.wait_for(|shown| *shown == Shown::Right);
    match timeout(LOGIN_MAX, async { right.await.is_ok() }).await {
        Ok(true) => sleep(2 * channel::patience(DOCUMENT_MAX)).await,
        // The session has ended, which is told elsewhere.
        Ok(false) => pending().await,
        Err(_elapsed) => {}
    }
}

/// What a client has shown of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// No key yet.
    Nothing,
    /// A key that opens nothing.
    Wrong,
    /// To be the partner, or an operator.
    Right,
}

/// Somebody who may be the partner.
struct Visitor {
    shared: Arc<Shared>,
    keys: Arc<ChannelKeys>,
    from: IpAddr,
    shows: watch::Sender<Shown>,
    /// Somebody else: an operator, by name.
    operator: Option<String>,
    channel: Option<Channel<Msg>>,
}

impl Visitor {
    fn judge(&mut self, user: &str, key: &PublicKey) -> Auth {
        if user == operator::USER {
            self.operator = operator::who(&self.shared, key);
            if self.operator.is_some() {
                return Auth::Accept;
            }
            if self.shows.send_replace(Shown::Wrong) == Shown::Nothing {
                count(&self.shared.replica.counters.operators_refused);
            }
            return Auth::reject();
        }
        self.operator = None;
        if user == USER && is_one_of(key, &self.keys.partner_client) {
            return Auth::Accept;
        }
        if self.shows.send_replace(Shown::Wrong) == Shown::Nothing {
            self.shared
                .replica
                .wrong_key(&self.shared, &self.from.to_string());
        }
        Auth::reject()
    }
}

impl server::Handler for Visitor {
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
        self.shows.send_replace(Shown::Right);
        let replica = &self.shared.replica;
        if self.operator.is_some() {
            count(&replica.counters.operators);
            return Ok(());
        }
        count(&replica.counters.sessions);
        self.shared
            .board
            .clear(Kind::ConfigurationKey, &self.from.to_string());
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

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let wanted = self.channel.take_if(|channel| channel.id() == id);
        let (Some(channel), Some(name)) = (wanted, &self.operator) else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        let shared = Arc::clone(&self.shared);
        let (name, command) = (name.clone(), command.to_vec());
        tokio::spawn(operator::serve(shared, channel, name, command));
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let wanted = self.channel.take_if(|channel| channel.id() == id);
        let partners = name == SUBSYSTEM && self.operator.is_none();
        let Some(channel) = wanted.filter(|_| partners) else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        let replica = Arc::clone(&self.shared.replica);
        tokio::spawn(async move {
            let answered = answer(channel.into_stream(), &replica).await;
            if let Err(error) = answered {
                debug!(%error, "the partner's question was not answered");
            }
        });
        Ok(())
    }
}

/// Reads a question and answers it.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    replica: &Replica,
) -> Result<(), ReadError> {
    let message = channel::read(&mut stream).await;
    let request = message.and_then(|message| Ok(Request::decode(&message)?));
    let request = request.inspect_err(|error| {
        if matches!(error, ReadError::Wire(_)) {
            count(&replica.counters.malformed);
        }
    })?;
    let Some(response) = replica.answer(request).await else {
        return Ok(());
    };
    stream.write_all(&response.encode()).await?;
    stream.shutdown().await?;
    Ok(())
}
