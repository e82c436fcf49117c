//! TCP state, as far as a balancer in the middle can follow it without sequence numbers.
//!
//! ```text
//!                client FIN                    server FIN
//! Established ──────────────▶ ClientClosing ──────────────▶ TimeWait
//!      │       server FIN                      client FIN       ▲
//!      ├────────────────────▶ ServerClosing ────────────────────┘
//!      └── a reset in any state ──▶ Closed
//! ```
//!
//! The state lives in the forward entry. Two CPUs that see the two FINs at the same moment may lose
//! one step; the entry then goes by the timeout for half-closed connections instead.

use ha_common::conn::ConnState;

use crate::parse::transport::flag;
use crate::rewrite::Direction;

/// The state after a packet with these TCP flags.
#[inline(always)]
pub const fn next(state: ConnState, direction: Direction, flags: u8) -> ConnState {
    if flags & flag::RST != 0 {
        return ConnState::Closed;
    }
    if flags & flag::FIN == 0 {
        return state;
    }
    match (state, direction) {
        (ConnState::Established, Direction::Forward) => ConnState::ClientClosing,
        (ConnState::Established, Direction::Reverse) => ConnState::ServerClosing,
        (ConnState::ClientClosing, Direction::Reverse)
        | (ConnState::ServerClosing, Direction::Forward) => ConnState::TimeWait,
        (ConnState::ClientClosing, Direction::Forward)
        | (ConnState::ServerClosing, Direction::Reverse)
        | (ConnState::TimeWait | ConnState::Closed, _) => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [ConnState; 5] = [
        ConnState::Established,
        ConnState::ClientClosing,
        ConnState::ServerClosing,
        ConnState::TimeWait,
        ConnState::Closed,
    ];

    #[test]
    fn every_transition() {
        use ConnState::{ClientClosing, Closed, Established, ServerClosing, TimeWait};
        let after_client_fin = [ClientClosing, ClientClosing, TimeWait, TimeWait, Closed];
        let after_server_fin = [ServerClosing, TimeWait, ServerClosing, TimeWait, Closed];
        for (index, state) in STATES.into_iter().enumerate() {
            for flags in 0..=u8::MAX {
                for (direction, after_fin) in [
                    (Direction::Forward, after_client_fin),
                    (Direction::Reverse, after_server_fin),
                ] {
                    let wanted = if flags & flag::RST != 0 {
                        Closed
                    } else if flags & flag::FIN != 0 {
                        after_fin[index]
                    } else {
                        state
                    };
                    assert_eq!(
                        next(state, direction, flags),
                        wanted,
                        "{state:?} {flags:#x}"
                    );
                }
            }
        }
        assert_eq!(
            next(Established, Direction::Forward, flag::SYN),
            Established
        );
    }
}
