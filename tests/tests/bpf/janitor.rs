//! Expiry.

use std::net::SocketAddrV4;

use anyhow::{Result, ensure};
use ha_common::conn::{ConnKey4, ConnKey6, ConnState};
use ha_common::event::EventKind;
use ha_common::proto;
use ha_common::reason::{Reason, Tally};
use ha_common::service::Timeouts;
use ha_common::stage::JANITOR_KEYS;

use super::family::Family;
use super::lab::{
    CLIENT, Case, Lab, NAMES, SECOND, TIMEOUTS, TWIN, USUAL, WEB, conn_key, datagram,
};

pub(crate) const CASES: &[Case] = &[
    ("an_idle_connection_goes_with_both_directions", USUAL, idle),
    ("either_direction_keeps_a_connection", USUAL, alive),
    ("each_state_has_its_timeout", USUAL, states),
    ("datagrams_have_their_own_timeout", USUAL, datagrams),
    ("each_service_has_its_timeouts", USUAL, services),
    ("a_full_list_is_worked_off", USUAL, list),
    ("half_a_pair_expires_alone", USUAL, half),
    ("another_connections_half_stays", USUAL, foreign_half),
    ("maps_of_another_layout_are_left_alone", USUAL, layout),
];

/// Moves the last sign of life of one entry, or of all, into the past.
fn age(lab: &mut Lab, only: Option<ConnKey4>, by: u64) -> Result<()> {
    for (key, mut conn) in lab.world.conns()? {
        if only.is_none_or(|only| only == key) {
            conn.last_seen_ns = conn.last_seen_ns.saturating_sub(by);
            lab.world.set_conn(key, conn)?;
        }
    }
    Ok(())
}

/// The same of the two entries of a connection.
fn age_pair(lab: &mut Lab, forward: ConnKey4, by: u64) -> Result<()> {
    for (key, conn) in lab.world.conns()? {
        if key == forward || conn.partner_key(&key) == forward {
            age(lab, Some(key), by)?;
        }
    }
    Ok(())
}

fn set_state(lab: &mut Lab, state: ConnState) -> Result<ConnKey4> {
    let [(key, mut forward), _] = lab.pair()?;
    forward.state = state as u8;
    lab.world.set_conn(key, forward)?;
    Ok(key)
}

fn idle(lab: &mut Lab) -> Result<()> {
    for by_reverse in [false, true] {
        lab.connect(CLIENT, WEB)?;
        let [(key, _), (reverse, _)] = lab.pair()?;
        let named = if by_reverse { reverse } else { key };
        age(lab, None, TIMEOUTS.established_ns - SECOND)?;
        ensure!(lab.world.janitor(&[named])? == 0, "too early");
        age(lab, None, 2 * SECOND)?;
        ensure!(lab.world.janitor(&[named])? == 1, "not deleted");
        ensure!(lab.world.conns()?.is_empty(), "an entry is left");
        let event = lab.announced(EventKind::Delete, ConnState::Established)?;
        ensure!(event.key == key, "{event:?}");
        ensure!(lab.world.janitor(&[named])? == 0, "deleted twice");
    }
    lab.tallied(Tally::Expired, 2)
}

fn alive(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let [(key, _), (reverse, _)] = lab.pair()?;
    for quiet in [key, reverse] {
        age(lab, Some(quiet), 2000 * SECOND)?;
        ensure!(
            lab.world.janitor(&[key, reverse])? == 0,
            "one direction moves"
        );
        let mut fresh = lab.world.conns()?;
        for (key, conn) in &mut fresh {
            conn.last_seen_ns = conn.created_ns;
            lab.world.set_conn(*key, *conn)?;
        }
    }
    Ok(())
}

fn states(lab: &mut Lab) -> Result<()> {
    for (state, seconds) in [
        (ConnState::Established, 90),
        (ConnState::ClientClosing, 70),
        (ConnState::ServerClosing, 70),
        (ConnState::TimeWait, 10),
        (ConnState::Closed, 10),
    ] {
        lab.connect(CLIENT, WEB)?;
        let key = set_state(lab, state)?;
        age(lab, None, (seconds - 2) * SECOND)?;
        ensure!(lab.world.janitor(&[key])? == 0, "{state:?} too early");
        age(lab, None, 3 * SECOND)?;
        // By the reverse entry, which does not hold the state.
        let [_, (reverse, _)] = lab.pair()?;
        ensure!(lab.world.janitor(&[reverse])? == 1, "{state:?} not deleted");
        lab.announced(EventKind::Delete, state)?;
    }
    Ok(())
}

fn datagrams(lab: &mut Lab) -> Result<()> {
    lab.run(&datagram(CLIENT, NAMES), Reason::ForwardRedirect)?;
    let key = conn_key(CLIENT, NAMES, proto::UDP);
    age(lab, None, 58 * SECOND)?;
    ensure!(lab.world.janitor(&[key])? == 0, "too early");
    age(lab, None, 3 * SECOND)?;
    ensure!(lab.world.janitor(&[key])? == 1, "not deleted");
    Ok(())
}

/// Those of a service that is gone go by the usual ones.
fn services(lab: &mut Lab) -> Result<()> {
    lab.run(&datagram(CLIENT, NAMES), Reason::ForwardRedirect)?;
    lab.world.events()?;
    let other = conn_key(CLIENT, NAMES, proto::UDP);
    let quick = Timeouts {
        established_ns: 5 * SECOND,
        ..TIMEOUTS
    };
    let gone = Timeouts::default();
    for (timeouts, state, seconds) in [
        (quick, ConnState::Established, 5),
        (gone, ConnState::TimeWait, 30),
    ] {
        lab.connect(CLIENT, WEB)?;
        let web = conn_key(CLIENT, WEB, proto::TCP);
        for (key, mut conn) in lab.world.conns()? {
            if key == web {
                conn.state = state as u8;
                lab.world.set_conn(key, conn)?;
            }
        }
        lab.world.set_timeouts(1, timeouts)?;
        age_pair(lab, web, (seconds - 2) * SECOND)?;
        ensure!(lab.world.janitor(&[web, other])? == 0, "too early");
        age_pair(lab, web, 3 * SECOND)?;
        ensure!(lab.world.janitor(&[web, other])? == 1, "after {seconds} s");
        let event = lab.announced(EventKind::Delete, state)?;
        ensure!(event.key == web, "{event:?}");
    }
    ensure!(Timeouts::USUAL.closed_ns == 30 * SECOND, "another usual");
    // The other service's has its own.
    age(lab, None, 61 * SECOND)?;
    ensure!(lab.world.janitor(&[other])? == 1, "not deleted");
    Ok(())
}

fn list(lab: &mut Lab) -> Result<()> {
    let most = match lab.family() {
        Family::V4 => JANITOR_KEYS / size_of::<ConnKey4>(),
        Family::V6 => JANITOR_KEYS / size_of::<ConnKey6>(),
    };
    let mut keys = Vec::new();
    for port in 0..most as u16 {
        let client = SocketAddrV4::new(*CLIENT.ip(), 1000 + port);
        lab.run(&datagram(client, NAMES), Reason::ForwardRedirect)?;
        keys.push(conn_key(client, NAMES, proto::UDP));
    }
    age(lab, None, 61 * SECOND)?;
    // The first and the last of a list longer than one run takes.
    let mut longer = vec![conn_key(CLIENT, WEB, proto::TCP)];
    longer.extend(&keys);
    ensure!(lab.world.janitor(&[])? == 0, "an empty list");
    ensure!(
        lab.world.janitor(&longer)? as usize == most - 1,
        "not all, or one too many"
    );
    ensure!(lab.world.janitor(&keys)? == 1, "the last");
    ensure!(lab.world.conns()?.is_empty(), "an entry is left");
    Ok(())
}

fn half(lab: &mut Lab) -> Result<()> {
    for lost in [0, 1] {
        lab.connect(CLIENT, WEB)?;
        let pair = lab.pair()?;
        let (removed, left) = (pair[lost].0, pair[1 - lost].0);
        lab.world.remove_conn(removed)?;
        age(lab, None, TIMEOUTS.established_ns + SECOND)?;
        ensure!(lab.world.janitor(&[left])? == 1, "not deleted");
        ensure!(lab.world.conns()?.is_empty(), "an entry is left");
        let events = lab.world.events()?.len();
        ensure!(events == usize::from(lost == 1), "{events} events");
    }
    Ok(())
}

fn foreign_half(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let [(key, forward), _] = lab.pair()?;
    lab.world.remove_conn(key)?;
    let [(reverse, _)] = lab
        .world
        .conns()?
        .try_into()
        .map_err(|_too_many| anyhow::anyhow!("one"))?;
    lab.world.remove_conn(reverse)?;
    lab.connect(CLIENT, TWIN)?;
    // A forward entry whose place at the real server another connection has taken.
    lab.world.set_conn(key, forward)?;
    age(lab, Some(key), TIMEOUTS.established_ns + SECOND)?;
    ensure!(lab.world.janitor(&[key])? == 1, "not deleted");
    lab.pair()?;
    Ok(())
}

fn layout(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let [(key, _), _] = lab.pair()?;
    age(lab, None, TIMEOUTS.established_ns + SECOND)?;
    lab.world.set_version(ha_common::LAYOUT_VERSION + 1)?;
    ensure!(lab.world.janitor(&[key])? == 0, "deleted");
    lab.pair()?;
    Ok(())
}
