//! The web page of this node: what it shows, where it is served, and its switch.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;
use tracing::{error, info};

use super::agent::Shared;
use super::{clock, observe};
use crate::control::{Done, Refusal, Reply};
use crate::events::{Entry, Event};
use crate::status::model::{Counters, Services, Status};
use crate::web::listen::Limits;
use crate::web::page::sessions::secret;
use crate::web::page::users::{Access, UserError};
use crate::web::page::view::{Place, partner_page};
use crate::web::page::{self, Door, Page, Shown};

/// What those who look at the page may take: each page that is open is a connection.
const LIMITS: Limits = Limits {
    clients: 128,
    life: Duration::from_hours(1),
};
/// Its presence says that the page is switched off.
const OFF: &str = "web-off";
/// Length of a password that is made: 96 random bits.
const PASSWORD_LENGTH: usize = 24;
/// How often what is missing is looked for again.
const RETRY: Duration = Duration::from_secs(5);

/// Serves the page as long as it is switched on, until the future is dropped.
pub(super) async fn serve(shared: Arc<Shared>) {
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
    for address in web.listen {
        let (shared, router, tls) = (Arc::clone(&shared), page.router(), Some(tls.clone()));
        tasks.spawn(observe::keep(shared, address, router, tls, LIMITS));
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
    /// Makes a user of the page, or removes one.
    pub(super) async fn change_user(&self, name: String, access: Option<Access>) -> Reply<Done> {
        let door = Arc::clone(&self.door);
        let changed = spawn_blocking(move || {
            let users = &door.users;
            let Some(access) = access else {
                users.remove(&name)?;
                door.sessions.end_of(&name);
                return Ok(Done::new(format!("{name} is no user any more")));
            };
            let random = || io::Error::other("the system has no random numbers");
            let mut password = secret().ok_or_else(random)?;
            password.truncate(PASSWORD_LENGTH);
            users.add(&name, access, &password)?;
            let access = access.as_str();
            Ok::<_, UserError>(Done::new(format!(
                "{name} may log in as {access} with the password {password}"
            )))
        });
        let problem = match changed.await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(Refusal::new(problem, "see `ha-agent web --help`"))
    }
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

impl Shown for Shared {
    fn door(&self) -> &Door {
        &self.door
    }

    fn status(&self) -> Status {
        self.build_status()
    }

    fn services(&self) -> Result<Services, String> {
        self.service_list().map_err(|error| error.to_string())
    }

    fn counters(&self) -> Result<Counters, String> {
        let values = self
            .datapath
            .counters()
            .map_err(|error| error.to_string())?;
        Ok(Counters::from_values(&values))
    }

    fn events(&self, count: usize) -> Vec<Event> {
        self.events.recent(count)
    }

    fn place(&self) -> Place {
        let config = self.config();
        let port = config.node.web.as_ref().and_then(|web| web.listen.first());
        let mut interfaces = config.node.interfaces.iter();
        let partners = interfaces.find(|interface| !interface.partners.is_empty());
        Place {
            machine: fs::read_to_string("/etc/machine-id")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            booted: booted(),
            partner: port
                .zip(partners)
                .and_then(|(port, interface)| partner_page(&interface.partners, port.port())),
        }
    }

    fn record(&self, entry: Entry) {
        self.events.record(entry);
    }
}

/// When the machine was booted, as the clocks say.
fn booted() -> String {
    let up = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let up = up
        .split(' ')
        .next()
        .and_then(|seconds| seconds.parse::<f64>().ok());
    let since = up.map(|up| clock::wall().saturating_sub(Duration::from_secs_f64(up.max(0.0))));
    let at = since.and_then(|since| Timestamp::from_second(since.as_secs().cast_signed()).ok());
    at.map_or_else(String::new, |at| {
        at.strftime("%Y-%m-%d %H:%M UTC").to_string()
    })
}
