//! What outlives an agent, what is taken over, what is refused, what is left.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::{Xdp, XdpMode as AyaMode};
use ha_agent::datapath::Datapath as _;
use ha_agent::datapath::attach::{AttachError, XdpMode};
use ha_agent::datapath::load::{LoadError, load_object};
use ha_agent::datapath::sys::{self, Map, Update};
use ha_agent::shell::clock;
use ha_common::control::Gate;
use ha_common::stage::STAGES;
use ha_common::{LAYOUT_VERSION, maps};
use ha_tests::rig::locate;
use ha_tests::rig::process::Process;
use nix::sys::signal::Signal;

use super::{HOLD, Host, key, object};

pub(crate) fn succession() -> Result<()> {
    let host = Host::new()?;
    let log = host.run.host_dir("node")?.join("log");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(HOLD).arg(&host.dir);
    let mut agent = Process::start("agent", &host.netns, &mut command, &log)?;
    let end = clock::now() + Duration::from_secs(30);
    while !agent.log().contains("ready") {
        ensure!(
            agent.ended()?.is_none() && clock::now() < end,
            "{}",
            agent.log()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    agent.signal(Signal::SIGKILL)?;
    agent.wait(Duration::from_secs(30))?;
    assert!(
        host.has_xdp("eth0")? && host.has_xdp("eth1.7")?,
        "the program outlives its agent"
    );

    let loaded = host.load()?;
    for attachment in &loaded.attachments {
        assert!(attachment.taken_over, "{attachment:?}");
        assert_eq!(attachment.mode, XdpMode::Native);
    }
    assert_eq!(
        loaded.gate.read(),
        Gate::default(),
        "a new agent starts with the gate closed"
    );
    assert!(
        loaded.datapath.get_conn(&key(1))?.is_some(),
        "connections live on"
    );
    assert_eq!(loaded.datapath.reals()?[5].generation, 9);

    // Without one of its interfaces the next agent lets go of it.
    drop(loaded);
    let loaded = host.try_load(&host.options(&["eth0"])?)??;
    assert!(loaded.attachments[0].taken_over);
    assert!(host.has_xdp("eth0")? && !host.has_xdp("eth1.7")?);
    Ok(())
}

/// The pins of arrays of stages.
pub(crate) fn arrays(host: &Host) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(&host.dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with("_stages") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Programs in an array of stages.
pub(crate) fn filled(array: &Path) -> Result<usize> {
    let map = Map::<u32, u32>::new(sys::object_get(array)?)?;
    let mut found = 0;
    for stage in 0..STAGES as u32 {
        found += usize::from(map.lookup(&stage)?.is_some());
    }
    Ok(found)
}

pub(crate) fn stages() -> Result<()> {
    let host = Host::new()?;
    drop(host.load()?);
    let [first] = &*arrays(&host)? else {
        bail!("{:?}", arrays(&host)?);
    };
    assert_eq!(filled(first)?, STAGES);
    let mut other = object()?;
    other.push(0);
    let options = host.options(&["eth0"])?;
    let loaded = host.netns.run(|| Ok(load_object(&other, &options)))??;
    let [second] = &*arrays(&host)? else {
        bail!("{:?}", arrays(&host)?);
    };
    assert_ne!(first, second, "each set of programs has its own");
    assert_eq!(filled(second)?, STAGES);
    loaded.pins.remove()?;
    assert!(!host.dir.exists());
    Ok(())
}

/// Programs that are in the kernel are used again, but only those of the same object over the same maps.
pub(crate) fn loaded_once() -> Result<()> {
    let host = Host::new()?;
    let options = host.options(&["eth0"])?;
    let running = |object: &[u8]| {
        let loaded = host.netns.run(|| Ok(load_object(object, &options)))??;
        assert!(loaded.gate.read() == Gate::default());
        let found = host.devices(&["eth0"])?;
        let pinned = fs::read_dir(&host.dir)?
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .filter(|name| name.starts_with("prog_") || name.starts_with("next_"))
            .map(|name| name.chars().take(37).collect());
        let pinned: BTreeSet<String> = pinned.collect();
        assert_eq!(pinned.len(), 1, "those of one object: {pinned:?}");
        found[0].attached.map(|found| found.program).context("none")
    };
    let mut object = object()?;
    let first = running(&object)?;
    assert_eq!(running(&object)?, first);
    // Another object, though it does the same.
    object.push(0);
    let second = running(&object)?;
    assert_ne!(second, first);
    assert_eq!(running(&object)?, second);
    // The same object, but the agent has lost one of its maps and makes it anew.
    fs::remove_file(host.dir.join(maps::HEARD))?;
    let third = running(&object)?;
    assert_ne!(third, second);
    assert_eq!(running(&object)?, third);
    // Not all of the programs.
    let janitor = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().ends_with("janitor");
    let entry = fs::read_dir(&host.dir)?.flatten().find(janitor);
    fs::remove_file(entry.context("the janitor is not pinned")?.path())?;
    assert_ne!(running(&object)?, third);
    Ok(())
}

pub(crate) fn clean_stop() -> Result<()> {
    let host = Host::new()?;
    let loaded = host.load()?;
    assert!(host.has_xdp("eth0")? && host.has_xdp("eth1.7")?);
    assert!(
        loaded
            .attachments
            .iter()
            .all(|found| !found.taken_over && found.mode == XdpMode::Native)
    );
    for name in [
        maps::CONNS4,
        maps::GATE,
        maps::VERSION,
        "link_eth0",
        "link_eth1:7",
    ] {
        assert!(host.dir.join(name).exists(), "{name}");
    }
    let version = Map::<u32, u32>::new(sys::object_get(&host.dir.join(maps::VERSION))?)?;
    assert_eq!(version.lookup(&0)?, Some(LAYOUT_VERSION));
    loaded.pins.remove()?;
    loaded.pins.remove()?;
    assert!(!host.dir.exists());
    assert!(!host.has_xdp("eth0")? && !host.has_xdp("eth1.7")?);
    Ok(())
}

pub(crate) fn foreign() -> Result<()> {
    let host = Host::new()?;
    let mut rig = aya::Ebpf::load_file(locate::bpf_object("ha_rig")?)?;
    let pass: &mut Xdp = rig
        .program_mut("ha_pass")
        .context("no ha_pass")?
        .try_into()?;
    pass.load()?;
    let id = pass.info()?.id();
    let link = host
        .netns
        .run(|| Ok(pass.attach("eth0", AyaMode::Driver)?))?;
    match host.try_load(&host.options(&["eth0"])?)? {
        Err(LoadError::Attach(error @ AttachError::Foreign { program, .. })) => {
            assert_eq!(program, id);
            let text = error.to_string();
            assert!(
                text.contains("eth0") && text.contains("ip link set dev eth0 xdp off"),
                "{text}"
            );
        }
        Err(other) => bail!("{other}"),
        Ok(_) => bail!("attached over a foreign program"),
    }
    // The kernel knows even if nobody told us.
    let mut unaware = host.options(&["eth0"])?;
    unaware.devices[0].attached = None;
    match host.try_load(&unaware)? {
        Err(LoadError::Attach(AttachError::Busy { device })) => assert_eq!(device, "eth0"),
        Err(other) => bail!("{other}"),
        Ok(_) => bail!("attached over a foreign program"),
    }
    assert!(host.has_xdp("eth0")?, "the other program is still there");
    pass.detach(link)?;
    host.load()?;
    Ok(())
}

pub(crate) fn layouts() -> Result<()> {
    let host = Host::new()?;
    drop(host.load()?);
    let mut larger = host.options(&["eth0", "eth1.7"])?;
    larger.connections.v4 *= 2;
    match host.try_load(&larger)? {
        Err(error @ LoadError::Layout { .. }) => {
            let text = error.to_string();
            let named = [
                maps::CONNS4,
                &host.dir.display().to_string(),
                "200000",
                "400000",
                "rm -r",
            ];
            assert!(named.iter().all(|name| text.contains(name)), "{text}");
        }
        Err(other) => bail!("{other}"),
        Ok(_) => bail!("took over a table of another size"),
    }
    let version = Map::<u32, u32>::new(sys::object_get(&host.dir.join(maps::VERSION))?)?;
    version.update(&0, &(LAYOUT_VERSION + 1), Update::Any)?;
    match host.try_load(&host.options(&["eth0"])?)? {
        Err(LoadError::Layout { property, .. }) => assert_eq!(property, "layout version"),
        Err(other) => bail!("{other}"),
        Ok(_) => bail!("took over maps of another layout"),
    }
    fs::remove_file(host.dir.join(maps::VERSION))?;
    let missing = host.try_load(&host.options(&["eth0"])?)?;
    assert!(matches!(missing, Err(LoadError::NoVersion { .. })));
    // Something else where a map belongs.
    fs::remove_file(host.dir.join(maps::CONNS4))?;
    let link = sys::object_get(&host.dir.join("link_eth0"))?;
    sys::object_pin(link.as_fd(), &host.dir.join(maps::CONNS4))?;
    let wrong = host.try_load(&host.options(&["eth0"])?)?;
    assert!(matches!(
        wrong,
        Err(LoadError::Pin { .. } | LoadError::Layout { .. })
    ));
    drop(link);
    assert!(host.has_xdp("eth0")?, "a refusal changes nothing");

    // The remedy that the messages name.
    fs::remove_dir_all(&host.dir)?;
    let end = clock::now() + Duration::from_secs(10);
    while host.has_xdp("eth0")? || host.has_xdp("eth1.7")? {
        // The kernel detaches by and by.
        ensure!(clock::now() < end, "still attached");
        std::thread::sleep(Duration::from_millis(10));
    }
    host.load()?;
    Ok(())
}

pub(crate) fn generic() -> Result<()> {
    let host = Host::new()?;
    host.netns
        .ip("link add br0 type bridge\nlink set br0 up\n")?;
    let loaded = host.try_load(&host.options(&["br0"])?)??;
    assert_eq!(loaded.attachments[0].mode, XdpMode::Generic);
    let again = host.try_load(&host.options(&["br0"])?)??;
    assert_eq!(
        (again.attachments[0].mode, again.attachments[0].taken_over),
        (XdpMode::Generic, true)
    );
    Ok(())
}

pub(crate) fn replaced() -> Result<()> {
    let host = Host::new()?;
    drop(host.load()?);
    host.netns
        .ip("link del eth0\nlink add eth0 type veth peer name far0\nlink set eth0 up\n")?;
    let loaded = host.load()?;
    let taken: Vec<bool> = loaded
        .attachments
        .iter()
        .map(|found| found.taken_over)
        .collect();
    assert_eq!(taken, [false, true]);
    assert!(host.has_xdp("eth0")?);
    Ok(())
}

pub(crate) fn mounting() -> Result<()> {
    let mut host = Host::new()?;
    host.dir = host.run.host_dir("node")?.join("no").join("bpffs");
    let loaded = host.load()?;
    assert!(host.dir.join(maps::GATE).exists());
    drop(loaded);
    let loaded = host.load()?;
    assert!(loaded.attachments[0].taken_over, "mounted only once");
    loaded.pins.remove()?;
    for entry in fs::read_dir(&host.dir)? {
        // A fresh BPF file system may have entries of the kernel's own.
        let name = entry?.file_name().to_string_lossy().into_owned();
        assert!(
            !name.starts_with("ha_") && !name.starts_with("link_"),
            "{name}"
        );
    }

    let file = host.run.host_dir("node")?.join("file");
    fs::write(&file, "")?;
    host.dir = file;
    let error = host
        .try_load(&host.options(&[])?)?
        .err()
        .context("loaded into a file")?;
    assert!(error.to_string().contains("not a directory"), "{error}");
    Ok(())
}

pub(crate) fn privileges() -> Result<()> {
    let host = Host::new()?;
    let options = host.options(&["eth0"])?;
    let object = object()?;
    let error = host.netns.run(|| {
        drop_capabilities()?;
        load_object(&object, &options)
            .err()
            .context("loaded without privileges")
    })?;
    let text = error.to_string();
    assert!(
        matches!(error, LoadError::Privileges { .. }) && text.contains("CAP_BPF"),
        "{text}"
    );
    Ok(())
}

/// Takes all capabilities from the calling thread.
pub(crate) fn drop_capabilities() -> Result<()> {
    // `struct __user_cap_header_struct` and `__user_cap_data_struct[2]` of linux/capability.h.
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0u32; 6];
    // SAFETY: both arrays are as long as the system call reads; `pid` 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    ensure!(result == 0, "cannot drop capabilities");
    Ok(())
}
