//! Events in systemd's journal, with fields that programs can select by.

use super::{Entry, Kind};
use crate::telemetry::JOURNAL;

/// Hands an event to the journal, if the log goes there. Elsewhere the log says it in its own words.
pub(super) fn tell(entry: &Entry) {
    let field = |name: &str| {
        let mut fields = entry.fields.iter();
        let found = fields.find(|(found, _)| *found == name);
        found.map(|(_, value)| value.as_str())
    };
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                target: JOURNAL,
                MESSAGE_ID = entry.kind.message_id(),
                HA_EVENT = entry.kind.as_str(),
                HA_WHO = entry.who.as_str(),
                HA_REASON = entry.why.as_str(),
                HA_ROLE = field("to"),
                HA_ROLE_BEFORE = field("from"),
                HA_TERM = field("term"),
                HA_ALARM = field("alarm"),
                HA_ABOUT = field("about"),
                HA_SERVICE = field("service"),
                HA_REAL_SERVER = field("real_server"),
                HA_COMMAND = field("command"),
                HA_UID = field("uid"),
                "{}",
                entry.what
            )
        };
    }
    match entry.kind {
        Kind::AlarmRaised
        | Kind::RealServerDown
        | Kind::PartnerLost
        | Kind::NotReloaded
        | Kind::HistoryLost => line!(warn),
        Kind::Started
        | Kind::Stopping
        | Kind::RoleChanged
        | Kind::Command
        | Kind::CommandRefused
        | Kind::Reloaded
        | Kind::Paired
        | Kind::PartnerHeard
        | Kind::AlarmOver
        | Kind::RealServerUp => line!(info),
    }
}
