//! Whether a node is alive, ready, active, for those who ask by HTTP.

use std::time::Duration;

use crate::proto::carp::Role;
use crate::proto::time::Instant;
use crate::shell::election::Published;

/// How old the election's account may be; it is renewed ten times a second.
const AGE_MAX: Duration = Duration::from_secs(2);

/// A node's state, as far as others need to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its role.
    pub role: Role,
    /// Age of what is said here.
    pub age: Duration,
    /// Traffic is let through now.
    pub open: bool,
    /// The table is complete.
    pub complete: bool,
    /// A partner, or a peer that knows no trailer, is heard.
    pub accompanied: bool,
}

impl Health {
    /// From the election's account.
    pub fn of(published: &Published, now: Instant) -> Self {
        let snapshot = &published.election;
        let age = now.since(published.at);
        let partner = snapshot.partner.as_ref();
        Self {
            role: snapshot.role,
            age,
            // As it was then: a lease may be shorter than the time between two accounts, and is renewed meanwhile.
            open: snapshot.gate_open,
            complete: snapshot.ready,
            accompanied: partner.is_some_and(|partner| partner.heard) || snapshot.foreign.is_some(),
        }
    }

    /// Whether the agent does its work.
    pub fn alive(&self) -> Result<String, String> {
        if self.age < AGE_MAX {
            Ok("alive".to_owned())
        } else {
            let age = self.age.as_secs_f64();
            Err(format!("the election has not been heard of for {age:.1} s"))
        }
    }

    /// Whether the node does its part: it is active, or could take over with nothing lost.
    pub fn ready(&self) -> Result<String, String> {
        self.alive()?;
        match self.role {
            Role::Active | Role::Off if self.open => Ok("ready: active".to_owned()),
            Role::Active | Role::Off => Err("the gate is closed".to_owned()),
            Role::Standby if !self.accompanied => {
                Err("standby: the partner is not heard".to_owned())
            }
            Role::Standby if !self.complete => {
                Err("standby: not equal to the partner yet".to_owned())
            }
            Role::Standby => Ok("ready: standby".to_owned()),
            Role::Init => Err("starting".to_owned()),
            Role::Pacified => Err("pacified".to_owned()),
            Role::Maintenance => Err("in maintenance".to_owned()),
        }
    }

    /// Whether the node forwards traffic now: at most one of a pair does, unless they have lost each other.
    pub fn active(&self) -> Result<String, String> {
        self.alive()?;
        match self.role {
            Role::Active | Role::Off if self.open => Ok("active".to_owned()),
            Role::Active | Role::Off => Err("the gate is closed".to_owned()),
            Role::Standby => Err("standby".to_owned()),
            Role::Init => Err("starting".to_owned()),
            Role::Pacified => Err("pacified".to_owned()),
            Role::Maintenance => Err("in maintenance".to_owned()),
        }
    }
}
