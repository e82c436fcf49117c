//! The checks, by what they look at.

pub(super) mod links;
pub(super) mod machine;
pub(super) mod pair;
