//! Places at which a test lets the agent die, as `kill -9` would, and a wall clock that a test sets wrong. They exist
//! only with the feature `fault-points`, which no build but that of the tests has.

/// The variable that names the place.
pub const VARIABLE: &str = "HA_FAULT_POINT";

/// The variable that names a file which says by how many seconds the wall clock is wrong, at this moment: namespaces
/// have no such clock of their own.
pub const CLOCK: &str = "HA_FAULT_CLOCK";

/// The steps of taking over a configuration, in their order.
pub const APPLY: [&str; 9] = [
    "apply_begins",
    "lost_kept",
    "configuration_half_written",
    "configuration_written",
    "record_half_written",
    "record_written",
    "configuration_replaced",
    "configuration_applied",
    "record_replaced",
];

/// The steps of a new node that joins a pair, in their order.
pub const JOIN: [&str; 5] = [
    "join_received",
    "join_key_in_place",
    "configuration_half_written",
    "configuration_written",
    "join_in_place",
];

/// Dies here, if it is to.
#[cfg(feature = "fault-points")]
pub fn point(name: &str) {
    if std::env::var_os(VARIABLE).is_some_and(|wanted| wanted == name) {
        // Nothing is left to do if that fails: the caller goes on.
        let _sent = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

/// Dies here, if it is to: never, in this build.
#[cfg(not(feature = "fault-points"))]
pub const fn point(_name: &str) {}

/// Panics here, if it is to.
#[cfg(feature = "fault-points")]
#[expect(clippy::panic, reason = "what tests want to see the end of")]
pub fn panics(name: &str) {
    if std::env::var_os(VARIABLE).is_some_and(|wanted| wanted == name) {
        panic!("as {VARIABLE} wants");
    }
}

/// Panics here, if it is to: never, in this build.
#[cfg(not(feature = "fault-points"))]
pub const fn panics(_name: &str) {}

/// By how many seconds the wall clock is to be wrong.
#[cfg(feature = "fault-points")]
pub fn clock_error() -> i64 {
    let file = std::env::var_os(CLOCK);
    let text = file.and_then(|file| std::fs::read_to_string(file).ok());
    text.and_then(|text| text.trim().parse().ok())
        .unwrap_or_default()
}

/// By how many seconds the wall clock is to be wrong: by none, in this build.
#[cfg(not(feature = "fault-points"))]
pub const fn clock_error() -> i64 {
    0
}
