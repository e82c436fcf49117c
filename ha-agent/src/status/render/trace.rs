//! What the data plane would do with a packet.

use std::fmt::Write as _;

use comfy_table::{Cell, Color};

use super::{Style, clean, lines};
use crate::trace::model::{Outcome, Step, Trace};

/// `ha-agent trace-packet`.
pub fn trace(trace: &Trace, style: Style) -> String {
    let mut out = format!("comes in on {}\n", clean(&trace.device));
    let mut program = "";
    for step in &trace.steps {
        if step.program != program {
            program = &step.program;
            // Writing to a string cannot fail.
            let _infallible = writeln!(out, "{}", clean(program));
        }
        write_step(&mut out, step);
    }
    out.push('\n');
    write_outcome(&mut out, trace, style);
    out
}

fn write_step(out: &mut String, step: &Step) {
    let topic = step.topic.as_str();
    let about = clean(&step.about);
    let colon = if about.is_empty() { "" } else { ": " };
    let answer = clean(&step.answer);
    let _infallible = writeln!(out, "  {topic:12} {about}{colon}{answer}");
    if step.details.is_empty() {
        return;
    }
    let details = step.details.iter();
    let details: Vec<String> = details
        .map(|(name, value)| format!("{} {}", name.replace('_', " "), clean(value)))
        .collect();
    let _infallible = writeln!(out, "  {:12}   {}", "", details.join("; "));
}

fn write_outcome(out: &mut String, trace: &Trace, style: Style) {
    let outcome = &trace.outcome;
    let color = match &*outcome.verdict {
        "drop" => Color::Red,
        "pass" => Color::Yellow,
        _ => Color::Green,
    };
    let reason = style.paint(&clean(&outcome.reason), color);
    let programs = clean(&trace.programs.join(", "));
    let none = || "none".to_owned();
    for (name, value) in [
        ("reason", format!("{reason}: {}", clean(&outcome.meaning))),
        ("verdict", verdict(outcome)),
        ("programs", programs),
        (
            "service",
            outcome.service.as_deref().map_or_else(none, clean),
        ),
        ("entry", outcome.entry.as_str().to_owned()),
        (
            "real server",
            outcome.real_server.as_deref().map_or_else(none, clean),
        ),
    ] {
        let _infallible = writeln!(out, "{name:12} {value}");
    }
    if outcome.rewrite.is_empty() {
        out.push_str("rewrite      none\n");
        return;
    }
    out.push('\n');
    let mut table = style.table(&["REWRITTEN", "BEFORE", "AFTER"]);
    for field in &outcome.rewrite {
        let value = |value: &Option<String>| Cell::new(clean(value.as_deref().unwrap_or("-")));
        table.add_row([
            Cell::new(clean(&field.field)),
            value(&field.before),
            value(&field.after),
        ]);
    }
    out.push_str(&lines(table));
}

fn verdict(outcome: &Outcome) -> String {
    let device = outcome.leaves_through.as_deref().map(clean);
    match (&*outcome.verdict, device) {
        ("pass", _) => "pass: the kernel gets it".to_owned(),
        ("drop", _) => "drop: it ends here".to_owned(),
        (verdict, Some(device)) => format!("{}: it leaves through {device}", clean(verdict)),
        (verdict, None) => clean(verdict),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::model::{Entry, Rewritten, Topic};

    fn step(program: &str, topic: Topic, about: &str, answer: &str) -> Step {
        Step {
            program: program.to_owned(),
            topic,
            about: about.to_owned(),
            answer: answer.to_owned(),
            details: [("way_to_client".to_owned(), "not known".to_owned())]
                .into_iter()
                .filter(|_| topic == Topic::Connection)
                .collect(),
        }
    }

    #[test]
    fn steps_first_then_the_outcome() {
        let rewritten = |field: &str, before: Option<&str>, after: &str| Rewritten {
            field: field.to_owned(),
            before: before.map(str::to_owned),
            after: Some(after.to_owned()),
        };
        let trace_of = |verdict: &str, rewrite| Trace {
            device: "eth0".to_owned(),
            programs: vec!["ha_xdp".to_owned(), "ha_flow4".to_owned()],
            steps: vec![
                step("ha_xdp", Topic::Gate, "", "open"),
                step("ha_flow4", Topic::Connection, "tcp a to b", "forward entry"),
            ],
            outcome: Outcome {
                reason: "forward_redirect".to_owned(),
                meaning: "Sent on.".to_owned(),
                verdict: verdict.to_owned(),
                leaves_through: (verdict == "redirect").then(|| "eth1\u{7}".to_owned()),
                service: Some("web".to_owned()),
                entry: Entry::Connection,
                real_server: None,
                rewrite,
                before: Vec::new(),
                after: Vec::new(),
            },
        };
        let rewrite = vec![
            rewritten("destination", Some("10.0.0.100"), "10.1.0.21"),
            rewritten("outer source", None, "10.0.0.100"),
        ];
        let text = trace(&trace_of("redirect", rewrite), Style::PLAIN);
        let wanted = "\
comes in on eth0
ha_xdp
  gate         open
ha_flow4
  connection   tcp a to b: forward entry
                 way to client not known

reason       forward_redirect: Sent on.
verdict      redirect: it leaves through eth1
programs     ha_xdp, ha_flow4
service      web
entry        connection
real server  none

REWRITTEN     BEFORE      AFTER
destination   10.0.0.100  10.1.0.21
outer source  -           10.0.0.100
";
        assert_eq!(text, wanted);
        let text = trace(&trace_of("drop", Vec::new()), Style::PLAIN);
        assert!(text.contains("verdict      drop: it ends here\n"), "{text}");
        assert!(text.ends_with("rewrite      none\n"), "{text}");
    }
}
