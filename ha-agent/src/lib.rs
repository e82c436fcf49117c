//! The failover agent of a load-balancer pair.
//!
//! [`proto`] is the sans-IO core that decides; [`shell`] performs what it decides; [`datapath`] is the
//! only way to the BPF maps; [`trace`] asks what the data plane would do with a packet; [`journal`] writes down and
//! replays what happened to the election; [`events`] keeps the history of a node; [`doctor`] looks for what is wrong
//! with a node and its network; [`convert`] reads other programs' configurations; [`pairing`] makes a new node; [`config`], [`status`] and [`cli`]
//! face people.

pub mod cli;
pub mod config;
pub mod control;
pub mod convert;
pub mod datapath;
pub mod doctor;
pub mod echo;
pub mod events;
pub mod fault;
pub mod health;
pub mod journal;
pub mod keys;
pub mod pairing;
pub mod proto;
pub mod services;
pub mod shell;
pub mod status;
pub mod telemetry;
pub mod trace;
pub mod web;
