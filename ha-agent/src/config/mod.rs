//! The configuration file: parsing, validation, the typed result.

pub mod model;
