//! Who may log in: names, what they may do, and their passwords' hashes, kept by this node alone.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use serde::{Deserialize, Serialize};

/// The file in the state directory, mode 0600.
const FILE: &str = "web-users.json";
/// Users there may be.
const USERS_MAX: usize = 64;
/// Shortest and longest password, in bytes.
pub const PASSWORD: std::ops::RangeInclusive<usize> = 12..=256;
/// Longest name.
const NAME_MAX: usize = 32;
/// A hash of nobody's password: unknown names cost as much time as known ones.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZSBzYWx0IG9mIG5vYm9keQ$xP1b4l6x5CmT1fR2r1xYd8sYvKXbWQ0wq1sI8n2l0mM";

/// What a user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Look.
    Viewer,
    /// Look, and change what can be changed.
    Operator,
}

impl Access {
    /// As in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct User {
    name: String,
    access: Access,
    /// PHC string of argon2id.
    password: String,
}

/// Why a user was not made.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Not a name.
    #[error("a name has 1 to {NAME_MAX} lower-case letters, digits, `-`, `_` or `.`")]
    Name,
    /// Too short or too long.
    #[error("a password has at least 12 characters, and at most 256 bytes")]
    Password,
    /// There is one already.
    #[error("there is a user or token of this name already")]
    Taken,
    /// There is none.
    #[error("there is no user or token of this name")]
    Unknown,
    /// There are users already.
    #[error("the first user was made already")]
    NotFirst,
    /// Too many.
    #[error("there may be {USERS_MAX} users")]
    TooMany,
    /// Hashing failed.
    #[error("the password could not be hashed: {0}")]
    Hash(argon2::password_hash::Error),
    /// Not stored.
    #[error("not stored: {0}")]
    Io(#[from] io::Error),
}

/// All users of this node. They are read from their file each time: there are few, and they are asked for rarely.
/// Everything here may wait for a disk, and passwords for a processor.
#[derive(Debug)]
pub struct Users {
    path: PathBuf,
    change: Mutex<()>,
}

impl Users {
    /// Those in this state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join(FILE),
            change: Mutex::new(()),
        }
    }

    /// Whether there are none. A file that cannot be read lets nobody in, but does not say that there are none.
    pub fn is_empty(&self) -> bool {
        self.read().is_ok_and(|all| all.is_empty())
    }

    /// What the user with this password may do. Takes the time and memory of a hash, whoever asks.
    pub fn verify(&self, name: &str, password: &str) -> io::Result<Option<Access>> {
        let found = self.read()?.into_iter().find(|user| user.name == name);
        let hash = found.as_ref().map_or(NOBODY, |user| &*user.password);
        let hash = PasswordHash::new(hash).map_err(io::Error::other)?;
        let verified = Argon2::default().verify_password(password.as_bytes(), &hash);
        let right = verified.is_ok() && PASSWORD.contains(&password.len());
        Ok(found.filter(|_| right).map(|user| user.access))
    }

    /// Makes the first user.
    pub fn add_first(&self, name: &str, access: Access, password: &str) -> Result<(), UserError> {
        self.make(name, access, password, true)
    }

    /// Makes a user.
    pub fn add(&self, name: &str, access: Access, password: &str) -> Result<(), UserError> {
        self.make(name, access, password, false)
    }

    /// Names, and what they may do.
    pub fn list(&self) -> io::Result<Vec<(String, Access)>> {
        let all = self.read()?.into_iter();
        Ok(all.map(|user| (user.name, user.access)).collect())
    }

    /// Gives a user another password.
    pub fn set_password(&self, name: &str, password: &str) -> Result<(), UserError> {
        let hash = hashed(password)?;
        let _alone = self.alone();
        let mut all = self.read()?;
        let user = all.iter_mut().find(|user| user.name == name);
        user.ok_or(UserError::Unknown)?.password = hash;
        Ok(store(&self.path, &all)?)
    }

    /// Removes a user.
    pub fn remove(&self, name: &str) -> Result<(), UserError> {
        let _alone = self.alone();
        let mut all = self.read()?;
        let before = all.len();
        all.retain(|user| user.name != name);
        if all.len() == before {
            return Err(UserError::Unknown);
        }
        Ok(store(&self.path, &all)?)
    }

    fn make(
        &self,
        name: &str,
        access: Access,
        password: &str,
        first: bool,
    ) -> Result<(), UserError> {
        if !is_name(name) {
            return Err(UserError::Name);
        }
        let hash = hashed(password)?;
        let _alone = self.alone();
        let mut all = self.read()?;
        if first && !all.is_empty() {
            return Err(UserError::NotFirst);
        }
        if all.iter().any(|user| user.name == name) {
            return Err(UserError::Taken);
        }
        if all.len() >= USERS_MAX {
            return Err(UserError::TooMany);
        }
        all.push(User {
            name: name.to_owned(),
            access,
            password: hash,
        });
        Ok(store(&self.path, &all)?)
    }

    fn read(&self) -> io::Result<Vec<User>> {
        match fs::read(&self.path) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of a password is stored.
fn hashed(password: &str) -> Result<String, UserError> {
    if !PASSWORD.contains(&password.len()) || password.chars().count() < *PASSWORD.start() {
        return Err(UserError::Password);
    }
    let hash = Argon2::default().hash_password(password.as_bytes());
    Ok(hash.map_err(UserError::Hash)?.to_string())
}

/// Whether this can be somebody's name.
pub(super) fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    (1..=NAME_MAX).contains(&name.len()) && name.chars().all(letter)
}

/// Replaces the file as a whole, for its owner only.
fn store(path: &Path, users: &[User]) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(users)?;
    private(path, &text)
}

/// Writes a file that only its owner may read, as a whole and durably.
pub(super) fn private(path: &Path, text: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    if let Some(directory) = path.parent() {
        fs::File::open(directory)?.sync_all()?;
    }
    Ok(())
}
