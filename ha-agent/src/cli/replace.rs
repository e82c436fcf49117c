//! `reexec` and `upgrade-check`.

use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::{Exit, complain, complain_about, print, print_json};
use crate::config::model::Config;
use crate::control::{Client, ClientError, Done, Request};
use crate::datapath::load::{self, Connections, LoadError, Options};
use crate::shell::clock;
use crate::shell::reexec::Upgrade;
use crate::status::model::{Role, SCHEMA_VERSION, Status};

/// How long the new program may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// What `reexec --json` prints.
#[derive(Serialize)]
struct Reexecuted {
    schema_version: u32,
    version: String,
    replaced_version: String,
    role: Role,
    role_before: Role,
    term: u64,
    term_before: u64,
    pause_ms: f64,
    took_ms: f64,
}

/// What [`reexec`] could not do.
pub(super) enum Failed {
    /// The agent said no, or was not reached.
    Client(ClientError),
    /// It is as it is.
    Told(Exit),
}

/// Has the agent replaced, and waits until the new one answers.
pub(super) fn reexec(mut client: Client, socket: &Path, json: bool) -> Result<Exit, Failed> {
    let begin = clock::now();
    let before: Status = client.request(&Request::Status).map_err(Failed::Client)?;
    match client.request::<Done>(&Request::Reexec) {
        // The connection ends with the old program.
        Err(ClientError::Io(error))
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
            ) => {}
        Err(error) => return Err(Failed::Client(error)),
        Ok(_) => return Ok(Exit::Failed),
    }
    let after = loop {
        let answer =
            Client::connect(socket).and_then(|mut c| c.request::<Status>(&Request::Status));
        match answer {
            Ok(status) => break status,
            Err(error) if clock::now().since(begin) > ANSWER_MAX => {
                return Err(Failed::Client(error));
            }
            Err(_not_yet) => thread::sleep(ASK_EVERY),
        }
    };
    let took_ms = clock::now().since(begin).as_secs_f64() * 1e3;
    let Some(replaced) = &after.replaced else {
        complain(
            "the new program did not go on where the old one was: it started afresh",
            "see its log for the reason, and `ha-agent status` for the roles",
        );
        return Err(Failed::Told(Exit::Failed));
    };
    let result = Reexecuted {
        schema_version: SCHEMA_VERSION,
        version: after.version.clone(),
        replaced_version: replaced.version.clone(),
        role: after.role,
        role_before: before.role,
        term: after.term,
        term_before: before.term,
        pause_ms: replaced.pause_ms,
        took_ms,
    };
    let printed = if json {
        print_json(&result)
    } else {
        print(&format!(
            "version {} replaced by {} in {:.0} ms, of which the node was unattended for {:.0} ms; role {}, term {}\n",
            result.replaced_version,
            result.version,
            result.took_ms,
            result.pause_ms,
            result.role.as_str(),
            result.term,
        ))
    };
    if (result.role, result.term) == (result.role_before, result.term_before) {
        return Ok(printed);
    }
    complain(
        &format!(
            "the role was {}, term {}; now it is {}, term {}, after a pause of {:.0} ms",
            result.role_before.as_str(),
            result.term_before,
            result.role.as_str(),
            result.term,
            result.pause_ms
        ),
        "see the agent's log for the reason",
    );
    Err(Failed::Told(Exit::Failed))
}

/// Whether this program could continue an agent that runs with this file.
pub(super) fn upgrade_check(file: &Path, prepare: bool, json: bool) -> Exit {
    let loaded = match Config::load(file) {
        Ok(loaded) => loaded,
        Err(problems) => {
            complain_about(&problems);
            return super::local::blame(file);
        }
    };
    if let Err(problems) = loaded.secrets() {
        complain_about(&problems);
        return super::local::blame(&loaded.config.node.key_file);
    }
    let options = Options {
        bpf_dir: loaded.config.node.bpf_dir.clone(),
        connections: Connections {
            v4: loaded.config.limits.connections,
            v6: loaded.config.limits.connections_ipv6,
        },
        devices: Vec::new(),
        continued: true,
    };
    if let Err(error) = load::check(&options, prepare) {
        complain(
            &error.to_string(),
            "this program cannot replace the running agent: hand over, stop it and start this one",
        );
        return if matches!(error, LoadError::Privileges { .. }) {
            Exit::Permission
        } else {
            Exit::Failed
        };
    }
    let upgrade = Upgrade::own();
    if json {
        print_json(&upgrade)
    } else {
        print(&format!(
            "version {} can replace an agent that runs with {}\n",
            upgrade.version,
            file.display()
        ))
    }
}
