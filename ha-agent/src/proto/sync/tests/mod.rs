//! Tests of the whole machine.

/// Parts of the protocol switched off.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sabotage {
    pub(super) no_deletes: bool,
    pub(super) no_nacks: bool,
    pub(super) no_digests: bool,
}
