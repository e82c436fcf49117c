//! What the agent shows of itself: the [`model`] first, then how people see it ([`render`]).

pub mod capture;
pub mod model;
pub mod render;
mod replication;
mod services;
