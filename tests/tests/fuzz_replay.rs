//! The inputs of the fuzz target, and thousands made of them by chance, without a fuzzer.
//!
//! `HA_BLESS=1` writes the corpus anew; what a fuzzer found goes beside it.

#![expect(
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "test code outside of test functions: what is not expected fails"
)]

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Once;

use anyhow::{Context as _, Result};
use ha_agent::proto::rng::Rng;
use ha_tests::packet::{Frame, Trouble, flag};

#[expect(
    unreachable_pub,
    reason = "the fuzz target's own source, which is public there"
)]
#[path = "../fuzz/src/scene.rs"]
mod scene;

/// Inputs made of each of the corpus.
const MUTATIONS: usize = 200;

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/xdp_process")
}

/// Frames of a connection and around it, in one family.
fn frames(v4: bool) -> Vec<Frame> {
    let at = |last: u8, port: u16| -> SocketAddr {
        if v4 {
            (Ipv4Addr::new(10, 0, 0, last), port).into()
        } else {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into());
            (address, port).into()
        }
    };
    let (client, web, names) = (at(200, 4000), at(100, 80), at(100, 53));
    let (server, resolver) = (at(21, 8000), at(21, 8000));
    let router = at(254, 0).ip();
    let answer = Frame::tcp(web, client, flag::ACK).payload(b"data");
    let request = Frame::tcp(client, server, flag::ACK).payload(b"data");
    let long = Frame::udp(client, names).payload(&[7; 200]);
    vec![
        Frame::tcp(client, web, flag::SYN),
        Frame::tcp(server, client, flag::SYN | flag::ACK).numbers(5000, 1001),
        Frame::tcp(client, web, flag::ACK).numbers(1001, 5001),
        Frame::tcp(client, web, flag::ACK).payload(b"data"),
        Frame::tcp(server, client, flag::ACK).payload(b"data"),
        Frame::tcp(client, web, flag::ACK).ttl(1),
        Frame::udp(client, names).payload(b"question"),
        Frame::udp(resolver, client).payload(b"answer"),
        long.clone().piece(0..64),
        long.piece(64..208),
        Frame::error(router, Trouble::TooBig(1400), &answer, 8),
        Frame::error(router, Trouble::Port, &request, 20),
        Frame::tcp(client, web, flag::ACK)
            .options(&[1; 8])
            .extension(0, &[1, 4, 0, 0, 0, 0]),
        Frame::tcp(client, web, flag::ACK)
            .whole()
            .payload(&[1; 1470]),
        Frame::tcp(client, web, flag::FIN | flag::ACK).tag(0x8100, 1),
        Frame::tcp(server, client, flag::RST),
    ]
}

/// A node set up so, and these frames.
fn input(how: [u8; 2], frames: &[Frame]) -> Vec<u8> {
    let mut input = how.to_vec();
    for frame in frames {
        let bytes = frame.build();
        input.extend((bytes.len() as u16).to_be_bytes());
        input.extend(bytes);
    }
    input
}

/// What the corpus is made of: a conversation in each family and by each method, under odd circumstances
/// as well.
fn conversations() -> BTreeMap<String, Vec<u8>> {
    let mut inputs = BTreeMap::new();
    for (family, v4) in [("v4", true), ("v6", false)] {
        for (method, name) in ["nat", "full-nat", "dsr", "tunnel"].iter().enumerate() {
            for (what, bits, scheduler) in [
                ("up", 0x00, 0),
                ("down", 0x08, 1),
                ("kernel", 0x10, 0x13),
                ("full", 0x40, 5),
            ] {
                let how = [method as u8 | bits, scheduler];
                inputs.insert(format!("{family}-{name}-{what}"), input(how, &frames(v4)));
            }
        }
    }
    inputs
}

/// Writes the corpus if that is wanted, before any test reads it.
fn bless() {
    static BLESSED: Once = Once::new();
    BLESSED.call_once(|| {
        if std::env::var_os("HA_BLESS").is_some() {
            fs::create_dir_all(corpus()).expect("a folder for the corpus");
            for (name, input) in conversations() {
                fs::write(corpus().join(name), input).expect("an input of the corpus");
            }
        }
    });
}

#[test]
fn the_corpus_is_kept() -> Result<()> {
    bless();
    for (name, input) in conversations() {
        let kept = fs::read(corpus().join(&name)).with_context(|| name.clone())?;
        assert!(
            kept == input,
            "{name} is not what the packets are now: HA_BLESS=1"
        );
    }
    Ok(())
}

fn inputs() -> Result<Vec<Vec<u8>>> {
    bless();
    let mut paths = fs::read_dir(corpus())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    paths.iter().map(|path| Ok(fs::read(path)?)).collect()
}

#[test]
fn nothing_in_the_corpus_goes_wrong() -> Result<()> {
    let inputs = inputs()?;
    assert!(inputs.len() >= conversations().len(), "{}", inputs.len());
    for input in &inputs {
        scene::play(input);
    }
    Ok(())
}

#[test]
fn nothing_made_of_the_corpus_goes_wrong() -> Result<()> {
    let mut rng = Rng::new(0xf0_2215);
    let inputs = inputs()?;
    for input in &inputs {
        for _ in 0..MUTATIONS {
            let mut input = input.clone();
            for _ in 0..=rng.below(8) {
                spoil(&mut rng, &mut input);
            }
            scene::play(&input);
        }
    }
    Ok(())
}

/// Changes, inserts or removes some bytes.
fn spoil(rng: &mut Rng, input: &mut Vec<u8>) {
    let at = rng.below(input.len().max(1) as u64) as usize;
    match rng.below(8) {
        0 => input.truncate(at),
        1 => input.insert(at, rng.below(256) as u8),
        2 => {
            let end = (at + rng.below(8) as usize).min(input.len());
            input.drain(at..end);
        }
        3 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5) as usize],
        _ if at < input.len() => input[at] ^= 1 << rng.below(8),
        _ => {}
    }
}
