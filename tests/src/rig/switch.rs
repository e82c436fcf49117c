//! The switch: bridges in a namespace of their own, with ports that can be cut.
//!
//! A cut is one store to shared memory that the BPF programs on the port read for every frame. So it
//! takes effect at once, and the carrier stays up at both ends: as when a host hangs or a cable
//! beyond the next device breaks, nothing but silence tells the others. The program on the port is
//! also what makes a veth accept frames that the node's XDP program transmits.

use std::fmt;
use std::mem::offset_of;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};
use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData};
use aya::programs::links::FdLink;
use aya::programs::tc::{self, TcAttachType};
use aya::programs::{SchedClassifier, Xdp, XdpMode};
use aya::util::KernelVersion;
use ha_common::rig::port_flags::{CUT_FROM_NODE, CUT_TO_NODE, SWALLOW_FLOOD};
use ha_common::rig::{PORT_CTL, PORT_SLOT, PORTS, PortCtl};
use nix::net::if_::if_nametoindex;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::netns::Netns;
use super::{link, object};

/// From this kernel on, programs for outgoing packets are attached by links, which can be pinned.
const LINKS_FOR_TC: KernelVersion = KernelVersion::new(6, 6, 0);

/// Which frames a cut port drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// None.
    Nothing,
    /// Those the node sends: it hears the others, they do not hear it.
    FromNode,
    /// Those to the node: it is heard and hears nothing.
    ToNode,
    /// All.
    Both,
}

/// A switch with its bridges and ports.
pub struct Switch {
    netns: Netns,
    programs: Option<Programs>,
    ports: u32,
}

/// The programs on node ports, loaded when the first is made.
struct Programs {
    ebpf: Ebpf,
    control: Arc<ControlMap>,
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch")
            .field("netns", &self.netns)
            .finish_non_exhaustive()
    }
}

/// A port that can be cut. Copies steer the same port.
#[derive(Clone, Debug)]
pub struct Port {
    name: String,
    slot: u32,
    control: Arc<ControlMap>,
}

impl Switch {
    /// A switch in `netns`.
    pub fn new(netns: Netns) -> Self {
        Self {
            netns,
            programs: None,
            ports: 0,
        }
    }

    /// The namespace the switch is in.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Adds a bridge.
    pub fn bridge(&self, name: &str) -> Result<()> {
        self.netns.ip(&format!(
            "link add {name} type bridge stp_state 0 mcast_snooping 0\nlink set {name} up"
        ))
    }

    /// Connects interface `device` of a host to a bridge; returns the port's name.
    pub fn connect(&self, bridge: &str, host: &str, netns: &Netns, device: &str) -> Result<String> {
        let port = format!("{bridge}-{host}");
        self.netns.ip(&format!(
            "link add {port} type veth peer name {device} netns {}\nlink set {port} master {bridge} up",
            netns.name()
        ))?;
        netns.ip(&format!("link set {device} up"))?;
        link::offloads_off(&self.netns, &port)?;
        link::offloads_off(netns, device)?;
        Ok(port)
    }

    /// Like [`Switch::connect`], with the programs that accept the node's XDP frames and can cut
    /// the port. They are pinned in `pins`, so that they outlive this process if the run is kept.
    pub fn connect_node(
        &mut self,
        bridge: &str,
        host: &str,
        netns: &Netns,
        device: &str,
        pins: &Path,
    ) -> Result<Port> {
        let name = self.connect(bridge, host, netns, device)?;
        let slot = self.ports;
        self.ports += 1;
        let programs = match &mut self.programs {
            Some(programs) => programs,
            none => none.insert(Programs::load()?),
        };
        let control = Arc::clone(&programs.control);
        control.flags(slot).context("too many ports")?;
        let ebpf = &mut programs.ebpf;
        self.netns.run(|| {
            let index = if_nametoindex(name.as_str())?;
            let mut slots: HashMap<_, u32, u32> = ebpf
                .map_mut(PORT_SLOT)
                .context("ha_rig has no map of port slots")?
                .try_into()?;
            slots.insert(index, slot, 0)?;
            let program = xdp(ebpf)?;
            let link = program.attach_to_if_index(index, XdpMode::Driver)?;
            let link: FdLink = program.take_link(link)?.try_into()?;
            link.pin(pins.join(format!("{name}-xdp")))?;
            let program = egress(ebpf)?;
            if KernelVersion::current().is_ok_and(|kernel| kernel < LINKS_FOR_TC) {
                // It stays as long as the switch.
                tc::qdisc_add_clsact(&name)?;
                program.attach(&name, TcAttachType::Egress)?;
                return Ok(());
            }
            let link = program.attach(&name, TcAttachType::Egress)?;
            let link: FdLink = program.take_link(link)?.try_into()?;
            link.pin(pins.join(format!("{name}-egress")))?;
            Ok(())
        })?;
        Ok(Port {
            name,
            slot,
            control,
        })
    }
}

impl Programs {
    fn load() -> Result<Self> {
        let mut ebpf = object::load()?;
        xdp(&mut ebpf)?.load()?;
        egress(&mut ebpf)?.load()?;
        let map = ebpf
            .take_map(PORT_CTL)
            .context("ha_rig has no map of ports")?;
        Ok(Self {
            ebpf,
            control: Arc::new(ControlMap::new(map)?),
        })
    }
}

impl Port {
    /// The port's interface in the switch's namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Cuts or heals the port, with one store.
    pub fn cut(&self, cut: Cut) {
        self.set(match cut {
            Cut::Nothing => 0,
            Cut::FromNode => CUT_FROM_NODE,
            Cut::ToNode => CUT_TO_NODE,
            Cut::Both => CUT_FROM_NODE | CUT_TO_NODE,
        });
    }

    /// Lets what the node sends on of a flood end here.
    pub fn swallow_flood(&self) {
        self.set(SWALLOW_FLOOD);
    }

    fn set(&self, flags: u32) {
        if let Some(word) = self.control.flags(self.slot) {
            word.store(flags, Ordering::SeqCst);
        }
    }

    /// Drops this many of a million frames from the node at random.
    pub fn lose(&self, per_million: u32) {
        if let Some(word) = self.control.loss(self.slot) {
            word.store(per_million, Ordering::SeqCst);
        }
    }
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = ebpf.program_mut("ha_port");
    Ok(program
        .context("ha_rig has no program ha_port")?
        .try_into()?)
}

fn egress(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier> {
    let program = ebpf.program_mut("ha_egress");
    Ok(program
        .context("ha_rig has no program ha_egress")?
        .try_into()?)
}

/// Bytes of the mapped ports.
const CONTROL_BYTES: usize = PORTS as usize * size_of::<PortCtl>();

/// The map of ports, mapped into this process.
#[derive(Debug)]
struct ControlMap {
    address: NonNull<libc::c_void>,
    _map: MapData,
}

// SAFETY: the memory is shared with the kernel and accessed through atomics only; the pointer stays
// valid until the value is dropped.
unsafe impl Send for ControlMap {}
// SAFETY: as above.
unsafe impl Sync for ControlMap {}

impl ControlMap {
    fn new(map: Map) -> Result<Self> {
        let Map::Array(map) = map else {
            bail!("the map of ports is no array");
        };
        let length = NonZeroUsize::new(CONTROL_BYTES).context("no ports")?;
        // SAFETY: a fresh shared mapping of a map created with BPF_F_MMAPABLE and `PORTS` elements
        // aliases no Rust object; all access to it is atomic.
        let address = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map.fd().as_fd(),
                0,
            )
        }
        .context("cannot map the ports")?;
        Ok(Self { address, _map: map })
    }

    fn flags(&self, slot: u32) -> Option<&AtomicU32> {
        self.word(slot, offset_of!(PortCtl, flags))
    }

    fn loss(&self, slot: u32) -> Option<&AtomicU32> {
        self.word(slot, offset_of!(PortCtl, loss_ppm))
    }

    fn word(&self, slot: u32, offset: usize) -> Option<&AtomicU32> {
        if slot >= PORTS {
            return None;
        }
        let offset = slot as usize * size_of::<PortCtl>() + offset;
        // SAFETY: `slot` is one of the mapped elements and `offset` a field of it.
        let word = unsafe { self.address.byte_add(offset) }.cast::<AtomicU32>();
        // SAFETY: the mapping lives as long as `self`, is aligned to a page, and is only ever
        // accessed as atomic words.
        Some(unsafe { word.as_ref() })
    }
}

impl Drop for ControlMap {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and no reference outlives `self`.
        let result = unsafe { munmap(self.address, CONTROL_BYTES) };
        debug_assert!(result.is_ok(), "a mapping of our own");
    }
}
