//! The configuration file of a new node, made of its partner's: what both have alike as it is written there, and a
//! section `node` that is the partner's seen from the other side.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::config::model::{Cidr, Config, Interface, Mode};
use crate::config::{Diagnostic, Loaded, shared};

use super::Gift;

/// What the new machine is.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// What the node is to be called.
    pub name: String,
    /// Its devices, and their addresses.
    pub devices: BTreeMap<String, Vec<IpAddr>>,
    /// Which device is which interface, where a person said so.
    pub chosen: BTreeMap<String, String>,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The partner's file cannot be read by this version.
    #[error("this version cannot read the other node's configuration (ha-agent {})", .0.escape_debug())]
    Foreign(String, Vec<Diagnostic>),
    /// The partner is no node of a pair.
    #[error("the other node is not part of a pair: its `node.mode` is off")]
    Alone,
    /// An interface has an address and no partner's.
    #[error("interface `{0}` of the other node has an address, but no partner's in its subnet")]
    NoPartner(String),
    /// No device has the address.
    #[error(
        "no device of this machine has {addresses}, which the other node expects on interface `{interface}`"
    )]
    NoDevice {
        /// The interface.
        interface: String,
        /// The addresses.
        addresses: String,
    },
    /// The device of a link without an address is not there.
    #[error(
        "this machine has no device `{device}` for interface `{interface}`, which has no address to know it by"
    )]
    NoCable {
        /// The interface.
        interface: String,
        /// As the partner has it.
        device: String,
    },
    /// A choice for an interface that does not exist.
    #[error("the pair has no interface `{0}`")]
    NoInterface(String),
    /// The file breaks a rule.
    #[error("the configuration that came of it cannot be used")]
    Unusable(Vec<Diagnostic>),
}

impl Unfit {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Foreign(..) => {
                "install the same version on both nodes, and pair them again".to_owned()
            }
            Self::Alone => "set `node.mode` to first there, and restart that agent".to_owned(),
            Self::NoPartner(_) => {
                "write the new node's address there as `partner`, and reload".to_owned()
            }
            Self::NoDevice { interface, .. } => format!(
                "give a device of this machine the address, or name the device that will have it: \
                 `--device {interface}=DEVICE`"
            ),
            Self::NoCable { interface, .. } => {
                format!("name the device: `--device {interface}=DEVICE`")
            }
            Self::NoInterface(_) => "name an interface as the other node's file does".to_owned(),
            Self::Unusable(_) => {
                "mend that in the other node's file, and pair them again".to_owned()
            }
        }
    }
}

/// The new node's file, checked but for its secrets. `path` is where it will be.
pub fn compose(gift: &Gift, path: &Path, machine: &Machine) -> Result<Loaded, Unfit> {
    let theirs = Config::parse(
        Path::new("(the other node)"),
        gift.file.clone().into_bytes(),
    )
    .map_err(|problems| Unfit::Foreign(gift.version.clone(), problems))?;
    let node = &theirs.config.node;
    let mode = match node.mode {
        Mode::Off => return Err(Unfit::Alone),
        Mode::First => "second",
        Mode::Second => "first",
    };
    let known = |name: &&String| node.interfaces.iter().all(|found| found.name != **name);
    if let Some(unknown) = machine.chosen.keys().find(known) {
        return Err(Unfit::NoInterface(unknown.clone()));
    }
    let beside = |file: &Path| beside(file, Path::new(&gift.directory), path);
    let mut own = format!(
        "# Made of the configuration of {} when this node joined it.\nversion: 1\nnode:\n",
        node.name
    );
    let mut line = |key: &str, value: &str| {
        // Writing to a string cannot fail.
        let _infallible = writeln!(own, "  {key}: {value}");
    };
    line("name", &quoted(&machine.name));
    line("mode", mode);
    line("key_file", &quoted_path(&beside(&node.key_file)));
    if let Some(file) = &node.carp_passphrase_file {
        line("carp_passphrase_file", &quoted_path(&beside(file)));
    }
    line("state_dir", &quoted_path(&beside(&node.state_dir)));
    line("run_dir", &quoted_path(&beside(&node.run_dir)));
    line("bpf_dir", &quoted_path(&beside(&node.bpf_dir)));
    own.push_str("  interfaces:\n");
    for interface in &node.interfaces {
        own.push_str(&mirrored(interface, machine)?);
    }
    shared::compose(path, &own, &theirs.shared.document).map_err(Unfit::Unusable)
}

/// An interface as the other node has it.
fn mirrored(interface: &Interface, machine: &Machine) -> Result<String, Unfit> {
    let name = &interface.name;
    let facing = |cidr: &&Cidr| {
        interface
            .partners
            .iter()
            .any(|partner| cidr.contains(*partner))
    };
    let mut own = Vec::new();
    for partner in &interface.partners {
        let subnet = interface
            .addresses
            .iter()
            .find(|cidr| cidr.contains(*partner));
        // Rules of the configuration have seen to it that there is one.
        let subnet = subnet.ok_or_else(|| Unfit::NoPartner(name.clone()))?;
        own.push(Cidr {
            address: *partner,
            prefix: subnet.prefix,
        });
    }
    if own.is_empty() && !interface.addresses.is_empty() {
        return Err(Unfit::NoPartner(name.clone()));
    }
    let partners = interface.addresses.iter().filter(facing);
    let partners: Vec<IpAddr> = partners.map(|cidr| cidr.address).collect();
    let device = device(interface, &own, machine)?;
    let mut text = format!(
        "    - {{ name: {}, device: {}",
        quoted(name),
        quoted(&device)
    );
    for (key, values) in [
        ("address", list(&own)),
        ("partner", list(&partners)),
        ("gateway", list(&interface.gateways)),
    ] {
        if !values.is_empty() {
            // Writing to a string cannot fail.
            let _infallible = write!(text, ", {key}: [{}]", values.join(", "));
        }
    }
    // Writing to a string cannot fail.
    let _infallible = writeln!(text, ", ha_checks: {} }}", interface.ha_checks);
    Ok(text)
}

fn device(interface: &Interface, own: &[Cidr], machine: &Machine) -> Result<String, Unfit> {
    if let Some(device) = machine.chosen.get(&interface.name) {
        return Ok(device.clone());
    }
    if own.is_empty() {
        let there = machine.devices.contains_key(&interface.device);
        return if there {
            Ok(interface.device.clone())
        } else {
            Err(Unfit::NoCable {
                interface: interface.name.clone(),
                device: interface.device.clone(),
            })
        };
    }
    let has = |addresses: &Vec<IpAddr>| own.iter().any(|cidr| addresses.contains(&cidr.address));
    let mut devices = machine.devices.iter();
    let found = devices.find(|(_, addresses)| has(addresses));
    found.map(|(device, _)| device.clone()).ok_or_else(|| {
        let addresses: Vec<String> = own.iter().map(ToString::to_string).collect();
        Unfit::NoDevice {
            interface: interface.name.clone(),
            addresses: addresses.join(" or "),
        }
    })
}

fn list(values: &[impl ToString]) -> Vec<String> {
    values
        .iter()
        .map(|value| quoted(&value.to_string()))
        .collect()
}

/// JSON is YAML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// Where a file of the partner's is here: beside the configuration file if it is so there, else at the same place.
fn beside(file: &Path, directory: &Path, path: &Path) -> PathBuf {
    match (file.strip_prefix(directory), path.parent()) {
        (Ok(below), Some(own)) => own.join(below),
        _ => file.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::GOOD;

    fn gift(file: &str) -> Gift {
        Gift {
            version: "0.1.0".to_owned(),
            directory: "/etc/ha-agent".to_owned(),
            file: file.to_owned(),
            key: String::new(),
            passphrase: None,
        }
    }

    fn machine() -> Machine {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        Machine {
            name: "lb2".to_owned(),
            devices: [
                (
                    "ens1".to_owned(),
                    vec![address("192.0.2.1"), address("10.0.0.12")],
                ),
                ("ens2".to_owned(), vec![address("10.1.0.12")]),
                ("eth2".to_owned(), Vec::new()),
            ]
            .into(),
            chosen: BTreeMap::new(),
        }
    }

    fn made(file: &str, machine: &Machine) -> Result<Loaded, Unfit> {
        compose(
            &gift(file),
            Path::new("/etc/ha-agent/ha-agent.yaml"),
            machine,
        )
    }

    #[test]
    fn a_new_node_is_its_partner_seen_from_the_other_side() {
        let theirs = Config::parse(Path::new("f"), GOOD.as_bytes().to_vec()).unwrap();
        let ours = made(GOOD, &machine()).unwrap();
        assert_eq!(ours.shared.hash, theirs.shared.hash);
        let (node, other) = (&ours.config.node, &theirs.config.node);
        assert_eq!((node.name.as_str(), node.mode), ("lb2", Mode::Second));
        assert_eq!(node.key_file, other.key_file);
        assert_eq!(node.state_dir, other.state_dir);
        for (own, their) in node.interfaces.iter().zip(&other.interfaces) {
            assert_eq!((&own.name, own.ha_checks), (&their.name, their.ha_checks));
            assert_eq!(own.gateways, their.gateways);
            let addresses = |interface: &Interface| {
                let addresses = interface.addresses.iter().map(|cidr| cidr.address);
                addresses.collect::<Vec<_>>()
            };
            assert_eq!(addresses(own), their.partners);
            assert_eq!(own.partners, addresses(their));
        }
        let devices = node
            .interfaces
            .iter()
            .map(|interface| interface.device.as_str());
        assert_eq!(devices.collect::<Vec<_>>(), ["ens1", "ens2", "eth2"]);
    }

    #[test]
    fn what_lies_beside_the_file_lies_beside_the_new_one() {
        let at = |file: &str| {
            beside(
                Path::new(file),
                Path::new("/etc/ha-agent"),
                Path::new("/srv/x/f.yaml"),
            )
        };
        assert_eq!(at("/etc/ha-agent/pair.key"), Path::new("/srv/x/pair.key"));
        assert_eq!(at("/var/lib/ha-agent"), Path::new("/var/lib/ha-agent"));
        assert_eq!(at("/etc/ha-agents/k"), Path::new("/etc/ha-agents/k"));
    }

    #[test]
    fn a_person_may_say_which_device_it_is() {
        let mut machine = machine();
        machine.devices.clear();
        match made(GOOD, &machine) {
            Err(Unfit::NoDevice {
                interface,
                addresses,
            }) => {
                assert_eq!(
                    (interface.as_str(), addresses.as_str()),
                    ("front", "10.0.0.12/24")
                );
            }
            other => panic!("{other:?}"),
        }
        for (name, device) in [("front", "a"), ("back", "b")] {
            machine.chosen.insert(name.to_owned(), device.to_owned());
        }
        assert!(matches!(made(GOOD, &machine), Err(Unfit::NoCable { .. })));
        machine.chosen.insert("cable".to_owned(), "c".to_owned());
        let devices = made(GOOD, &machine).unwrap().config.node.interfaces;
        let devices: Vec<_> = devices.into_iter().map(|found| found.device).collect();
        assert_eq!(devices, ["a", "b", "c"]);
        machine.chosen.insert("rear".to_owned(), "d".to_owned());
        assert!(matches!(made(GOOD, &machine), Err(Unfit::NoInterface(name)) if name == "rear"));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_a_remedy() {
        let alone = GOOD.replace("mode: first", "mode: off");
        let broken = GOOD.replace("version: 1\n", "version: 9\n");
        for file in [&*broken, "", "\u{0}", "[", &*alone] {
            let unfit = made(file, &machine()).unwrap_err();
            assert!(!unfit.remedy().is_empty());
        }
        let mut hostile = machine();
        hostile.name = "\"\n}\u{1b}".to_owned();
        assert!(matches!(made(GOOD, &hostile), Err(Unfit::Unusable(_))));
    }
}
