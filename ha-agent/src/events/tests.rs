use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn entry(number: u64) -> Entry {
    Entry::new(Kind::Command, "uid 0", format!("deed {number}")).because("it had to be")
}

fn seen(number: u64) -> Entry {
    Entry::new(Kind::AlarmRaised, "agent", format!("alarm {number}"))
}

fn all() -> EventQuery {
    EventQuery {
        limit: PAGE_MAX,
        ..EventQuery::default()
    }
}

fn whats(page: &EventPage) -> Vec<&str> {
    page.events
        .iter()
        .map(|event| event.what.as_str())
        .collect()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = clock::now() + PATIENCE;
    while !done() {
        assert!(clock::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn every_kind_has_its_words_in_the_manual() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/events.md");
    let manual = fs::read_to_string(path).unwrap();
    let rows: BTreeSet<&str> = manual
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let row = |kind: &Kind| {
        let (name, id) = (kind.as_str(), kind.message_id());
        format!("| `{name}` | {} | `{id}` |", kind.meaning())
    };
    let wanted: Vec<String> = Kind::ALL.iter().map(row).collect();
    let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    assert_eq!(rows, wanted, "docs/events.md");
    let ids: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.message_id()).collect();
    assert_eq!(ids.len(), Kind::ALL.len());
    assert!(ids.iter().all(|id| id.len() == 32));
}

#[test]
fn history_survives_restarts_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for run in 0..3 {
        let recorder = Recorder::start(dir.path()).unwrap();
        recorder.record(entry(run));
        recorder.record(seen(run));
        assert!(recorder.finish(PATIENCE));
        assert_eq!(recorder.numbers().stored, 2);
    }
    let page = store::query(dir.path(), &all()).unwrap();
    let expected = [
        "deed 0", "alarm 0", "deed 1", "alarm 1", "deed 2", "alarm 2",
    ];
    assert_eq!(whats(&page), expected);
    let numbers: Vec<u64> = page.events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    assert_eq!((page.next, page.unreadable), (6, 0));
    let first = &page.events[0];
    assert_eq!((&*first.who, &*first.why), ("uid 0", "it had to be"));
}

#[test]
fn a_line_cut_short_costs_itself_only() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(dir.path()).unwrap();
    recorder.record(entry(1));
    recorder.record(entry(2));
    assert!(recorder.finish(PATIENCE));
    let path = dir.path().join("events.jsonl");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    let recorder = Recorder::start(dir.path()).unwrap();
    recorder.record(entry(3));
    assert!(recorder.finish(PATIENCE));
    let page = store::query(dir.path(), &all()).unwrap();
    assert_eq!(whats(&page), ["deed 1", "deed 3"]);
    assert_eq!(page.unreadable, 1);
    // Garbage of any kind is passed over.
    let mut bytes = fs::read(&path).unwrap();
    bytes.splice(0..0, *b"\xff\xfe\0{]\n[[[[\n{\"number\":-1}\n\n");
    fs::write(&path, bytes).unwrap();
    let page = store::query(dir.path(), &all()).unwrap();
    assert_eq!((whats(&page).len(), page.unreadable), (2, 4));
}

#[test]
fn files_are_bounded_and_floods_push_out_no_deeds() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(dir.path()).unwrap();
    recorder.record(entry(1));
    let long = "x".repeat(TEXT_MAX * 2);
    for number in 0..3000_u64 {
        until("the queue is emptied", || {
            let numbers = recorder.numbers();
            numbers.recorded - numbers.stored < 100
        });
        recorder.record(seen(number).because(&*long));
    }
    assert!(recorder.finish(PATIENCE));
    let mut total = 0;
    for file in fs::read_dir(dir.path()).unwrap() {
        let length = file.unwrap().metadata().unwrap().len();
        assert!(length <= 1 << 20, "{length}");
        total += length;
    }
    assert!(
        total > 1 << 20,
        "there is a file before the newest: {total}"
    );
    let page = store::query(dir.path(), &all()).unwrap();
    let newest = whats(&page).last().copied();
    assert_eq!(newest, Some("alarm 2999"));
    let deeds = EventQuery {
        kind: Some("command".to_owned()),
        ..all()
    };
    let page = store::query(dir.path(), &deeds).unwrap();
    assert_eq!(whats(&page), ["deed 1"]);
}

#[test]
fn a_full_disk_is_told_of_and_what_waited_is_stored_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    symlink("/dev/full", &path).unwrap();
    let recorder = Recorder::start(dir.path()).unwrap();
    for number in 0..1200 {
        until("the queue is emptied", || {
            recorder.recent(1).first().map_or(0, |event| event.number) + 100 > number
        });
        recorder.record(entry(number));
    }
    until("the disk's refusal is noticed", || {
        recorder.problem().is_some()
    });
    assert_eq!(recorder.numbers().stored, 0);
    until("the newest are at hand all the same", || {
        recorder.recent(1)[0].what == "deed 1199"
    });
    fs::remove_file(&path).unwrap();
    assert!(recorder.finish(PATIENCE));
    assert!(recorder.problem().is_none());
    let page = store::query(dir.path(), &all()).unwrap();
    let lost: Vec<&Event> = (page.events.iter())
        .filter(|event| event.event == "history_lost")
        .collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].fields["count"], "200");
    assert_eq!(recorder.numbers().lost, 200);
    assert_eq!(
        page.events[0].what, "deed 201",
        "a page shows the newest thousand"
    );
}

#[test]
fn a_directory_that_cannot_be_written_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let recorder = Recorder::start(&file.join("state")).unwrap();
    recorder.record(entry(1));
    until("it is told of", || recorder.problem().is_some());
    assert!(recorder.finish(PATIENCE), "and the end is not held up");
    // A recorder that has ended, and one that goes nowhere, take everything and keep nothing.
    recorder.record(entry(2));
    Recorder::default().record(entry(3));
    assert_eq!(Recorder::default().numbers(), Numbers::default());
}

#[test]
fn queries() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(dir.path()).unwrap();
    for number in 1..=9 {
        recorder.record(if number % 3 == 0 {
            seen(number)
        } else {
            entry(number)
        });
    }
    until("all are stored", || recorder.numbers().stored == 9);
    let ask = |query: EventQuery| {
        let page = recorder.query(&query).unwrap();
        let numbers = page.events.iter().map(|event| event.number);
        (numbers.collect::<Vec<_>>(), page.next)
    };
    let newest = |limit| EventQuery { limit, ..all() };
    assert_eq!(ask(newest(2)), (vec![8, 9], 9));
    assert_eq!(ask(newest(0)), (vec![], 9));
    let kind = EventQuery {
        kind: Some("alarm_raised".to_owned()),
        ..all()
    };
    assert_eq!(ask(kind), (vec![3, 6, 9], 9));
    let after = |after| EventQuery {
        after: Some(after),
        ..all()
    };
    assert_eq!(ask(after(7)), (vec![8, 9], 9));
    assert_eq!(ask(after(9)), (vec![], 9));
    // The number of a history that is gone.
    assert_eq!(ask(after(500)).0.len(), 9);
    assert_eq!(ask(after(u64::MAX)).0.len(), 9);
    let later = EventQuery {
        since: "2999-01-01T00:00:00Z".parse().ok(),
        ..all()
    };
    assert_eq!(ask(later), (vec![], 9));
    let earlier = EventQuery {
        since: "1999-01-01T00:00:00Z".parse().ok(),
        ..all()
    };
    assert_eq!(ask(earlier).0.len(), 9);
    assert_eq!(recorder.recent(2).len(), 2);
    assert_eq!(*recorder.news().borrow(), 9);
}

#[test]
fn texts_are_cut_between_letters() {
    let long = "ä".repeat(TEXT_MAX);
    let event = Entry::new(Kind::Command, &*long, &*long)
        .because(&*long)
        .numbered(1);
    assert_eq!(event.what.len(), TEXT_MAX);
    assert!(event.why.chars().all(|letter| letter == 'ä'));
}
