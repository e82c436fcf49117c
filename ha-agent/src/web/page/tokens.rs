//! Tokens for scripts: secrets of 256 random bits, of which only the hash is stored, by this node alone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::sessions::{held, print, secret};
use super::users::{Access, UserError, is_name, private};
use crate::proto::hex;

/// The file in the state directory, mode 0600.
const FILE: &str = "web-tokens.json";
/// Tokens there may be.
const TOKENS_MAX: usize = 64;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Token {
    name: String,
    access: Access,
    /// SHA-256 of the secret, which cannot be guessed and so needs no slow hash.
    sha256: String,
}

/// All tokens of this node.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    /// As in the file, once it was read: only the agent writes it.
    known: Mutex<Option<Vec<Token>>>,
}

impl Tokens {
    /// Those in this state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join(FILE),
            known: Mutex::default(),
        }
    }

    /// Whose secret this is. A file that cannot be read lets nobody in.
    pub fn find(&self, secret: &str) -> Option<(String, Access)> {
        let wanted = hex::encode(&print(secret));
        let mut known = held(&self.known);
        let all = self.all(&mut known).ok()?;
        let found = all.iter().find(|token| token.sha256 == wanted)?;
        Some((found.name.clone(), found.access))
    }

    /// Names, and what they may do.
    pub fn list(&self) -> io::Result<Vec<(String, Access)>> {
        let mut known = held(&self.known);
        let all = self.all(&mut known)?.iter();
        Ok(all
            .map(|token| (token.name.clone(), token.access))
            .collect())
    }

    /// Makes one, and yields its secret, which nobody can see again.
    pub fn add(&self, name: &str, access: Access) -> Result<String, UserError> {
        if !is_name(name) {
            return Err(UserError::Name);
        }
        let random = || io::Error::other("the system has no random numbers");
        let secret = secret().ok_or_else(random)?;
        let mut known = held(&self.known);
        let mut all = self.all(&mut known)?.to_vec();
        if all.iter().any(|token| token.name == name) {
            return Err(UserError::Taken);
        }
        if all.len() >= TOKENS_MAX {
            return Err(UserError::TooMany);
        }
        all.push(Token {
            name: name.to_owned(),
            access,
            sha256: hex::encode(&print(&secret)),
        });
        self.store(&mut known, all)?;
        Ok(secret)
    }

    /// Removes one: its secret is good for nothing from now on.
    pub fn remove(&self, name: &str) -> Result<(), UserError> {
        let mut known = held(&self.known);
        let mut all = self.all(&mut known)?.to_vec();
        let before = all.len();
        all.retain(|token| token.name != name);
        if all.len() == before {
            return Err(UserError::Unknown);
        }
        Ok(self.store(&mut known, all)?)
    }

    fn all<'k>(&self, known: &'k mut Option<Vec<Token>>) -> io::Result<&'k [Token]> {
        let read = match known.take() {
            Some(all) => all,
            None => match std::fs::read(&self.path) {
                Ok(text) => serde_json::from_slice(&text)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error),
            },
        };
        Ok(known.insert(read))
    }

    fn store(&self, known: &mut Option<Vec<Token>>, all: Vec<Token>) -> io::Result<()> {
        private(&self.path, &serde_json::to_vec_pretty(&all)?)?;
        *known = Some(all);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_made_known_and_removed_and_their_secrets_not_stored() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::new(dir.path());
        assert_eq!(tokens.find(""), None);
        let secret = tokens.add("backup", Access::Viewer).unwrap();
        assert_eq!(
            tokens.find(&secret),
            Some(("backup".to_owned(), Access::Viewer))
        );
        assert_eq!(tokens.find(&secret[1..]), None);
        assert!(tokens.add("backup", Access::Operator).is_err());
        assert!(tokens.add("A B", Access::Operator).is_err());
        let stored = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(!stored.contains(&secret), "{stored}");
        // After a restart, too.
        let again = Tokens::new(dir.path());
        assert_eq!(
            again.find(&secret),
            Some(("backup".to_owned(), Access::Viewer))
        );
        again.remove("backup").unwrap();
        assert!(again.remove("backup").is_err());
        assert_eq!(again.find(&secret), None);
        std::fs::write(dir.path().join(FILE), "[").unwrap();
        assert_eq!(Tokens::new(dir.path()).find(&secret), None);
    }
}
