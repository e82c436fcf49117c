//! `cargo xtask dist`: the Debian package.
//!
//! What is in it and what its scripts do stands in `deploy/debian`; debhelper does the rest.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build::Profile;
use crate::workspace::{output, root, run, say, target};
use crate::{build, setup};

/// Options of `cargo xtask dist`.
#[derive(Debug, Args)]
pub(crate) struct DistArgs {
    /// Package this agent, as it is, instead of building one
    #[arg(long, value_name = "FILE", requires = "version")]
    program: Option<PathBuf>,
    /// Version of the package [default: the workspace's, which its changelog begins with]
    #[arg(long)]
    version: Option<String>,
    /// Where to put it [default: target/dist]
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

/// Makes the package, and says where it is.
pub(crate) fn dist(args: &DistArgs) -> Result<()> {
    let program = if let Some(program) = &args.program {
        program.clone()
    } else {
        setup::setup_all()?;
        build::build_agent(Profile::Release)?;
        Profile::Release.programs().join("ha-agent")
    };
    let out = args.out.clone().unwrap_or_else(|| target().join("dist"));
    let tree = out.join("tree");
    match fs::remove_dir_all(&tree) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| tree.display().to_string());
        }
        _ => fs::create_dir_all(&tree)?,
    }
    lay_out(&tree, &program, args.version.as_deref())?;
    run(Command::new("dpkg-buildpackage")
        .args(["--build=binary", "--no-sign", "--no-check-builddeps"])
        .current_dir(&tree)
        // What an outer cargo or make says is no business of debhelper's.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .stdout(std::io::stderr()))?;
    let made = output(
        Command::new("dpkg-parsechangelog")
            .args(["-S", "Version", "-l"])
            .arg(tree.join("debian/changelog")),
    )?;
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
    let package = out.join(format!(
        "ha-agent_{}_{}.deb",
        made.trim(),
        architecture.trim()
    ));
    if !package.is_file() {
        bail!("there is no {} although it was made", package.display());
    }
    say(&format!("dist: {}", package.display()));
    Ok(())
}

/// Puts together what `deploy/debian` expects beside it.
fn lay_out(tree: &Path, program: &Path, version: Option<&str>) -> Result<()> {
    let deploy = root().join("deploy");
    copy_all(&deploy.join("debian"), &tree.join("debian"))?;
    let changelog = tree.join("debian/changelog");
    fs::write(
        &changelog,
        history(&fs::read_to_string(&changelog)?, version)?,
    )?;
    copy(
        &deploy.join("ha-agent.service"),
        &tree.join("debian/ha-agent.service"),
    )?;
    copy(program, &tree.join("ha-agent"))?;
    for example in ["ha-agent.yaml", "90-ha-agent.conf"] {
        copy(&deploy.join(example), &tree.join("examples").join(example))?;
    }
    for directory in ["grafana", "prometheus"] {
        let to = tree.join("examples").join(directory);
        copy_all(&deploy.join(directory), &to)?;
    }
    copy_all(&root().join("docs"), &tree.join("docs"))?;
    copy(&root().join("README.md"), &tree.join("docs/README.md"))?;

    let agent = || Command::new(tree.join("ha-agent"));
    let pages = tree.join("man");
    run(agent().arg("manual").arg(&pages))?;
    fs::write(pages.join("ha-agent.yaml.5"), file_format()?)?;
    for (shell, file) in [
        ("bash", "ha-agent"),
        ("zsh", "_ha-agent"),
        ("fish", "ha-agent.fish"),
    ] {
        let directory = tree.join("completions").join(shell);
        fs::create_dir_all(&directory)?;
        fs::write(
            directory.join(file),
            output(agent().args(["completion", shell]))?,
        )?;
    }
    Ok(())
}

/// The changelog, which must begin with the version at hand; another one is put before it.
fn history(changelog: &str, version: Option<&str>) -> Result<String> {
    let own = env!("CARGO_PKG_VERSION");
    let Some(first) = changelog.strip_prefix(&format!("ha-agent ({own})")) else {
        bail!("deploy/debian/changelog does not begin with version {own}: write what is new in it");
    };
    let Some(version) = version.filter(|version| *version != own) else {
        return Ok(changelog.to_owned());
    };
    let signed = first.lines().find(|line| line.starts_with(" -- "));
    let signed = signed.context("deploy/debian/changelog: an entry without a signature")?;
    Ok(format!(
        "ha-agent ({version}) unstable; urgency=medium\n\n  * Made from version {own}.\n\n{signed}\n\n{changelog}"
    ))
}

/// `docs/configuration.md` as ha-agent.yaml(5).
fn file_format() -> Result<String> {
    let document = root().join("docs/configuration.md");
    let text = fs::read_to_string(&document)?;
    let body = text
        .strip_prefix("# Configuration file\n")
        .context("docs/configuration.md begins with another title")?;
    let page = target().join("ha-agent.yaml.md");
    fs::write(
        &page,
        format!(
            "# NAME\n\nha-agent.yaml - configuration of a node of a load-balancer pair\n\n# DESCRIPTION\n{body}"
        ),
    )?;
    let made = output(
        Command::new("lowdown")
            .args([
                "-s",
                "-Tman",
                "-M",
                "title=ha-agent.yaml",
                "-M",
                "section=5",
            ])
            .arg(&page),
    )?;
    // A table preprocessor, and no justified text in narrow columns.
    Ok(format!(
        "'\\\" t\n{}",
        made.replacen("\n.SH", "\n.ad l\n.SH", 1)
    ))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_all(&from, &to)?;
        } else {
            copy(&from, &to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_changelog_begins_with_the_version_that_is_made() -> Result<()> {
        let changelog = fs::read_to_string(root().join("deploy/debian/changelog"))?;
        assert_eq!(history(&changelog, None)?, changelog);
        let newer = history(&changelog, Some("9.9"))?;
        assert!(newer.starts_with("ha-agent (9.9) unstable"));
        assert!(newer.ends_with(&changelog));
        assert!(history("ha-agent (0.0.0) unstable", None).is_err());
        Ok(())
    }
}
