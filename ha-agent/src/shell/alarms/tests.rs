use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::*;

#[test]
fn every_alarm_has_its_words_in_the_manual() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/alarms.md");
    let manual = fs::read_to_string(path).unwrap();
    let rows: BTreeSet<&str> = manual
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let mut wanted = BTreeSet::new();
    for kind in Kind::ALL {
        let start = format!("| `{}` | {} | ", kind.as_str(), kind.meaning());
        let end = format!(" | {} |", kind.remedy());
        let row = rows
            .iter()
            .find(|row| row.starts_with(&start) && row.ends_with(&end))
            .unwrap_or_else(|| panic!("docs/alarms.md lacks the row\n{start}EVIDENCE{end}"));
        assert!(row.len() > start.len() + end.len(), "no evidence: {row}");
        assert!(wanted.insert(*row), "twice: {row}");
    }
    let unknown: Vec<_> = rows.difference(&wanted).collect();
    assert!(unknown.is_empty(), "no such alarm: {unknown:#?}");
}

#[test]
fn an_alarm_stands_until_it_is_over() {
    let board = Board::default();
    let names = |board: &Board| -> Vec<String> {
        board.list().into_iter().map(|alarm| alarm.name).collect()
    };
    board.raise(Kind::GuardMissing, "table", "no table");
    board.follow(vec![(Kind::EventsLost, "3".to_owned())]);
    board.follow(vec![(Kind::EventsLost, "4".to_owned())]);
    assert_eq!(names(&board), ["guard_missing", "events_lost"]);
    assert_eq!(board.list()[1].evidence, "4");
    board.follow(Vec::new());
    assert_eq!(names(&board), ["guard_missing"]);
    board.clear(Kind::GuardMissing, "table");
    assert!(board.list().is_empty());
}

#[test]
fn a_flood_of_conflicts_fills_no_list() {
    let board = Board::default();
    for number in 0..1000 {
        board.report(Kind::BothActive, &number.to_string(), "somebody");
    }
    assert!(board.list().len() < 20);
}
