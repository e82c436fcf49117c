//! `ha-agent events`: what has happened, from the agent or, when none is running, from its files.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::args::{Args, Events};
use super::{Exit, complain, print, print_json, remote};
use crate::config;
use crate::control::{Client, ClientError, Request};
use crate::events::{EventPage, EventQuery, PAGE_MAX, store};
use crate::status::render::{self, Style};

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
