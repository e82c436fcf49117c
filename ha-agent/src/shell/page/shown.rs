//! What the web page shows of this node, and does with it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;

use crate::config::backup;
use crate::config::model::{Config, Interface, Mode, Web};
use crate::control::edits::{Applied, Apply, Preview, Wanted};
use crate::control::{Refusal, Reply};
use crate::doctor::{self, Finding, look};
use crate::echo::{SHORTEST, Source};
use crate::events::{Entry, Event};
use crate::shell::agent::{Shared, lock};
use crate::shell::{alarms, clock, ethtool};
use crate::status::model::SCHEMA_VERSION;
use crate::web::page::{Door, Hardware, Pinged, Place, Power, Reach, Shown};

/// Echoes that are asked for, and how long each may take.
const ECHOES: usize = 4;
const ECHO_MAX: Duration = Duration::from_secs(1);

impl Shown for Shared {
    fn door(&self) -> &Door {
        &self.door
    }

    fn recent(&self, count: usize) -> Vec<Event> {
        self.events.recent(count)
    }

    fn place(&self) -> Place {
        let loaded = lock(&self.loaded);
        let config = &loaded.config;
        let page = |at: Option<IpAddr>| {
            let port = config.node.web.as_ref()?.listen.first()?.port();
            Some(SocketAddr::new(at?, port))
        };
        let mut interfaces = config.node.interfaces.iter();
        // The first at which the page may be used, and that the partner has, too, if there is one.
        let used = interfaces.find(|interface| {
            let paired = config.node.mode == Mode::Off || !interface.partners.is_empty();
            paired && !interface.is_unnumbered() && admitted(config, interface)
        });
        let shared = used.and_then(|used| {
            let mut shared = config.shared_addresses.iter();
            let shared = shared.find(|shared| shared.interface == used.name)?;
            Some(shared.address.address)
        });
        Place {
            machine: fs::read_to_string("/etc/machine-id")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            booted: booted(),
            own: page(used.and_then(|used| {
                let own = used.own(false).or_else(|| used.own(true));
                own.map(|own| own.address)
            })),
            partner: page(used.and_then(|used| used.partner(false).or_else(|| used.partner(true)))),
            pair: page(shared),
        }
    }

    fn reach(&self, address: IpAddr) -> Option<Reach> {
        let loaded = lock(&self.loaded);
        reach(&loaded.config, address)
    }

    fn note(&self, entry: Entry) {
        self.events.record(entry);
    }

    fn hardware(&self) -> Vec<(String, Hardware)> {
        let bound = lock(&self.bound).clone();
        let bound = bound.iter();
        bound
            .map(|bound| {
                let device = ethtool::ask(&bound.link.device).unwrap_or_default();
                let hardware = Hardware {
                    speed: device.speed,
                    duplex: device.duplex,
                    mtu: Some(bound.link.mtu).filter(|mtu| *mtu > 0),
                };
                (bound.interface.name.clone(), hardware)
            })
            .collect()
    }

    fn written(&self) -> Reply<(String, String)> {
        Self::written(self)
    }

    fn backup(&self) -> Reply<String> {
        let loaded = lock(&self.loaded).clone();
        Ok(backup::make(&loaded, Timestamp::now()))
    }

    fn preview(&self, wanted: &Wanted) -> Reply<Preview> {
        Self::preview(self, wanted)
    }

    fn apply(&self, who: &str, order: &Apply) -> Reply<Applied> {
        self.apply_for(who, order)
    }

    async fn examine(&self) -> Vec<Finding> {
        let socket = self.config().node.socket();
        let facts = look::look(&self.path, Some(&socket)).await;
        doctor::examine(&facts)
    }

    async fn ping(&self, host: IpAddr, interface: Option<&str>) -> Reply<Pinged> {
        let source = match interface {
            None => None,
            Some(name) => Some(source(&self.config(), name, host)?),
        };
        let mut times = Vec::new();
        for number in 1..=ECHOES {
            let answer = look::once(host, source.as_ref(), SHORTEST, ECHO_MAX).await;
            if number < ECHOES {
                let rest = answer
                    .as_ref()
                    .map_or(Duration::ZERO, |took| ECHO_MAX.saturating_sub(*took));
                sleep(rest / 4).await;
            }
            times.push(answer.ok().map(|took| took.as_secs_f64() * 1e3));
        }
        Ok(Pinged {
            schema_version: SCHEMA_VERSION,
            host,
            times_ms: times,
        })
    }

    async fn may_hand_over(&self) -> Reply<()> {
        self.undisputed().await?;
        let published = self.election.published();
        match published.election.failover_refused {
            Some(refusal) => Err(alarms::refused(refusal)),
            None => Ok(()),
        }
    }

    fn power(&self, how: Power) -> Reply<()> {
        let word = match how {
            Power::Reboot => "reboot",
            Power::Shutdown => "poweroff",
        };
        let remedy = format!("this node has handed over; use `systemctl {word}` on its console");
        let asked = Command::new("systemctl").arg(word).output();
        let problem = match asked {
            Ok(done) if done.status.success() => return Ok(()),
            Ok(done) => String::from_utf8_lossy(&done.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        let what = format!("`systemctl {word}` failed: {problem}");
        Err(Refusal::new(what, remedy))
    }

    fn belongings(&self) -> Reply<Vec<PathBuf>> {
        let belongings = Self::belongings(self)?;
        Ok(belongings.list().map(Path::to_owned).collect())
    }

    fn reset(&self) -> Reply<()> {
        self.doomed.send_replace(Some(Self::belongings(self)?));
        Ok(())
    }
}

/// What a page at an address of the node is for; none if it may not be used there.
fn reach(config: &Config, address: IpAddr) -> Option<Reach> {
    let shared = config.shared_addresses.iter();
    let shared = shared
        .filter(|shared| shared.address.address == address)
        .map(|shared| shared.interface.as_str());
    let own = config.node.interfaces.iter().filter(|interface| {
        let mut own = interface.addresses.iter();
        own.any(|own| own.address == address)
    });
    let own = own.map(|interface| interface.name.as_str());
    let shared: Vec<&str> = shared.collect();
    let limits = config
        .node
        .web
        .as_ref()
        .and_then(|web| web.interfaces.as_ref());
    let admitted = limits.is_none_or(|names| {
        let mut here = shared.iter().copied().chain(own);
        address.is_loopback() || here.any(|here| names.iter().any(|name| name == here))
    });
    if !admitted {
        return None;
    }
    Some(if config.node.mode == Mode::Off || !shared.is_empty() {
        Reach::Pair
    } else {
        Reach::Node
    })
}

fn admitted(config: &Config, interface: &Interface) -> bool {
    let limits = |web: &Web| {
        let names = web.interfaces.as_ref();
        names.is_none_or(|names| names.contains(&interface.name))
    };
    config.node.web.as_ref().is_none_or(limits)
}

/// The own address of the interface that is named, next to the host.
fn source(config: &Config, name: &str, host: IpAddr) -> Reply<Source> {
    let mut interfaces = config.node.interfaces.iter();
    let found = interfaces.find(|interface| interface.name == name);
    let own = found.and_then(|interface| Some((interface, interface.own(host.is_ipv6())?)));
    let (interface, own) = own.ok_or_else(|| {
        Refusal::new(
            format!("no interface is named `{name}` and has an address of the family of {host}"),
            "choose another one, or none",
        )
    })?;
    Ok(Source {
        address: own.address,
        device: interface.device.clone(),
    })
}

/// When the machine was booted, as the clocks say.
fn booted() -> String {
    let up = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let up = up
        .split(' ')
        .next()
        .and_then(|seconds| seconds.parse::<f64>().ok());
    let since = up.map(|up| clock::wall().saturating_sub(Duration::from_secs_f64(up.max(0.0))));
    let at = since.and_then(|since| Timestamp::from_second(since.as_secs().cast_signed()).ok());
    at.map_or_else(String::new, |at| {
        at.strftime("%Y-%m-%d %H:%M UTC").to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::GOOD;

    fn config(web: &str, mode: &str) -> Config {
        let text = GOOD.replace(
            "  mode: first\n",
            &format!("  mode: {mode}\n  web: {web}\n"),
        );
        Config::parse(Path::new("f"), text.into_bytes())
            .unwrap()
            .config
    }

    #[test]
    fn what_an_address_is_for() {
        let all = config("{ listen: \"[::]:8443\" }", "first");
        let some = config("{ listen: \"[::]:8443\", interfaces: [back] }", "first");
        let alone = config("{ listen: \"[::]:8443\" }", "\"off\"");
        for (address, of_all, of_some) in [
            ("10.0.0.100", Some(Reach::Pair), None),
            ("10.0.0.11", Some(Reach::Node), None),
            ("10.1.0.1", Some(Reach::Pair), Some(Reach::Pair)),
            ("10.1.0.11", Some(Reach::Node), Some(Reach::Node)),
            ("127.0.0.1", Some(Reach::Node), Some(Reach::Node)),
            ("192.0.2.1", Some(Reach::Node), None),
        ] {
            let at = address.parse().unwrap();
            assert_eq!(reach(&all, at), of_all, "{address}");
            assert_eq!(reach(&some, at), of_some, "{address}");
            assert_eq!(reach(&alone, at), Some(Reach::Pair), "{address}");
        }
    }
}
