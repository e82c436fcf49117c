//! `pair`: a new node gets key and configuration from the one that is there, with a code that a person carries.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use clap::Subcommand;
use nix::ifaddrs::getifaddrs;

use super::args::Args;
use super::remote::{explain, socket};
use super::{Exit, complain, complain_about, print, print_json, tell};
use crate::config::Loaded;
use crate::config::model::Mode;
use crate::control::{self, Client, Request};
use crate::fault;
use crate::keys::PairKeys;
use crate::pairing::code::Code;
use crate::pairing::newcomer::{self, Machine, Unfit};
use crate::pairing::{Gift, PairReply, PairRequest, Taken};
use crate::shell::atomic::{replace_configuration, replace_secret};
use crate::shell::confsync::join::{self, JoinError};

/// Which end of a pairing.
#[derive(Debug, Subcommand)]
pub enum Pair {
    /// Make a one-time code for a new node, and wait until it has come
    Offer {
        /// How long the code is good
        #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=60))]
        minutes: u32,
    },
    /// Make this machine the other node: with key and configuration of the one that made the code
    Join(Join),
}

/// How to join.
#[derive(Debug, clap::Args)]
pub struct Join {
    /// Where the other node is, as it says; and :PORT unless that is 6973
    pub address: String,
    /// The code [default: it is asked for, so that no list of processes shows it]
    pub code: Option<String>,
    /// Name of this node [default: the host's]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Device of an interface of the pair; may be repeated [default: the one with the address that the other node expects]
    #[arg(long = "device", value_name = "INTERFACE=DEVICE", value_parser = chosen)]
    pub devices: Vec<(String, String)>,
    /// Do not start the agent
    #[arg(long)]
    pub no_start: bool,
}

fn chosen(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((interface, device)) if !interface.is_empty() && !device.is_empty() => {
            Ok((interface.to_owned(), device.to_owned()))
        }
        _ => Err("an interface of the pair, = and a device of this machine, for example back=eth1"),
    }
}

/// Where the other node listens unless its configuration says otherwise.
const PORT: u16 = 6973;
/// How often it is looked whether somebody came.
const LOOK: Duration = Duration::from_millis(300);

/// `pair`.
pub(super) fn pair(args: &Args, action: &Pair) -> Exit {
    let ended = match action {
        Pair::Offer { minutes } => offer(args, *minutes),
        Pair::Join(wanted) => join(args, wanted),
    };
    ended.unwrap_or_else(|exit| exit)
}

fn ask(args: &Args, request: PairRequest) -> Result<PairReply, Exit> {
    let answer = Client::connect(&socket(args)?)
        .and_then(|mut client| client.request(&Request::Pair(request)));
    answer.map_err(|error| explain(&error, args))
}

/// Has a code made, and waits until somebody has used it.
fn offer(args: &Args, minutes: u32) -> Result<Exit, Exit> {
    let offered = ask(args, PairRequest::Offer { minutes })?;
    let PairReply::Offered {
        number,
        code,
        address,
    } = &offered
    else {
        complain(
            "the agent made no code",
            "use an ha-agent of the version that runs",
        );
        return Err(Exit::Failed);
    };
    if args.json {
        print_json(&offered);
    } else {
        let address = match address.port() {
            PORT => address.ip().to_string(),
            _ => address.to_string(),
        };
        print(&format!(
            "On the new node, within {minutes} minutes:\n\n    ha-agent pair join {address} {code}\n\n\
             The code is good for one node, and as long as this waits; ^C withdraws it.\n"
        ));
    }
    let mut warned = None;
    loop {
        thread::sleep(LOOK);
        let reply = ask(args, PairRequest::Watch { number: *number })?;
        match &reply {
            PairReply::Waiting { attempts, .. } => {
                if warned
                    .replace(*attempts)
                    .is_some_and(|before| before != *attempts)
                {
                    tell(&format!(
                        "somebody came with a wrong code; {attempts} attempts are left"
                    ));
                }
            }
            PairReply::Telling | PairReply::Offered { .. } => {}
            PairReply::Given { name, to } => {
                return Ok(if args.json {
                    print_json(&reply)
                } else {
                    print(&format!(
                        "{name} ({to}) has key and configuration, and starts; `ha-agent status` shows the pair\n"
                    ))
                });
            }
            PairReply::Void { why } => {
                complain(
                    &format!("the code is void: {why}"),
                    "have another one made: `ha-agent pair offer`",
                );
                return Err(Exit::Failed);
            }
        }
    }
}

/// Makes this machine the other node.
fn join(args: &Args, wanted: &Join) -> Result<Exit, Exit> {
    let address = address(&wanted.address)?;
    bare(args)?;
    let machine = machine(wanted)?;
    let code = code(wanted.code.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| system(&error))?;
    let (gift, joining) = runtime
        .block_on(join::fetch(address, &code))
        .map_err(|error| refused(&error))?;
    fault::point("join_received");
    let placed = compose(&gift, args, &machine).and_then(|loaded| put(&gift, args, &loaded));
    let taken = match &placed {
        Ok(_) => Taken::Done(machine.name.clone()),
        Err((_, why)) => Taken::Refused(why.clone()),
    };
    let told = runtime.block_on(joining.answer(&taken));
    let loaded = placed.map_err(|(exit, _)| exit)?;
    if let Err(error) = told {
        tell(&format!(
            "ha-agent: {error}; everything is in place here all the same"
        ));
    }
    complain_about(&loaded.warnings);
    print(&format!(
        "{}: made; this is {}, the {} node of the pair\n",
        args.config.display(),
        machine.name,
        if loaded.config.node.mode == Mode::First {
            "first"
        } else {
            "second"
        }
    ));
    if wanted.no_start {
        return Ok(print("start it with `systemctl start ha-agent`\n"));
    }
    Ok(start())
}

/// `ADDRESS` or `ADDRESS:PORT`.
fn address(text: &str) -> Result<SocketAddr, Exit> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let address = bare
        .parse::<IpAddr>()
        .map(|address| SocketAddr::new(address, PORT));
    address.map_err(|_none| {
        complain(
            &format!("`{text}` is no address"),
            "write the address that `ha-agent pair offer` shows, and :PORT if it shows one",
        );
        Exit::Failed
    })
}

/// Whether there is nothing here that would be lost.
fn bare(args: &Args) -> Result<(), Exit> {
    let file = &args.config;
    if fs::symlink_metadata(file).is_ok() {
        complain(
            &format!(
                "{}: this machine has a configuration already",
                file.display()
            ),
            "`ha-agent reset --yes` makes it a new one; nothing was changed",
        );
        return Err(Exit::Failed);
    }
    Ok(())
}

/// As typed with the command, or as a line of standard input: that way nobody sees it in a list of processes.
fn code(typed: Option<&str>) -> Result<Code, Exit> {
    let mut line = String::new();
    let text = if let Some(typed) = typed {
        typed
    } else {
        tell("the code that `ha-agent pair offer` shows on the other node:");
        io::stdin()
            .lock()
            .read_line(&mut line)
            .map_err(|error| system(&error))?;
        &line
    };
    Code::parse(text).map_err(|error| {
        complain(
            &error.to_string(),
            "type it again; nothing was tried with it",
        );
        Exit::Failed
    })
}

fn machine(wanted: &Join) -> Result<Machine, Exit> {
    let name = if let Some(name) = &wanted.name {
        name.clone()
    } else {
        let name = fs::read_to_string("/proc/sys/kernel/hostname");
        let name = name.map_err(|error| system(&error))?;
        let host = name.trim().split('.').next();
        host.unwrap_or_default().to_owned()
    };
    let mut devices: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for found in getifaddrs().map_err(|errno| system(&errno.into()))? {
        let addresses = devices.entry(found.interface_name).or_default();
        let Some(address) = found.address else {
            continue;
        };
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
        addresses.extend(v4.or(v6));
    }
    for (interface, device) in &wanted.devices {
        if !devices.contains_key(device) {
            complain(
                &format!("this machine has no device `{device}` for interface `{interface}`"),
                "`ip -br link` lists them; nothing was tried with the code",
            );
            return Err(Exit::Failed);
        }
    }
    Ok(Machine {
        name,
        devices,
        chosen: wanted.devices.iter().cloned().collect(),
    })
}

/// Why nothing is in place: for whoever typed the command, and for the other node.
type Unplaced = (Exit, String);

fn compose(gift: &Gift, args: &Args, machine: &Machine) -> Result<Loaded, Unplaced> {
    let path = std::path::absolute(&args.config).unwrap_or_else(|_| args.config.clone());
    newcomer::compose(gift, &path, machine).map_err(|unfit| {
        let what = unfit.to_string();
        if let Unfit::Foreign(_, problems) | Unfit::Unusable(problems) = &unfit {
            complain_about(problems);
        }
        complain(&what, &format!("{}; nothing was changed", unfit.remedy()));
        (Exit::Config, what)
    })
}

/// Puts everything in place, the configuration last: until it is there this machine is no node.
fn put(gift: &Gift, args: &Args, loaded: &Loaded) -> Result<Loaded, Unplaced> {
    let node = &loaded.config.node;
    let unplaced = |path: &Path, what: &str, remedy: &str| {
        let what = format!("{}: {what}", path.display());
        complain(&what, remedy);
        (Exit::Failed, what)
    };
    let alive = control::is_alive(&node.socket()).unwrap_or(false);
    if alive {
        let remedy = "end it first; nothing was changed";
        return Err(unplaced(&node.socket(), "an agent is running here", remedy));
    }
    PairKeys::parse(&node.key_file, &gift.key).map_err(|error| {
        let what = format!("the key that came is none: {error}");
        complain(&what, "make a key on the other node; nothing was changed");
        (Exit::Failed, what)
    })?;
    let mut secrets = vec![(&node.key_file, &gift.key)];
    if let (Some(file), Some(text)) = (&node.carp_passphrase_file, &gift.passphrase) {
        secrets.push((file, text));
    }
    for (path, text) in &secrets {
        // What a run that was cut short has left is the same.
        if fs::read_to_string(path).is_ok_and(|there| there != **text) {
            let remedy = "move it away if it is not needed any more; nothing was changed";
            return Err(unplaced(path, "another key is here already", remedy));
        }
    }
    let mut made: Vec<PathBuf> = Vec::new();
    let written = secrets.iter().try_for_each(|(path, text)| {
        let new = !path.exists();
        let placed = directory(path).and_then(|()| replace_secret(path, text.as_bytes()));
        placed.map_err(|error| ((*path).clone(), error))?;
        if new {
            made.push((*path).clone());
        }
        Ok::<_, (PathBuf, io::Error)>(())
    });
    fault::point("join_key_in_place");
    let written = written.and_then(|()| {
        let file = &args.config;
        let placed =
            directory(file).and_then(|()| replace_configuration(file, loaded.text().as_bytes()));
        placed.map_err(|error| (file.clone(), error))
    });
    fault::point("join_in_place");
    if let Err((path, error)) = written {
        for path in made {
            // It was not there before.
            let _gone = fs::remove_file(path);
        }
        let remedy = "check the disk; nothing was changed";
        return Err(unplaced(&path, &error.to_string(), remedy));
    }
    Ok(loaded.clone())
}

fn directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Has the service manager start the agent.
fn start() -> Exit {
    let by_hand = "everything is in place; start the agent by hand: `ha-agent run`";
    match Command::new("systemctl")
        .args(["start", "ha-agent"])
        .status()
    {
        Ok(status) if status.success() => {
            print("the agent runs; `ha-agent status` shows the pair\n")
        }
        Ok(status) => {
            complain(
                &format!("`systemctl start ha-agent` failed ({status})"),
                by_hand,
            );
            Exit::Failed
        }
        Err(error) => {
            complain(&format!("systemctl: {error}"), by_hand);
            Exit::Failed
        }
    }
}

fn refused(error: &JoinError) -> Exit {
    complain(
        &error.to_string(),
        &format!("{}; nothing was changed", error.remedy()),
    );
    Exit::Failed
}

fn system(error: &io::Error) -> Exit {
    complain(
        &format!("the system refused: {error}"),
        "nothing was changed",
    );
    Exit::Failed
}
