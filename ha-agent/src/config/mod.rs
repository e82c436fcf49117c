//! The configuration file: parsing, validation, the typed result.
//!
//! [`Config::load`] reports everything that is wrong with a file at once, each problem with its
//! place and what to write instead; nothing of a file with an error is ever used. The way there:
//! [`tree`] makes located nodes of YAML text, [`walk`] and [`values`] read them, [`sections`] knows
//! the keys, [`rules`] what they mean for each other. Reading a file has no side effects.

pub mod backup;
mod diagnostic;
pub mod edit;
pub mod lines;
pub mod model;
mod network;
mod reload;
mod rules;
mod sections;
pub mod shared;
mod tree;
mod values;
mod walk;

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::keys::{CARP_PASSPHRASE_MAX, PairKeys};
pub use diagnostic::{Diagnostic, Severity};
use diagnostic::{Problem, Source, Span};
use model::{Config, Mode, Node};
pub use reload::{Change, Difference, diff, difference};
use sections::Draft;
pub use shared::SharedPart;
use tree::{Kind, Step, Tree};
pub(crate) use values::{pretty, read_duration};
use walk::Walk;

/// Largest file read. A thousand services of some real servers each are well below one megabyte.
const SIZE_MAX: u64 = 16 << 20;

/// A file that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// What somebody should look at.
    pub warnings: Vec<Diagnostic>,
    /// What both nodes of a pair have alike.
    pub shared: SharedPart,
    source: Source,
}

/// What the files named in the configuration hold.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// The pair's keys; none if high availability is off and there is no key file.
    pub keys: PairKeys,
    /// Passphrase of the HMAC inside advertisements.
    pub carp_passphrase: Zeroizing<Vec<u8>>,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Loaded, Vec<Diagnostic>> {
        Self::parse(path, read(path)?)
    }

    /// Checks the content of a file; `path` only names it in messages.
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Loaded, Vec<Diagnostic>> {
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let at = u32::try_from(at).unwrap_or(u32::MAX);
                let problem = Problem::error(
                    Span { start: at, end: at },
                    "not UTF-8 text",
                    "save the file as UTF-8",
                );
                return Err(Source::new(path, text).diagnose(vec![problem]));
            }
        };
        let source = Source::new(path, text);
        let (config, mut problems) = interpret(source.text());
        let faulty = problems.iter().any(|p| p.severity == Severity::Error);
        let Some(config) = config.filter(|_| !faulty) else {
            return Err(source.diagnose(problems));
        };
        let shared = match SharedPart::of(source.text()) {
            Ok(shared) => shared,
            // A node alone has nobody to replicate to.
            Err(_) if config.node.mode == Mode::Off => SharedPart::whole(source.text()),
            Err(problem) => {
                problems.push(problem);
                return Err(source.diagnose(problems));
            }
        };
        Ok(Loaded {
            config,
            warnings: source.diagnose(problems),
            shared,
            source,
        })
    }
}

/// Where the agent of a configuration file listens for commands. The file need not be free of
/// errors: one that is being edited must not hide the agent that runs.
pub fn control_socket(path: &Path) -> Result<PathBuf, Vec<Diagnostic>> {
    let run_dir = directory(path, "run_dir", sections::node::RUN_DIR)?;
    Ok(run_dir.join(sections::node::SOCKET))
}

/// Where the agent of a configuration file keeps what survives a restart. The file need not be free of errors.
pub fn state_dir(path: &Path) -> Result<PathBuf, Vec<Diagnostic>> {
    directory(path, "state_dir", sections::node::STATE_DIR)
}

fn directory(path: &Path, key: &str, default: &str) -> Result<PathBuf, Vec<Diagnostic>> {
    let bytes = read(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let (tree, _) = Tree::parse(&text);
    let found = tree.find(&[Step::Key("node"), Step::Key(key)]);
    Ok(match found.map(|node| &node.kind) {
        Some(Kind::Scalar { text, .. }) => PathBuf::from(text.as_ref()),
        _ => PathBuf::from(default),
    })
}

impl Node {
    /// Where the control socket is.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(sections::node::SOCKET)
    }
}

/// Text to configuration and everything noticed on the way.
fn interpret(text: &str) -> (Option<Config>, Vec<Problem>) {
    let (tree, mut problems) = Tree::parse(text);
    let Some(root) = tree.root else {
        if problems.is_empty() {
            problems.push(Problem::error(
                Span::default(),
                "the file is empty",
                "begin with `version: 1` and a section `node`; deploy/ha-agent.yaml is an example",
            ));
        }
        return (None, problems);
    };
    let mut walk = Walk::new(&tree, problems);
    let draft = Draft::read(&mut walk, root);
    if let Some(draft) = &draft {
        rules::check(draft, &mut walk);
    }
    (draft.and_then(Draft::build), walk.into_problems())
}

/// Reads a file of at most [`SIZE_MAX`] bytes.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Vec<Diagnostic>> {
    let refused = |error: &io::Error| {
        let remedy = if error.kind() == io::ErrorKind::PermissionDenied {
            "run as a user who may read it, or change its mode"
        } else {
            "check the path; to begin a configuration, copy the example: /usr/share/doc/ha-agent/examples/ha-agent.yaml of \
             the package, or deploy/ha-agent.yaml of the sources"
        };
        vec![Diagnostic::of_file(path, error.to_string(), remedy)]
    };
    let file = File::open(path).map_err(|error| refused(&error))?;
    let mut bytes = Vec::new();
    file.take(SIZE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| refused(&error))?;
    if bytes.len() as u64 > SIZE_MAX {
        return Err(vec![Diagnostic::of_file(
            path,
            format!("larger than {} MiB", SIZE_MAX >> 20),
            "name a configuration file",
        )]);
    }
    Ok(bytes)
}

impl Loaded {
    /// The file, as it was read.
    pub fn text(&self) -> &str {
        self.source.text()
    }

    /// Reads the key and passphrase files that the configuration names.
    pub fn secrets(&self) -> Result<Secrets, Vec<Diagnostic>> {
        let node = &self.config.node;
        let mut problems = Vec::new();
        let place = |key| self.locate(&[Step::Key("node"), Step::Key(key)]);
        let alone = node.mode == Mode::Off && !node.key_file.exists();
        let keys = if alone {
            Some(PairKeys::new(Vec::new()))
        } else {
            PairKeys::load(&node.key_file)
                .map_err(|error| {
                    problems.push(Problem::error(
                        place("key_file"),
                        format!("the key of the pair cannot be used: {error}"),
                        error.remedy(),
                    ));
                })
                .ok()
        };
        let passphrase = match &node.carp_passphrase_file {
            None => keys.as_ref().map(|keys| keys.carp_passphrase().into()),
            Some(file) => passphrase(file)
                .map_err(|what| {
                    problems.push(Problem::error(
                        place("carp_passphrase_file"),
                        format!("{}: {what}", file.display()),
                        format!(
                            "write one line of 1 to {CARP_PASSPHRASE_MAX} bytes into it, the same \
                             on all CARP peers, and `chmod 600` it"
                        ),
                    ));
                })
                .ok(),
        };
        match (keys, passphrase) {
            (Some(keys), Some(carp_passphrase)) => Ok(Secrets {
                keys,
                carp_passphrase,
            }),
            _ => Err(self.source.diagnose(problems)),
        }
    }

    /// Where a value stands in the file; if it is not written, the nearest section that is.
    pub(crate) fn locate(&self, path: &[Step<'_>]) -> Span {
        let (tree, _) = Tree::parse(self.source.text());
        let mut ways = (0..=path.len())
            .rev()
            .filter_map(|length| path.get(..length));
        ways.find_map(|way| tree.find(way))
            .map_or_else(Span::default, |node| node.span)
    }
}

/// Reads a CARP passphrase: one line, as short as all implementations can take.
fn passphrase(file: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let open = File::open(file).map_err(|error| error.to_string())?;
    let metadata = open.metadata().map_err(|error| error.to_string())?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(format!("mode is {mode:04o}, so others can read it"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(CARP_PASSPHRASE_MAX + 3));
    open.take(CARP_PASSPHRASE_MAX as u64 + 3)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    match bytes.len() {
        0 => Err("empty".to_owned()),
        1..=CARP_PASSPHRASE_MAX if !bytes.contains(&b'\n') => Ok(bytes),
        _ => Err(format!(
            "longer than one line of {CARP_PASSPHRASE_MAX} bytes"
        )),
    }
}

#[cfg(test)]
pub(crate) mod tests;
