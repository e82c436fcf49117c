//! What the data plane is expected to do, packet by packet, wherever it runs.

pub(crate) mod agreement;
pub(crate) mod budget;
pub(crate) mod family;
pub(crate) mod lab;
pub(crate) mod lengths;
pub(crate) mod mutation;
pub(crate) mod partner;
pub(crate) mod routes;
pub(crate) mod templates;
pub(crate) mod world;

mod answers;
mod authentic;
mod carp;
mod connection;
mod errors;
mod fragments;
mod full_nat;
mod handshake;
mod headers;
mod host;
mod janitor;
mod kernel;
mod limits;
mod methods;
mod names;
mod neighbour;
mod persistence;
mod plain;
mod ports;
mod rebuild;
mod resets;
mod schedulers;
mod seeing;
mod stack;
mod virtual_mac;

use family::Family;
use ha_common::service::Forwarding;
use lab::{Case, Setting};

/// A case in one of its settings.
#[derive(Clone, Copy)]
pub(crate) struct Instance {
    pub(crate) case: &'static Case,
    pub(crate) setting: Setting,
}

impl Instance {
    pub(crate) fn name(&self) -> String {
        let family = match self.setting.family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        };
        let method = match self.setting.method {
            Forwarding::Nat => "",
            Forwarding::FullNat => "full_nat::",
            Forwarding::Dsr => "dsr::",
            Forwarding::Tunnel => "tunnel::",
        };
        format!("{family}::{method}{}", self.case.0)
    }
}

/// Cases and the settings in which they play.
type Group = (
    &'static [&'static [Case]],
    &'static [Family],
    &'static [Forwarding],
);

const BOTH: &[Family] = &[Family::V4, Family::V6];
const V4: &[Family] = &[Family::V4];
const V6: &[Family] = &[Family::V6];
const NAT: &[Forwarding] = &[Forwarding::Nat];
const EVERY_METHOD: &[Forwarding] = &[
    Forwarding::Nat,
    Forwarding::FullNat,
    Forwarding::Dsr,
    Forwarding::Tunnel,
];

const GROUPS: &[Group] = &[
    // They have frames of their own, of both families.
    (
        &[
            carp::CASES,
            authentic::CASES,
            neighbour::CASES,
            virtual_mac::CASES,
        ],
        V4,
        NAT,
    ),
    (
        &[
            answers::CASES,
            connection::CASES,
            errors::CASES,
            fragments::CASES,
            handshake::CASES,
            janitor::CASES,
            limits::CASES,
            persistence::CASES,
            plain::CASES,
            ports::CASES,
            rebuild::CASES,
            resets::CASES,
            schedulers::CASES,
            seeing::CASES,
        ],
        BOTH,
        NAT,
    ),
    (&[headers::CASES_V4, plain::CASES_V4], V4, NAT),
    (&[headers::CASES_V6], V6, NAT),
    (
        &[
            methods::CASES,
            errors::CASES_OF_METHODS,
            answers::CASES_OF_METHODS,
            fragments::CASES_OF_METHODS,
        ],
        BOTH,
        EVERY_METHOD,
    ),
    (&[full_nat::CASES], BOTH, &[Forwarding::FullNat]),
    (
        &[methods::CASES_ONE_WAY],
        BOTH,
        &[Forwarding::Dsr, Forwarding::Tunnel],
    ),
    (&[answers::CASES_DSR], BOTH, &[Forwarding::Dsr]),
    (&[seeing::CASES_TUNNEL], BOTH, &[Forwarding::Tunnel]),
];

/// All cases in all their settings.
pub(crate) fn cases() -> Vec<Instance> {
    let mut cases = Vec::new();
    for (lists, families, methods) in GROUPS {
        for case in lists.iter().copied().flatten() {
            for family in *families {
                for method in *methods {
                    let setting = Setting {
                        family: *family,
                        method: *method,
                        sizes: case.1,
                    };
                    cases.push(Instance { case, setting });
                }
            }
        }
    }
    cases
}
