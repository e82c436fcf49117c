//! Places at which a test lets the agent die, as `kill -9` would. They exist only with the feature
//! `fault-points`, which no build but that of the tests has.

/// The variable that names the place.
pub const VARIABLE: &str = "HA_FAULT_POINT";

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
