//! Embeds the BPF object that `cargo xtask build-ebpf` made, and refuses one that is not made from
//! the sources at hand.

#[path = "../xtask/src/stamp.rs"]
mod stamp;

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// Set to 1 to build an agent without a data plane: for editors and for machines without the BPF
/// toolchain. Its `run` refuses to start.
const WITHOUT: &str = "HA_NO_BPF";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed={WITHOUT}");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let embedded = PathBuf::from(env::var("OUT_DIR")?).join("ha_xdp");
    if env::var(WITHOUT).is_ok_and(|value| value == "1") {
        fs::write(embedded, [])?;
        return Ok(());
    }

    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let workspace = manifest.parent().ok_or("no workspace")?;
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), |dir| workspace.join(dir));
    let made = target.join("bpf");
    let (object, stamp_file) = (made.join("ha_xdp"), made.join(stamp::STAMP_FILE));
    for path in stamp::inputs(workspace)? {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rerun-if-changed={}", stamp_file.display());

    check(workspace, &object, &stamp_file).map_err(|problem| {
        format!("{problem}: run `cargo xtask build-ebpf` (or set {WITHOUT}=1 for an agent that cannot forward)")
    })?;
    fs::copy(object, embedded)?;
    Ok(())
}

fn check(workspace: &Path, object: &Path, stamp_file: &Path) -> Result<(), String> {
    if !object.is_file() {
        return Err(format!("no BPF object {}", object.display()));
    }
    let wanted = stamp::stamp(workspace).map_err(|error| error.to_string())?;
    match fs::read_to_string(stamp_file) {
        Ok(found) if found.trim() == wanted => Ok(()),
        _ => Err(format!(
            "the BPF object {} is not made from these sources",
            object.display()
        )),
    }
}
