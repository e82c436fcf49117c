//! Repair of the records that are no connections. They are few beside the connections and in no bucket:
//! if their digest alone differs they are all said anew, and at the end of that the standby removes those
//! that were not among them.
//!
//! Both ends begin a new digest where that begins, so nothing is left over from before. A digest that is
//! equal again therefore proves nothing as long as the end has not come: what was to be removed is in no
//! digest any more. So a repair that was begun ends with its end, or begins anew.

use super::Action;
use super::ask::Asking;
use super::context::Context;
use super::record::Said;
use super::stream::Stream;
use super::wire::Knows;
use crate::proto::records::Event;
use crate::proto::time::Instant;

/// Repairs after which the records differ before a full transfer is asked for.
const FAILURES: u32 = 3;

/// A repair under way, as the standby drives it.
pub(super) struct RecordMend {
    pub(super) asking: Asking,
    failures: u32,
}

impl RecordMend {
    const fn new(due: Instant) -> Self {
        Self {
            asking: Asking::new(due),
            failures: 0,
        }
    }

    pub(super) const fn due(&self) -> Instant {
        self.asking.due()
    }
}

impl Stream {
    /// The records differ, and nothing is being done about it.
    pub(super) fn records_differ(&mut self, context: &mut Context, now: Instant) {
        context.records.digest_differed();
        let knows = self.sender_knows.min(context.knows()) >= Knows::All;
        let due = self.record_penalty.after(now);
        if knows && self.can_mend(context) {
            self.record_mend = Some(RecordMend::new(due));
        } else {
            self.want_at_once(due);
        }
    }

    /// The sender begins to say all of them.
    pub(super) fn begin_records(&mut self, context: &mut Context, now: Instant) {
        context.records.begin_hearing();
        self.hearing_records = true;
        if let Some(mend) = &mut self.record_mend {
            mend.asking.answered(now);
        }
    }

    /// It says one.
    pub(super) fn heard_record(
        &mut self,
        context: &mut Context,
        now: Instant,
        event: Option<Event>,
        out: &mut Vec<Action>,
    ) {
        if self.hearing_records {
            context.records.repaired(event.is_some());
            if let Some(mend) = &mut self.record_mend {
                mend.asking.answered(now);
            }
        }
        out.extend(event.map(Action::Record));
    }

    /// It has said all of them: of those it did not say it holds none.
    pub(super) fn end_records(
        &mut self,
        context: &mut Context,
        now: Instant,
        said: Said,
        out: &mut Vec<Action>,
    ) {
        // If some of it is missing nothing can be concluded.
        if !std::mem::take(&mut self.hearing_records) {
            return;
        }
        context.sweep_records(out);
        let equal = context.records.said() == said;
        context.records.repair_ended(equal);
        let Some(mend) = &mut self.record_mend else {
            return;
        };
        mend.failures += u32::from(!equal);
        if equal {
            self.record_mend = None;
        } else if mend.failures == FAILURES {
            self.want(now);
        } else {
            mend.asking.next(now);
        }
    }

    /// Packets were given up. If they were of a repair it is to be had once more.
    pub(super) fn interrupt_records(&mut self, now: Instant) {
        if std::mem::take(&mut self.hearing_records) {
            self.record_mend.get_or_insert_with(|| RecordMend::new(now));
        }
    }
}
