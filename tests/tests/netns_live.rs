//! `ha-agent top` on a terminal: what it draws, and that the terminal is as it was afterwards, whatever ended it.

mod common;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_tests::clock::now_ns;
use ha_tests::rig::config::PairConfig;
use ha_tests::rig::locate;
use ha_tests::rig::pair::{Node, Pair};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::{Pid, setsid};

/// How long anything may take that takes a moment.
const PATIENCE: Duration = Duration::from_secs(20);
/// Into and out of the screen that is not kept: xterm's private modes.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";
const SHOW_CURSOR: &str = "\u{1b}[?25h";

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-faulty"],
        &[("the_live_view_leaves_the_terminal_as_it_was", live)],
    )
}

/// A terminal with a program on it.
struct Terminal {
    keys: File,
    slave: File,
    before: Termios,
    seen: Arc<Mutex<Vec<u8>>>,
    child: Child,
}

impl Terminal {
    fn start(program: &str, node: &Node, fault: Option<&str>) -> Result<Self> {
        let size = Winsize {
            ws_row: 30,
            ws_col: 110,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None)?;
        let slave = File::from(pty.slave);
        let before = tcgetattr(&slave)?;
        let mut command = Command::new(locate::program(program)?);
        command.args(["top", "--every", "200ms", "--socket"]);
        command.arg(node.dir().join("run/ctl.sock"));
        command.env("TERM", "xterm");
        if let Some(point) = fault {
            command.env(ha_agent::fault::VARIABLE, point);
        }
        command.stdin(Stdio::from(slave.try_clone()?));
        command.stdout(Stdio::from(slave.try_clone()?));
        command.stderr(Stdio::from(slave.try_clone()?));
        // SAFETY: between fork and exec only system calls are made; nothing allocates.
        unsafe {
            command.pre_exec(|| {
                setsid()?;
                controlling_terminal()
            });
        }
        let child = command.spawn()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut output = File::from(pty.master);
        let keys = output.try_clone()?;
        let kept = Arc::clone(&seen);
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut piece) {
                let mut seen = kept.lock().unwrap_or_else(PoisonError::into_inner);
                seen.extend(piece.iter().take(length));
            }
        });
        Ok(Self {
            keys,
            slave,
            before,
            seen,
            child,
        })
    }

    fn text(&self) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// Waits until these words have been drawn; blanks between words are not always.
    fn wait(&self, words: &[&str]) -> Result<()> {
        let end = now_ns() + u64::try_from(PATIENCE.as_nanos())?;
        loop {
            let text = self.text();
            let missing = words.iter().find(|word| !text.contains(**word));
            let Some(missing) = missing else {
                return Ok(());
            };
            ensure!(now_ns() < end, "no {missing} in {text:?}");
            sleep(Duration::from_millis(20));
        }
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes())?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            signal,
        )?)
    }

    /// Waits for its end, and demands that the terminal is as it was; what was written, and how it ended.
    fn end(mut self) -> Result<(ExitStatus, String)> {
        let end = now_ns() + u64::try_from(PATIENCE.as_nanos())?;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(now_ns() < end, "it does not end: {:?}", self.text());
            sleep(Duration::from_millis(20));
        };
        self.wait(&[LEAVE, SHOW_CURSOR])?;
        let text = self.text();
        let (enter, leave) = (text.find(ENTER), text.rfind(LEAVE));
        ensure!(enter < leave, "{text:?}");
        let after = tcgetattr(self.slave.as_fd())?;
        ensure!(
            (after.local_flags, after.input_flags, after.output_flags)
                == (
                    self.before.local_flags,
                    self.before.input_flags,
                    self.before.output_flags
                ),
            "{after:?} instead of {:?}",
            self.before
        );
        Ok((status, text))
    }
}

/// Makes standard input the terminal that keys come from.
fn controlling_terminal() -> std::io::Result<()> {
    // SAFETY: the call takes a descriptor, which is open, and a number.
    let result = unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// What a healthy pair shows.
const WORDS: [&str; 8] = [
    ENTER,
    "lb1",
    "lb2",
    "SERVICE",
    "10.77.1.100/24",
    "10.77.2.21:8080",
    "Replication",
    "half-open",
];

fn live() -> Result<()> {
    let mut pair = Pair::build(PairConfig::default())?;
    pair.start()?;
    let node = &pair.nodes[0];

    // Where nobody looks, it says what to use instead.
    let refused = node.command(&["top"]).err().context("drawn into a pipe")?;
    let refused = format!("{refused:#}");
    ensure!(refused.contains("ha-agent status --json"), "{refused}");

    for key in ["q", "\u{1b}", "\u{3}"] {
        let mut terminal = Terminal::start("ha-agent", node, None)?;
        terminal.wait(&WORDS)?;
        terminal.press("?")?;
        terminal.wait(&["arrows"])?;
        terminal.press(key)?;
        let (status, text) = terminal.end()?;
        ensure!(status.success(), "{status}: {text:?}");
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let terminal = Terminal::start("ha-agent", node, None)?;
        terminal.wait(&WORDS)?;
        terminal.signal(signal)?;
        let (status, text) = terminal.end()?;
        ensure!(status.success(), "{status}: {text:?}");
    }
    // A panic is told where it can be read.
    let terminal = Terminal::start("ha-faulty", node, Some("top_drawn"))?;
    let (status, text) = terminal.end()?;
    ensure!(!status.success(), "{status}");
    let (_, after) = text.rsplit_once(LEAVE).context("not left")?;
    ensure!(after.contains("panicked"), "{text:?}");

    // An agent that is gone is told of, and the view goes on when it is back.
    let mut terminal = Terminal::start("ha-agent", node, None)?;
    terminal.wait(&WORDS)?;
    let node = &mut pair.nodes[0];
    node.kill()?;
    terminal.wait(&["answer;", "below:"])?;
    node.start()?;
    pair.wait_whole()?;
    terminal.press("q")?;
    let (status, text) = terminal.end()?;
    ensure!(status.success(), "{status}: {text:?}");
    Ok(())
}
