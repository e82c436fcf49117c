//! Links and gateways.

use ha_agent::journal::Happened;
use ha_agent::proto::carp::{Alarm, Role, RoleReason};

use crate::Case;
use crate::script::{CABLE, FRONT, INTERVAL, Script, TIMEOUT, ms};

pub(crate) const CASES: &[Case] = &[
    (
        60,
        "production-link-lost",
        "Only the active node's production link fails: it hands over over the link that is left, at once.\n\
        docs/protocol.md, Trailer and HELLO: health.",
        production_link_lost,
    ),
    (
        61,
        "heartbeat-link-lost",
        "A link without shared addresses fails: nothing moves.\n\
        docs/configuration.md, ha.interfaces.",
        heartbeat_link_lost,
    ),
    (
        62,
        "gateway-lost",
        "The gateway is lost and the partner still reaches it: handed over once the partner has had time to notice.\n\
        docs/protocol.md, Trailer and HELLO: health.",
        gateway_lost,
    ),
    (
        63,
        "gateway-lost-on-both",
        "A gateway that neither reaches is broken itself: nothing moves.\n\
        docs/protocol.md, Trailer and HELLO: health.",
        gateway_lost_on_both,
    ),
    (
        64,
        "isolated",
        "Alone and without the gateway that the partner reached: this node is the one cut off, and closes.\n\
        docs/protocol.md, What makes it safe.",
        isolated,
    ),
    (
        65,
        "no-claim-with-dead-links",
        "A node without any production link does not claim, however silent the partner is.\n\
        docs/protocol.md, What makes it safe.",
        no_claim_with_dead_links,
    ),
    (
        66,
        "carrier-returns",
        "A node that could not hear anything listens for a timeout first.\n\
        docs/protocol.md, What makes it safe.",
        carrier_returns,
    ),
    (
        67,
        "recent-beats-dead",
        "The active node's production link fails while the partner's has only just come back: that is better, and the\n\
        role moves at once. Before, it attracted nothing.\n\
        docs/protocol.md, Trailer and HELLO: recent.",
        recent_beats_dead,
    ),
    (
        68,
        "recent-is-told",
        "A standby's link fails and comes back: the standby says that it works, and until the hold-down is over that\n\
        it has only just come back.\n\
        docs/protocol.md, Trailer and HELLO: recent.",
        recent_is_told,
    ),
];

fn production_link_lost(script: &mut Script) {
    script.become_active();
    script.partner.ready = true;
    script.hello(FRONT);
    script.happen(Happened::Carrier {
        link: FRONT,
        up: false,
    });
    script.run(ms(20));
    assert!(!script.is_open());
    assert_eq!(script.last_reason(), Some(RoleReason::PartnerFitter));
}

fn heartbeat_link_lost(script: &mut Script) {
    script.become_active();
    script.partner.ready = true;
    script.hello(FRONT);
    script.happen(Happened::Carrier {
        link: CABLE,
        up: false,
    });
    script.run(ms(500));
    assert_eq!(script.role(), Role::Active);
    assert!(script.is_open());
}

fn gateway_lost(script: &mut Script) {
    script.become_active();
    script.partner.ready = true;
    script.hello(FRONT);
    script.happen(Happened::Gateway {
        link: FRONT,
        reachable: false,
    });
    script.run(ms(100));
    assert_eq!(
        script.role(),
        Role::Active,
        "the partner may be about to lose it, too"
    );
    script.run(ms(100));
    assert_eq!(script.last_reason(), Some(RoleReason::PartnerFitter));
}

fn gateway_lost_on_both(script: &mut Script) {
    script.become_active();
    script.partner.ready = true;
    script.hello(FRONT);
    script.happen(Happened::Gateway {
        link: FRONT,
        reachable: false,
    });
    script.partner.health = 0b0111;
    script.run(ms(600));
    assert_eq!(script.role(), Role::Active);
    assert!(script.is_open());
}

fn isolated(script: &mut Script) {
    script.become_active();
    script.follows = false;
    script.run(TIMEOUT);
    assert!(script.is_open());
    script.happen(Happened::Gateway {
        link: FRONT,
        reachable: false,
    });
    script.run(ms(50));
    assert!(!script.is_open());
    assert_eq!(script.last_reason(), Some(RoleReason::Isolated));
    assert!(script.has_alarm(Alarm::Isolated));
}

fn no_claim_with_dead_links(script: &mut Script) {
    script.become_standby(3);
    script.happen(Happened::Carrier {
        link: FRONT,
        up: false,
    });
    script.run(ms(900));
    assert_eq!(script.role(), Role::Standby);
    script.happen(Happened::Carrier {
        link: FRONT,
        up: true,
    });
    script.run(TIMEOUT);
    assert!(script.is_open());
}

fn carrier_returns(script: &mut Script) {
    script.become_standby(3);
    for link in [FRONT, CABLE] {
        script.happen(Happened::Carrier { link, up: false });
    }
    script.run(ms(900));
    script.happen(Happened::Carrier {
        link: FRONT,
        up: true,
    });
    script.run(TIMEOUT - ms(1));
    assert!(!script.is_open());
    script.run(ms(1));
    assert!(script.is_open());
}

fn recent_beats_dead(script: &mut Script) {
    script.become_active();
    script.partner.ready = true;
    script.partner.recent = 0b10;
    script.beat(4);
    assert_eq!(script.role(), Role::Active);
    script.happen(Happened::Carrier {
        link: FRONT,
        up: false,
    });
    script.hello(CABLE);
    assert_eq!(script.last_reason(), Some(RoleReason::PartnerFitter));
    assert!(!script.is_open());
}

fn recent_is_told(script: &mut Script) {
    script.become_standby(7);
    let up = |up| Happened::Carrier { link: FRONT, up };
    script.happen(up(false));
    script.run(ms(20));
    assert_eq!(script.told().health, 0b1011);
    script.happen(up(true));
    script.run(ms(20));
    assert_eq!((script.told().health, script.told().recent), (0b1111, 0b10));
    for _ in 0..7 {
        script.run(INTERVAL);
        script.advert();
    }
    assert_eq!((script.told().health, script.told().recent), (0b1111, 0));
}
