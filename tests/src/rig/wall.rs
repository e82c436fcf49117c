//! A wall clock of its own for one process, which can jump while the process runs.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::netns::command;

const SOURCE: &str = include_str!("../../fixtures/chaos/wallclock.c");

/// The clock, as its file.
#[derive(Debug)]
pub struct WallClock {
    file: fs::File,
    environment: [(&'static str, OsString); 2],
}

impl WallClock {
    /// Makes one whose files are in `dir`; it is right at first.
    pub fn new(dir: &Path) -> Result<Self> {
        let (source, library) = (dir.join("wallclock.c"), dir.join("wallclock.so"));
        fs::write(&source, SOURCE)?;
        command(
            Command::new("cc")
                .args(["-shared", "-fPIC", "-O2", "-o"])
                .args([&library, &source])
                .arg("-ldl"),
            None,
        )
        .context("cannot build the wall clock")?;
        let path = dir.join("wallclock");
        let file = fs::File::create(&path)?;
        let clock = Self {
            file,
            environment: [
                ("LD_PRELOAD", library.into()),
                ("HA_WALL_CLOCK", path.into()),
            ],
        };
        clock.jump(0)?;
        Ok(clock)
    }

    /// What the process must have in its environment.
    pub fn environment(&self) -> &[(&'static str, OsString)] {
        &self.environment
    }

    /// From now on it is so many seconds ahead.
    pub fn jump(&self, seconds: i64) -> Result<()> {
        Ok(self.file.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_it_jump() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let clock = WallClock::new(dir.path())?;
        let year = || -> Result<String> {
            let environment = clock
                .environment()
                .iter()
                .map(|(name, value)| (name, value));
            // A shell's builtin would ask only once.
            command(Command::new("date").arg("+%Y").envs(environment), None)
        };
        let now = year()?;
        clock.jump(20 * 365 * 86_400)?;
        let later = year()?;
        let passed = later.trim().parse::<u32>()? - now.trim().parse::<u32>()?;
        assert!((19..=20).contains(&passed), "{now} {later}");
        Ok(())
    }
}
