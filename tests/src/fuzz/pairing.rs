//! What a new node gets: the code that a person types, and what the other node sends for it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use ha_agent::config::model::Mode;
use ha_agent::pairing::code::Code;
use ha_agent::pairing::newcomer::{Machine, compose};
use ha_agent::pairing::{Gift, Taken};

use super::{Seed, config, is_plain, texts};

/// Longest gift that is played.
const LENGTH: usize = 32 << 10;

/// Reads an input as a code, as a gift, and as what became of one.
pub fn play(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    match Code::parse(text) {
        Ok(code) => {
            let again = Code::parse(&code.shown());
            assert!(again.is_ok_and(|again| again == code));
        }
        Err(error) => assert!(is_plain(&error.to_string(), 1), "{error}"),
    }
    if let Ok(taken) = serde_json::from_str::<Taken>(text) {
        let (Taken::Done(shown) | Taken::Refused(shown)) = taken.cleaned();
        assert!(is_plain(&shown, 1), "{shown:?}");
    }
    if let Ok(gift) = serde_json::from_str::<Gift>(text)
        && input.len() <= LENGTH
    {
        unwrap(&gift);
    }
}

/// The new node's file, if one can be made of it.
fn unwrap(gift: &Gift) {
    let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
    let devices = [("eth0", "10.0.0.12"), ("eth1", "10.1.0.12")];
    let devices = devices.map(|(device, text)| (device.to_owned(), vec![address(text)]));
    let mut devices = BTreeMap::from(devices);
    devices.insert("eth2".to_owned(), Vec::new());
    let machine = Machine {
        name: "lb2".to_owned(),
        devices,
        chosen: BTreeMap::new(),
    };
    match compose(gift, Path::new("/etc/ha-agent/ha-agent.yaml"), &machine) {
        Ok(loaded) => {
            assert_eq!(loaded.config.node.name, machine.name);
            assert_ne!(loaded.config.node.mode, Mode::Off);
        }
        Err(unfit) => {
            assert!(is_plain(&unfit.to_string(), 1), "{unfit}");
            assert!(is_plain(&unfit.remedy(), 1), "{}", unfit.remedy());
        }
    }
}

/// A code, what comes of one, and a gift.
pub fn seeds() -> Vec<Seed> {
    let gift = |file: &str| {
        let gift = Gift {
            version: "0.1.0".to_owned(),
            directory: "/etc/ha-agent".to_owned(),
            file: file.to_owned(),
            key: format!("1 {}\n", "07".repeat(32)),
            passphrase: Some("secret".to_owned()),
        };
        serde_json::to_string(&gift).expect("a gift is JSON")
    };
    let hostile = config::GOOD.replace("name: front", "name: \"fr\\e[2J\"");
    texts([
        ("code", "01234-56789-ABCDE-FGHJK"),
        ("done", r#"{"done":"lb2"}"#),
        ("refused", r#"{"refused":"no \u001b[2J room"}"#),
        ("gift", &*gift(config::GOOD)),
        ("gift-hostile", &gift(&hostile)),
    ])
}
