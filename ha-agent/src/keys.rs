//! Everything secret derives from one file shared by the pair.

use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::hkdf;
use zeroize::Zeroizing;

/// Longest passphrase CARP implementations accept: their buffer is 20 bytes with the terminator.
pub const CARP_PASSPHRASE_MAX: usize = 19;

/// Length of a pair key in bytes.
const KEY_LEN: usize = 32;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner may read it.
    #[error("{path}: mode is {mode:04o}, so others can read the key")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not a key file.
    #[error("{path}:{line}: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

impl KeyError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Io { path, source } if source.kind() == io::ErrorKind::NotFound => format!(
                "`ha-agent keygen {0}` on one node, then copy the file to the other as {0}, mode 0600",
                path.display()
            ),
            Self::Io { .. } => "run as root, or as the owner of the file".to_owned(),
            Self::Exposed { path, .. } => format!("run `chmod 600 {}`", path.display()),
            Self::Malformed { .. } => {
                "write `ID HEX` for each key, at most two lines with different ids (0 to 255), \
                 as `ha-agent keygen` does; or copy the other node's file"
                    .to_owned()
            }
        }
    }
}

/// One pair key: a number that names it on the wire, and 32 secret bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct PairKey {
    /// Named in trailers and replication packets, so that two keys can be live during a rotation.
    pub id: u8,
    secret: Zeroizing<[u8; KEY_LEN]>,
}

/// The pair's keys: the first one signs, all of them (at most two) are accepted.
#[derive(Clone)]
pub struct PairKeys {
    keys: Vec<PairKey>,
}

impl fmt::Debug for PairKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PairKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.keys).finish()
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl PairKey {
    /// A key from its parts.
    pub fn new(id: u8, secret: [u8; KEY_LEN]) -> Self {
        Self {
            id,
            secret: Zeroizing::new(secret),
        }
    }

    /// HKDF-SHA256 (RFC 5869) with this key as input, `salt`, and a `purpose` that separates uses.
    pub fn derive<const N: usize>(&self, salt: &[u8], purpose: &str) -> [u8; N] {
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(self.secret.as_slice());
        let mut out = [0u8; N];
        let info = [purpose.as_bytes()];
        // Expansion fails only for outputs longer than 255 hashes; ours are tens of bytes.
        if let Ok(okm) = extracted.expand(&info, Length(N)) {
            let filled = okm.fill(&mut out);
            debug_assert!(filled.is_ok(), "one key length");
        }
        out
    }

    /// Seed of an SSH key of the pair: its purpose (`host`, `client`) and whose it is.
    pub fn ssh_seed(&self, purpose: &str, first: bool) -> Zeroizing<[u8; 32]> {
        let whose = if first { "first" } else { "second" };
        Zeroizing::new(self.derive(&[], &format!("ha-agent ssh {purpose} {whose} v1")))
    }

    /// The SipHash key of trailers and HELLOs.
    pub fn trailer_key(&self) -> [u8; 16] {
        self.derive(&[], "ha-agent trailer v1")
    }
}

impl PairKeys {
    /// From keys, the signing one first.
    pub fn new(keys: Vec<PairKey>) -> Self {
        Self { keys }
    }

    /// The key that signs.
    pub fn signing(&self) -> Option<&PairKey> {
        self.keys.first()
    }

    /// The key with this id.
    pub fn by_id(&self, id: u8) -> Option<&PairKey> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// All keys, the signing one first.
    pub fn iter(&self) -> impl Iterator<Item = &PairKey> {
        self.keys.iter()
    }

    /// The CARP passphrase of a pair that talks to no foreign peer: 19 printable characters.
    pub fn carp_passphrase(&self) -> Vec<u8> {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let Some(key) = self.signing() else {
            return Vec::new();
        };
        let bytes: [u8; CARP_PASSPHRASE_MAX] = key.derive(&[], "ha-agent carp passphrase v1");
        bytes
            .iter()
            .filter_map(|b| ALPHABET.get(usize::from(b & 63)).copied())
            .collect()
    }

    /// Seed of the hash that spreads clients over real servers: equal on both nodes.
    pub fn hash_seed(&self) -> u64 {
        self.signing().map_or(0, |key| {
            u64::from_le_bytes(key.derive(&[], "ha-agent flow hash v1"))
        })
    }

    /// Reads a key file: one or two lines `ID HEX`, the signing key first; `#` starts a comment.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let io = |source| KeyError::Io {
            path: path.to_owned(),
            source,
        };
        let mode = fs::metadata(path).map_err(io)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(io)?);
        Self::parse(path, &text)
    }

    /// The same of what a file holds; `path` only names it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, KeyError> {
        let mut keys: Vec<PairKey> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let malformed = |problem: &str| KeyError::Malformed {
                path: path.to_owned(),
                line: index + 1,
                problem: problem.to_owned(),
            };
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let key = parse_line(line).map_err(malformed)?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(malformed("two keys have the same id"));
            }
            if keys.len() == 2 {
                return Err(malformed("more than two keys"));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(KeyError::Malformed {
                path: path.to_owned(),
                line: 1,
                problem: "no key in the file".to_owned(),
            });
        }
        Ok(Self { keys })
    }

    /// Makes a file with one fresh random key, mode 0600. An existing file is never overwritten.
    pub fn generate(path: &Path) -> Result<(), KeyError> {
        use std::io::Write as _;
        let io = |source| KeyError::Io {
            path: path.to_owned(),
            source,
        };
        let mut secret = Zeroizing::new([0u8; KEY_LEN]);
        aws_lc_rs::rand::fill(secret.as_mut_slice())
            .map_err(|_unspecified| io(io::Error::other("the system gave no random bytes")))?;
        let mut hex = Zeroizing::new(String::with_capacity(2 * KEY_LEN));
        for byte in secret.iter() {
            // Writing to a string cannot fail.
            let _infallible = write!(hex, "{byte:02x}");
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        writeln!(
            file,
            "# Key of the pair: copy to both nodes, keep it at mode 0600.\n1 {}",
            hex.as_str()
        )
        .and_then(|()| file.sync_all())
        .map_err(io)
    }
}

fn parse_line(line: &str) -> Result<PairKey, &'static str> {
    let mut words = line.split_whitespace();
    let (Some(id), Some(hex), None) = (words.next(), words.next(), words.next()) else {
        return Err("expected an id and a key of 64 hexadecimal digits");
    };
    let id = id
        .parse()
        .map_err(|_invalid| "the id is not a number from 0 to 255")?;
    // A sign would be part of a number.
    if hex.len() != 2 * KEY_LEN || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err("the key is not 64 hexadecimal digits");
    }
    let mut secret = Zeroizing::new([0u8; KEY_LEN]);
    for (byte, digits) in secret.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let digits = str::from_utf8(digits).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16)
            .map_err(|_invalid| "the key is not 64 hexadecimal digits")?;
    }
    Ok(PairKey { id, secret })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn generated_file_loads_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pair.key");
        PairKeys::generate(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let keys = PairKeys::load(&path).unwrap();
        assert_eq!(keys.signing().unwrap().id, 1);
        assert_eq!(keys.carp_passphrase().len(), CARP_PASSPHRASE_MAX);
        assert_ne!(keys.hash_seed(), 0);
        assert!(matches!(
            PairKeys::generate(&path),
            Err(KeyError::Io { .. })
        ));
    }

    #[test]
    fn exposed_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pair.key");
        PairKeys::generate(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            PairKeys::load(&path),
            Err(KeyError::Exposed { mode: 0o640, .. })
        ));
    }

    #[test]
    fn malformed_lines_are_located() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pair.key");
        for (text, line) in [
            ("", 1),
            ("# only a comment\n\n1 abcd\n", 3),
            ("x 00\n", 1),
            (&format!("1 {}\n", "+7".repeat(32)), 1),
            (
                &format!("1 {}\n1 {}\n", "00".repeat(32), "11".repeat(32)),
                2,
            ),
        ] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            match PairKeys::load(&path) {
                Err(KeyError::Malformed { line: found, .. }) => assert_eq!(found, line, "{text:?}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn purposes_and_salts_separate() {
        let key = PairKey::new(1, [7; 32]);
        assert_ne!(key.derive::<16>(b"", "a"), key.derive::<16>(b"", "b"));
        assert_ne!(key.derive::<16>(b"1", "a"), key.derive::<16>(b"2", "a"));
        assert_ne!(key.derive::<16>(b"", "a"), [0; 16]);
    }
}
