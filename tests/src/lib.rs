//! Rig, simulator and demonstration.
