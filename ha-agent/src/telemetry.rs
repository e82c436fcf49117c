//! Log lines on standard error.
//!
//! One line an event, values as fields: `role changed from=standby to=active`. Secrets are never
//! given to a log call; types that hold them do not print them.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

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
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(terminal && !quiet && format == LogFormat::Auto);
    // The journal stamps every line itself: systemd.exec(5).
    let journal = std::env::var_os("JOURNAL_STREAM").is_some() && !terminal;
    let started = match format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Auto if journal => lines.without_time().try_init(),
        LogFormat::Auto | LogFormat::Text => lines.try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(error, "logging was on already");
    }
    if let Some(complaint) = complaint {
        tracing::warn!("{complaint}");
    }
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
