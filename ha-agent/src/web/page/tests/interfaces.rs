//! Interfaces: changed, added and removed, with what hangs on them.

use super::*;

/// Agrees to a change that needs a restart, and has it made.
async fn agreed(operator: &Browser<'_>, preview: &Answer) {
    let done = operator.agree(preview, "yes").await;
    assert_eq!(done.code, 303, "{}", preview.body);
}

#[tokio::test]
async fn interfaces_are_changed_with_their_shared_addresses_and_who_may_use_the_page() {
    let running = Running::start();
    let operator = Browser::of(&running, Access::Operator);
    let fields = [
        ("front.gateway", "10.0.0.253, 10.0.0.252"),
        ("front.shared", "10.0.0.101/24, 10.0.0.100/24"),
    ];
    let mut all = operator.fields("/interfaces").await;
    assert!(all.iter().any(|(name, _)| name == "front.web"));
    let preview = operator.fill("/interfaces", &fields).await;
    agreed(&operator, &preview).await;
    let now = config(&running);
    assert_eq!(now.node.interfaces[0].gateways.len(), 2);
    let shared: Vec<String> = now
        .shared_addresses
        .iter()
        .map(|at| at.address.to_string())
        .collect();
    assert_eq!(shared, ["10.0.0.101/24", "10.1.0.1/24", "10.0.0.100/24"]);
    // A box that is not ticked is not sent.
    all = operator.fields("/interfaces").await;
    all.retain(|(name, _)| name != "cable.web" && name != "front.web" && name != "csrf");
    let fields: Vec<(&str, &str)> = all
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let preview = operator.post("/interfaces", &fields).await;
    assert!(
        preview.body.contains("node.web.interfaces all to back"),
        "{}",
        preview.body
    );
    assert_eq!(operator.agree(&preview, "").await.code, 303);
    assert_eq!(
        config(&running).node.web.unwrap().interfaces,
        Some(vec!["back".to_owned()])
    );
}

/// What is in the file: interfaces, and where shared addresses are.
fn names(running: &Running) -> (Vec<String>, Vec<String>) {
    let now = config(running);
    let interfaces = now.node.interfaces.into_iter().map(|one| one.name);
    let shared = now.shared_addresses.iter();
    let shared = shared.map(|shared| format!("{} {}", shared.interface, shared.address));
    (interfaces.collect(), shared.collect())
}

#[tokio::test]
async fn an_interface_is_added_with_its_shared_addresses_and_removed_with_them() {
    let running = Running::start();
    let before = running.page.shown.file.lock().unwrap().clone();
    let operator = Browser::of(&running, Access::Operator);
    let side = [
        ("+.name", "side"),
        ("+.device", "eth3"),
        ("+.address", "10.2.0.11/24"),
        ("+.partner", "10.2.0.12"),
        ("+.ha_checks", "true"),
        ("+.shared", "10.2.0.100/24, 10.2.0.101/24"),
    ];
    let preview = operator.fill("/interfaces", &side).await;
    let line =
        "{ name: side, address: 10.2.0.11/24, device: eth3, ha_checks: true, partner: 10.2.0.12 }";
    assert!(preview.body.contains(line), "{}", preview.body);
    assert!(preview.body.contains("needs a restart"), "{}", preview.body);
    assert_eq!(*running.page.shown.file.lock().unwrap(), before);
    agreed(&operator, &preview).await;
    let (interfaces, shared) = names(&running);
    assert_eq!(interfaces, ["front", "back", "cable", "side"]);
    let added = ["side 10.2.0.100/24", "side 10.2.0.101/24"];
    assert_eq!(shared[2..], added);
    // The page may be used there as everywhere.
    assert_eq!(config(&running).node.web.unwrap().interfaces, None);
    let text = running.page.shown.file.lock().unwrap().clone();
    assert!(
        before
            .lines()
            .all(|line| text.lines().any(|now| now == line))
    );

    let preview = operator
        .fill("/interfaces", &[("side.remove", "yes")])
        .await;
    agreed(&operator, &preview).await;
    assert_eq!(*running.page.shown.file.lock().unwrap(), before);
}

#[tokio::test]
async fn who_may_use_the_page_follows_what_is_added_and_removed() {
    let running = Running::start();
    let operator = Browser::of(&running, Access::Operator);
    let limits = |running: &Running| config(running).node.web.unwrap().interfaces;
    let limited = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect());
    // Added, but not for the page: from now on it is a matter of names.
    let side = [("+.name", "side"), ("+.device", "eth3"), ("+.web", "no")];
    let preview = operator.fill("/interfaces", &side).await;
    agreed(&operator, &preview).await;
    assert_eq!(limits(&running), limited(&["front", "back", "cable"]));
    // Another one, also for the page.
    let other = [("+.name", "other"), ("+.device", "eth4")];
    let preview = operator.fill("/interfaces", &other).await;
    agreed(&operator, &preview).await;
    assert_eq!(
        limits(&running),
        limited(&["front", "back", "cable", "other"])
    );
    // Who goes is not named any more.
    let preview = operator
        .fill("/interfaces", &[("cable.remove", "yes")])
        .await;
    agreed(&operator, &preview).await;
    assert_eq!(limits(&running), limited(&["front", "back", "other"]));
}

#[tokio::test]
async fn a_bad_interface_is_refused_in_the_words_of_the_file_and_stays_in_the_form() {
    let running = Running::start();
    let before = running.page.shown.file.lock().unwrap().clone();
    let operator = Browser::of(&running, Access::Operator);
    for (fields, words) in [
        (&[("+.device", "eth3")][..], "`name` has no value"),
        (&[("+.name", "side")], "`device` has no value"),
        (&[("+.shared", "10.2.0.1/24")], "`name` has no value"),
        (
            &[("+.name", "front"), ("+.device", "eth3")],
            "named front twice",
        ),
        (&[("+.name", "side"), ("+.device", "eth0")], "eth0"),
        (&[("+.name", "a b"), ("+.device", "eth3")], "is not a name"),
        (&[("front.remove", "yes")], "is not a shared address"),
        (
            &[
                ("front.remove", "yes"),
                ("back.remove", "yes"),
                ("cable.remove", "yes"),
            ],
            "interfaces",
        ),
    ] {
        let refused = operator.fill("/interfaces", fields).await;
        assert_eq!(refused.code, 422, "{fields:?}: {}", refused.body);
        assert!(refused.body.contains(words), "{words}: {}", refused.body);
        let kept = fields_of(&refused.body);
        for (name, value) in fields {
            let kept = kept
                .iter()
                .any(|(field, text)| field == name && text == value);
            assert!(kept, "{name}: {}", refused.body);
        }
    }
    assert_eq!(*running.page.shown.file.lock().unwrap(), before);
    // Nothing but an empty form is nothing.
    let same = operator.fill("/interfaces", &[]).await;
    assert!(same.body.contains("id=\"no-change\""), "{}", same.body);
}
