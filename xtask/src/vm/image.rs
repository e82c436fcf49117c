//! The file system a machine boots from: an archive that the kernel unpacks into memory.
//!
//! Format: `Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel, "newc".

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::workspace::output;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_777;
const CONSOLE: u32 = 0o020_600;
/// The console's device number: the kernel opens it before anything is mounted.
const CONSOLE_DEVICE: (u32, u32) = (5, 1);

struct Entry {
    mode: u32,
    device: (u32, u32),
    data: Vec<u8>,
}

/// What goes in, by path.
#[derive(Default)]
pub(crate) struct Image {
    entries: BTreeMap<String, Entry>,
    libraries: BTreeSet<PathBuf>,
}

impl Image {
    /// A file with this content.
    pub(crate) fn text(&mut self, path: &str, mode: u32, text: &str) -> Result<()> {
        self.add(path, FILE | mode, text.as_bytes().to_vec())
    }

    /// A copy of a file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, from: &Path) -> Result<()> {
        let data = fs::read(from).with_context(|| from.display().to_string())?;
        self.add(path, FILE | mode, data)
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.add(path, LINK, to.as_bytes().to_vec())
    }

    /// A program and the libraries it names.
    pub(crate) fn program(&mut self, path: &str, from: &Path) -> Result<()> {
        self.file(path, 0o755, from)?;
        // A static program has none, and says so by failing.
        let named = output(Command::new("ldd").arg(from)).unwrap_or_default();
        for word in named
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            if self.libraries.insert(PathBuf::from(word)) {
                self.file(word, 0o755, Path::new(word))?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &str, mode: u32, data: Vec<u8>) -> Result<()> {
        let path = path.strip_prefix('/').context("a relative path")?;
        for (at, _) in path.match_indices('/') {
            let parent = path.get(..at).unwrap_or_default();
            self.entries.entry(parent.to_owned()).or_insert(Entry {
                mode: DIRECTORY,
                device: (0, 0),
                data: Vec::new(),
            });
        }
        let entry = Entry {
            mode,
            device: (0, 0),
            data,
        };
        self.entries.insert(path.to_owned(), entry);
        Ok(())
    }

    /// Writes the archive.
    pub(crate) fn write(mut self, path: &Path) -> Result<()> {
        self.add("/dev/console", CONSOLE, Vec::new())?;
        if let Some(console) = self.entries.get_mut("dev/console") {
            console.device = CONSOLE_DEVICE;
        }
        let mut out = Vec::new();
        for (inode, (path, entry)) in (1..).zip(&self.entries) {
            append(&mut out, inode, path, entry)?;
        }
        let end = Entry {
            mode: 0,
            device: (0, 0),
            data: Vec::new(),
        };
        append(&mut out, 0, "TRAILER!!!", &end)?;
        fs::write(path, out).with_context(|| path.display().to_string())
    }
}

fn append(out: &mut Vec<u8>, inode: u32, path: &str, entry: &Entry) -> Result<()> {
    let (major, minor) = entry.device;
    let name = u32::try_from(path.len() + 1)?;
    let length = u32::try_from(entry.data.len())?;
    out.extend(b"070701");
    for field in [
        inode, entry.mode, 0, 0, 1, 0, length, 0, 0, major, minor, name, 0,
    ] {
        out.extend(format!("{field:08x}").as_bytes());
    }
    out.extend(path.as_bytes());
    out.push(0);
    pad(out);
    out.extend(&entry.data);
    pad(out);
    Ok(())
}

/// Names and contents begin at multiples of four.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_every_part_where_the_kernel_looks_for_it() -> Result<()> {
        let mut image = Image::default();
        image.text("/a/b", 0o644, "12345")?;
        image.link("/c", "a/b")?;
        let path = std::env::temp_dir().join(format!("ha-image-{}", std::process::id()));
        image.write(&path)?;
        let bytes = fs::read(&path)?;
        fs::remove_file(&path)?;
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let names: Vec<_> = text
            .match_indices("070701")
            .map(|(at, _)| {
                let name = text.get(at + 110..).unwrap_or_default();
                name.split('\0').next().unwrap_or_default()
            })
            .collect();
        assert_eq!(names, ["a", "a/b", "c", "dev", "dev/console", "TRAILER!!!"]);
        assert!(text.contains("12345\0\0\0\u{30}70701"));
        Ok(())
    }
}
