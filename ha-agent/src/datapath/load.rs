//! Brings the data plane into the kernel, or takes over what a previous agent left there.
//!
//! Maps and XDP links are pinned under `bpf_dir`, so they outlive an agent that is killed: the gate's
//! lease runs out and the program goes on dropping until the next agent takes the pins over. Only a
//! clean stop ([`Pins::remove`]) takes everything away. What is found is used only if it is exactly
//! what this agent would have made; anything else is reported, never guessed at and never deleted.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapError, RingBuf};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use ha_common::stage::{ENTRY, FOLLOW, JANITOR, Stage};
use ha_common::{LAYOUT_VERSION, maps};

use super::attach::{self, AttachError, Attacher, Attachment, Device};
use super::bpf::{Bpf, Rings, Runnable};
use super::bpffs::{self, BpffsError};
use super::gate::GateWord;
use super::programs::{self, Programs, Shelf};
use super::sys::{self, Map, Update};
use super::{Datapath as _, DatapathError};

/// The BPF object, as `cargo xtask build-ebpf` made it. Empty if the agent was built without.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ha_xdp"));

/// Oldest kernel on which it was run, that of Debian 12 (`cargo xtask test-vm`). Copies out of a frame
/// (`bpf_xdp_load_bytes`) came with 5.18, the last thing that it uses.
pub const KERNEL_MIN: (u8, u8) = (6, 1);

/// Lines of the verifier's log shown when it refuses the program: the reason is at the end.
const VERIFIER_LINES: usize = 25;

/// Every map that is pinned under its name. The array of stages has a pin for each set of programs
/// ([`programs`]).
const PINNED: &[&str] = &[
    maps::CONNS4,
    maps::CONNS6,
    maps::EMBRYO4,
    maps::EMBRYO6,
    maps::FRAGMENTS4,
    maps::FRAGMENTS6,
    maps::PERSIST4,
    maps::PERSIST6,
    maps::SERVICES4,
    maps::SERVICES6,
    maps::TIMEOUTS,
    maps::REALS,
    maps::LOADS,
    maps::TRAFFIC,
    maps::SLOTS,
    maps::TURNS,
    maps::RETURN4,
    maps::RETURN6,
    maps::FILTER,
    maps::PACE,
    maps::ADDRS4,
    maps::ADDRS6,
    maps::PAIR,
    maps::PEERS,
    maps::DIGESTS,
    maps::HEARD,
    maps::BUCKETS,
    maps::EVIDENCE,
    maps::SAMPLES,
    maps::EARLY,
    maps::GATE,
    maps::CONFIG,
    maps::REASONS,
    maps::EVENTS,
    maps::CARP,
    maps::VERSION,
];

/// A ring from the data plane to the agent: readable (`AsFd`) when there are records.
pub type Ring = RingBuf<MapData>;

/// What to load, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the pins.
    pub bpf_dir: PathBuf,
    /// How much the connection tables hold.
    pub connections: Connections,
    /// Interfaces to attach to.
    pub devices: Vec<Device>,
    /// This agent continues another one: gate and rings stay as they are.
    pub continued: bool,
}

/// How many connections the tables hold; each takes two entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// IPv4 connections.
    pub v4: u32,
    /// IPv6 connections.
    pub v6: u32,
}

impl Connections {
    /// Entries of the two tables.
    pub const fn entries(self) -> [(&'static str, u32); 2] {
        [
            (maps::CONNS4, self.v4.saturating_mul(2)),
            (maps::CONNS6, self.v6.saturating_mul(2)),
        ]
    }
}

/// A loaded and attached data plane.
pub struct Loaded {
    /// The maps.
    pub datapath: Bpf,
    /// The gate. Closed by loading, unless the agent continues another one.
    pub gate: GateWord,
    /// Advertisements.
    pub carp: Ring,
    /// Changes of connections.
    pub events: Ring,
    /// Readable when fragments are held.
    pub held: OwnedFd,
    /// Where the program is attached, and how.
    pub attachments: Vec<Attachment>,
    /// Attaches it again.
    pub attacher: Attacher,
    /// What a clean stop removes.
    pub pins: Pins,
}

/// The pins under `bpf_dir`.
#[derive(Clone, Debug)]
pub struct Pins {
    dir: PathBuf,
}

/// Why the data plane could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Built with `HA_NO_BPF`.
    #[error(
        "this agent was built without its BPF object: run `cargo xtask build-ebpf` and build it again"
    )]
    NoObject,
    /// The kernel is older than the data plane needs.
    #[error("Linux {found} is too old: the data plane needs {major}.{minor} or later")]
    KernelTooOld {
        /// What runs.
        found: String,
        /// Oldest one that works.
        major: u8,
        /// Oldest one that works.
        minor: u8,
    },
    /// The kernel said `EPERM`.
    #[error(
        "the kernel does not permit {what}: run the agent as root or with CAP_BPF, CAP_NET_ADMIN and \
         CAP_PERFMON"
    )]
    Privileges {
        /// What was attempted.
        what: &'static str,
    },
    /// `bpf_dir` cannot be used.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// A pinned map is not the one this agent would make.
    #[error(
        "pinned map {map} in {} has {property} {found}, this agent needs {wanted}: {}", dir.display(), remedy(dir)
    )]
    Layout {
        /// The map.
        map: String,
        /// Where it is pinned.
        dir: PathBuf,
        /// What differs.
        property: &'static str,
        /// As found.
        found: u32,
        /// As needed.
        wanted: u32,
    },
    /// There are pins, but no version to judge them by.
    #[error("{} holds pinned maps without {}: {}", dir.display(), maps::VERSION, remedy(dir))]
    NoVersion {
        /// Where the pins are.
        dir: PathBuf,
    },
    /// Something that is not a map is pinned where a map belongs.
    #[error("{}: {source}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The verifier refused a program.
    #[error("the kernel's verifier refused program {program} ({source}); its last words:\n{tail}")]
    Verifier {
        /// The program.
        program: &'static str,
        /// The end of the verifier's log.
        tail: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A map could not be made.
    #[error(
        "not enough memory for the connection tables: lower limits.connections (now {}) or \
         limits.connections_ipv6 (now {})",
        connections.v4,
        connections.v6
    )]
    Memory {
        /// What was asked for.
        connections: Connections,
    },
    /// aya could not load the object.
    #[error("loading the BPF object")]
    Object(#[source] Box<EbpfError>),
    /// aya could not load a program.
    #[error("loading program {program}")]
    Program {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: Box<ProgramError>,
    },
    /// The object lacks a program or map, or has it with another type: it is not of this agent.
    #[error("the BPF object has no usable {name}: run `cargo xtask build-ebpf` and build again")]
    Incomplete {
        /// What is missing.
        name: &'static str,
    },
    /// A ring could not be mapped.
    #[error("mapping ring {name}")]
    Ring {
        /// The ring.
        name: &'static str,
        /// Why.
        source: MapError,
    },
    /// The program could not be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A map operation failed.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
}

fn remedy(dir: &Path) -> String {
    format!(
        "stop the agent that uses it and remove the directory (`rm -r {}`; the connections in it are \
         lost on this node), or start the version or configuration that made it",
        dir.display()
    )
}

/// Loads the data plane and attaches it to the given devices, with the gate closed.
pub fn load(options: &Options) -> Result<Loaded, LoadError> {
    load_object(OBJECT, options)
}

/// [`load`] with an object of the caller's.
pub fn load_object(object: &[u8], options: &Options) -> Result<Loaded, LoadError> {
    if object.is_empty() {
        return Err(LoadError::NoObject);
    }
    check_kernel()?;
    let dir = &options.bpf_dir;
    bpffs::prepare(dir)?;
    check_pins(object, dir, options.connections)?;

    let pins = Pins { dir: dir.clone() };
    let programs = match pins.programs(object)? {
        Some(found) => found,
        None => load_programs(object, options)?,
    };
    let shelf = pins.shelf(object)?;
    let pin = |source| LoadError::Pin {
        path: dir.clone(),
        source,
    };
    shelf.leave_in_force(&programs).map_err(pin)?;

    let rings = Rings {
        evidence: ring(dir, maps::EVIDENCE)?.into(),
        samples: ring(dir, maps::SAMPLES)?.into(),
        early: ring(dir, maps::EARLY)?.into(),
    };
    let runnable = Runnable {
        janitor: programs.janitor,
        follow: programs.follow,
    };
    let datapath = Bpf::new(|name| pins.map(name), runnable, rings)?;
    let gate = GateWord::map(pins.map(maps::GATE)?.as_fd()).map_err(map_error(maps::GATE))?;
    let mut carp = ring(dir, maps::CARP)?;
    let mut events = ring(dir, maps::EVENTS)?;
    if !options.continued {
        // Whoever opened it is dead: from now on this agent answers for the node.
        gate.reset();
        for ring in [&mut carp, &mut events] {
            // What gathered while no agent was reading.
            while ring.next().is_some() {}
        }
    }
    Map::<u32, u32>::new(pins.map(maps::VERSION)?)
        .and_then(|version| version.update(&0, &LAYOUT_VERSION, Update::Any))
        .map_err(map_error(maps::VERSION))?;
    datapath.counters()?;
    let attacher = Attacher::new(programs.entry, programs.stages, dir);
    let attachments = attacher.attach_all(&options.devices)?;
    if let Err(error) = shelf.release_others() {
        tracing::debug!(%error, "pins of an earlier agent's programs not removed");
    }
    Ok(Loaded {
        datapath,
        gate,
        carp,
        events,
        held: pins.map(maps::EARLY)?,
        attachments,
        attacher,
        pins,
    })
}

/// Finds out whether an agent that runs with these options could be continued by this program, and if
/// `prepare` sees to it that this program's data plane is in the kernel, so that the verifier's work is
/// done by then.
pub fn check(options: &Options, prepare: bool) -> Result<(), LoadError> {
    if OBJECT.is_empty() {
        return Err(LoadError::NoObject);
    }
    check_kernel()?;
    let dir = &options.bpf_dir;
    check_pins(OBJECT, dir, options.connections)?;
    let pins = Pins { dir: dir.clone() };
    if prepare && dir.join(maps::VERSION).exists() && pins.programs(OBJECT)?.is_none() {
        let programs = load_programs(OBJECT, options)?;
        let left = pins.shelf(OBJECT)?.leave_ahead(&programs);
        left.map_err(|source| LoadError::Pin {
            path: dir.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Makes or finds the maps, and loads all programs.
fn load_programs(object: &[u8], options: &Options) -> Result<Programs, LoadError> {
    let mut loader = EbpfLoader::new();
    for (name, entries) in options.connections.entries() {
        loader.map_max_entries(name, entries);
    }
    for &name in PINNED {
        loader.map_pin_path(name, options.bpf_dir.join(name));
    }
    let mut ebpf = loader
        .load(object)
        .map_err(|error| object_error(error, options.connections))?;
    let entry = load_program(&mut ebpf, ENTRY)?;
    let janitor = load_program(&mut ebpf, JANITOR)?;
    let follow = load_program(&mut ebpf, FOLLOW)?;
    let name = maps::STAGES;
    let Some(aya::maps::Map::ProgramArray(array)) = ebpf.map(name) else {
        return Err(LoadError::Incomplete { name });
    };
    let array = array.fd().as_fd().try_clone_to_owned();
    let array = Map::<u32, u32>::new(array.map_err(map_error(name))?).map_err(map_error(name))?;
    for stage in Stage::ALL {
        let program = load_program(&mut ebpf, stage.program())?;
        array
            .update(
                &(*stage as u32),
                &program.as_raw_fd().cast_unsigned(),
                Update::Any,
            )
            .map_err(map_error(name))?;
    }
    Ok(Programs {
        entry,
        janitor,
        follow,
        stages: array.into_fd(),
    })
}

impl Pins {
    /// Detaches the program everywhere and removes the maps: after this nothing of the agent is left
    /// in the kernel once the last [`Loaded`] part is dropped.
    pub fn remove(&self) -> io::Result<()> {
        // Links first: no packet may find the program with its maps half gone.
        for link in attach::pinned_links(&self.dir)? {
            attach::detach(&link)?;
        }
        programs::forget(&self.dir)?;
        for name in PINNED {
            match fs::remove_file(self.dir.join(name)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        match fs::remove_dir(&self.dir) {
            Ok(()) => Ok(()),
            // A mount point, or somebody else's pins: not ours to remove.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EBUSY | libc::ENOTEMPTY | libc::ENOENT | libc::EPERM)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn map(&self, name: &'static str) -> Result<OwnedFd, DatapathError> {
        sys::object_get(&self.dir.join(name)).map_err(map_error(name))
    }

    /// Where the programs of an object over the pinned maps are.
    fn shelf(&self, object: &[u8]) -> Result<Shelf<'_>, DatapathError> {
        let id = |name: &&'static str| {
            let info = sys::map_info(self.map(name)?.as_fd());
            Ok(info.map_err(map_error(name))?.id)
        };
        let ids = PINNED.iter().map(id);
        let ids = ids.collect::<Result<Vec<u32>, DatapathError>>()?;
        Ok(Shelf::new(&self.dir, object, &ids))
    }

    /// The programs of an object, if they are in the kernel with all their maps.
    fn programs(&self, object: &[u8]) -> Result<Option<Programs>, DatapathError> {
        if PINNED.iter().all(|name| self.dir.join(name).exists()) {
            Ok(self.shelf(object)?.find())
        } else {
            Ok(None)
        }
    }
}

fn check_kernel() -> Result<(), LoadError> {
    let (major, minor) = KERNEL_MIN;
    let name = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let name = name.trim();
    let mut parts = name.split(|c: char| !c.is_ascii_digit());
    let mut part = || parts.next().and_then(|part| part.parse::<u32>().ok());
    match (part(), part()) {
        (Some(a), Some(b)) if (a, b) < (u32::from(major), u32::from(minor)) => {
            Err(LoadError::KernelTooOld {
                found: name.to_owned(),
                major,
                minor,
            })
        }
        // A release this cannot read is left to the kernel's own refusals.
        _ => Ok(()),
    }
}

/// Compares what is pinned with what the object defines.
fn check_pins(object: &[u8], dir: &Path, connections: Connections) -> Result<(), LoadError> {
    let parsed = aya_obj::Object::parse(object)
        .map_err(|error| LoadError::Object(Box::new(error.into())))?;
    let mut found = false;
    for &name in PINNED {
        let wanted = parsed
            .maps
            .get(name)
            .ok_or(LoadError::Incomplete { name })?;
        let path = dir.join(name);
        if !path.exists() {
            continue;
        }
        found = true;
        let pin = |source| LoadError::Pin {
            path: path.clone(),
            source,
        };
        let fd = sys::object_get(&path).map_err(pin)?;
        let info = sys::map_info(fd.as_fd()).map_err(pin)?;
        let mut sized = connections.entries().into_iter();
        let entries = sized
            .find(|(sized, _)| *sized == name)
            .map_or_else(|| wanted.max_entries(), |(_, entries)| entries);
        for (property, found, wanted) in [
            ("type", info.type_, wanted.map_type()),
            ("key size", info.key_size, wanted.key_size()),
            ("value size", info.value_size, wanted.value_size()),
            ("size", info.max_entries, entries),
        ] {
            // The loader rounds a ring up to whole pages; its definition here is a multiple already.
            if found != wanted {
                return Err(LoadError::Layout {
                    map: name.to_owned(),
                    dir: dir.to_owned(),
                    property,
                    found,
                    wanted,
                });
            }
        }
    }
    if found {
        check_version(dir)?;
    }
    Ok(())
}

fn check_version(dir: &Path) -> Result<(), LoadError> {
    let path = dir.join(maps::VERSION);
    if !path.exists() {
        return Err(LoadError::NoVersion {
            dir: dir.to_owned(),
        });
    }
    let version = sys::object_get(&path)
        .and_then(Map::<u32, u32>::new)
        .and_then(|map| map.lookup(&0))
        .map_err(|source| LoadError::Pin { path, source })?
        .unwrap_or_default();
    // 0: an agent died between making the maps and attaching the program. They are empty.
    if version != LAYOUT_VERSION && version != 0 {
        return Err(LoadError::Layout {
            map: maps::VERSION.to_owned(),
            dir: dir.to_owned(),
            property: "layout version",
            found: version,
            wanted: LAYOUT_VERSION,
        });
    }
    Ok(())
}

fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, LoadError> {
    let program: &mut Xdp = ebpf
        .program_mut(name)
        .ok_or(LoadError::Incomplete { name })?
        .try_into()
        .map_err(|error| program_error(name, error))?;
    program.load().map_err(|error| program_error(name, error))?;
    let fd = program
        .fd()
        .map_err(|error| program_error(name, error))?
        .as_fd()
        .try_clone_to_owned();
    fd.map_err(|error| program_error(name, error.into()))
}

fn ring(dir: &Path, name: &'static str) -> Result<Ring, LoadError> {
    let failed = |source| LoadError::Ring { name, source };
    let map = MapData::from_pin(dir.join(name)).map_err(failed)?;
    Ring::try_from(aya::maps::Map::RingBuf(map)).map_err(failed)
}

fn program_error(program: &'static str, error: ProgramError) -> LoadError {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return LoadError::Program {
            program,
            source: Box::new(error),
        };
    };
    if io_error.raw_os_error() == Some(libc::EPERM) {
        return LoadError::Privileges {
            what: "loading an XDP program",
        };
    }
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().filter(|line| !line.is_empty()).collect();
    let from = lines.len().saturating_sub(VERIFIER_LINES);
    LoadError::Verifier {
        program,
        tail: lines.get(from..).unwrap_or_default().join("\n"),
        source: io_error,
    }
}

fn object_error(error: EbpfError, connections: Connections) -> LoadError {
    match os_error(&error) {
        Some(libc::EPERM) => LoadError::Privileges {
            what: "creating BPF maps",
        },
        Some(libc::ENOMEM | libc::E2BIG) => LoadError::Memory { connections },
        _ => LoadError::Object(Box::new(error)),
    }
}

/// The operating system's error at the root of a chain.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        next = error.source();
    }
    None
}

fn map_error(map: &'static str) -> impl Fn(io::Error) -> DatapathError {
    move |source| DatapathError::Map {
        map,
        operation: "open",
        source,
    }
}
