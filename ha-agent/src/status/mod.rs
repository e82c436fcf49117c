//! What the agent shows of itself: the [`model`] first, then how people see it ([`render`]).

pub mod capture;
pub mod configuration;
pub mod model;
pub mod render;
mod replication;
mod services;
