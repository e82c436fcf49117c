//! Virtual services and their real servers.

use comfy_table::{Cell, Color};

use super::super::model::{
    PersistenceStatus, RealServerState, RealServerStatus, ServiceStatus, Services, TrafficStatus,
};
use super::{Style, clean, lines, word};

/// `ha-agent services`.
pub fn services(services: &Services, style: Style) -> String {
    if services.services.is_empty() {
        return "no virtual services are configured\n".to_owned();
    }
    let mut table = style.table(&[
        "SERVICE",
        "LISTENS ON",
        "FORWARDING",
        "SCHEDULER",
        "REAL SERVER",
        "WEIGHT",
        "STATE",
        "CONNECTIONS",
        "PACKETS IN",
        "BYTES IN",
        "PACKETS OUT",
        "BYTES OUT",
        "DROPPED",
        "REASON",
    ]);
    for service in &services.services {
        let head = head(service);
        let mut heads = std::iter::once(head.each_ref().map(String::as_str));
        let mut begin = || -> Vec<Cell> {
            let head = heads.next().unwrap_or_default();
            head.into_iter().map(Cell::new).collect()
        };
        match &*service.real_servers {
            [] => {
                let mut row = begin();
                row.push(word("none", false));
                table.add_row(row);
            }
            servers => {
                for real in servers {
                    let mut row = begin();
                    row.extend(real_server(real));
                    table.add_row(row);
                }
            }
        }
        if service.real_servers.len() > 1 {
            let mut row = begin();
            row.extend(["all", "", ""].map(Cell::new));
            row.push(Cell::new(service.connections));
            row.extend(traffic(&service.traffic));
            table.add_row(row);
        }
    }
    lines(table)
}

fn head(service: &ServiceStatus) -> [String; 4] {
    let scheduler = clean(&service.scheduler);
    let scheduler = match service.persistence {
        Some(PersistenceStatus {
            timeout_seconds,
            prefix,
        }) => format!("{scheduler}, clients /{prefix} for {timeout_seconds} s"),
        None => scheduler,
    };
    [
        clean(&service.name),
        format!("{} {}", clean(&service.listen), clean(&service.protocol)),
        clean(&service.forwarding),
        scheduler,
    ]
}

fn real_server(real: &RealServerStatus) -> Vec<Cell> {
    let weight = if real.last_resort {
        "last resort".to_owned()
    } else {
        real.weight.to_string()
    };
    let connections = match real.connections_max {
        Some(max) => format!("{} of {max}", real.connections),
        None => real.connections.to_string(),
    };
    let mut row = vec![
        Cell::new(clean(&real.address)),
        Cell::new(weight),
        Cell::new(real.state.as_str()).fg(match real.state {
            RealServerState::Up => Color::Green,
            RealServerState::Draining => Color::Yellow,
            RealServerState::Down => Color::Red,
        }),
        Cell::new(connections),
    ];
    row.extend(traffic(&real.traffic));
    let reason = real.reason.as_deref().unwrap_or("-");
    row.push(Cell::new(clean(&match &real.own_check {
        None => reason.to_owned(),
        Some(own) => format!("{reason} (own check: {own})"),
    })));
    row
}

fn traffic(traffic: &TrafficStatus) -> [Cell; 5] {
    [
        traffic.packets_in,
        traffic.bytes_in,
        traffic.packets_out,
        traffic.bytes_out,
        traffic.dropped,
    ]
    .map(|count| Cell::new(short(count)))
}

/// A count in at most four digits and a decimal prefix.
fn short(count: u64) -> String {
    const PREFIXES: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    if count < 10_000 {
        return count.to_string();
    }
    let mut unit = 1000u64;
    for prefix in PREFIXES {
        let (whole, tenths) = (count / unit, count % unit / (unit / 10));
        if whole < 100 {
            return format!("{whole}.{tenths}{prefix}");
        }
        if whole < 1000 {
            return format!("{whole}{prefix}");
        }
        unit = unit.saturating_mul(1000);
    }
    count.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::model::SCHEMA_VERSION;

    fn real(address: &str, state: RealServerState) -> RealServerStatus {
        RealServerStatus {
            address: address.to_owned(),
            weight: 1,
            last_resort: false,
            state,
            reason: None,
            own_check: None,
            connections: 0,
            connections_max: None,
            traffic: TrafficStatus::default(),
        }
    }

    fn service(name: &str, listen: &str, real_servers: Vec<RealServerStatus>) -> ServiceStatus {
        ServiceStatus {
            name: name.to_owned(),
            listen: listen.to_owned(),
            protocol: "tcp".to_owned(),
            forwarding: "nat".to_owned(),
            scheduler: "mh".to_owned(),
            persistence: None,
            connections: real_servers.iter().map(|real| real.connections).sum(),
            traffic: TrafficStatus::default(),
            real_servers,
        }
    }

    #[test]
    fn services_with_their_real_servers() {
        let busy = RealServerStatus {
            connections: 12,
            connections_max: Some(100),
            traffic: TrafficStatus {
                connections: 40,
                packets_in: 9999,
                bytes_in: 1_234_567,
                packets_out: 12_345,
                bytes_out: 987_654_321,
                dropped: 1,
            },
            ..real("10.1.0.21:8080", RealServerState::Up)
        };
        let down = RealServerStatus {
            reason: Some("connection refused".to_owned()),
            ..real("10.1.0.22:8080", RealServerState::Down)
        };
        let sorry = RealServerStatus {
            last_resort: true,
            ..real("10.1.0.99:8080", RealServerState::Up)
        };
        let mut web = service("web", "10.0.0.100:80", vec![busy.clone(), down, sorry]);
        web.traffic = busy.traffic;
        web.persistence = Some(PersistenceStatus {
            timeout_seconds: 300,
            prefix: 24,
        });
        let all = service(
            "all",
            "[2001:db8::100]:any",
            vec![real("fd00::21", RealServerState::Draining)],
        );
        let list = Services {
            schema_version: SCHEMA_VERSION,
            services: vec![web, all, service("new", "10.0.0.100:8000-8100", Vec::new())],
        };
        let expected = "\
SERVICE  LISTENS ON                FORWARDING  SCHEDULER                  REAL SERVER     WEIGHT       STATE     CONNECTIONS  PACKETS IN  BYTES IN  PACKETS OUT  BYTES OUT  DROPPED  REASON
web      10.0.0.100:80 tcp         nat         mh, clients /24 for 300 s  10.1.0.21:8080  1            up        12 of 100    9999        1.2M      12.3k        987M       1        -
                                                                          10.1.0.22:8080  1            down      0            0           0         0            0          0        connection refused
                                                                          10.1.0.99:8080  last resort  up        0            0           0         0            0          0        -
                                                                          all                                    12           9999        1.2M      12.3k        987M       1
all      [2001:db8::100]:any tcp   nat         mh                         fd00::21        1            draining  0            0           0         0            0          0        -
new      10.0.0.100:8000-8100 tcp  nat         mh                         none
";
        assert_eq!(services(&list, Style::PLAIN), expected);
    }

    #[test]
    fn counts_are_short() {
        for (count, text) in [
            (0, "0"),
            (9999, "9999"),
            (10_000, "10.0k"),
            (99_999, "99.9k"),
            (100_000, "100k"),
            (999_999, "999k"),
            (1_000_000, "1.0M"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(short(count), text);
        }
    }
}
