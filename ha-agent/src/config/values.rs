//! Single values: text to what it means, or what is wrong with it and what to write instead.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use super::diagnostic::quote;
use super::model::Ports;

/// Longest name of anything; names go into log lines and tables.
const NAME_MAX: usize = 63;
/// Longest name of a kernel interface: `IFNAMSIZ` less the terminator (linux/if.h).
const DEVICE_MAX: usize = 15;
/// Longest path, `PATH_MAX` less the terminator (linux/limits.h).
const PATH_MAX: usize = 4095;

/// A scalar as it stands in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar<'a> {
    pub(crate) text: &'a str,
    /// Written without quotes.
    pub(crate) plain: bool,
}

/// Why a value is refused.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) what: String,
    pub(crate) remedy: String,
}

pub(crate) type Parsed<T> = Result<T, Fault>;

impl Fault {
    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

/// `null`, `~` or nothing at all.
pub(crate) fn is_null(scalar: Scalar<'_>) -> bool {
    scalar.plain && matches!(scalar.text, "" | "~" | "null" | "Null" | "NULL")
}

/// Any text that can be shown in one line.
pub(crate) fn name(scalar: Scalar<'_>) -> Parsed<String> {
    let text = scalar.text;
    let fits = (1..=NAME_MAX).contains(&text.len());
    let clean = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fits && clean {
        Ok(text.to_owned())
    } else {
        Err(Fault::new(
            format!("{} is not a name", quote(text)),
            format!("use 1 to {NAME_MAX} letters, digits, `-`, `_` and `.`"),
        ))
    }
}

/// A kernel interface's name.
pub(crate) fn device(scalar: Scalar<'_>) -> Parsed<String> {
    let text = scalar.text;
    let fits = (1..=DEVICE_MAX).contains(&text.len());
    // What the kernel accepts: dev_valid_name() in net/core/dev.c.
    let clean = !text
        .contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
        && text != "."
        && text != "..";
    if fits && clean {
        Ok(text.to_owned())
    } else {
        Err(Fault::new(
            format!("{} cannot be the name of a network interface", quote(text)),
            "write a name that `ip link` shows, for example `eth0`",
        ))
    }
}

/// An absolute path.
pub(crate) fn path(scalar: Scalar<'_>) -> Parsed<PathBuf> {
    let text = scalar.text;
    if text.starts_with('/') && text.len() <= PATH_MAX && !text.contains('\0') {
        Ok(PathBuf::from(text))
    } else {
        Err(Fault::new(
            format!("{} is not an absolute path", quote(text)),
            "write the path from `/` on",
        ))
    }
}

/// `true` or `false`.
pub(crate) fn boolean(scalar: Scalar<'_>) -> Parsed<bool> {
    match (scalar.plain, scalar.text) {
        (true, "true" | "True" | "TRUE") => Ok(true),
        (true, "false" | "False" | "FALSE") => Ok(false),
        _ => Err(Fault::new(
            format!("{} is neither true nor false", quote(scalar.text)),
            "write `true` or `false`, without quotes",
        )),
    }
}

/// A whole number within bounds.
pub(crate) fn number<T>(scalar: Scalar<'_>, low: T, high: T) -> Parsed<T>
where
    T: TryFrom<u64> + PartialOrd + Display + Copy,
{
    let remedy = || format!("write a whole number from {low} to {high}, without quotes");
    let digits = scalar.plain && scalar.text.bytes().all(|b| b.is_ascii_digit());
    let value = if digits {
        scalar.text.parse::<u64>().ok()
    } else {
        None
    };
    let Some(value) = value else {
        return Err(Fault::new(
            format!("{} is not a whole number", quote(scalar.text)),
            remedy(),
        ));
    };
    match T::try_from(value) {
        Ok(value) if value >= low && value <= high => Ok(value),
        _ => Err(Fault::new(format!("{value} is out of range"), remedy())),
    }
}

/// A duration with its unit, within bounds.
pub(crate) fn duration(scalar: Scalar<'_>, low: Duration, high: Duration) -> Parsed<Duration> {
    let text = scalar.text;
    let Some(value) = read_duration(text) else {
        let (digits, unit) = number_and_unit(text);
        let remedy = if unit.is_empty() && !digits.is_empty() && digits.len() < 6 {
            format!("add the unit: `{digits}s` or `{digits}ms`")
        } else {
            "write a whole number and a unit: us, ms, s, m or h, for example `500ms`".to_owned()
        };
        return Err(Fault::new(
            format!("{} is not a duration", quote(text)),
            remedy,
        ));
    };
    if value < low || value > high {
        return Err(Fault::new(
            format!("{} is out of range", quote(text)),
            format!("write a duration from {} to {}", pretty(low), pretty(high)),
        ));
    }
    Ok(value)
}

/// A whole number with its unit.
pub(crate) fn read_duration(text: &str) -> Option<Duration> {
    let (digits, unit) = number_and_unit(text);
    let number = digits.parse::<u64>().ok()?;
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

fn number_and_unit(text: &str) -> (&str, &str) {
    let unit_at = text.find(|c: char| !c.is_ascii_digit());
    text.split_at(unit_at.unwrap_or(text.len()))
}

/// A duration as one would write it in the file.
pub(crate) fn pretty(duration: Duration) -> String {
    let micros = duration.as_micros();
    if micros.is_multiple_of(1_000_000) {
        format!("{}s", micros / 1_000_000)
    } else if micros.is_multiple_of(1000) {
        format!("{}ms", micros / 1000)
    } else {
        format!("{micros}us")
    }
}

/// One of some words.
pub(crate) fn choice<T: Copy>(scalar: Scalar<'_>, key: &str, choices: &[(&str, T)]) -> Parsed<T> {
    let found = choices.iter().find(|(word, _)| *word == scalar.text);
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words = choices.iter().map(|(word, _)| format!("`{word}`"));
        Fault::new(
            format!("{} is not known", quote(&format!("{key}: {}", scalar.text))),
            format!("write {}", words.collect::<Vec<_>>().join(" or ")),
        )
    })
}

/// A port, several in a row, or any.
pub(crate) fn ports(scalar: Scalar<'_>) -> Parsed<Ports> {
    let text = scalar.text;
    if matches!(text, "any" | "0") {
        return Ok(Ports::Any);
    }
    let Some((first, last)) = text.split_once('-') else {
        return number(scalar, 1, u16::MAX).map(Ports::One).map_err(|fault| {
            Fault::new(
                fault.what,
                "write a port from 1 to 65535 without quotes, a range such as `8000-8100`, or `any`",
            )
        });
    };
    let port = |text: &str| {
        let plain = Scalar {
            text: text.trim(),
            plain: true,
        };
        number::<u16>(plain, 1, u16::MAX).ok()
    };
    let (Some(first), Some(last)) = (port(first), port(last)) else {
        return Err(Fault::new(
            format!("{} is not a range of ports", quote(text)),
            "write the lowest and the highest, from 1 to 65535, for example `8000-8100`",
        ));
    };
    match last.checked_sub(first) {
        None => Err(Fault::new(
            format!("{} ends before it begins", quote(text)),
            format!("write `{last}-{first}`"),
        )),
        Some(0) => Ok(Ports::One(first)),
        Some(more) if more >= Ports::RANGE_MAX => Err(Fault::new(
            format!(
                "{} is a range of {} ports",
                quote(text),
                u32::from(more) + 1
            ),
            format!("write at most {} ports, or `any`", Ports::RANGE_MAX),
        )),
        Some(_) => Ok(Ports::Range { first, last }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Scalar<'_> {
        Scalar { text, plain: true }
    }

    fn quoted(text: &str) -> Scalar<'_> {
        Scalar { text, plain: false }
    }

    #[test]
    fn numbers() {
        assert_eq!(number::<u16>(plain("80"), 1, 65535).unwrap(), 80);
        for bad in [
            "",
            "-1",
            "+1",
            "8 0",
            "0x50",
            "65536",
            "0",
            "99999999999999999999",
        ] {
            assert!(number::<u16>(plain(bad), 1, 65535).is_err(), "{bad:?}");
        }
        assert!(number::<u16>(quoted("80"), 1, 65535).is_err());
    }

    #[test]
    fn ports_and_ranges() {
        for (text, meaning) in [
            ("80", Ports::One(80)),
            ("0", Ports::Any),
            ("any", Ports::Any),
            (
                "8000-8100",
                Ports::Range {
                    first: 8000,
                    last: 8100,
                },
            ),
            (
                "1 - 4096",
                Ports::Range {
                    first: 1,
                    last: 4096,
                },
            ),
            ("80-80", Ports::One(80)),
        ] {
            assert_eq!(ports(plain(text)).unwrap(), meaning, "{text}");
        }
        for (bad, what) in [
            ("", "not a whole number"),
            ("65536", "out of range"),
            ("-1", "not a range"),
            ("80-", "not a range"),
            ("0-80", "not a range"),
            ("1-2-3", "not a range"),
            ("90-80", "ends before it begins"),
            ("1-4097", "a range of 4097 ports"),
            ("1-65535", "a range of 65535 ports"),
        ] {
            let fault = ports(plain(bad)).unwrap_err();
            assert!(fault.what.contains(what), "{bad}: {}", fault.what);
        }
        assert!(ports(quoted("80")).is_err());
        assert!(ports(quoted("80-90")).is_ok(), "a range is no number");
    }

    #[test]
    fn durations() {
        let parse = |text| duration(plain(text), Duration::ZERO, Duration::from_hours(1));
        assert_eq!(parse("100ms").unwrap(), Duration::from_millis(100));
        assert_eq!(parse("5m").unwrap(), Duration::from_mins(5));
        assert_eq!(parse("0s").unwrap(), Duration::ZERO);
        assert!(parse("9").unwrap_err().remedy.contains("`9s`"));
        for bad in [
            "",
            "s",
            "1 s",
            "1.5s",
            "-1s",
            "1d",
            "2h",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(pretty(Duration::from_micros(1500)), "1500us");
        assert_eq!(pretty(Duration::from_millis(1500)), "1500ms");
    }

    #[test]
    fn booleans_are_not_words() {
        assert!(boolean(plain("true")).unwrap());
        for bad in ["yes", "on", "1", ""] {
            assert!(boolean(plain(bad)).is_err());
        }
        assert!(boolean(quoted("true")).is_err());
    }

    #[test]
    fn names() {
        assert!(device(plain("eth0.100")).is_ok());
        for bad in ["", "..", "eth0/1", "eth 0", "a234567890123456"] {
            assert!(device(plain(bad)).is_err(), "{bad:?}");
        }
        assert!(name(plain("web-1.prod_a")).is_ok());
        for bad in ["", "a b", "a\u{1b}[2J", &"x".repeat(64)] {
            assert!(name(plain(bad)).is_err(), "{bad:?}");
        }
        assert!(path(plain("relative")).is_err());
    }
}
