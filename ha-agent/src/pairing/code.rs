//! The one-time code that a person carries from one node to the other.
//!
//! Twenty characters of Crockford's base 32: nineteen random ones, 95 bits, and one that finds slips of the pen. SSH keys
//! of both ends derive from it, so who does not have it can neither give nor take. The public host key goes over the
//! network in the clear, so the code can be guessed at leisure, once for each derivation: that is why it is long. And
//! whoever finds it later has nothing: what was sent is encrypted with keys of the session.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::{hkdf, rand};
use zeroize::Zeroizing;

use crate::keys::{PairKey, PairKeys};

/// Digits of Crockford's base 32: no I, L, O and U. <https://www.crockford.com/base32.html>
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Random characters.
const RANDOM: usize = 19;
/// All characters.
const LENGTH: usize = RANDOM + 1;
/// Characters between two dashes.
const GROUP: usize = 5;

/// A code.
#[derive(Clone, PartialEq, Eq)]
pub struct Code(Zeroizing<[u8; LENGTH]>);

/// Why a text is no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCode {
    /// Too short or too long.
    #[error("a code has {LENGTH} letters and digits, and this has {0}")]
    Length(usize),
    /// A character that is in no code.
    #[error("`{}` is in no code", .0.escape_debug())]
    Digit(char),
    /// The last character is not the one that belongs to the others.
    #[error("a character of the code is wrong")]
    Check,
}

impl Code {
    /// A fresh random one.
    pub fn generate() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut random = Zeroizing::new([0u8; RANDOM]);
        rand::fill(random.as_mut_slice())?;
        let mut digits = Zeroizing::new([b'0'; LENGTH]);
        for (digit, byte) in digits.iter_mut().zip(random.iter()) {
            *digit = DIGITS.get(usize::from(byte & 31)).copied().unwrap_or(b'0');
        }
        if let Some((last, rest)) = digits.split_last_mut() {
            *last = check(rest);
        }
        Ok(Self(digits))
    }

    /// As a person typed it: dashes, blanks and small letters do not matter, and O, I and L are the digits they look like.
    pub fn parse(text: &str) -> Result<Self, NoCode> {
        let mut digits = Zeroizing::new([b'0'; LENGTH]);
        let mut length = 0;
        for c in text.chars().filter(|c| *c != '-' && !c.is_whitespace()) {
            let digit = match c.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            let known = u8::try_from(digit)
                .ok()
                .filter(|digit| DIGITS.contains(digit));
            let known = known.ok_or(NoCode::Digit(c))?;
            if let Some(place) = digits.get_mut(length) {
                *place = known;
            }
            length += 1;
        }
        if length != LENGTH {
            return Err(NoCode::Length(length));
        }
        match digits.split_last() {
            Some((last, rest)) if *last == check(rest) => Ok(Self(digits)),
            _ => Err(NoCode::Check),
        }
    }

    /// For a person: in groups.
    pub fn shown(&self) -> Zeroizing<String> {
        let groups = self.0.chunks(GROUP);
        let groups: Vec<_> = groups.map(|group| String::from_utf8_lossy(group)).collect();
        Zeroizing::new(groups.join("-"))
    }

    /// What the SSH keys of both ends derive from, as those of a pair do from its key.
    pub fn keys(&self) -> PairKeys {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"ha-agent pairing v1");
        let mut secret = Zeroizing::new([0u8; 32]);
        // Expansion fails only for outputs longer than 255 hashes.
        if let Ok(okm) = salt
            .extract(self.0.as_slice())
            .expand(&[b"code"], hkdf::HKDF_SHA256)
        {
            let filled = okm.fill(secret.as_mut_slice());
            debug_assert!(filled.is_ok(), "one hash");
        }
        PairKeys::new(vec![PairKey::new(0, *secret)])
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code")
    }
}

/// The character that belongs to these.
fn check(digits: &[u8]) -> u8 {
    let hash = digest(&SHA256, digits);
    let first = hash.as_ref().first().copied().unwrap_or_default();
    DIGITS.get(usize::from(first & 31)).copied().unwrap_or(b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_a_person() {
        let code = Code::generate().unwrap();
        let shown = code.shown();
        assert_eq!(shown.len(), LENGTH + 3);
        assert_eq!(shown.matches('-').count(), 3);
        for typed in [
            shown.to_string(),
            shown.to_lowercase(),
            shown.replace('-', " "),
            shown.replace('-', ""),
            shown.replace('0', "o").replace('1', "l"),
            format!(" {}\n", *shown),
        ] {
            assert_eq!(Code::parse(&typed).unwrap(), code, "{typed}");
        }
    }

    #[test]
    fn slips_are_found() {
        let code = Code::generate().unwrap().shown();
        assert_eq!(Code::parse(""), Err(NoCode::Length(0)));
        assert_eq!(Code::parse(&code[1..]), Err(NoCode::Length(19)));
        assert_eq!(Code::parse(&format!("{}A", *code)), Err(NoCode::Length(21)));
        assert_eq!(Code::parse("U"), Err(NoCode::Digit('U')));
        assert_eq!(Code::parse("é"), Err(NoCode::Digit('é')));
        let shown = Code::parse("\u{1b}").map_err(|error| error.to_string());
        assert_eq!(shown.unwrap_err(), "`\\u{1b}` is in no code");
        // One of 32 slips is not found, but not all of those in one place.
        let wrong = DIGITS.iter().filter(|digit| **digit != code.as_bytes()[0]);
        let found = wrong.filter(|digit| {
            let typed = format!("{}{}", char::from(**digit), &code[1..]);
            Code::parse(&typed) == Err(NoCode::Check)
        });
        assert!(found.count() > 20);
    }

    #[test]
    fn codes_differ_and_so_do_their_keys() {
        let [one, other] = [(); 2].map(|()| Code::generate().unwrap());
        assert_ne!(one, other);
        let seed = |code: &Code| {
            let keys = code.keys();
            keys.signing().unwrap().ssh_seed("host", true)
        };
        assert_ne!(seed(&one), seed(&other));
        assert_eq!(seed(&one), seed(&Code::parse(&one.shown()).unwrap()));
        assert_eq!(format!("{one:?}"), "Code");
    }
}
