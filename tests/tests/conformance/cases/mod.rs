//! The cases, by what they are about.

mod authenticity;
mod foreign;
mod health;
mod lease;
mod leaving;
mod order;

use super::Case;

/// All of them, in the order of their numbers.
pub(crate) fn all() -> Vec<Case> {
    [
        lease::CASES,
        leaving::CASES,
        order::CASES,
        health::CASES,
        authenticity::CASES,
        foreign::CASES,
    ]
    .concat()
}
