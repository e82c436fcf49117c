//! Operators with an SSH client of their own: three commands, and nothing else.
//!
//! Whoever has a key of `node.operators_file`, in the format of `authorized_keys`, may look at the node and hand over.
//! The file is read at each login, so who leaves it is out at once. A line with options is passed over: what it would
//! forbid could not be honoured.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use russh::Channel;
use russh::keys::PublicKey;
use russh::keys::ssh_key::AuthorizedKeys;
use russh::server::Msg;
use tracing::{debug, warn};

use super::keys::is_one_of;
use crate::control::{Done, Refusal};
use crate::events::{Entry, Kind};
use crate::shell::agent::Shared;
use crate::status::render::{self, Style};

/// Whom operators log in as.
pub(super) const USER: &str = "operator";
/// What they may say.
const COMMANDS: &str = "status [--json], config show, failover";
/// Longest command that is looked at.
const COMMAND_MAX: usize = 256;
/// Longest name in a log.
const NAME_MAX: usize = 64;
/// Standard error of a channel: RFC 4254, section 5.2.
const STDERR: u32 = 1;

/// What a command yields.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    out: String,
    err: String,
    exit: u32,
}

impl Outcome {
    fn ok(out: impl Into<String>) -> Self {
        Self {
            out: out.into(),
            err: String::new(),
            exit: 0,
        }
    }

    fn failed(err: impl Into<String>, exit: u32) -> Self {
        Self {
            out: String::new(),
            err: err.into(),
            exit,
        }
    }
}

/// Who has this key, if it is an operator.
pub(super) fn who(shared: &Shared, key: &PublicKey) -> Option<String> {
    let file = shared.config().node.operators_file?;
    match read(&file) {
        Ok(text) => named(&text, key),
        Err(why) => {
            warn!(file = %file.display(), why, "nobody is an operator");
            None
        }
    }
}

fn read(file: &Path) -> Result<String, String> {
    let found = fs::metadata(file).map_err(|error| error.to_string())?;
    if found.mode() & 0o022 != 0 {
        return Err("others may write it: run `chmod go-w` on it".to_owned());
    }
    fs::read_to_string(file).map_err(|error| error.to_string())
}

/// The name that a file gives to a key.
fn named(text: &str, key: &PublicKey) -> Option<String> {
    let entries = AuthorizedKeys::new(text).filter_map(Result::ok);
    let mut fit = entries.filter(|entry| {
        let known = [entry.public_key().clone()];
        entry.config_opts().is_empty() && is_one_of(key, &known)
    });
    let comment = fit.next()?.public_key().comment().to_string();
    let shown = comment.chars().filter(|c| !c.is_control());
    let name: String = shown.take(NAME_MAX).collect();
    Some(if name.is_empty() {
        "without a name".to_owned()
    } else {
        name
    })
}

/// Carries out a command and tells what came of it.
pub(super) async fn serve(
    shared: Arc<Shared>,
    channel: Channel<Msg>,
    name: String,
    command: Vec<u8>,
) {
    let outcome = carry_out(&shared, &name, &command).await;
    if let Err(error) = tell(&channel, outcome).await {
        debug!(%error, name, "an operator did not wait for the answer");
    }
}

async fn tell(channel: &Channel<Msg>, outcome: Outcome) -> Result<(), russh::Error> {
    channel.data(outcome.out.as_bytes()).await?;
    channel
        .extended_data(STDERR, outcome.err.as_bytes())
        .await?;
    channel.exit_status(outcome.exit).await?;
    channel.eof().await?;
    channel.close().await
}

async fn carry_out(shared: &Arc<Shared>, name: &str, command: &[u8]) -> Outcome {
    let command = command.get(..COMMAND_MAX).unwrap_or(command);
    let text = String::from_utf8_lossy(command);
    let words: Vec<&str> = text.split_whitespace().collect();
    match *words {
        ["status"] => Outcome::ok(render::status(&shared.build_status(), Style::PLAIN)),
        ["status", "--json" | "-j"] => match serde_json::to_string_pretty(&shared.build_status()) {
            Ok(text) => Outcome::ok(text + "\n"),
            Err(error) => Outcome::failed(format!("{error}\n"), 1),
        },
        ["config", "show"] => Outcome::ok(shared.shown().text),
        ["failover"] => {
            let done = shared.failover().await;
            note(shared, name, "failover", done.as_ref().err());
            handed_over(done)
        }
        _ => {
            let refusal = Refusal::new("not one of an operator's commands", COMMANDS);
            note(shared, name, "something else", Some(&refusal));
            Outcome::failed(format!("an operator may say: {COMMANDS}\n"), 2)
        }
    }
}

fn handed_over(done: Result<Done, Refusal>) -> Outcome {
    match done {
        Ok(done) => Outcome::ok(done.message + "\n"),
        Err(refusal) => Outcome::failed(format!("{refusal}\n  = {}\n", refusal.remedy), 1),
    }
}

fn note(shared: &Shared, name: &str, deed: &str, refused: Option<&Refusal>) {
    let kind = match refused {
        None => Kind::Command,
        Some(_) => Kind::CommandRefused,
    };
    let why = refused.map_or_else(String::new, |refusal| refusal.what.clone());
    let entry = Entry::new(kind, format!("operator {name}"), deed);
    shared
        .events
        .record(entry.because(why).with("command", deed));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use russh::keys::PrivateKey;
    use russh::keys::ssh_key::private::Ed25519Keypair;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        let private = PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]));
        private.public_key().clone()
    }

    fn line(seed: u8, comment: &str) -> String {
        format!("{} {comment}\n", key(seed).to_openssh().unwrap())
    }

    #[test]
    fn operators_are_those_of_the_file() {
        let text = format!(
            "# Night shift\n\n{}{}",
            line(1, "alice"),
            line(2, "b\u{1b}ob")
        );
        assert_eq!(named(&text, &key(1)).unwrap(), "alice");
        assert_eq!(named(&text, &key(2)).unwrap(), "bob");
        assert_eq!(named(&text, &key(3)), None);
        assert_eq!(named(&line(4, ""), &key(4)).unwrap(), "without a name");
        for broken in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA x",
            "\u{0}",
            "rubbish rubbish",
        ] {
            assert_eq!(named(broken, &key(1)), None, "{broken}");
        }
        // A line that cannot be read hides no other.
        assert!(named(&format!("rubbish\n{text}"), &key(1)).is_some());
    }

    #[test]
    fn a_line_with_options_gives_nothing() {
        let restricted = format!("from=\"192.0.2.1\" {}", line(1, "alice"));
        assert_eq!(named(&restricted, &key(1)), None);
    }

    #[test]
    fn a_file_that_others_may_write_gives_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("operators");
        assert!(read(&file).is_err());
        fs::write(&file, line(1, "alice")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read(&file).is_ok());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
        assert!(read(&file).unwrap_err().contains("chmod"));
    }
}
