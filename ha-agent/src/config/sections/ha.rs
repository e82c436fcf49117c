//! Section `ha`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::super::diagnostic::Span;
use super::super::model::{CarpAuth, Ha, Mode, Node, Pacify, Preferred, SharedAddress, Transport};
use super::super::network;
use super::super::values;
use super::super::walk::{Field, Section, Walk};

/// Bounds of `advertisement_interval`: CARP carries whole seconds in one byte and 1/256 s in another.
const INTERVAL: (Duration, Duration) = (Duration::from_millis(4), Duration::from_secs(255));
/// Bounds of `timeout`: the trailer carries microseconds in 32 bits, about 71 minutes.
const TIMEOUT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_hours(1));
/// Longest `initial_wait` and `hold_down`.
const WAIT_MAX: Duration = Duration::from_hours(1);
/// Bounds of `pacify.window`.
const WINDOW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(24));
const PACIFY_DEFAULT: Pacify = Pacify {
    restarts: 3,
    window: Duration::from_mins(5),
};
const INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(9);
/// Least default of `hold_down`, which is three timeouts: links flap in seconds.
const HOLD_DOWN_MIN: Duration = Duration::from_secs(1);
const GROUP_DEFAULT: IpAddr = IpAddr::V4(Ipv4Addr::new(239, 255, 69, 73));
/// The same where there is no IPv4: transient, link-local scope (RFC 4291 section 2.7).
const GROUP_DEFAULT_6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0, 0x4549));
const PORT_DEFAULT: u16 = 6974;
/// TCP port of the pair's configuration channel unless configured otherwise.
const UPDATE_PORT: u16 = 6973;

pub(crate) struct HaDraft {
    /// Where the section is, or what stands for it.
    pub(crate) span: Span,
    pub(crate) virtual_id: Field<u8>,
    interval: Field<Duration>,
    timeout: Field<Duration>,
    initial_wait: Field<Duration>,
    hold_down: Field<Duration>,
    preferred: Field<Preferred>,
    virtual_mac: Field<bool>,
    carp_auth: Field<CarpAuth>,
    transport: Field<Transport>,
    pub(crate) multicast_interface: Field<String>,
    pub(crate) multicast_group: Field<IpAddr>,
    multicast_port: Field<u16>,
    pub(crate) update_interface: Field<String>,
    update_port: Field<u16>,
    pub(crate) connection_updates: Field<bool>,
    pub(crate) persistence_updates: Field<bool>,
    restarts: Field<u32>,
    window: Field<Duration>,
}

pub(crate) fn read(walk: &mut Walk<'_>, top: &Section<'_>) -> HaDraft {
    const KEYS: &[&str] = &[
        "virtual_id",
        "advertisement_interval",
        "timeout",
        "initial_wait",
        "hold_down",
        "preferred",
        "virtual_mac",
        "carp_auth",
        "transport",
        "multicast_interface",
        "multicast_group",
        "multicast_port",
        "update_interface",
        "update_port",
        "pacify",
        "l4_connection_updates",
        "persistence_updates",
    ];
    const PREFERRED: &[(&str, Preferred)] = &[
        ("none", Preferred::None),
        ("first", Preferred::First),
        ("second", Preferred::Second),
    ];
    const AUTH: &[(&str, CarpAuth)] = &[
        ("enforce", CarpAuth::Enforce),
        ("permissive", CarpAuth::Permissive),
        ("off", CarpAuth::Off),
    ];
    const TRANSPORTS: &[(&str, Transport)] = &[
        ("auto", Transport::Auto),
        ("multicast", Transport::Multicast),
        ("unicast", Transport::Unicast),
    ];
    let section = match walk.map(top, "ha") {
        Field::Given(at) => walk.section(at.value, "`ha`", KEYS),
        Field::Absent | Field::Bad => None,
    };
    let Some(section) = section else {
        return HaDraft::absent(top.place("ha"));
    };
    let s = &section;
    let (restarts, window) = pacify(walk, s);
    let draft = HaDraft {
        span: section.span,
        virtual_id: walk.value(s, "virtual_id", |v| values::number(v, 1, 255)),
        interval: walk.value(s, "advertisement_interval", |v| {
            values::duration(v, INTERVAL.0, INTERVAL.1)
        }),
        timeout: walk.value(s, "timeout", |v| values::duration(v, TIMEOUT.0, TIMEOUT.1)),
        initial_wait: walk.value(s, "initial_wait", |v| {
            values::duration(v, Duration::ZERO, WAIT_MAX)
        }),
        hold_down: walk.value(s, "hold_down", |v| {
            values::duration(v, Duration::ZERO, WAIT_MAX)
        }),
        preferred: walk.value(s, "preferred", |v| {
            values::choice(v, "preferred", PREFERRED)
        }),
        virtual_mac: walk.value(s, "virtual_mac", values::boolean),
        carp_auth: walk.value(s, "carp_auth", |v| values::choice(v, "carp_auth", AUTH)),
        transport: walk.value(s, "transport", |v| {
            values::choice(v, "transport", TRANSPORTS)
        }),
        multicast_interface: walk.value(s, "multicast_interface", values::name),
        multicast_group: walk.value(s, "multicast_group", network::group),
        multicast_port: walk.value(s, "multicast_port", |v| values::number(v, 1, u16::MAX)),
        update_interface: walk.value(s, "update_interface", values::name),
        update_port: walk.value(s, "update_port", |v| values::number(v, 1, u16::MAX)),
        connection_updates: walk.value(s, "l4_connection_updates", values::boolean),
        persistence_updates: walk.value(s, "persistence_updates", values::boolean),
        restarts,
        window,
    };
    draft.check_timing(walk);
    draft
}

fn pacify(walk: &mut Walk<'_>, section: &Section<'_>) -> (Field<u32>, Field<Duration>) {
    let Field::Given(at) = walk.map(section, "pacify") else {
        return (Field::Absent, Field::Absent);
    };
    let Some(section) = walk.section(at.value, "`pacify`", &["restarts", "window"]) else {
        return (Field::Bad, Field::Bad);
    };
    // As many as are remembered.
    let restarts = walk.value(&section, "restarts", |v| values::number(v, 0, 60));
    let window = walk.value(&section, "window", |v| {
        values::duration(v, WINDOW.0, WINDOW.1)
    });
    (restarts, window)
}

impl HaDraft {
    fn absent(span: Span) -> Self {
        Self {
            span,
            virtual_id: Field::Absent,
            interval: Field::Absent,
            timeout: Field::Absent,
            initial_wait: Field::Absent,
            hold_down: Field::Absent,
            preferred: Field::Absent,
            virtual_mac: Field::Absent,
            carp_auth: Field::Absent,
            transport: Field::Absent,
            multicast_interface: Field::Absent,
            multicast_group: Field::Absent,
            multicast_port: Field::Absent,
            update_interface: Field::Absent,
            update_port: Field::Absent,
            connection_updates: Field::Absent,
            persistence_updates: Field::Absent,
            restarts: Field::Absent,
            window: Field::Absent,
        }
    }

    fn check_timing(&self, walk: &mut Walk<'_>) {
        /// Below this, a busy host's own stalls look like the partner's death.
        const SHORT: Duration = Duration::from_millis(100);
        let (Some(interval), Some(timeout)) = (
            self.interval.or_default(INTERVAL_DEFAULT),
            self.timeout.or_default(TIMEOUT_DEFAULT),
        ) else {
            return;
        };
        let Some(place) = self.timeout.given().or_else(|| self.interval.given()) else {
            return;
        };
        let place = place.span;
        if timeout <= 2 * interval {
            walk.error(
                place,
                format!(
                    "a timeout of {} is not more than twice the advertisement interval of {}, so \
                     one lost packet could cause a takeover",
                    values::pretty(timeout),
                    values::pretty(interval)
                ),
                format!(
                    "write `timeout: {}` or more, or a shorter interval",
                    values::pretty(3 * interval)
                ),
            );
        } else if timeout < SHORT {
            walk.warn(
                place,
                format!(
                    "a busy host can stall for longer than {}, which then looks like its death",
                    values::pretty(timeout)
                ),
                "use 100ms or more unless you have measured that these hosts never stall",
            );
        }
    }

    /// The port of the configuration channel; unknown if the value was refused.
    pub(crate) fn update_port(&self) -> Option<u16> {
        self.update_port.or_default(UPDATE_PORT)
    }

    /// Whether connections are to be replicated; unknown if the value was refused.
    pub(crate) fn replicates(&self) -> Option<bool> {
        self.connection_updates.or_default(true)
    }

    pub(super) fn build(self, node: &Node, shared: &[SharedAddress]) -> Option<Ha> {
        let timeout = self.timeout.or(|| TIMEOUT_DEFAULT)?;
        let multicast_interface = self
            .multicast_interface
            .or(|| default_multicast_interface(node))?;
        let multicast_group = self.multicast_group.or(|| {
            let mut all = node.interfaces.iter();
            let used = all.find(|interface| interface.name == multicast_interface);
            match used.map(|interface| interface.own(false)) {
                Some(None) => GROUP_DEFAULT_6,
                Some(Some(_)) | None => GROUP_DEFAULT,
            }
        })?;
        Some(Ha {
            virtual_id: self.virtual_id.or(|| {
                let first = shared.first();
                first.map_or(0, |shared| last_byte(shared.address.address))
            })?,
            advertisement_interval: self.interval.or(|| INTERVAL_DEFAULT)?,
            timeout,
            initial_wait: self.initial_wait.or(|| Duration::ZERO)?,
            hold_down: self.hold_down.or(|| HOLD_DOWN_MIN.max(3 * timeout))?,
            preferred: self.preferred.or(|| Preferred::None)?,
            virtual_mac: self.virtual_mac.or(|| false)?,
            carp_auth: self.carp_auth.or(|| CarpAuth::Enforce)?,
            transport: self.transport.or(|| Transport::Auto)?,
            multicast_interface,
            multicast_group,
            multicast_port: self.multicast_port.or(|| PORT_DEFAULT)?,
            update_interface: self
                .update_interface
                .or(|| default_multicast_interface(node))?,
            update_port: self.update_port.or(|| UPDATE_PORT)?,
            l4_connection_updates: self.connection_updates.or(|| true)? && node.mode != Mode::Off,
            persistence_updates: self.persistence_updates.or(|| true)?
                && self.connection_updates.or(|| true)?
                && node.mode != Mode::Off,
            pacify: Pacify {
                restarts: self.restarts.or(|| PACIFY_DEFAULT.restarts)?,
                window: self.window.or(|| PACIFY_DEFAULT.window)?,
            },
        })
    }
}

/// What the virtual id is derived from.
pub(crate) const fn last_byte(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    }
}

/// The last interface with an address and HA checks: by custom the one behind the production links.
fn default_multicast_interface(node: &Node) -> String {
    node.interfaces
        .iter()
        .rfind(|i| i.ha_checks && !i.is_unnumbered())
        .map(|i| i.name.clone())
        .unwrap_or_default()
}
