//! The dashboard and the alert rules that are delivered: every metric, label and label value that they name is one that
//! the agent exports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::tests::Scene;
use crate::shell::alarms::Kind;

/// Labels that Prometheus itself gives to what it scrapes.
const TARGET: [&str; 2] = ["job", "instance"];
/// What Prometheus itself measures.
const OTHERS: [&str; 1] = ["up"];

/// What a metric has: values of each label.
type Exposed = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Everything that an agent of which everything is known exports.
fn exposed() -> Exposed {
    let mut exposed = Exposed::new();
    for line in Scene::new()
        .text()
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let name = line.split(['{', ' ']).next().unwrap();
        let labels = exposed.entry(name.to_owned()).or_default();
        for (name, _, value) in matchers(&tokens(line), name) {
            labels.entry(name).or_default().insert(value);
        }
    }
    exposed
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Mark(String),
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c.is_alphabetic() || c == '_' || c == '$' {
            let mut word = c.to_string();
            while let Some(c) = rest.next_if(|c| c.is_alphanumeric() || "_:".contains(*c)) {
                word.push(c);
            }
            tokens.push(Token::Word(word));
        } else if c == '"' {
            let text: String = rest.by_ref().take_while(|c| *c != '"').collect();
            tokens.push(Token::Text(text));
        } else if "=!~<>".contains(c) {
            let mut mark = c.to_string();
            while let Some(c) = rest.next_if(|c| "=~".contains(*c)) {
                mark.push(c);
            }
            tokens.push(Token::Mark(mark));
        } else if !c.is_whitespace() {
            tokens.push(Token::Mark(c.to_string()));
        }
    }
    tokens
}

/// What stands in braces behind the first mention of a metric: label, sign and value.
fn matchers(tokens: &[Token], metric: &str) -> Vec<(String, String, String)> {
    let at = tokens
        .iter()
        .position(|token| *token == Token::Word(metric.to_owned()));
    let behind = &tokens[at.unwrap() + 1..];
    if behind.first() != Some(&Token::Mark("{".to_owned())) {
        return Vec::new();
    }
    let end = behind
        .iter()
        .position(|token| *token == Token::Mark("}".to_owned()));
    let inside = &behind[1..end.expect("a closing brace")];
    let parts = inside.split(|token| *token == Token::Mark(",".to_owned()));
    let parts = parts
        .filter(|part| !part.is_empty())
        .map(|part| match part {
            [Token::Word(label), Token::Mark(sign), Token::Text(value)] => {
                (label.clone(), sign.clone(), value.clone())
            }
            other => panic!("no matcher: {other:?}"),
        });
    parts.collect()
}

/// Checks an expression; the labels that what comes of it may have.
fn check(expression: &str, exposed: &Exposed) -> Result<BTreeSet<String>, String> {
    let tokens = tokens(expression);
    let mut known: BTreeSet<String> = TARGET.iter().map(|label| (*label).to_owned()).collect();
    let mut grouped = None;
    let mut named = 0;
    for (index, token) in tokens.iter().enumerate() {
        let Token::Word(word) = token else { continue };
        let called = tokens.get(index + 1) == Some(&Token::Mark("(".to_owned()));
        if OTHERS.contains(&word.as_str()) {
            named += 1;
        } else if word.starts_with("ha_agent_") {
            named += 1;
            let labels = exposed
                .get(word)
                .ok_or_else(|| format!("no metric {word}"))?;
            for (label, sign, value) in matchers(&tokens[index..], word) {
                if TARGET.contains(&label.as_str()) {
                    continue;
                }
                let values = labels
                    .get(&label)
                    .ok_or_else(|| format!("{word} has no label {label}"))?;
                let wanted: Vec<&str> = if sign.contains('~') {
                    value.split('|').collect()
                } else {
                    vec![&value]
                };
                let missing = wanted.iter().find(|wanted| !values.contains(**wanted));
                if let Some(missing) = missing {
                    return Err(format!("{word} has no {label}=\"{missing}\": {values:?}"));
                }
            }
            known.extend(labels.keys().cloned());
        } else if ["by", "without", "on", "ignoring", "group_left"].contains(&word.as_str())
            && called
        {
            let rest = &tokens[index + 2..];
            let end = rest
                .iter()
                .position(|token| *token == Token::Mark(")".to_owned()));
            let labels: Vec<String> = rest[..end.expect("a closing parenthesis")]
                .iter()
                .filter_map(|token| match token {
                    Token::Word(label) => Some(label.clone()),
                    Token::Text(_) | Token::Mark(_) => None,
                })
                .collect();
            // Labels of what stands before and behind: both are in the same expression.
            let all = expression_labels(expression, exposed);
            if let Some(strange) = labels.iter().find(|label| !all.contains(*label)) {
                return Err(format!("nothing there has a label {strange}"));
            }
            if word == "by" && grouped.is_none() {
                grouped = Some(labels.into_iter().collect());
            }
        }
    }
    if named == 0 {
        return Err("it names no metric".to_owned());
    }
    Ok(grouped.unwrap_or(known))
}

/// Labels of all metrics that an expression names.
fn expression_labels(expression: &str, exposed: &Exposed) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = TARGET.iter().map(|label| (*label).to_owned()).collect();
    for token in tokens(expression) {
        if let Token::Word(word) = token {
            all.extend(
                exposed
                    .get(&word)
                    .into_iter()
                    .flat_map(|labels| labels.keys().cloned()),
            );
        }
    }
    all
}

/// Labels that a text for people names: `{{label}}` of Grafana, `$labels.label` of Prometheus.
fn mentioned(text: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let rules = text.split("$labels.").skip(1).map(word);
    let panels = text.split("{{").skip(1).map(str::trim_start).map(word);
    rules
        .chain(panels.filter(|word| !word.is_empty()))
        .collect()
}

fn deployed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name);
    fs::read_to_string(path).unwrap()
}

#[test]
fn alert_rules_name_what_exists_and_what_to_do() {
    let exposed = exposed();
    let rules: Value = serde_yaml::from_str(&deployed("prometheus/ha-agent.rules.yml")).unwrap();
    let mut names = BTreeSet::new();
    for group in rules["groups"].as_array().unwrap() {
        assert!(group["name"].is_string());
        for rule in group["rules"].as_array().unwrap() {
            let name = rule["alert"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "{name} twice");
            let labels = check(rule["expr"].as_str().unwrap(), &exposed);
            let labels = labels.unwrap_or_else(|what| panic!("{name}: {what}"));
            let severity = rule["labels"]["severity"].as_str().unwrap();
            assert!(
                ["critical", "warning", "info"].contains(&severity),
                "{name}"
            );
            for key in ["summary", "remedy"] {
                let text = rule["annotations"][key].as_str().unwrap_or_default();
                assert!(text.len() > 15, "{name} has no {key}");
                for label in mentioned(text) {
                    assert!(labels.contains(&label), "{name}: nothing gives {label}");
                }
            }
        }
    }
    assert!(names.len() > 20, "{names:?}");
}

#[test]
fn the_dashboard_shows_what_exists() {
    let exposed = exposed();
    let board: Value = serde_json::from_str(&deployed("grafana/ha-agent.json")).unwrap();
    let variables = board["templating"]["list"].as_array().unwrap();
    let mut shown = BTreeSet::new();
    for variable in variables {
        if let Some(query) = variable["query"]["query"].as_str() {
            let inner = query.strip_prefix("label_values(").unwrap();
            let (metric, label) = inner.trim_end_matches(')').rsplit_once(", ").unwrap();
            check(metric, &exposed).unwrap();
            assert!(TARGET.contains(&label), "{query}");
        }
    }
    let annotations = board["annotations"]["list"].as_array().unwrap();
    for annotation in annotations {
        check(annotation["expr"].as_str().unwrap(), &exposed).unwrap();
    }
    let mut ids = BTreeSet::new();
    let mut places: Vec<[i64; 4]> = Vec::new();
    for panel in board["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_i64().unwrap()), "{title}");
        let at = |key: &str| panel["gridPos"][key].as_i64().unwrap();
        let place = [at("x"), at("y"), at("x") + at("w"), at("y") + at("h")];
        assert!(place[2] <= 24, "{title} is too wide");
        let over = places.iter().find(|other| {
            place[0] < other[2] && other[0] < place[2] && place[1] < other[3] && other[1] < place[3]
        });
        assert_eq!(over, None, "{title} lies over another panel");
        places.push(place);
        if panel["type"] == "row" {
            continue;
        }
        assert!(
            panel["description"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{title}"
        );
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let labels = check(expression, &exposed);
            let labels = labels.unwrap_or_else(|what| panic!("{title}: {what}"));
            for label in mentioned(target["legendFormat"].as_str().unwrap()) {
                assert!(labels.contains(&label), "{title}: nothing gives {label}");
            }
            shown.extend(
                tokens(expression)
                    .into_iter()
                    .filter_map(|token| match token {
                        Token::Word(word) if word.starts_with("ha_agent_") => Some(word),
                        Token::Word(_) | Token::Text(_) | Token::Mark(_) => None,
                    }),
            );
        }
    }
    assert!(shown.len() > 30, "{shown:?}");
}

/// The check finds what is wrong: else it would be worth nothing.
#[test]
fn what_does_not_exist_is_found() {
    let exposed = exposed();
    assert_eq!(exposed["ha_agent_alarms"]["alarm"].len(), Kind::ALL.len());
    for (expression, what) in [
        ("ha_agent_rolle == 1", "no metric ha_agent_rolle"),
        (
            "rate(ha_agent_datapath_packets[5m])",
            "no metric ha_agent_datapath_packets",
        ),
        ("ha_agent_role{rolle=\"active\"}", "no label rolle"),
        ("ha_agent_role{role=\"aktive\"}", "no role=\"aktive\""),
        ("ha_agent_role{role=~\"active|of\"}", "no role=\"of\""),
        ("sum by (service) (ha_agent_role)", "a label service"),
        (
            "ha_agent_role > ignoring (state) ha_agent_term",
            "a label state",
        ),
        ("1 > 0", "names no metric"),
    ] {
        let found = check(expression, &exposed).unwrap_err();
        assert!(found.contains(what), "{expression}: {found}");
    }
    let labels = check(
        "sum by (job, service) (ha_agent_real_server_state)",
        &exposed,
    )
    .unwrap();
    assert!(labels.contains("service") && !labels.contains("real_server"));
    assert_eq!(
        mentioned("{{ $labels.a }} {{b}}: $labels.c_d, {{ $value }}"),
        ["a", "c_d", "b"]
    );
}
