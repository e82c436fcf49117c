//! A device under test without hardware: the data plane between two veth pairs.

use anyhow::Result;

use super::line::Target;
use crate::gauge::scene::{NAMES, Scene};
use crate::gauge::veth::balance;
use crate::rig::Run;
use crate::rig::arp::mac_of;
use crate::rig::link;
use crate::rig::netns::Netns;

/// The generator's ports.
pub(super) const PORT: &str = "g0";
pub(super) const SINK: &str = "g1";

/// Generator and device.
pub(super) struct Lab {
    pub(super) generator: Netns,
    pub(super) target: Target,
    _device: Netns,
    _scene: Scene,
    // Last, so that everything else is gone when it removes the rest.
    _run: Run,
}

impl Lab {
    pub(super) fn build() -> Result<Self> {
        let run = Run::start()?;
        let (generator, device) = (run.namespace("generator")?, run.namespace("device")?);
        generator.ip(&format!(
            "link add {PORT} type veth peer name b0 netns {device}\n\
             link add {SINK} type veth peer name b1 netns {device}\n\
             link set {PORT} up\nlink set {SINK} up",
            device = device.name()
        ))?;
        device.ip(&format!(
            "link set b0 up\nlink set b1 up\naddr add {}/24 dev b0\naddr add 10.1.0.11/24 dev b1\nroute add default dev b0",
            NAMES.ip()
        ))?;
        for (netns, port) in [
            (&generator, PORT),
            (&generator, SINK),
            (&device, "b0"),
            (&device, "b1"),
        ] {
            link::offloads_off(netns, port)?;
        }
        let mac = |netns: &Netns, port: &str| netns.run(|| mac_of(port));
        let scene = balance(&device, mac(&generator, SINK)?, mac(&device, "b1")?)?;
        Ok(Self {
            target: Target {
                mac: mac(&device, "b0")?,
                service: NAMES,
            },
            generator,
            _device: device,
            _scene: scene,
            _run: run,
        })
    }
}
