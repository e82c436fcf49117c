//! `ha-agent events`: what has happened, from the agent or, when none is running, from its files.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::args::Args;
use super::{Exit, complain, print, print_json, remote};
use crate::config::{self, read_duration};
use crate::control::{Client, ClientError, Request};
use crate::events::{EventPage, EventQuery, Kind, PAGE_MAX, store};
use crate::shell::clock;
use crate::status::render::{self, Style};

/// Which events to show.
#[derive(Debug, clap::Args)]
pub struct Events {
    /// Not older than this: a duration like 2h, or a time like 2026-11-29, 2026-11-29T17:30 (of this machine's
    /// zone) or 2026-11-29T17:30:00Z
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub since: Option<Timestamp>,
    /// Only of this kind
    #[arg(long, value_name = "NAME", value_parser = event_kinds())]
    pub kind: Option<String>,
    /// Most to show, the newest
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub limit: u16,
    /// Go on with what happens next, until interrupted; with --json an object a line
    #[arg(long)]
    pub follow: bool,
}

fn event_kinds() -> PossibleValuesParser {
    PossibleValuesParser::new(Kind::ALL.iter().map(|kind| kind.as_str()))
}

/// A point in time: so long ago, or by the clock.
fn when(text: &str) -> Result<Timestamp, String> {
    if let Some(ago) = read_duration(text) {
        let then = clock::wall().saturating_sub(ago).as_millis();
        let then = i64::try_from(then).map_err(|error| error.to_string())?;
        return Timestamp::from_millisecond(then).map_err(|error| error.to_string());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let local = text.parse::<DateTime>().ok();
    let zoned = local.and_then(|local| local.to_zoned(TimeZone::system()).ok());
    zoned.map(|zoned| zoned.timestamp()).ok_or_else(|| {
        "write a duration like 2h, or a time like 2026-11-29, 2026-11-29T17:30 or 2026-11-29T17:30:00Z"
            .to_owned()
    })
}

/// How often `--follow` looks for more: an agent serves few clients at a time, so none of them stays.
const POLL: Duration = Duration::from_millis(500);

/// Shows events.
pub(super) fn events(args: &Args, wanted: &Events) -> Exit {
    let socket = match remote::socket(args) {
        Ok(socket) => socket,
        Err(exit) => return exit,
    };
    let mut source = Source {
        args,
        socket,
        told: false,
    };
    let mut query = EventQuery {
        since: wanted.since,
        after: None,
        kind: wanted.kind.clone(),
        limit: wanted.limit.into(),
    };
    let page = match source.ask(&query) {
        Ok(page) => page,
        Err(exit) => return exit,
    };
    if page.unreadable > 0 {
        let what = format!("{} lines of the history could not be read", page.unreadable);
        complain(
            &what,
            "a line that a crash cut short is one; for more, look at the disk",
        );
    }
    if !wanted.follow {
        return if args.json {
            print_json(&page)
        } else {
            print(&render::events(&page.events, Style::detect()))
        };
    }
    let mut page = page;
    loop {
        if !show(&page, args.json) {
            // A reader that has seen enough.
            return Exit::Ok;
        }
        query.after = Some(page.next);
        query.limit = PAGE_MAX;
        thread::sleep(POLL);
        // One that is being replaced or restarted comes back.
        page = match source.ask(&query) {
            Ok(page) => page,
            Err(exit) => return exit,
        };
    }
}

fn show(page: &EventPage, json: bool) -> bool {
    let text = if json {
        let lines = page
            .events
            .iter()
            .filter_map(|event| serde_json::to_string(event).ok());
        lines.map(|line| line + "\n").collect()
    } else {
        render::events(&page.events, Style::detect())
    };
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes());
    written.and_then(|()| out.flush()).is_ok()
}

/// Where events come from.
struct Source<'a> {
    args: &'a Args,
    socket: PathBuf,
    /// That no agent is running was said.
    told: bool,
}

impl Source<'_> {
    fn ask(&mut self, query: &EventQuery) -> Result<EventPage, Exit> {
        let answer = Client::connect(&self.socket)
            .and_then(|mut client| client.request(&Request::Events(query.clone())));
        match answer {
            Ok(page) => {
                self.told = false;
                Ok(page)
            }
            Err(error @ ClientError::NotRunning { .. }) if self.args.socket.is_some() => {
                Err(remote::explain(&error, self.args))
            }
            Err(ClientError::NotRunning { .. }) => self.read(query),
            Err(error) => Err(remote::explain(&error, self.args)),
        }
    }

    fn read(&mut self, query: &EventQuery) -> Result<EventPage, Exit> {
        let directory = config::state_dir(&self.args.config).map_err(|problems| {
            super::complain_about(&problems);
            super::local::blame(&self.args.config)
        })?;
        if !self.told {
            self.told = true;
            let what = format!(
                "no agent is running; this is what {} holds",
                directory.display()
            );
            complain(&what, "start it with `systemctl start ha-agent`");
        }
        store::query(&directory, query).map_err(|error| {
            complain(
                &format!("{}: {error}", directory.display()),
                "run as a user who may read it",
            );
            if error.kind() == io::ErrorKind::PermissionDenied {
                Exit::Permission
            } else {
                Exit::Failed
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::when;

    #[test]
    fn points_in_time() {
        let utc = when("2026-11-29T17:30:00Z").unwrap();
        assert_eq!(utc.to_string(), "2026-11-29T17:30:00Z");
        assert_eq!(when("2026-11-29T18:30:00+01:00").unwrap(), utc);
        let day = when("2026-11-29").unwrap();
        assert_eq!(when("2026-11-29T00:00").unwrap(), day);
        let ago = when("1h").unwrap();
        assert!(ago < when("59m").unwrap());
        for bad in ["", "yesterday", "2h30", "2026-13-01", "1h ago"] {
            assert!(when(bad).is_err(), "{bad}");
        }
    }
}
