//! What was counted, by name.

use std::collections::BTreeMap;

/// A countable event. A packet that is dropped has exactly one of the reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Advertisement sent.
    AdvertSent,
    /// HELLO sent.
    HelloSent,
    /// Advertisement of the partner accepted.
    AdvertAccepted,
    /// HELLO of the partner accepted.
    HelloAccepted,
    /// Advertisement of a peer without trailer accepted.
    ForeignAccepted,
    /// Found frozen: a timer ran late by more than an eighth of the timeout.
    Stalled,
    /// Lease ended while active.
    LeaseLapsed,
    /// Active, and the data plane had heard the partner as active in a higher term.
    Overtaken,
    /// The partner was found active too.
    BothActive,
    /// Accepted, but its CARP digest is wrong.
    DigestDiffers,
    /// Dropped: link index out of range, or this node takes no part.
    NotExpected,
    /// Dropped: too short.
    Truncated,
    /// Dropped: not CARP version 2.
    Version,
    /// Dropped: authentication length is not 7.
    AuthLength,
    /// Dropped: CARP checksum.
    Checksum,
    /// Dropped: another CARP group.
    OtherVhid,
    /// Dropped: this node's own packet came back.
    Reflected,
    /// Dropped: not from the partner's address.
    UnexpectedSource,
    /// Dropped: no trailer, but one is demanded.
    Unsigned,
    /// Dropped: no trailer and a wrong digest.
    BadDigest,
    /// Dropped: not a HELLO.
    NotHello,
    /// Dropped: trailer of another layout.
    TrailerVersion,
    /// Dropped: trailer made with an unknown key.
    UnknownKey,
    /// Dropped: trailer's tag is wrong.
    BadTag,
    /// Dropped: a signed field has no meaning.
    Meaningless,
    /// Dropped: an epoch that has not answered a challenge.
    UnknownEpoch,
    /// Dropped: an epoch that another one has succeeded.
    RetiredEpoch,
    /// Dropped: a sequence number seen before, or one that was overtaken on its link.
    Replayed,
}

impl Counter {
    /// All of them, in order.
    pub const ALL: [Self; 28] = [
        Self::AdvertSent,
        Self::HelloSent,
        Self::AdvertAccepted,
        Self::HelloAccepted,
        Self::ForeignAccepted,
        Self::Stalled,
        Self::LeaseLapsed,
        Self::Overtaken,
        Self::BothActive,
        Self::DigestDiffers,
        Self::NotExpected,
        Self::Truncated,
        Self::Version,
        Self::AuthLength,
        Self::Checksum,
        Self::OtherVhid,
        Self::Reflected,
        Self::UnexpectedSource,
        Self::Unsigned,
        Self::BadDigest,
        Self::NotHello,
        Self::TrailerVersion,
        Self::UnknownKey,
        Self::BadTag,
        Self::Meaningless,
        Self::UnknownEpoch,
        Self::RetiredEpoch,
        Self::Replayed,
    ];

    /// Name in status and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AdvertSent => "advert_sent",
            Self::HelloSent => "hello_sent",
            Self::AdvertAccepted => "advert_accepted",
            Self::HelloAccepted => "hello_accepted",
            Self::ForeignAccepted => "foreign_accepted",
            Self::Stalled => "stalled",
            Self::LeaseLapsed => "lease_lapsed",
            Self::Overtaken => "overtaken",
            Self::BothActive => "both_active",
            Self::DigestDiffers => "digest_differs",
            Self::NotExpected => "dropped_not_expected",
            Self::Truncated => "dropped_truncated",
            Self::Version => "dropped_version",
            Self::AuthLength => "dropped_auth_length",
            Self::Checksum => "dropped_checksum",
            Self::OtherVhid => "dropped_other_vhid",
            Self::Reflected => "dropped_reflected",
            Self::UnexpectedSource => "dropped_unexpected_source",
            Self::Unsigned => "dropped_unsigned",
            Self::BadDigest => "dropped_bad_digest",
            Self::NotHello => "dropped_not_hello",
            Self::TrailerVersion => "dropped_trailer_version",
            Self::UnknownKey => "dropped_unknown_key",
            Self::BadTag => "dropped_bad_tag",
            Self::Meaningless => "dropped_meaningless",
            Self::UnknownEpoch => "dropped_unknown_epoch",
            Self::RetiredEpoch => "dropped_retired_epoch",
            Self::Replayed => "dropped_replayed",
        }
    }
}

/// One number for each [`Counter`].
#[derive(Clone, Debug, Default)]
pub struct Counters([u64; Counter::ALL.len()]);

impl Counters {
    /// Counts one.
    pub(super) fn count(&mut self, counter: Counter) {
        if let Some(value) = self.0.get_mut(counter as usize) {
            *value = value.saturating_add(1);
        }
    }

    /// How many.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or_default()
    }

    /// Numbers by name; unknown names are passed over.
    pub(super) fn from_names(values: &BTreeMap<String, u64>) -> Self {
        let mut counters = Self::default();
        for (counter, slot) in Counter::ALL.iter().zip(&mut counters.0) {
            *slot = values.get(counter.as_str()).copied().unwrap_or_default();
        }
        counters
    }

    /// All numbers by name.
    pub fn by_name(&self) -> BTreeMap<&'static str, u64> {
        Counter::ALL
            .iter()
            .map(|counter| (counter.as_str(), self.get(*counter)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_dense_and_their_names_distinct() {
        let mut counters = Counters::default();
        for (index, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, index);
            counters.count(counter);
        }
        let names = counters.by_name();
        assert_eq!(names.len(), Counter::ALL.len());
        assert!(names.values().all(|value| *value == 1));
    }
}
