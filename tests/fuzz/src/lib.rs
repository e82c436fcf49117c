//! What the fuzz target runs.

pub mod scene;
