//! The web page of this node: where it is served, its switch, and who may come in.

mod shown;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;
use tracing::{error, info};

use super::agent::Shared;
use super::observe;
use crate::control::{Done, Refusal, Reply, WebRequest};
use crate::web::listen::{Limits, Offer};
use crate::web::page::sessions::secret;
use crate::web::page::users::UserError;
use crate::web::page::{self, Door, Page, Shown as _};

/// What those who look at the page may take: each page that is open is a connection.
const LIMITS: Limits = Limits {
    clients: 128,
    life: Duration::from_hours(1),
};
/// Threads that may wait for disks, the kernel and hashes.
const BLOCKING: usize = 8;
/// Its presence says that the page is switched off.
const OFF: &str = "web-off";
/// Length of a password that is made: 96 random bits.
const PASSWORD_LENGTH: usize = 24;
/// How often what is missing is looked for again.
const RETRY: Duration = Duration::from_secs(5);

/// A thread of its own, with a runtime of its own: whatever clients do there, nothing else of the agent waits for it.
/// It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Served {
    _stop: oneshot::Sender<()>,
}

/// Serves the page as long as it is switched on.
pub(super) fn serve(shared: &Arc<Shared>) -> Option<Served> {
    let shared = Arc::clone(shared);
    let (stop, stopped) = oneshot::channel::<()>();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(BLOCKING)
        .thread_name("web")
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| error!(%error, "the web page is not served"));
    let runtime = runtime.ok()?;
    let run = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = stopped => {}
                () = while_on(shared) => {}
            }
        });
        runtime.shutdown_background();
    };
    let thread = thread::Builder::new().name("web".to_owned()).spawn(run);
    match thread {
        Ok(_running) => Some(Served { _stop: stop }),
        Err(error) => {
            error!(%error, "the web page is not served");
            None
        }
    }
}

async fn while_on(shared: Arc<Shared>) {
    let mut switch = shared.web.subscribe();
    loop {
        if *switch.borrow_and_update() {
            let serving = tokio::spawn(open(Arc::clone(&shared)));
            let ends = Ends(serving);
            let _gone = switch.changed().await;
            drop(ends);
        } else if switch.changed().await.is_err() {
            return;
        }
    }
}

/// A task that ends when this is dropped.
struct Ends(tokio::task::JoinHandle<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn open(shared: Arc<Shared>) {
    let config = shared.config();
    let Some(web) = config.node.web.clone() else {
        return;
    };
    let (tls, page) = loop {
        let (wanted, looked_at) = (config.clone(), Arc::clone(&shared));
        let made = spawn_blocking(move || {
            let tls = page::acceptor(&wanted)?;
            io::Result::Ok((tls, Page::new(looked_at)))
        });
        match made
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
        {
            Ok(made) => break made,
            Err(error) => {
                error!(%error, "the web page is not served: check node.web and the files in node.state_dir; trying again");
                sleep(RETRY).await;
            }
        }
    };
    if let (Some(path), Some(address)) = (page.setup_path(), web.listen.first()) {
        let own = config
            .node
            .interfaces
            .iter()
            .flat_map(|one| &one.addresses)
            .next();
        let host = match own.filter(|_| address.ip().is_unspecified()) {
            Some(own) => std::net::SocketAddr::new(own.address, address.port()),
            None => *address,
        };
        info!("nobody can log in yet: make the first user at https://{host}{path}");
    }
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&page).draw());
    tasks.spawn(Arc::clone(&page).measure());
    for address in web.listen {
        let looked_at = Arc::clone(&shared);
        let offer = Offer {
            router: page.router(),
            tls: Some(tls.clone()),
            limits: LIMITS,
            admits: move |at| looked_at.reach(at).is_some(),
        };
        tasks.spawn(observe::keep(Arc::clone(&shared), address, offer));
    }
    while tasks.join_next().await.is_some() {}
}

/// Whether the page of this state directory was switched off.
pub(super) fn is_on(state_dir: &std::path::Path) -> bool {
    !state_dir.join(OFF).exists()
}

impl Shared {
    /// Switches the page on or off, now and after every restart.
    pub(super) async fn switch_web(&self, on: bool) -> Reply<Done> {
        let node = self.config().node;
        if node.web.is_none() {
            return Err(Refusal::new(
                "this node has no web page",
                "add `node.web` to the configuration file and restart the agent",
            ));
        }
        let path = node.state_dir.join(OFF);
        let stored = spawn_blocking(move || remember(&path, on)).await;
        self.web.send_replace(on);
        self.door.sessions.end_all();
        match stored.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) if on => Ok(Done::new("the web page is on")),
            Ok(()) => Ok(Done::new("the web page is off, also after a restart")),
            Err(error) => Err(Refusal::new(
                format!("done, but not stored for the next start: {error}"),
                "check the disk of node.state_dir, and repeat the command",
            )),
        }
    }
}

impl Shared {
    /// Changes who may come in.
    pub(super) async fn change_door(&self, request: WebRequest) -> Reply<Done> {
        let door = Arc::clone(&self.door);
        let changed = spawn_blocking(move || change(&door, request)).await;
        let problem = match changed {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(Refusal::new(
            problem,
            "the page Users lists those there are; see `ha-agent web --help`",
        ))
    }
}

fn change(door: &Door, request: WebRequest) -> Result<Done, UserError> {
    Ok(Done::new(match request {
        WebRequest::AddUser { name, access } => {
            let random = || io::Error::other("the system has no random numbers");
            let mut password = secret().ok_or_else(random)?;
            password.truncate(PASSWORD_LENGTH);
            door.users.add(&name, access, &password)?;
            let access = access.as_str();
            format!("{name} may log in as {access} with the password {password}")
        }
        WebRequest::RemoveUser { name } => {
            door.users.remove(&name)?;
            door.sessions.end_of(&name);
            format!("{name} is no user any more")
        }
        WebRequest::AddToken { name, access } => {
            let secret = door.tokens.add(&name, access)?;
            format!(
                "{secret}\n{name} may use the API as {}; this token is not shown again",
                access.as_str()
            )
        }
        WebRequest::RemoveToken { name } => {
            door.tokens.remove(&name)?;
            format!("the token {name} is good for nothing any more")
        }
        WebRequest::On | WebRequest::Off => "the page is not switched here".to_owned(),
    }))
}

fn remember(path: &PathBuf, on: bool) -> io::Result<()> {
    if !on {
        return fs::write(path, "");
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
