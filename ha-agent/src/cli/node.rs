//! `reset`, `node reboot` and `node shutdown`: a node that leaves for a while, or for good, hands over first.

use std::process::Command;
use std::thread;
use std::time::Duration;

use super::args::{Args, Consent, NodeAction, Reset};
use super::local::blame;
use super::remote::{explain, running, socket};
use super::{Exit, complain, complain_about, print};
use crate::control::{self, Client, ClientError, Done, Request};
use crate::shell::clock;
use crate::shell::factory::{Belongings, UNREADABLE};
use crate::status::model::{Role, Status};

/// How long the agent may take to hand over and end.
const END_MAX: Duration = Duration::from_secs(15);

/// `node reboot` and `node shutdown`.
pub(super) fn node(args: &Args, action: &NodeAction) -> Exit {
    let (consent, word) = match action {
        NodeAction::Reboot(consent) => (consent, "reboot"),
        NodeAction::Shutdown(consent) => (consent, "poweroff"),
    };
    match leave(args, consent) {
        Ok(()) => system(word),
        Err(exit) => exit,
    }
}

/// Hands over. Without an agent there is nothing to hand over, but then something else than expected is the case, too.
fn leave(args: &Args, consent: &Consent) -> Result<(), Exit> {
    match running(args)? {
        Some(mut client) => hand_over(&mut client, args, consent.force),
        None if consent.force => Ok(()),
        None => {
            complain(
                "no agent is running here, so this node cannot hand over",
                "see `ha-agent status` on the other node; --force goes on all the same",
            );
            Err(Exit::NotRunning)
        }
    }
}

/// Hands the active role over, if this node has it.
fn hand_over(client: &mut Client, args: &Args, force: bool) -> Result<(), Exit> {
    let status: Status = client
        .request(&Request::Status)
        .map_err(|error| explain(&error, args))?;
    if status.role != Role::Active {
        return Ok(());
    }
    match client.request::<Done>(&Request::Failover) {
        Ok(done) => {
            print(&format!("{}\n", done.message));
            Ok(())
        }
        Err(error @ ClientError::Refused(_)) => {
            let exit = explain(&error, args);
            if force {
                complain("nobody takes over, and connections end", "--force says so");
                return Ok(());
            }
            complain(
                "nothing was done",
                "--force goes on all the same, and connections end",
            );
            Err(exit)
        }
        Err(error) => Err(explain(&error, args)),
    }
}

/// Has the system go down, which asks every service to end first.
fn system(word: &str) -> Exit {
    match Command::new("systemctl").arg(word).status() {
        Ok(status) if status.success() => Exit::Ok,
        Ok(status) => {
            complain(
                &format!("`systemctl {word}` failed ({status})"),
                "see what it said",
            );
            Exit::Failed
        }
        Err(error) => {
            complain(
                &format!("systemctl: {error}"),
                "this node has handed over; use the system's own command",
            );
            Exit::Failed
        }
    }
}

/// `reset`.
pub(super) fn reset(args: &Args, wanted: &Reset) -> Exit {
    attempt(args, wanted).unwrap_or_else(|exit| exit)
}

fn attempt(args: &Args, wanted: &Reset) -> Result<Exit, Exit> {
    let belongings = Belongings::of(&args.config).map_err(|problems| {
        complain_about(&problems);
        complain(UNREADABLE.0, UNREADABLE.1);
        blame(&args.config)
    })?;
    if !wanted.yes {
        let list: Vec<String> = belongings
            .list()
            .map(|path| format!("  {}", path.display()))
            .collect();
        print(&format!(
            "would end the agent, after it has handed over, and remove these, with what is in them:\n{}\n",
            list.join("\n")
        ));
        complain(
            "nothing was done",
            "make a backup and keep a copy of the key, then repeat this with --yes",
        );
        return Err(Exit::Failed);
    }
    if let Some(client) = running(args)? {
        end(client, args, wanted.force)?;
    }
    match belongings.remove() {
        Ok(()) => Ok(print(
            "configuration, keys and state of this node are gone\n",
        )),
        Err((path, error)) => {
            complain(
                &format!("{}: {error}", path.display()),
                "repeat this when that is mended",
            );
            Err(Exit::Failed)
        }
    }
}

/// Has the agent hand over and end, and waits until it is gone.
fn end(mut client: Client, args: &Args, force: bool) -> Result<(), Exit> {
    hand_over(&mut client, args, force)?;
    client
        .request::<Done>(&Request::Stop)
        .map_err(|error| explain(&error, args))?;
    drop(client);
    let socket = socket(args)?;
    let begin = clock::now();
    // Until the process is gone: it goes on writing its state until then.
    while control::is_alive(&socket).unwrap_or(false) {
        if clock::now().since(begin) > END_MAX {
            complain(
                "the agent does not end",
                "look at its log; nothing was removed",
            );
            return Err(Exit::Failed);
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
