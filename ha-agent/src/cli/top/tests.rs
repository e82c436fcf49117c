//! Keys, and the picture as a terminal shows it.

use std::fmt::Write as _;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::*;
use crate::proto::time::Instant;
use crate::status::model::{
    Alarm, Counters, Progress, RealServerState, RealServerStatus, Role, SCHEMA_VERSION,
    ServiceStatus, Services, Square, TrafficStatus,
};
use crate::status::render::tests::sample as status;

fn real(address: &str, state: RealServerState) -> RealServerStatus {
    RealServerStatus {
        address: address.to_owned(),
        weight: 1,
        last_resort: false,
        state,
        reason: None,
        own_check: None,
        connections: 5,
        connections_max: None,
        traffic: TrafficStatus::default(),
    }
}

/// One look.
pub(super) fn sample() -> Sample {
    let service = ServiceStatus {
        name: "web".to_owned(),
        listen: "10.0.0.100:80".to_owned(),
        protocol: "tcp".to_owned(),
        forwarding: "nat".to_owned(),
        scheduler: "mh".to_owned(),
        persistence: None,
        connections: 5,
        traffic: TrafficStatus::default(),
        real_servers: vec![
            real("10.1.0.21:8080", RealServerState::Up),
            RealServerStatus {
                reason: Some("connection refused".to_owned()),
                connections: 0,
                ..real("10.1.0.22:8080", RealServerState::Down)
            },
        ],
    };
    let mut sample = Sample {
        status: status(),
        services: Services {
            schema_version: SCHEMA_VERSION,
            services: vec![service],
        },
        counters: Counters::from_values(&[]),
        at: Instant::from_nanos(1_000_000_000),
    };
    sample.status.configuration = None;
    sample
}

/// Another one, two seconds later.
pub(super) fn later() -> Sample {
    let mut later = sample();
    later.at = Instant::from_nanos(3_000_000_000);
    later.services.services[0].real_servers[0].traffic = TrafficStatus {
        connections: 12,
        packets_in: 1200,
        bytes_in: 120_000,
        packets_out: 1190,
        bytes_out: 1_200_000,
        dropped: 3,
    };
    let mut drops = [12, 6].into_iter();
    let mut forwards = [2400].into_iter();
    for counter in &mut later.counters.counters {
        let more = match counter.verdict.as_deref() {
            Some("drop") => drops.next(),
            Some("redirect") => forwards.next(),
            _ => None,
        };
        counter.value += more.unwrap_or_default();
    }
    later
}

fn picture() -> Picture {
    let mut picture = Picture::new(sample(), Duration::from_secs(1), true);
    assert!(picture.take(Ok(later())));
    picture
}

fn drawn(picture: &mut Picture, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, picture)).unwrap();
    terminal
}

/// What a person sees, line by line.
fn text(terminal: &Terminal<TestBackend>) -> String {
    let buffer = terminal.backend().buffer();
    let width = usize::from(buffer.area.width);
    let mut text = String::new();
    for row in buffer.content.chunks(width) {
        let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        writeln!(text, "{}", line.trim_end()).unwrap();
    }
    text
}

/// Compares with what was kept; `HA_BLESS=1 cargo test -p ha-agent --lib cli::top` keeps what there is now.
fn compare(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/cli/top")
        .join(name);
    if std::env::var_os("HA_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(kept, found, "{}", path.display());
}

#[test]
fn a_healthy_pair() {
    compare("healthy.txt", &text(&drawn(&mut picture(), 110, 24)));
}

#[test]
fn a_pair_in_trouble() {
    let mut picture = picture();
    let mut sample = later();
    sample.at = Instant::from_nanos(5_000_000_000);
    sample.status.role = Role::Standby;
    sample.status.square = Square::Yellow;
    sample.status.replication.ready = false;
    sample.status.replication.transfer = Some(Progress {
        done: 10,
        total: 1000,
    });
    sample.status.interfaces[0].carrier = false;
    sample.status.interfaces[0].gateway_reachable = Some(false);
    let partner = sample.status.partner.as_mut().unwrap();
    partner.config_in_sync = false;
    partner.role = Some(Role::Active);
    sample.status.alarms = vec![Alarm {
        name: "link_silent".to_owned(),
        since_seconds: 75.0,
        evidence: "back\u{1b}[2J".to_owned(),
        remedy: "let multicast pass there, and see that both ports are in the same VLAN".to_owned(),
    }];
    picture.take(Ok(sample));
    picture.take(Err(Agent::Silent("no ha-agent is running".to_owned())));
    picture.help = true;
    compare("trouble.txt", &text(&drawn(&mut picture, 110, 24)));
}

#[test]
fn a_held_picture_takes_nothing_in() {
    let mut picture = picture();
    picture.paused = true;
    let before = text(&drawn(&mut picture, 110, 24));
    assert!(before.contains("held"));
    assert!(!picture.take(Err(Agent::Silent("gone".to_owned()))));
    assert_eq!(before, text(&drawn(&mut picture, 110, 24)));
}

#[test]
fn long_lists_are_moved_and_end_with_their_end() {
    let mut sample = later();
    let one = sample.services.services[0].real_servers[0].clone();
    let reals = (1..100).map(|last| RealServerStatus {
        address: format!("10.1.1.{last}:80"),
        ..one.clone()
    });
    sample.services.services[0].real_servers = reals.collect();
    let mut picture = Picture::new(sample, Duration::from_secs(1), true);
    let shown = |picture: &mut Picture, address: &str| {
        text(&drawn(picture, 110, 24)).contains(&format!(" {address}:80 "))
    };
    assert!(shown(&mut picture, "10.1.1.1") && !shown(&mut picture, "10.1.1.99"));
    picture.scroll(i32::MAX);
    assert!(shown(&mut picture, "10.1.1.99") && !shown(&mut picture, "10.1.1.1"));
    picture.scroll(-1);
    assert!(!shown(&mut picture, "10.1.1.99") && shown(&mut picture, "10.1.1.98"));
    picture.scroll(i32::MIN);
    assert!(shown(&mut picture, "10.1.1.1"));
}

#[test]
fn colours_are_for_those_who_want_them() {
    let painted = |color| {
        let mut picture = picture();
        picture.color = color;
        let terminal = drawn(&mut picture, 110, 24);
        let mut cells = terminal.backend().buffer().content.iter();
        cells.any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    assert!(painted(true));
    assert!(!painted(false));
}

#[test]
fn any_size_can_be_drawn() {
    let mut picture = picture();
    picture.help = true;
    for (width, height) in [(1, 1), (10, 3), (40, 10), (500, 200)] {
        drawn(&mut picture, width, height);
    }
}

#[test]
fn keys_do_what_the_help_says() {
    let key = |code| Act::of(KeyEvent::new(code, KeyModifiers::NONE));
    assert_eq!(key(KeyCode::Char('q')), Act::End);
    assert_eq!(key(KeyCode::Esc), Act::End);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(Act::of(interrupt), Act::End);
    assert_eq!(key(KeyCode::Char('c')), Act::Nothing);
    assert_eq!(key(KeyCode::Char(' ')), Act::Pause);
    assert_eq!(key(KeyCode::Char('?')), Act::Help);
    assert_eq!(key(KeyCode::Down), Act::Move(1));
    assert_eq!(key(KeyCode::PageUp), Act::Move(-10));
    let mut released = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
    released.kind = KeyEventKind::Release;
    assert_eq!(Act::of(released), Act::Nothing);
}
