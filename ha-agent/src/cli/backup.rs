//! `backup` and `restore`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::args::{Args, Restore};
use super::local::blame;
use super::remote::{explain, running};
use super::{Exit, complain, complain_about, print, print_json};
use crate::config::backup::{self, Backup, BackupError, Part};
use crate::config::model::Config;
use crate::config::{self, Diagnostic, Loaded};
use crate::control::{Client, ConfigShown, Reloaded, Request};
use crate::shell::atomic::replace;
use crate::status::model::SCHEMA_VERSION;

/// `backup`: of the configuration in force, or of the file where no agent runs.
pub(super) fn backup(args: &Args, file: Option<&Path>) -> Exit {
    let loaded = match in_force(args) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let text = backup::make(&loaded, Timestamp::now());
    let Some(file) = file else {
        return print(&text);
    };
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut out| out.write_all(text.as_bytes()).and_then(|()| out.sync_all()));
    match written {
        Ok(()) => print(&format!(
            "{}: backup of {}; the keys of the pair are not in it, keep a copy of {} elsewhere\n",
            file.display(),
            loaded.config.node.name,
            loaded.config.node.key_file.display()
        )),
        Err(error) => {
            let remedy = if error.kind() == io::ErrorKind::AlreadyExists {
                "a backup is never overwritten: name another file"
            } else {
                "check the path and the disk"
            };
            complain(&format!("{}: {error}", file.display()), remedy);
            failed(&error)
        }
    }
}

fn in_force(args: &Args) -> Result<Loaded, Exit> {
    let Some(mut client) = running(args)? else {
        return Config::load(&args.config).map_err(|problems| {
            complain_about(&problems);
            blame(&args.config)
        });
    };
    let shown: ConfigShown = client
        .request(&Request::ShowConfig)
        .map_err(|error| explain(&error, args))?;
    Config::parse(&args.config, shown.text.into_bytes()).map_err(|problems| {
        complain_about(&problems);
        complain(
            "this version cannot read what the running agent uses",
            "use the version that runs: see `ha-agent status`",
        );
        Exit::Config
    })
}

/// What `restore --json` prints.
#[derive(Serialize)]
struct Restored<'a> {
    schema_version: u32,
    /// Whether the file is in place.
    applied: bool,
    /// What a running agent takes over, one sentence each.
    changes: &'a [String],
    /// What needs a start.
    restart: &'a [Diagnostic],
    /// Where the file before is.
    old: Option<PathBuf>,
}

/// `restore`.
pub(super) fn restore(args: &Args, wanted: &Restore) -> Exit {
    attempt(args, wanted).unwrap_or_else(|exit| exit)
}

fn attempt(args: &Args, wanted: &Restore) -> Result<Exit, Exit> {
    let file = &args.config;
    let parts: &[Part] = if wanted.parts.is_empty() {
        &Part::ALL
    } else {
        &wanted.parts
    };
    // Everything is looked at before anything is touched.
    let backup = read(&wanted.file)?;
    let current = in_place(file)?;
    let agent = running(args)?;
    let unfit = |error: BackupError| refuse(&wanted.file, &error);
    let text = backup.restore(current.as_ref(), parts).map_err(unfit)?;
    let fresh = Config::parse(file, text.clone().into_bytes()).map_err(|problems| {
        complain_about(&problems);
        complain(
            "the chosen parts and the file in place do not fit together",
            "nothing was changed; restore more parts, or mend the file in place first",
        );
        Exit::Config
    })?;
    let meant = backup.check(&fresh.config, current.as_ref().map(|c| &c.config), parts);
    meant.map_err(unfit)?;
    fresh.secrets().map_err(|problems| {
        complain_about(&problems);
        complain(
            "a backup holds no keys",
            "bring the key of the pair first; nothing was changed",
        );
        Exit::Config
    })?;

    let (changes, restart) = match current
        .as_ref()
        .map(|old| config::diff(&old.config, &fresh))
    {
        None => (
            vec!["there is no file yet: all of it is new".to_owned()],
            Vec::new(),
        ),
        Some(Ok(changes)) => (
            changes.iter().map(ToString::to_string).collect(),
            Vec::new(),
        ),
        Some(Err(restart)) => (Vec::new(), restart),
    };
    if !restart.is_empty() && agent.is_some() && !wanted.dry_run {
        complain_about(&restart);
        complain(
            "the running agent cannot take this over",
            "nothing was changed; `systemctl stop ha-agent` (the partner takes over), restore, and start it again",
        );
        return Err(Exit::Failed);
    }
    let mut result = Restored {
        schema_version: SCHEMA_VERSION,
        applied: false,
        changes: &changes,
        restart: &restart,
        old: None,
    };
    if !wanted.dry_run {
        result.old = put(args, &text, current.is_some(), agent)?;
        result.applied = true;
    }
    Ok(if args.json {
        print_json(&result)
    } else {
        print(&told(file, &result))
    })
}

fn told(file: &Path, result: &Restored<'_>) -> String {
    let mut lines = result.changes.to_vec();
    lines.extend(result.restart.iter().map(ToString::to_string));
    if lines.is_empty() {
        lines.push("nothing changes".to_owned());
    }
    let file = file.display();
    lines.push(match (result.applied, &result.old) {
        (false, _) => format!("{file}: not changed, as --dry-run says"),
        (true, None) => format!("{file}: restored"),
        (true, Some(old)) => format!("{file}: restored; the one before is {}", old.display()),
    });
    lines.join("\n") + "\n"
}

fn read(file: &Path) -> Result<Backup, Exit> {
    if matches!(file.try_exists(), Ok(false)) {
        complain(
            &format!("{}: there is no such file", file.display()),
            "nothing was changed; name a file that `ha-agent backup` made",
        );
        return Err(Exit::Failed);
    }
    let bytes = config::read(file).map_err(|problems| {
        complain_about(&problems);
        blame(file)
    })?;
    Backup::read(file, bytes).map_err(|error| refuse(file, &error))
}

fn refuse(file: &Path, error: &BackupError) -> Exit {
    let remedy = match error {
        BackupError::Configuration(problems) => {
            complain_about(problems);
            "nothing was changed; it was made by another version, perhaps: see its second line"
        }
        BackupError::NotOne | BackupError::Format(_) => {
            "nothing was changed; name a file that `ha-agent backup` of this version made"
        }
        BackupError::Checksum => {
            "nothing was changed; take another copy. What was edited on purpose is a configuration file: remove the \
             first four lines, and put it in place as one"
        }
        BackupError::OtherKind(..) => {
            "nothing was changed; a node's backup is for nodes of its kind"
        }
        BackupError::OtherNode(..) => {
            "nothing was changed; leave this node's section as it is: `--part pair --part services`"
        }
        BackupError::NoSections(..) | BackupError::Meaning => {
            "nothing was changed; restore all parts, or edit the file in place"
        }
    };
    complain(&format!("{}: {error}", file.display()), remedy);
    if matches!(error, BackupError::Configuration(_)) {
        Exit::Config
    } else {
        Exit::Failed
    }
}

/// The file that is there, if there is one.
fn in_place(file: &Path) -> Result<Option<Loaded>, Exit> {
    if matches!(fs::symlink_metadata(file), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    Config::load(file).map(Some).map_err(|problems| {
        complain_about(&problems);
        complain(
            "the file in place cannot be used, so nothing tells which node this is",
            "mend it, or move it away to restore all of the backup",
        );
        blame(file)
    })
}

/// Replaces the file, and has a running agent take it over; if that does not, everything is as before. Returns where
/// the old file is.
fn put(
    args: &Args,
    text: &str,
    exists: bool,
    agent: Option<Client>,
) -> Result<Option<PathBuf>, Exit> {
    let file = &args.config;
    let old = exists.then(|| {
        let mut name = file.clone().into_os_string();
        name.push(".old");
        PathBuf::from(name)
    });
    // A second name for the old file, so that there is a whole one in place at every moment.
    let placed = old.as_ref().map_or(Ok(()), |old| {
        match fs::remove_file(old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::hard_link(file, old)
    });
    placed
        .and_then(|()| replace(file, text.as_bytes()))
        .map_err(|error| {
            complain(
                &format!("{}: {error}", file.display()),
                "nothing was changed; check the disk",
            );
            failed(&error)
        })?;
    let Some(mut client) = agent else {
        return Ok(old);
    };
    match client.request::<Reloaded>(&Request::Reload) {
        Ok(reloaded) => {
            complain_about(&reloaded.warnings);
            Ok(old)
        }
        Err(error) => {
            let exit = explain(&error, args);
            let back = match &old {
                Some(old) => fs::rename(old, file),
                None => fs::remove_file(file),
            };
            match back {
                Ok(()) => complain(
                    "the file before is in place again",
                    "see above for the reason",
                ),
                Err(error) => complain(
                    &format!(
                        "{}: the file before is not in place again: {error}",
                        file.display()
                    ),
                    "put it back by hand: its name ends in .old",
                ),
            }
            Err(exit)
        }
    }
}

fn failed(error: &io::Error) -> Exit {
    if error.kind() == io::ErrorKind::PermissionDenied {
        Exit::Permission
    } else {
        Exit::Failed
    }
}
