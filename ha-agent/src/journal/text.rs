//! Lines to text and back.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::describe;
use super::line::{Happened, Line};
use crate::proto::carp::Action;
use crate::proto::time::Instant;

/// Longest line that is read; the state of a machine takes some 40 kB.
const LINE_MAX: usize = 1 << 20;

/// Where a text is not a journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {what}")]
pub struct DecodeError {
    /// From 1.
    pub line: usize,
    /// From 1, in bytes.
    pub column: usize,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Comment(text) if text.is_empty() => Ok(()),
            Self::Comment(text) => write!(f, "# {text}"),
            Self::Setup(at, setup) => write(f, *at, '!', setup, ""),
            Self::Input(at, happened) => write(f, *at, '<', happened, &of_input(happened)),
            Self::Output(at, action) => write(f, *at, '>', action, &of_output(action)),
            Self::Account(at, account) => write(f, *at, '=', account, ""),
        }
    }
}

fn of_input(happened: &Happened) -> String {
    match happened {
        Happened::Advert { payload, .. } => describe::advert(payload),
        Happened::Hello { payload, .. } => describe::hello(payload),
        Happened::Timer
        | Happened::Carrier { .. }
        | Happened::Gateway { .. }
        | Happened::Multicast { .. }
        | Happened::Ready(_)
        | Happened::Disputed(_)
        | Happened::Generation(_)
        | Happened::Settings(_)
        | Happened::Keys(_)
        | Happened::TermReserved(_)
        | Happened::Overtaken(_)
        | Happened::Command(_) => String::new(),
    }
}

fn of_output(action: &Action) -> String {
    match action {
        Action::SendAdvert { payload, .. } => describe::advert(payload),
        Action::SendHello { payload, .. } => describe::hello(payload),
        Action::Gate(_)
        | Action::HandOver { .. }
        | Action::ClaimAddresses
        | Action::ReleaseAddresses
        | Action::Announce
        | Action::ReserveTerm { .. }
        | Action::RoleChanged { .. }
        | Action::Alarm { .. }
        | Action::Refused(_)
        | Action::Reexec(_)
        | Action::Stopped => String::new(),
    }
}

/// An enum's variant becomes a name and the JSON of its fields.
fn write(
    f: &mut fmt::Formatter<'_>,
    at: Instant,
    mark: char,
    what: &impl Serialize,
    comment: &str,
) -> fmt::Result {
    let nanos = at.as_nanos();
    let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    write!(f, "{seconds}.{rest:09} {mark} ")?;
    // As serde has it: a variant without fields is a string, another one an object with one member.
    let json = serde_json::to_string(what).map_err(|_unexpected| fmt::Error)?;
    match json
        .strip_prefix("{\"")
        .and_then(|json| json.strip_suffix('}'))
    {
        Some(member) => {
            let (name, fields) = member.split_once("\":").ok_or(fmt::Error)?;
            write!(f, "{name} {fields}")?;
        }
        None => f.write_str(json.trim_matches('"'))?,
    }
    if comment.is_empty() {
        Ok(())
    } else {
        write!(f, " # {comment}")
    }
}

/// Reads a journal.
pub fn decode(text: &str) -> Result<Vec<Line>, DecodeError> {
    text.lines()
        .enumerate()
        .map(|(index, line)| {
            decode_line(line).map_err(|(column, what)| DecodeError {
                line: index + 1,
                column: column + 1,
                what,
            })
        })
        .collect()
}

/// Where in the line (from 0), and what.
type Fault = (usize, String);

fn decode_line(line: &str) -> Result<Line, Fault> {
    if line.len() > LINE_MAX {
        return Err((LINE_MAX, "the line is too long".to_owned()));
    }
    if line.trim().is_empty() {
        return Ok(Line::Comment(String::new()));
    }
    if let Some(comment) = line.strip_prefix('#') {
        return Ok(Line::Comment(comment.trim().to_owned()));
    }
    let (time, rest) = line
        .split_once(' ')
        .ok_or_else(|| (0, "expected a time, a mark and a name".to_owned()))?;
    let at = decode_time(time)
        .ok_or_else(|| (0, format!("{time:?} is not seconds with nine decimals")))?;
    let mark_at = time.len() + 1;
    let (mark, rest) = rest
        .split_once(' ')
        .ok_or_else(|| (mark_at, "expected a mark and a name".to_owned()))?;
    let start = mark_at + mark.len() + 1;
    Ok(match mark {
        "!" => Line::Setup(at, fields(rest, start)?),
        "<" => Line::Input(at, fields(rest, start)?),
        ">" => Line::Output(at, fields(rest, start)?),
        "=" => Line::Account(at, fields(rest, start)?),
        _ => return Err((mark_at, format!("{mark:?} is none of ! < > ="))),
    })
}

fn decode_time(text: &str) -> Option<Instant> {
    let (seconds, rest) = text.split_once('.')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if rest.len() != 9 || !digits(rest) || !digits(seconds) {
        return None;
    }
    let seconds: u64 = seconds.parse().ok()?;
    let nanos = seconds
        .checked_mul(1_000_000_000)?
        .checked_add(rest.parse().ok()?)?;
    Some(Instant::from_nanos(nanos))
}

/// The name and the fields at the end of a line.
fn fields<T: DeserializeOwned>(text: &str, start: usize) -> Result<T, Fault> {
    let name_len = text.find([' ', '#']).unwrap_or(text.len());
    let (name, rest) = text.split_at(name_len);
    if name.is_empty()
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    {
        return Err((start, format!("{name:?} is not a name")));
    }
    let blank = rest.len() - rest.trim_start().len();
    let fields_at = start + name_len + blank;
    let rest = rest.trim();
    let (json, prefix) = if rest.is_empty() || rest.starts_with('#') {
        (format!("{name:?}"), None)
    } else {
        (format!("{{{name:?}:{rest}"), Some(name_len + 4))
    };
    let column = |error: &serde_json::Error| match prefix {
        Some(prefix) => fields_at + error.column().saturating_sub(prefix + 1),
        None => start,
    };
    let Some(prefix) = prefix else {
        return serde_json::from_str(&json).map_err(|error| (column(&error), explain(&error)));
    };
    // The fields end where the first JSON value does; behind them only a comment may follow.
    let body = json.get(prefix..).unwrap_or_default();
    let mut values = serde_json::Deserializer::from_str(body).into_iter::<Value>();
    match values.next() {
        Some(Ok(_)) => {}
        Some(Err(error)) => {
            return Err((
                fields_at + error.column().saturating_sub(1),
                explain(&error),
            ));
        }
        None => return Err((fields_at, "expected fields".to_owned())),
    }
    let end = values.byte_offset();
    let (value, tail) = body.split_at(end);
    let tail_at = fields_at + end;
    if !tail.trim_start().is_empty() && !tail.trim_start().starts_with('#') {
        return Err((
            tail_at,
            "expected the end of the line or a comment".to_owned(),
        ));
    }
    serde_json::from_str(&format!("{{{name:?}:{value}}}"))
        .map_err(|error| (column(&error), explain(&error)))
}

/// What serde says, without its own position.
fn explain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text.get(..end).unwrap_or_default().to_owned(),
        None => text,
    }
}
