//! Commands to a running agent.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args::{Args, Config, DEFAULT_CONFIG, Switch, Verb, Web};
use super::replace::{self, Failed};
use super::{Exit, complain, complain_about, print, print_json};
use super::{capture, config as config_of, connections, records, trace};
use crate::config;
use crate::control::{Client, ClientError, Done, Reloaded, Request, WebRequest};
use crate::status::model::{ConnectionPage, ConnectionQuery, Counters, Services, Status};
use crate::status::render::{self, Style};

/// Sends the command and shows the answer.
pub(super) fn command(args: &Args) -> Exit {
    let traced = if let Verb::TracePacket(wanted) = &args.verb {
        match trace::packets(wanted) {
            Ok(packets) => Some(packets),
            Err(exit) => return exit,
        }
    } else {
        None
    };
    let socket = match socket(args) {
        Ok(socket) => socket,
        Err(exit) => return exit,
    };
    let mut client = match Client::connect(&socket) {
        Ok(client) => client,
        Err(error) => return explain(&error, args),
    };
    if matches!(args.verb, Verb::Reexec) {
        return match replace::reexec(client, &socket, args.json) {
            Ok(exit) | Err(Failed::Told(exit)) => exit,
            Err(Failed::Client(error)) => explain(&error, args),
        };
    }
    if let Verb::Capture(wanted) = &args.verb {
        return match capture::capture(client, wanted, args.json) {
            Ok(exit) | Err(capture::Failed::Told(exit)) => exit,
            Err(capture::Failed::Client(error)) => explain(&error, args),
        };
    }
    if let Verb::Records { action } = &args.verb {
        return match records::records(&mut client, action, args.json) {
            Ok(exit) => exit,
            Err(error) => explain(&error, args),
        };
    }
    if let Some(packets) = traced {
        return match trace::trace(client, packets, args.json) {
            Ok(exit) | Err(trace::Failed::Told(exit)) => exit,
            Err(trace::Failed::Client(error)) => explain(&error, args),
        };
    }
    let style = Style::detect();
    let mut ask = Ask {
        client: &mut client,
        args,
    };
    match &args.verb {
        Verb::Status => ask.show(&Request::Status, |s: &Status| render::status(s, style)),
        Verb::Connections(wanted) => {
            if let Some(name) = &wanted.service
                && let Err(exit) = ask.known(name)
            {
                return exit;
            }
            let query = ConnectionQuery {
                service: wanted.service.clone(),
                client: wanted.client,
                state: wanted.state.clone(),
                real: wanted.real,
                limit: wanted.limit,
                offset: wanted.offset,
                from: None,
                look: None,
            };
            let show = |page: &ConnectionPage| render::connections(page, style);
            match (wanted.all, args.json) {
                (true, true) => match connections::stream(ask.client, query) {
                    Ok(exit) => exit,
                    Err(error) => explain(&error, args),
                },
                (true, false) => {
                    let whole = connections::whole_table(ask.client, query);
                    ask.answer(whole, show)
                }
                (false, _) => ask.show(&Request::Connections(query), show),
            }
        }
        Verb::Counters { all } => ask.show(&Request::Counters, |counters: &Counters| {
            render::counters(counters, *all, style)
        }),
        Verb::Services => ask.show(&Request::Services, |services: &Services| {
            render::services(services, style)
        }),
        Verb::Failover => ask.show(&Request::Failover, done),
        Verb::Maintenance { switch, force } => {
            let (on, force) = (*switch == Switch::On, *force);
            ask.show(&Request::Maintenance { on, force }, done)
        }
        Verb::Web { action } => ask.show(&Request::Web(web(action)), done),
        Verb::Resume => ask.show(&Request::Resume, done),
        Verb::Reload => ask.show(&Request::Reload, reloaded),
        Verb::Push => ask.show(&Request::Push, done),
        Verb::Config { action } => {
            let shown = match ask.client.request(&Request::ShowConfig) {
                Ok(shown) => shown,
                Err(error) => return explain(&error, args),
            };
            match action {
                Config::Diff { file } => {
                    let file = file.as_ref().unwrap_or(&args.config);
                    config_of::diff(&shown, file, args.json)
                }
                Config::Show | Config::Schema => config_of::show(&shown, args.json),
            }
        }
        Verb::Record { file, seconds } => match std::path::absolute(file) {
            Ok(path) => {
                let seconds = *seconds;
                ask.show(&Request::Record { path, seconds }, done)
            }
            Err(error) => {
                complain(&format!("{}: {error}", file.display()), "check the path");
                Exit::Failed
            }
        },
        // Handled before a socket is looked for.
        Verb::Run { .. }
        | Verb::CheckConfig
        | Verb::UpgradeCheck { .. }
        | Verb::Keygen { .. }
        | Verb::Replay { .. }
        | Verb::Convert { .. }
        | Verb::Completion { .. }
        | Verb::Backup { .. }
        | Verb::Restore(_)
        | Verb::Reset(_)
        | Verb::Node { .. }
        | Verb::Manual { .. }
        | Verb::Doctor
        | Verb::Events(_)
        | Verb::Top(_)
        | Verb::Pair { .. }
        | Verb::Ping(_)
        | Verb::Capture(_)
        | Verb::TracePacket(_)
        | Verb::Records { .. }
        | Verb::Reexec => Exit::Failed,
    }
}

struct Ask<'a> {
    client: &'a mut Client,
    args: &'a Args,
}

impl Ask<'_> {
    fn show<T: DeserializeOwned + Serialize>(
        &mut self,
        request: &Request,
        render: impl FnOnce(&T) -> String,
    ) -> Exit {
        let answer = self.client.request(request);
        self.answer(answer, render)
    }

    /// Refuses the name of a virtual service that is not there: an empty list would say that nobody uses it.
    fn known(&mut self, name: &str) -> Result<(), Exit> {
        let services: Services = match self.client.request(&Request::Services) {
            Ok(services) => services,
            Err(error) => return Err(explain(&error, self.args)),
        };
        if services.services.iter().any(|service| service.name == name) {
            return Ok(());
        }
        complain(
            &format!("there is no virtual service `{name}`"),
            "`ha-agent services` shows those that there are",
        );
        Err(Exit::Failed)
    }

    fn answer<T: Serialize>(
        &self,
        answer: Result<T, ClientError>,
        render: impl FnOnce(&T) -> String,
    ) -> Exit {
        match answer {
            Ok(answer) if self.args.json => print_json(&answer),
            Ok(answer) => print(&render(&answer)),
            Err(error) => explain(&error, self.args),
        }
    }
}

fn web(action: &Web) -> WebRequest {
    match action {
        Web::On => WebRequest::On,
        Web::Off => WebRequest::Off,
        Web::AddUser { name, access } => WebRequest::AddUser {
            name: name.clone(),
            access: *access,
        },
        Web::RemoveUser { name } => WebRequest::RemoveUser { name: name.clone() },
        Web::AddToken { name, access } => WebRequest::AddToken {
            name: name.clone(),
            access: *access,
        },
        Web::RemoveToken { name } => WebRequest::RemoveToken { name: name.clone() },
    }
}

fn done(done: &Done) -> String {
    format!("{}\n", done.message)
}

fn reloaded(reloaded: &Reloaded) -> String {
    complain_about(&reloaded.warnings);
    if reloaded.changes.is_empty() {
        return "nothing changed\n".to_owned();
    }
    let lines = reloaded.changes.iter().map(|change| format!("{change}\n"));
    lines.collect()
}

/// The socket to use: as told, or where the configuration file says the agent puts it.
pub(super) fn socket(args: &Args) -> Result<PathBuf, Exit> {
    if let Some(socket) = &args.socket {
        return Ok(socket.clone());
    }
    config::control_socket(&args.config).map_err(|problems| {
        complain_about(&problems);
        super::local::blame(&args.config)
    })
}

/// The agent that runs, for commands that do without; none also where no file says where its socket would be.
pub(super) fn running(args: &Args) -> Result<Option<Client>, Exit> {
    if args.socket.is_none() && !args.config.exists() {
        return Ok(None);
    }
    match Client::connect(&socket(args)?) {
        Ok(client) => Ok(Some(client)),
        Err(ClientError::NotRunning { .. }) => Ok(None),
        Err(error) => Err(explain(&error, args)),
    }
}

/// Tells why there is no answer, and what to do.
pub(super) fn explain(error: &ClientError, args: &Args) -> Exit {
    let what = error.to_string();
    match error {
        ClientError::NotRunning { .. } => {
            complain(&what, &start_hint(&args.config));
            Exit::NotRunning
        }
        ClientError::Permission { .. } => {
            complain(&what, "use sudo, or join the group of the socket file");
            Exit::Permission
        }
        ClientError::Refused(refusal) => {
            complain_about(&refusal.problems);
            complain(&what, &refusal.remedy);
            if refusal.problems.is_empty() {
                Exit::Failed
            } else {
                Exit::Config
            }
        }
        ClientError::Garbled(_) | ClientError::Io(_) => {
            complain(&what, "look at the agent's log");
            Exit::Failed
        }
    }
}

fn start_hint(config: &Path) -> String {
    if config == Path::new(DEFAULT_CONFIG) {
        "start it with `systemctl start ha-agent`, or name another with -f FILE or --socket PATH"
            .to_owned()
    } else {
        format!("start it with `ha-agent run -f {}`", config.display())
    }
}
