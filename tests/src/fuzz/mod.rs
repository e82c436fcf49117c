//! What is fuzzed: every parser of bytes that others choose, and the machines, driven by bytes.
//!
//! A target is a function of bytes that panics if something is wrong with what they bring about, and inputs to begin
//! with. `tests/fuzz` hands each target to libFuzzer (`cargo xtask fuzz`); `tests/tests/fuzz_replay.rs` plays the
//! kept inputs, and thousands made of them by chance, without a fuzzer.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what does not hold is what a fuzzer looks for"
)]

pub mod carp;
pub mod config;
pub mod confsync;
pub mod confsync_machine;
pub mod control;
pub mod convert;
pub mod edit;
pub mod election;
pub mod frames;
pub mod journal;
pub mod keys;
pub mod pair;
pub mod pairing;
mod partner;
pub mod pcap;
pub mod records_http;
pub mod replication;
pub mod replication_pair;
pub mod wishes;
pub mod xdp_process;

/// An input to begin with: its name in the corpus, and its bytes.
pub type Seed = (String, Vec<u8>);

/// One thing that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of its program and of its corpus, too.
    pub name: &'static str,
    /// Plays an input.
    pub play: fn(&[u8]),
    /// What to begin with.
    pub seeds: fn() -> Vec<Seed>,
    /// Inputs that the tests make of each of the corpus.
    pub mutations: usize,
}

macro_rules! targets {
    ($($name:ident: $mutations:literal,)+) => {
        /// All of them.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($name),
            play: $name::play,
            seeds: $name::seeds,
            mutations: $mutations,
        },)+];
    };
}

// What takes long to play is played less often.
targets! {
    carp: 1000,
    config: 100,
    confsync: 1000,
    confsync_machine: 1000,
    control: 1000,
    convert: 500,
    edit: 100,
    election: 100,
    frames: 1000,
    journal: 100,
    keys: 1000,
    pair: 4,
    pairing: 200,
    pcap: 500,
    records_http: 100,
    replication: 200,
    replication_pair: 20,
    xdp_process: 200,
}

/// Seeds of texts.
fn texts<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<Seed> {
    let seed = |(name, text): (&str, &str)| (name.to_owned(), text.as_bytes().to_vec());
    texts.into_iter().map(seed).collect()
}

/// What a person is shown must not move a cursor, and must be on so many lines.
fn is_plain(shown: &str, lines: usize) -> bool {
    shown.lines().count() <= lines && !shown.contains(|c: char| c.is_control() && c != '\n')
}
