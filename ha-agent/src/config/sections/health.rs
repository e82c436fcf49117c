//! `virtual_services[].health`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::diagnostic::quote;
use super::super::model::{Check, Health, HttpCheck, Protocol, UdpCheck};
use super::super::values::{self, Fault, Parsed, Scalar};
use super::super::walk::{At, Field, Section, Walk};

/// Bounds of `interval` and `timeout`.
const CHECK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_hours(1));
const INTERVAL_DEFAULT: Duration = Duration::from_secs(2);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
const RISE_DEFAULT: u32 = 2;
const FALL_DEFAULT: u32 = 3;
/// Most checks in a row that `rise` and `fall` may ask for.
const IN_A_ROW_MAX: u32 = 255;
/// Longest text to send or to look for.
const TEXT_MAX: usize = 256;
const STATUS_DEFAULT: RangeInclusive<u16> = 200..=399;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Tcp,
    Http,
    Https,
    Icmp,
    Udp,
}

const TYPES: &[(&str, Type)] = &[
    ("tcp", Type::Tcp),
    ("http", Type::Http),
    ("https", Type::Https),
    ("icmp", Type::Icmp),
    ("udp", Type::Udp),
];

/// Keys that mean something to some types only.
const SPECIAL: &[(&str, &[Type])] = &[
    ("port", &[Type::Tcp, Type::Http, Type::Https, Type::Udp]),
    ("path", &[Type::Http, Type::Https]),
    ("host", &[Type::Http, Type::Https]),
    ("status", &[Type::Http, Type::Https]),
    ("body", &[Type::Http, Type::Https]),
    ("send", &[Type::Udp]),
    ("expect", &[Type::Udp]),
];

pub(crate) struct HealthDraft {
    kind: Field<Type>,
    interval: Field<Duration>,
    timeout: Field<Duration>,
    rise: Field<u32>,
    fall: Field<u32>,
    port: Field<u16>,
    path: Field<String>,
    host: Field<String>,
    status: Field<Vec<RangeInclusive<u16>>>,
    body: Field<String>,
    send: Field<String>,
    expect: Field<String>,
}

pub(super) fn read(walk: &mut Walk<'_>, service: &Section<'_>) -> Field<HealthDraft> {
    const KEYS: &[&str] = &[
        "type", "interval", "timeout", "rise", "fall", "port", "path", "host", "status", "body",
        "send", "expect",
    ];
    let at = match walk.map(service, "health") {
        Field::Given(at) => at,
        Field::Absent => return Field::Absent,
        Field::Bad => return Field::Bad,
    };
    let Some(section) = walk.section(at.value, "`health`", KEYS) else {
        return Field::Bad;
    };
    let s = &section;
    let value = HealthDraft {
        kind: walk.required(s, "type", "tcp", |v| values::choice(v, "type", TYPES)),
        interval: walk.value(s, "interval", |v| values::duration(v, CHECK.0, CHECK.1)),
        timeout: walk.value(s, "timeout", |v| values::duration(v, CHECK.0, CHECK.1)),
        rise: walk.value(s, "rise", |v| values::number(v, 1, IN_A_ROW_MAX)),
        fall: walk.value(s, "fall", |v| values::number(v, 1, IN_A_ROW_MAX)),
        port: walk.value(s, "port", |v| values::number(v, 1, u16::MAX)),
        path: walk.value(s, "path", path),
        host: walk.value(s, "host", host),
        status: walk.value(s, "status", status),
        body: walk.value(s, "body", text),
        send: walk.value(s, "send", text),
        expect: walk.value(s, "expect", text),
    };
    value.check(walk, s);
    Field::Given(At {
        value,
        span: at.span,
    })
}

impl HealthDraft {
    fn check(&self, walk: &mut Walk<'_>, section: &Section<'_>) {
        if let (Some(interval), Some(timeout)) = (
            self.interval.or_default(INTERVAL_DEFAULT),
            self.timeout.or_default(TIMEOUT_DEFAULT),
        ) && timeout > interval
        {
            walk.error(
                section.place("timeout"),
                format!(
                    "a check may take {} but the next begins after {}",
                    values::pretty(timeout),
                    values::pretty(interval)
                ),
                "make the timeout at most as long as the interval",
            );
        }
        let Some(kind) = self.kind.value() else {
            return;
        };
        let given = [
            !self.port.is_absent(),
            !self.path.is_absent(),
            !self.host.is_absent(),
            !self.status.is_absent(),
            !self.body.is_absent(),
            !self.send.is_absent(),
            !self.expect.is_absent(),
        ];
        for ((key, types), given) in SPECIAL.iter().zip(given) {
            if given && !types.contains(kind) {
                let name = |kind: &Type| {
                    let found = TYPES.iter().find(|(_, known)| known == kind);
                    found.map_or_else(String::new, |(word, _)| format!("`{word}`"))
                };
                let fit: Vec<String> = types.iter().map(name).collect();
                walk.error(
                    section.place(key),
                    format!("`{key}` means nothing to a check of type {}", name(kind)),
                    format!("remove it, or choose the type {}", fit.join(" or ")),
                );
            }
        }
    }

    /// Whether it asks for something that a service of this protocol need not have.
    pub(super) fn is_odd_for(&self, protocol: Protocol) -> bool {
        protocol == Protocol::Udp && self.kind.value() == Some(&Type::Tcp) && self.port.is_absent()
    }

    /// Whether it asks at a port, and does not say at which.
    pub(super) fn needs_port(&self) -> bool {
        self.port.is_absent() && self.kind.value().is_some_and(|kind| *kind != Type::Icmp)
    }

    pub(super) fn build(self) -> Option<Health> {
        let optional = |field: Field<String>| match field {
            Field::Absent => Some(None),
            Field::Bad => None,
            Field::Given(at) => Some(Some(at.value)),
        };
        let http = HttpCheck {
            path: self.path.or(|| "/".to_owned())?,
            host: optional(self.host)?,
            status: self.status.or(|| vec![STATUS_DEFAULT])?,
            body: optional(self.body)?,
        };
        let udp = UdpCheck {
            send: self.send.or(String::new)?,
            expect: optional(self.expect)?,
        };
        Some(Health {
            check: match self.kind.given()?.value {
                Type::Tcp => Check::Tcp,
                Type::Http => Check::Http(http),
                Type::Https => Check::Https(http),
                Type::Icmp => Check::Icmp,
                Type::Udp => Check::Udp(udp),
            },
            port: match self.port {
                Field::Absent => None,
                Field::Bad => return None,
                Field::Given(at) => Some(at.value),
            },
            interval: self.interval.or(|| INTERVAL_DEFAULT)?,
            timeout: self.timeout.or(|| TIMEOUT_DEFAULT)?,
            rise: self.rise.or(|| RISE_DEFAULT)?,
            fall: self.fall.or(|| FALL_DEFAULT)?,
        })
    }
}

/// Path and query of a URL (RFC 9112 section 3.2.1).
fn path(scalar: Scalar<'_>) -> Parsed<String> {
    let text = scalar.text;
    let clean = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if text.starts_with('/') && text.len() <= TEXT_MAX && clean {
        Ok(text.to_owned())
    } else {
        Err(Fault::new(
            format!("{} is not the path of a URL", quote(text)),
            format!(
                "write it from `/` on, at most {TEXT_MAX} characters, others than ASCII letters, digits and \
                 punctuation as %XX"
            ),
        ))
    }
}

/// A host's name or address, without a port.
fn host(scalar: Scalar<'_>) -> Parsed<String> {
    let text = scalar.text;
    let clean = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if (1..=253).contains(&text.len()) && clean {
        Ok(text.to_owned())
    } else {
        Err(Fault::new(
            format!("{} is not a host name", quote(text)),
            "write a name such as `www.example.com`, without scheme and port",
        ))
    }
}

/// Statuses and ranges of them, separated by commas.
fn status(scalar: Scalar<'_>) -> Parsed<Vec<RangeInclusive<u16>>> {
    let one = |text: &str| {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let number = |digits: &str| digits.trim().parse::<u16>().ok();
        let (low, high) = (number(low)?, number(high)?);
        (100 <= low && low <= high && high <= 599).then_some(low..=high)
    };
    scalar
        .text
        .split(',')
        .map(one)
        .collect::<Option<_>>()
        .ok_or_else(|| {
            Fault::new(
                format!("{} is not a list of HTTP statuses", quote(scalar.text)),
                "write statuses from 100 to 599, for example `200` or `200-299,404`",
            )
        })
}

/// A text to send or to look for.
fn text(scalar: Scalar<'_>) -> Parsed<String> {
    if (1..=TEXT_MAX).contains(&scalar.text.len()) {
        Ok(scalar.text.to_owned())
    } else {
        Err(Fault::new(
            format!(
                "{} bytes are no text to send or to look for",
                scalar.text.len()
            ),
            format!("write 1 to {TEXT_MAX} bytes, or leave the key out"),
        ))
    }
}
