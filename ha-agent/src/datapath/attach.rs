//! Attaching the XDP program to interfaces, by links that are pinned and can be taken over.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aya_obj::generated::{XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE};

use super::sys;

/// Prefix of the pins of links.
const LINK_PREFIX: &str = "link_";

/// How an XDP program sits on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// Behind the driver, after a socket buffer was made: slow, but everywhere.
    Generic,
    /// In the network card.
    Offloaded,
}

impl XdpMode {
    /// The name shown to operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        }
    }
}

/// An XDP program found on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its id, as in `bpftool prog show id`.
    pub program: u32,
    /// How it sits there.
    pub mode: XdpMode,
}

/// An interface to attach to, as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Name.
    pub name: String,
    /// Index.
    pub ifindex: u32,
    /// The XDP program on it.
    pub attached: Option<Attached>,
}

/// An interface our program is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name.
    pub device: String,
    /// Index.
    pub ifindex: u32,
    /// How the program sits there.
    pub mode: XdpMode,
    /// Whether the link of a previous agent was taken over.
    pub taken_over: bool,
}

/// The program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Somebody else's program is there.
    #[error(
        "interface {device} already runs XDP program {program}, which is not ours: see `bpftool prog \
         show id {program}`, stop what attached it or run `ip link set dev {device} xdp off` (if it \
         was attached by a link: `bpftool link show`, then `bpftool link detach id ...`)"
    )]
    Foreign {
        /// The interface.
        device: String,
        /// Id of the program.
        program: u32,
    },
    /// The kernel says that something is there already.
    #[error(
        "interface {device} already runs an XDP program, which is not ours: see `bpftool net show dev \
         {device}`, stop what attached it or run `ip link set dev {device} xdp off`"
    )]
    Busy {
        /// The interface.
        device: String,
    },
    /// Neither native nor generic mode works.
    #[error(
        "attaching to {device} failed in native mode ({native}) and in generic mode ({generic})"
    )]
    Refused {
        /// The interface.
        device: String,
        /// Answer to native mode.
        native: io::Error,
        /// Answer to generic mode.
        generic: io::Error,
    },
    /// A pin could not be read, made or removed.
    #[error("{}: {source}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Attaches the program that was loaded to interfaces: at first, when they lost it, and when they were made anew.
///
/// It holds what would otherwise live by its pin alone, so a BPF file system that somebody unmounts under a
/// running agent takes nothing away: links would let go of their interfaces, and the kernel would empty the array of
/// stages.
#[derive(Debug)]
pub struct Attacher {
    program: OwnedFd,
    _stages: OwnedFd,
    /// By device.
    links: Mutex<BTreeMap<String, OwnedFd>>,
    dir: PathBuf,
}

impl Attacher {
    pub(super) fn new(program: OwnedFd, stages: OwnedFd, dir: &Path) -> Self {
        Self {
            program,
            _stages: stages,
            links: Mutex::default(),
            dir: dir.to_owned(),
        }
    }

    /// Attaches it to each device, taking over pinned links, and lets go of devices that are not among them any
    /// more.
    pub(super) fn attach_all(&self, devices: &[Device]) -> Result<Vec<Attachment>, AttachError> {
        let dir = &self.dir;
        let wanted: Vec<PathBuf> = devices
            .iter()
            .map(|device| pin_path(dir, &device.name))
            .collect();
        for path in pinned_links(dir).map_err(pin_error(dir))? {
            if !wanted.contains(&path) {
                detach(&path).map_err(pin_error(&path))?;
            }
        }
        devices.iter().map(|device| self.attach(device)).collect()
    }

    /// Attaches it, or takes over the pinned link if that is still in force.
    pub fn attach(&self, device: &Device) -> Result<Attachment, AttachError> {
        let (attachment, link) = attach(self.program.as_fd(), &self.dir, device)?;
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.insert(device.name.clone(), link);
        Ok(attachment)
    }
}

/// Detaches a pinned link and removes the pin.
pub(super) fn detach(path: &Path) -> io::Result<()> {
    let link = sys::object_get(path)?;
    sys::link_detach(link.as_fd())?;
    fs::remove_file(path)
}

/// Pins of links in `dir`.
pub(super) fn pinned_links(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut links = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(LINK_PREFIX) {
            links.push(entry.path());
        }
    }
    Ok(links)
}

fn attach(
    program: BorrowedFd<'_>,
    dir: &Path,
    device: &Device,
) -> Result<(Attachment, OwnedFd), AttachError> {
    let path = pin_path(dir, &device.name);
    if let Some(found) = take_over(program, &path, device)? {
        return Ok(found);
    }
    if let Some(foreign) = device.attached {
        return Err(AttachError::Foreign {
            device: device.name.clone(),
            program: foreign.program,
        });
    }
    let (link, mode) = match create(program, device, XDP_FLAGS_DRV_MODE)? {
        Ok(link) => (link, XdpMode::Native),
        Err(native) => match create(program, device, XDP_FLAGS_SKB_MODE)? {
            Ok(link) => {
                tracing::warn!(
                    device = device.name,
                    error = %native,
                    "no native XDP on this interface: forwarding in generic mode, which is slower"
                );
                (link, XdpMode::Generic)
            }
            Err(generic) => {
                return Err(AttachError::Refused {
                    device: device.name.clone(),
                    native,
                    generic,
                });
            }
        },
    };
    sys::object_pin(link.as_fd(), &path).map_err(pin_error(&path))?;
    let attachment = Attachment {
        device: device.name.clone(),
        ifindex: device.ifindex,
        mode,
        taken_over: false,
    };
    Ok((attachment, link))
}

/// Puts `program` behind the link that a previous agent pinned. A link whose interface is gone, or
/// was replaced by another of the same name, holds nothing any more and is removed.
fn take_over(
    program: BorrowedFd<'_>,
    path: &Path,
    device: &Device,
) -> Result<Option<(Attachment, OwnedFd)>, AttachError> {
    if !path.exists() {
        return Ok(None);
    }
    let failed = pin_error(path);
    let link = sys::object_get(path).map_err(&failed)?;
    let ifindex = sys::xdp_link_ifindex(link.as_fd()).map_err(&failed)?;
    if ifindex != Some(device.ifindex) {
        fs::remove_file(path).map_err(&failed)?;
        return Ok(None);
    }
    sys::link_update(link.as_fd(), program).map_err(&failed)?;
    let attachment = Attachment {
        device: device.name.clone(),
        ifindex: device.ifindex,
        mode: device.attached.map_or(XdpMode::Native, |found| found.mode),
        taken_over: true,
    };
    Ok(Some((attachment, link)))
}

fn create(
    program: BorrowedFd<'_>,
    device: &Device,
    flags: u32,
) -> Result<Result<OwnedFd, io::Error>, AttachError> {
    match sys::xdp_link_create(program, device.ifindex, flags) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => {
            Err(AttachError::Busy {
                device: device.name.clone(),
            })
        }
        result => Ok(result),
    }
}

/// A link's pin. The BPF file system refuses dots in names; a colon never occurs in an interface's.
fn pin_path(dir: &Path, device: &str) -> PathBuf {
    dir.join(format!("{LINK_PREFIX}{}", device.replace('.', ":")))
}

fn pin_error(path: &Path) -> impl Fn(io::Error) -> AttachError {
    move |source| AttachError::Pin {
        path: path.to_owned(),
        source,
    }
}
