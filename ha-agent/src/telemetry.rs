//! Log lines: on standard error, or in systemd's journal if that is where standard error goes.
//!
//! One line an event, values as fields: `role change from=standby to=active`. In the journal each value is a field
//! of its own, `HA_` and its name in capitals. Secrets are never given to a log call; types that hold them do not
//! print them.
//!
//! What goes into the event history ([`crate::events`]) is told twice: in its own words ([`EVENT`]), and with the
//! fields of the journal ([`JOURNAL`]). Either place shows one of them.

use std::io::{self, IsTerminal as _};

use nix::sys::stat::fstat;
use tracing::Metadata;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// Target of lines about what the event history tells the journal by itself.
pub const EVENT: &str = "ha_agent::event";
/// Target of what the event history tells the journal.
pub const JOURNAL: &str = "ha_agent::journal";

/// What is logged unless `HA_LOG` or `RUST_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info";

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people on a terminal, else plain text
    #[default]
    Auto,
    /// Plain text: time, level, message, fields
    Text,
    /// One JSON object a line
    Json,
}

/// Starts logging. To be called once; later calls change nothing.
pub fn start(format: LogFormat) {
    let (filter, complaint) = filter();
    let terminal = io::stderr().is_terminal();
    let quiet = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let (mut journal, mut no_journal) = (None, None);
    let to_journal = leads_to_journal();
    if format == LogFormat::Auto && to_journal {
        match tracing_journald::layer().and_then(|one| Ok((one, tracing_journald::layer()?))) {
            Ok((lines, events)) => {
                let lines = lines.with_field_prefix(Some("HA".to_owned()));
                let events = events.with_field_prefix(None);
                journal = Some(
                    lines
                        .with_filter(filter_fn(|line| !is(line, JOURNAL) && !is(line, EVENT)))
                        .and_then(events.with_filter(filter_fn(|line| is(line, JOURNAL)))),
                );
            }
            Err(error) => no_journal = Some(error),
        }
    }
    let text = journal.is_none().then(|| {
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_target(false)
            .with_ansi(terminal && !quiet && format == LogFormat::Auto);
        let lines = match format {
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
            // The journal stamps every line itself: systemd.exec(5).
            LogFormat::Auto if to_journal => lines.without_time().boxed(),
            LogFormat::Auto | LogFormat::Text => lines.boxed(),
        };
        lines.with_filter(filter_fn(|line| !is(line, JOURNAL)))
    });
    let registry = tracing_subscriber::registry().with(filter);
    let started = registry.with(journal).with(text).try_init();
    if let Err(error) = started {
        tracing::debug!(%error, "logging was on already");
    }
    if let Some(complaint) = complaint {
        tracing::warn!("{complaint}");
    }
    if let Some(error) = no_journal {
        tracing::warn!(%error, "the journal takes no fields; it gets lines of text");
    }
}

fn is(line: &Metadata<'_>, target: &str) -> bool {
    line.target() == target
}

/// Whether standard error is a connection to the journal: `$JOURNAL_STREAM` in systemd.exec(5).
fn leads_to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    fstat(io::stderr()).is_ok_and(|found| stream == format!("{}:{}", found.st_dev, found.st_ino))
}

/// The filter from the environment; a wrong one must not keep the agent from running.
fn filter() -> (EnvFilter, Option<String>) {
    let wanted = ["HA_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().map(|text| (name, text)))
        .filter(|(_, text)| !text.is_empty());
    let Some((name, text)) = wanted else {
        return (EnvFilter::new(DEFAULT_FILTER), None);
    };
    match EnvFilter::try_new(&text) {
        Ok(filter) => (filter, None),
        Err(error) => (
            EnvFilter::new(DEFAULT_FILTER),
            Some(format!("{name} is ignored: {error}")),
        ),
    }
}
