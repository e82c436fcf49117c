//! What `top` draws.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};

use super::rates::{Between, Flow, Sample, short};
use crate::status::model::{
    InterfaceStatus, Mode, RealServerState, Role, Square, Status, TableSize, XdpMode,
};
use crate::status::render::duration;

/// What the keys do, as the manual says.
pub(super) const KEYS: &str =
    "q ends, space holds the picture, arrows and page keys move, ? shows the keys";

/// The last word of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Agent {
    /// It answers.
    Answers,
    /// It does not, for this reason.
    Silent(String),
}

/// Everything that is drawn.
#[derive(Debug)]
pub(super) struct Picture {
    before: Option<Sample>,
    now: Sample,
    agent: Agent,
    every: Duration,
    pub(super) color: bool,
    offset: u16,
    /// Held by a key.
    pub(super) paused: bool,
    /// Keys are shown.
    pub(super) help: bool,
}

impl Picture {
    pub(super) const fn new(first: Sample, every: Duration, color: bool) -> Self {
        Self {
            before: None,
            now: first,
            agent: Agent::Answers,
            every,
            color,
            offset: 0,
            paused: false,
            help: false,
        }
    }

    /// Takes a look in; whether anything is to be drawn.
    pub(super) fn take(&mut self, sample: Result<Sample, Agent>) -> bool {
        if self.paused {
            return false;
        }
        match sample {
            Ok(sample) => {
                self.agent = Agent::Answers;
                self.before = Some(std::mem::replace(&mut self.now, sample));
            }
            Err(silent) => self.agent = silent,
        }
        true
    }

    /// Moves the list; drawing keeps it within its length.
    pub(super) fn scroll(&mut self, by: i32) {
        let offset = i32::from(self.offset).saturating_add(by);
        self.offset = u16::try_from(offset.max(0)).unwrap_or(u16::MAX);
    }

    fn paint(&self, text: impl Into<String>, color: Color) -> Span<'static> {
        let style = if self.color {
            Style::new().fg(color)
        } else {
            Style::new()
        };
        Span::styled(text.into(), style)
    }
}

fn bold(text: impl Into<String>) -> Span<'static> {
    Span::styled(text.into(), Style::new().add_modifier(Modifier::BOLD))
}

fn good(yes: bool) -> Color {
    if yes { Color::Green } else { Color::Red }
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, picture: &mut Picture) {
    let head = head(picture);
    let alarms = alarms(picture);
    let list = list(picture);
    let size = frame.area();
    let rows = |lines: &[Line<'_>]| u16::try_from(lines.len()).unwrap_or(u16::MAX);
    // Alarms may take half of what the head leaves, so that servers stay in sight.
    let left = size.height.saturating_sub(rows(&head));
    let wrapped = Paragraph::new(alarms).wrap(Wrap { trim: false });
    let wanted = alarm_rows(picture, size.width);
    let areas = Layout::vertical([
        Constraint::Length(rows(&head)),
        Constraint::Length(wanted.min(left / 2)),
        Constraint::Fill(1),
    ]);
    let [top, middle, bottom] = areas.areas::<3>(size);
    frame.render_widget(Paragraph::new(head), top);
    frame.render_widget(wrapped, middle);
    services(frame, bottom, list, picture);
}

fn services(frame: &mut Frame<'_>, area: Rect, list: Vec<Line<'static>>, picture: &mut Picture) {
    let [title, body] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    frame.render_widget(Paragraph::new(columns()), title);
    let rows = u16::try_from(list.len()).unwrap_or(u16::MAX);
    picture.offset = picture.offset.min(rows.saturating_sub(body.height));
    frame.render_widget(Paragraph::new(list).scroll((picture.offset, 0)), body);
}

fn head(picture: &Picture) -> Vec<Line<'static>> {
    let status = &picture.now.status;
    let mut lines = vec![title(picture)];
    if picture.help {
        lines.push(Line::from(KEYS));
    }
    if let Agent::Silent(why) = &picture.agent {
        lines.push(Line::from(picture.paint(
            format!("the agent does not answer; its last word is below: {why}"),
            Color::Red,
        )));
    }
    lines.push(Line::default());
    let mut nodes = vec![own(picture)];
    if let Some(partner) = partner(picture) {
        nodes.push(partner);
        if status.node.mode == Mode::Second {
            // As everywhere: the first node first.
            nodes.reverse();
        }
    }
    lines.extend(nodes);
    let width = |of: fn(&InterfaceStatus) -> &str| {
        let widths = status
            .interfaces
            .iter()
            .map(|interface| of(interface).len());
        widths.max().unwrap_or_default()
    };
    let widths = (
        width(|interface| &interface.name),
        width(|interface| &interface.device),
    );
    let interfaces = status.interfaces.iter();
    lines.extend(interfaces.map(|found| interface(picture, found, widths)));
    lines.push(Line::default());
    lines.extend(traffic(picture));
    lines.extend(replication(picture));
    lines.push(Line::default());
    lines
}

fn title(picture: &Picture) -> Line<'static> {
    let status = &picture.now.status;
    let held = if picture.paused {
        picture.paint("held (space goes on)", Color::Yellow)
    } else {
        Span::raw(format!("every {}", duration(picture.every.as_secs_f64())))
    };
    Line::from(vec![
        bold(format!(
            "ha-agent {} on {}",
            status.version, status.node.name
        )),
        Span::raw("  "),
        held,
        Span::raw("  ? keys  q ends"),
    ])
}

fn square(picture: &Picture, square: Square, active: bool) -> Span<'static> {
    let text = if active { "[A]" } else { "[ ]" };
    let (fg, bg) = match square {
        Square::Green => (Color::Black, Color::Green),
        Square::Red => (Color::White, Color::Red),
        Square::Yellow => (Color::Black, Color::Yellow),
        Square::Blue => (Color::White, Color::Blue),
        Square::Grey => (Color::Black, Color::Gray),
        Square::None => (Color::Reset, Color::Reset),
    };
    let style = if picture.color {
        Style::new().fg(fg).bg(bg)
    } else {
        Style::new()
    };
    Span::styled(text, style)
}

fn own(picture: &Picture) -> Line<'static> {
    let status = &picture.now.status;
    let sync = match &status.partner {
        Some(partner) if partner.config_in_sync => " on both nodes",
        Some(_) => " (the partner has another)",
        None => "",
    };
    Line::from(vec![
        square(picture, status.square, status.role == Role::Active),
        bold(format!(" {} {}", status.node.name, status.role.as_str())),
        Span::raw(format!(
            " {} for {}, term {}, configuration {}{sync}",
            status.square.as_str(),
            duration(status.since_seconds),
            status.term,
            status.config_generation,
        )),
    ])
}

fn partner(picture: &Picture) -> Option<Line<'static>> {
    let partner = picture.now.status.partner.as_ref()?;
    let name = partner.name.as_deref().unwrap_or("the partner");
    let role = partner.role.map_or("never heard", Role::as_str);
    let heard: Vec<_> = partner
        .heard
        .iter()
        .map(|(name, heard)| {
            let text = format!(" {name} {}", if *heard { "heard" } else { "silent" });
            picture.paint(text, good(*heard))
        })
        .collect();
    let mut spans = vec![
        square(picture, partner.square, partner.role == Some(Role::Active)),
        bold(format!(" {name} {role}")),
        Span::raw(format!(" {}", partner.square.as_str())),
    ];
    spans.extend(heard);
    Some(Line::from(spans))
}

fn interface(
    picture: &Picture,
    interface: &InterfaceStatus,
    (name, device): (usize, usize),
) -> Line<'static> {
    let held = match picture.now.status.role {
        Role::Active | Role::Off => "here",
        Role::Init | Role::Standby | Role::Pacified | Role::Maintenance => "not here",
    };
    let shared = if interface.shared.is_empty() {
        String::new()
    } else {
        format!("  {} {held}", interface.shared.join(" "))
    };
    let link = if interface.carrier {
        "up"
    } else {
        "no carrier"
    };
    let xdp = interface.xdp_mode;
    let mut spans = vec![
        Span::raw(format!(
            "    {:name$}  {:device$}  ",
            interface.name, interface.device
        )),
        picture.paint(link, good(interface.carrier)),
        Span::raw(", XDP "),
        picture.paint(xdp.as_str(), good(xdp != XdpMode::None)),
        Span::raw(shared),
    ];
    if let Some(answers) = interface.gateway_reachable {
        let text = if answers {
            ", gateway answers"
        } else {
            ", gateway silent"
        };
        spans.push(picture.paint(text, good(answers)));
    }
    Line::from(spans)
}

fn traffic(picture: &Picture) -> Vec<Line<'static>> {
    let between = Between::new(picture.before.as_ref(), &picture.now);
    let TableSize {
        established,
        embryonic,
        max,
    } = picture.now.status.connections;
    let (all, packets) = (between.all(), between.packets());
    let reasons: Vec<String> = packets
        .reasons
        .iter()
        .map(|(name, rate)| format!("{name} {}", short(Some(*rate))))
        .collect();
    let reasons = if reasons.is_empty() {
        String::new()
    } else {
        format!(": {}", reasons.join(", "))
    };
    vec![
        Line::from(format!(
            "Connections  {established} of {max}, {embryonic} half-open, {} new/s",
            short(all.connections)
        )),
        Line::from(format!(
            "Packets      {}/s forwarded, {}bit/s of services, {}/s dropped{reasons}",
            short(packets.forwarded),
            short(all.bytes.map(|bytes| bytes * 8.0)),
            short(packets.dropped),
        )),
    ]
}

fn replication(picture: &Picture) -> Option<Line<'static>> {
    let status: &Status = &picture.now.status;
    status.partner.as_ref()?;
    let replication = &status.replication;
    let ready = if replication.ready {
        picture.paint("ready", Color::Green)
    } else {
        picture.paint("not ready", Color::Yellow)
    };
    let us = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), |us| format!("{us} us"));
    let mut rest = format!(
        ", lag p99 {}, oldest waiting {}, {} dropped",
        us(replication.lag_us_p99),
        us(replication.oldest_waiting_us),
        replication.dropped
    );
    if let Some(transfer) = replication.transfer {
        rest.extend([format!(
            ", transfer {} of {}",
            transfer.done, transfer.total
        )]);
    }
    if let Some(buckets) = replication.repair_buckets {
        rest.extend([format!(", {buckets} buckets to repair")]);
    }
    Some(Line::from(vec![
        Span::raw("Replication  "),
        ready,
        Span::raw(rest),
    ]))
}

/// Each alarm as it is shown.
fn alarm_texts(picture: &Picture) -> Vec<String> {
    let alarms = picture.now.status.alarms.iter();
    let text = alarms.map(|alarm| {
        format!(
            "! {} for {}: {}; {}",
            alarm.name,
            duration(alarm.since_seconds),
            alarm.evidence,
            alarm.remedy
        )
    });
    text.collect()
}

fn alarms(picture: &Picture) -> Vec<Line<'static>> {
    let texts = alarm_texts(picture).into_iter();
    let mut lines: Vec<_> = texts
        .map(|text| Line::from(picture.paint(text, Color::Red)))
        .collect();
    if !lines.is_empty() {
        lines.push(Line::default());
    }
    lines
}

/// Rows that the alarms take when they are broken into lines: by characters, which words can only make more.
fn alarm_rows(picture: &Picture, width: u16) -> u16 {
    let width = usize::from(width.max(1));
    let texts = alarm_texts(picture);
    let rows = texts
        .iter()
        .map(|text| text.chars().count().div_ceil(width) + 1);
    let rows: usize = rows.sum();
    u16::try_from(rows).unwrap_or(u16::MAX)
}

/// The figures of one row of the list.
fn figures(connections: u64, flow: Flow) -> String {
    format!(
        "{connections:>9} {:>7} {:>8} {:>8} {:>8}",
        short(flow.connections),
        short(flow.packets_in),
        short(flow.packets_out),
        short(flow.dropped)
    )
}

fn columns() -> Line<'static> {
    Line::from(bold(format!(
        "{:<28} {:>9} {:>7} {:>8} {:>8} {:>8}  STATE",
        "SERVICE", "CONN", "NEW/S", "IN/S", "OUT/S", "DROP/S"
    )))
}

fn list(picture: &Picture) -> Vec<Line<'static>> {
    let between = Between::new(picture.before.as_ref(), &picture.now);
    let mut lines = Vec::new();
    for (index, service) in picture.now.services.services.iter().enumerate() {
        let name = if service.name.is_empty() {
            "(removed)"
        } else {
            &service.name
        };
        lines.push(Line::from(vec![
            bold(format!("{name:<28} ")),
            Span::raw(figures(service.connections, between.service(index))),
            Span::raw(format!(
                "  {}/{} {} {}",
                service.listen, service.protocol, service.forwarding, service.scheduler
            )),
        ]));
        for real in &service.real_servers {
            let color = match real.state {
                RealServerState::Up => Color::Green,
                RealServerState::Draining => Color::Yellow,
                RealServerState::Down => Color::Red,
            };
            let mut more = format!(" weight {}", real.weight);
            if real.last_resort {
                more += ", last resort";
            }
            for text in [&real.reason, &real.own_check].into_iter().flatten() {
                more.extend([", ", text]);
            }
            lines.push(Line::from(vec![
                Span::raw(format!("  {:<26} ", real.address)),
                Span::raw(figures(
                    real.connections,
                    between.real(index, &real.address),
                )),
                Span::raw("  "),
                picture.paint(real.state.as_str(), color),
                Span::raw(more),
            ]));
        }
    }
    lines
}
