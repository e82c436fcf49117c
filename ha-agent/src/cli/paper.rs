//! `completion` and `manual`: what the command line says of itself, for shells and for `man`.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::args::Args;
use super::{Exit, complain, print};

/// The program's name.
const NAME: &str = "ha-agent";
/// Section of the manual: commands for whoever administers the system.
const SECTION: &str = "8";

/// `completion`.
pub(super) fn completion(shell: Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), NAME, &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// `manual`: one page of the program and one of each command.
pub(super) fn manual(directory: &Path) -> Exit {
    let mut program = Args::command().disable_help_subcommand(true);
    program.build();
    let written = fs::create_dir_all(directory).and_then(|()| pages(directory, &program));
    match written {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(
                &format!("{}: {error}", directory.display()),
                "name a directory to write to",
            );
            Exit::Failed
        }
    }
}

fn pages(directory: &Path, command: &Command) -> io::Result<()> {
    Man::new(command.clone())
        .section(SECTION)
        .source(concat!("ha-agent ", env!("CARGO_PKG_VERSION")))
        .generate_to(directory)?;
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        pages(directory, below)?;
    }
    Ok(())
}
