//! `top`: node and pair, live in the terminal.
//!
//! One thread asks the agent, this one draws and listens to keys: an agent that is slow to answer leaves the keys
//! alive. Whatever ends it (a key, a signal, a panic), the terminal is as it was.

mod rates;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::args::{Args, Top};
use super::remote::{explain, socket};
use super::{Exit, complain};
use crate::control::{Client, ClientError, Request};
use crate::fault;
use crate::shell::clock;
use crate::status::render::Style;
use rates::Sample;
use view::{Agent, Picture};

/// How often keys and signals are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Lines that a page key moves by.
const PAGE: u16 = 10;

/// `top`.
pub(super) fn top(args: &Args, wanted: &Top) -> Exit {
    if !io::stdout().is_terminal() || args.json {
        complain(
            "`top` draws on a terminal, and standard output is none, or JSON is wanted",
            "use `ha-agent status --json` and `ha-agent services --json`, or the metrics of docs/metrics.md",
        );
        return Exit::Failed;
    }
    let socket = match socket(args) {
        Ok(socket) => socket,
        Err(exit) => return exit,
    };
    let first = match ask(&socket) {
        Ok(sample) => sample,
        Err(error) => return explain(&error, args),
    };
    // Before the thread is made, which inherits it: signals are read, not suffered.
    let signals = match ends() {
        Ok(signals) => signals,
        Err(error) => return failed(&error),
    };
    let samples = watch(socket, wanted.every);
    let mut terminal = match ratatui::try_init() {
        Ok(terminal) => terminal,
        Err(error) => return failed(&error),
    };
    let mut screen = Screen {
        picture: Picture::new(first, wanted.every, Style::detect().color),
        samples,
        signals,
    };
    let ended = {
        let _restored = Restored;
        screen.run(&mut terminal)
    };
    match ended {
        Ok(()) => Exit::Ok,
        Err(error) => failed(&error),
    }
}

fn failed(error: &io::Error) -> Exit {
    complain(
        &format!("the terminal cannot be drawn on: {error}"),
        "use `ha-agent status`",
    );
    Exit::Failed
}

/// Gives the terminal back. A panic has done so already, so that it can be read.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        if !thread::panicking() {
            ratatui::restore();
        }
    }
}

/// The signals that end it.
fn ends() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

/// One look at the agent, over a connection of its own: none is held between two.
fn ask(socket: &Path) -> Result<Sample, ClientError> {
    let mut client = Client::connect(socket)?;
    Ok(Sample {
        status: client.request(&Request::Status)?,
        services: client.request(&Request::Services)?,
        counters: client.request(&Request::Counters)?,
        at: clock::now(),
    })
}

/// Asks again and again, for as long as somebody takes the answers.
fn watch(socket: PathBuf, every: Duration) -> Receiver<Result<Sample, ClientError>> {
    // Who does not take them in time gets them later, and no more than one is old.
    let (sender, receiver): (SyncSender<_>, _) = sync_channel(1);
    thread::spawn(move || {
        loop {
            thread::sleep(every);
            if sender.send(ask(&socket)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    End,
    Pause,
    Help,
    Move(i32),
    Nothing,
}

impl Act {
    fn of(key: KeyEvent) -> Self {
        if key.kind == KeyEventKind::Release {
            return Self::Nothing;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "keys of another crate, of which most mean nothing here"
        )]
        match key.code {
            KeyCode::Char('c') if control => Self::End,
            KeyCode::Char('q') | KeyCode::Esc => Self::End,
            KeyCode::Char(' ' | 'p') => Self::Pause,
            KeyCode::Char('?' | 'h') => Self::Help,
            KeyCode::Char('k') | KeyCode::Up => Self::Move(-1),
            KeyCode::Char('j') | KeyCode::Down => Self::Move(1),
            KeyCode::PageUp => Self::Move(-i32::from(PAGE)),
            KeyCode::PageDown => Self::Move(i32::from(PAGE)),
            KeyCode::Home => Self::Move(i32::MIN),
            KeyCode::End => Self::Move(i32::MAX),
            _ => Self::Nothing,
        }
    }
}

struct Screen {
    picture: Picture,
    samples: Receiver<Result<Sample, ClientError>>,
    signals: SignalFd,
}

impl Screen {
    fn run(&mut self, terminal: &mut DefaultTerminal) -> io::Result<()> {
        let mut stale = true;
        loop {
            if stale {
                terminal.draw(|frame| view::draw(frame, &mut self.picture))?;
            }
            fault::panics("top_drawn");
            stale = false;
            if event::poll(LOOK)? {
                stale = true;
                match event::read()? {
                    Event::Key(key) => match Act::of(key) {
                        Act::End => return Ok(()),
                        Act::Pause => self.picture.paused = !self.picture.paused,
                        Act::Help => self.picture.help = !self.picture.help,
                        Act::Move(by) => self.picture.scroll(by),
                        Act::Nothing => {}
                    },
                    Event::Resize(..)
                    | Event::FocusGained
                    | Event::FocusLost
                    | Event::Mouse(_)
                    | Event::Paste(_) => {}
                }
            }
            if self.signals.read_signal()?.is_some() {
                return Ok(());
            }
            while let Ok(sample) = self.samples.try_recv() {
                stale |= self
                    .picture
                    .take(sample.map_err(|error| Agent::Silent(error.to_string())));
            }
        }
    }
}
