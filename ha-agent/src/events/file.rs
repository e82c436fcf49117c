//! One bounded file of lines, and the one it replaced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Owner and group of the agent may read what happened.
const MODE: u32 = 0o640;

/// Appends lines to a file, which makes room when it is full: what was in it stays until the next time.
///
/// A line that a crash or a full disk cut short stays where it is. What is written next begins on a line of
/// its own, and readers pass over what they cannot read. The file is open only while it is written: a disk
/// that is to be unmounted, or made read-only, is not kept from it.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    max: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    length: u64,
    /// The last line has no end.
    torn: bool,
}

impl Lines {
    /// A file of at most this many bytes; nothing is opened yet.
    pub(super) const fn new(path: PathBuf, max: u64) -> Self {
        Self { path, max }
    }

    /// Stores whole lines, durably. After an error some of them may be there.
    pub(super) fn append(&self, lines: &[u8]) -> io::Result<()> {
        let mut open = Open::new(&self.path)?;
        if open.length > 0 && open.length + lines.len() as u64 > self.max {
            fs::rename(&self.path, before(&self.path))?;
            open = Open::new(&self.path)?;
        }
        if open.torn {
            open.file.write_all(b"\n")?;
        }
        open.file.write_all(lines)?;
        open.file.sync_data()
    }
}

impl Open {
    fn new(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut file = OpenOptions::new()
            .append(true)
            .read(true)
            .create(true)
            .mode(MODE)
            .open(path)?;
        let length = file.metadata()?.len();
        let mut last = [b'\n'];
        if length > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(Self {
            file,
            length,
            torn: last != [b'\n'],
        })
    }
}

/// Where the lines before those of this file are.
fn before(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// All bytes of the file and of the one before it, no more of each than it may have; what is not there is empty.
pub(super) fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for path in [before(path), path.to_owned()] {
        match File::open(path) {
            Ok(file) => {
                file.take(max).read_to_end(&mut bytes)?;
                // The last line may have been cut short.
                bytes.push(b'\n');
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
