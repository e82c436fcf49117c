//! Tests of the machine alone and of two of them in a simulated world.

mod scenarios;
mod sim;
mod wire;
