//! Changes of a file by value, as forms and scripts send them. An input is edits as JSON in its first line, and a file.

use ha_agent::config::edit::{Edit, Written, apply, read};

use super::{Seed, config, texts};

/// Longest input.
const LENGTH: usize = 16 << 10;

/// Applies the edits of an input to its file.
pub fn play(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let Some((edits, file)) = text.split_once('\n').filter(|_| text.len() <= LENGTH) else {
        return;
    };
    let Ok(edits) = serde_json::from_str::<Vec<Edit>>(edits) else {
        return;
    };
    let Ok(changed) = apply(file, &edits) else {
        return;
    };
    let says = read(&changed).expect("a file that was changed can be read");
    // With several edits the last one may still have been undone by none.
    let Some(last) = edits.last() else {
        assert_eq!(changed, file, "changed by nothing");
        return;
    };
    let way: Vec<&str> = last.path.iter().map(String::as_str).collect();
    // A new item's place has no name.
    if way.contains(&"-") {
        return;
    }
    let wanted = Written::from(&last.value);
    if wanted.is_some() {
        assert_eq!(*says.get(&way), wanted, "{changed}");
    }
}

/// Edits that come up.
pub fn seeds() -> Vec<Seed> {
    [
        ("value", r#"[{"path":["ha","timeout"],"value":"400ms"}]"#),
        (
            "named-item",
            r#"[{"path":["virtual_services","web","port"],"value":"8000-8010"}]"#,
        ),
        (
            "new-item",
            r#"[{"path":["virtual_services","-"],"value":{"name":"dns","port":53,"real_servers":[]}}]"#,
        ),
        ("gone", r#"[{"path":["ha","preferred"],"value":null}]"#),
        (
            "new-section",
            r#"[{"path":["limits","connections"],"value":100}]"#,
        ),
        (
            "odd-text",
            r#"[{"path":["node","name"],"value":"a: b # c\n\u00e9"}]"#,
        ),
        (
            "several",
            r#"[{"path":["shared_addresses","0"],"value":null},{"path":["shared_addresses","0","interface"],"value":"x"}]"#,
        ),
    ]
    .into_iter()
    .flat_map(|(name, edits)| {
        let text = format!("{edits}\n{}", config::GOOD);
        texts([(name, &*text)])
    })
    .collect()
}
