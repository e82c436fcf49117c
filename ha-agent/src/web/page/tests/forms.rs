//! What changes something: forms, what they would do, and that it is done once somebody has agreed.

use std::sync::atomic::Ordering;

use super::*;

#[tokio::test]
async fn every_form_must_come_from_a_page_of_the_session() {
    let running = Running::start();
    let operator = Browser::of(&running, Access::Operator);
    let other = Browser::of(&running, Access::Operator);
    for path in [
        "/ha",
        "/interfaces",
        "/change",
        "/services/new",
        "/services/quick",
        "/services/edit/web",
        "/operate/failover",
        "/operate/shutdown",
        "/diagnosis/checks",
        "/diagnosis/ping",
        "/backup/restore",
        "/reset",
        "/users",
        "/logout",
    ] {
        let cookie = format!("Cookie: {}\r\n", operator.cookie);
        for body in [
            "",
            "csrf=",
            "csrf=00&confirmed=yes",
            &format!("csrf={}&confirmed=yes", other.csrf),
        ] {
            let refused = running.send(path, &cookie, body).await;
            assert_eq!(refused.code, 403, "{path} {body}");
        }
        let mine = format!("csrf={}&confirmed=yes", operator.csrf);
        assert_eq!(
            running.send(path, "", &mine).await.code,
            303,
            "{path}: without a session"
        );
        let foreign = format!("{cookie}Origin: https://evil.example\r\n");
        assert_eq!(
            running.send(path, &foreign, &mine).await.code,
            403,
            "{path}"
        );
        let text = format!("POST {path}");
        let more = format!("{cookie}Content-Type: text/plain\r\n");
        assert_eq!(running.ask(&text, &more, &mine).await.code, 415, "{path}");
    }
    running.was_asked(&[]).await;
    assert_eq!(running.page.shown.recorded.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_parameter_is_looked_at_and_then_changed() {
    let running = Running::start();
    let operator = Browser::of(&running, Access::Operator);
    let preview = operator.fill("/ha", &[("timeout", "3s")]).await;
    for wanted in ["ha.timeout 9s to 3s", "ha: { timeout: 3s }", "id=\"apply\""] {
        assert!(preview.body.contains(wanted), "{wanted}: {}", preview.body);
    }
    assert_eq!(
        config(&running).ha.timeout,
        Duration::from_secs(9),
        "only looked at"
    );
    let done = operator.agree(&preview, "").await;
    assert_eq!(done.code, 303, "{}", done.body);
    assert!(done.head.contains("location: /ha"));
    assert_eq!(config(&running).ha.timeout, Duration::from_secs(3));
    running
        .was_asked(&["change by web user bob at 127.0.0.1"])
        .await;
    let told = operator.get("/ha").await.body;
    assert!(
        told.contains("Done: version 8") && told.contains("value=\"3s\""),
        "{told}"
    );
    assert!(
        !operator.get("/ha").await.body.contains("Done:"),
        "told once"
    );
    // The same once more is nothing, and an old page is not believed.
    let same = operator.fill("/ha", &[]).await;
    assert!(
        same.body.contains("id=\"no-change\"") && !same.body.contains("id=\"apply\""),
        "{}",
        same.body
    );
    let late = operator.agree(&preview, "").await;
    assert_eq!(
        (late.code, late.body.contains("changed since")),
        (409, true)
    );
    let late = operator
        .fill("/ha", &[("timeout", "6s"), ("base", "00")])
        .await;
    assert_eq!(
        (
            late.code,
            late.body.contains("changed since this form was made")
        ),
        (422, true)
    );
    assert!(
        late.body.contains("value=\"6s\""),
        "what was typed is still there"
    );
}

#[tokio::test]
async fn what_the_file_refuses_the_form_refuses_in_the_same_words() {
    let running = Running::start();
    let operator = Browser::of(&running, Access::Operator);
    for (path, name, value, words) in [
        ("/ha", "timeout", "soon", "`soon` is not a duration"),
        (
            "/ha",
            "timeout",
            "1s",
            "one lost packet could cause a takeover",
        ),
        ("/ha", "virtual_id", "300", "300 is out of range"),
        ("/ha", "virtual_id", "-1", "`-1` is not a whole number"),
        (
            "/ha",
            "preferred",
            "third",
            "`preferred: third` is not known",
        ),
        ("/ha", "update_interface", "cable", "without an address"),
        (
            "/interfaces",
            "front.address",
            "10.0.0.300/24",
            "is not an IP address",
        ),
        ("/interfaces", "front.shared", "192.0.2.1/24", "front"),
        ("/services/edit/web", "port", "0", "port"),
        ("/services/edit/web", "address", "10.0.0.11", "own address"),
        ("/services/edit/web", "real.0.address", "10.1.0.22", "twice"),
        (
            "/services/edit/web",
            "health.type",
            "magic",
            "`type: magic` is not known",
        ),
        ("/services/new", "name", "a b", "`a b` is not a name"),
        ("/services/new", "name", "x\nversion: 2", "is not a name"),
    ] {
        let refused = operator.fill(path, &[(name, value)]).await;
        assert_eq!(refused.code, 422, "{path} {name}={value}: {}", refused.body);
        assert!(
            refused.body.contains(&words.replace('<', "&#60;")),
            "{words}: {}",
            refused.body
        );
        let escaped = value.replace('\n', " ");
        assert!(refused.body.contains("role=\"alert\""), "{escaped}");
    }
    running.was_asked(&[]).await;
}

#[tokio::test]
async fn what_needs_a_restart_is_written_only_if_agreed_to() {
    let running = Running::start();
    let operator = Browser::of(&running, Access::Operator);
    let preview = operator
        .fill("/ha", &[("preferred", "first"), ("pacify.restarts", "5")])
        .await;
    assert!(
        preview.body.contains("In force after a restart"),
        "{}",
        preview.body
    );
    let refused = operator.agree(&preview, "").await;
    assert_eq!(
        (refused.code, refused.body.contains("needs a restart")),
        (409, true)
    );
    assert_eq!(operator.agree(&preview, "yes").await.code, 303);
    assert!(
        operator
            .get("/ha")
            .await
            .body
            .contains("in force after a restart")
    );
    assert_eq!(config(&running).ha.pacify.restarts, 5);
}

#[tokio::test]
async fn a_standby_says_why_it_changes_nothing() {
    let running = Running::start();
    running.page.shown.active.store(false, Ordering::Relaxed);
    let operator = Browser::of(&running, Access::Operator);
    let preview = operator.fill("/ha", &[("timeout", "3s")]).await;
    assert!(
        preview.body.contains("this node is not active")
            && preview.body.contains("change it on lb2")
    );
    assert!(!preview.body.contains("id=\"apply\""));
}

#[tokio::test]
async fn services_are_added_changed_drained_disabled_and_removed() {
    let running = Running::start();
    let operator = Browser::of(&running, Access::Operator);
    let preview = operator
        .fill(
            "/services/new",
            &[
                ("name", "mail"),
                ("address", "10.0.0.100"),
                ("port", "25"),
                ("health.type", "tcp"),
                ("health.interval", "5s"),
                ("persistence.timeout", "300s"),
                ("real.0.address", "10.1.0.21"),
                ("real.0.port", "2525"),
                ("real.2.address", "10.1.0.22"),
                ("real.2.weight", "3"),
            ],
        )
        .await;
    assert!(
        preview.body.contains("mail: virtual service added"),
        "{}",
        preview.body
    );
    assert_eq!(operator.agree(&preview, "").await.code, 303);
    let mail = &config(&running).virtual_services[1];
    assert_eq!((&*mail.name, mail.real_servers.len()), ("mail", 2));
    assert_eq!(mail.real_servers[1].weight, 3);
    assert_eq!(
        mail.health.as_ref().unwrap().interval,
        Duration::from_secs(5)
    );
    assert!(mail.persistence.is_some());

    let change = [
        ("name", "post"),
        ("scheduler", "wrr"),
        ("health.type", ""),
        ("persistence.timeout", ""),
        ("real.0.remove", "yes"),
        ("real.1.port", "25"),
        ("real.2.address", "10.1.0.23"),
    ];
    let preview = operator.fill("/services/edit/mail", &change).await;
    assert_eq!(
        operator.agree(&preview, "").await.code,
        303,
        "{}",
        preview.body
    );
    let post = &config(&running).virtual_services[1];
    assert_eq!(
        (&*post.name, &post.health, &post.persistence),
        ("post", &None, &None)
    );
    let servers: Vec<String> = post.real_servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["10.1.0.22:25", "10.1.0.23"]);

    for (action, server, check) in [
        ("drain", "0", "post: real server 10.1.0.22:25 weight 3 to 0"),
        (
            "undrain",
            "0",
            "post: real server 10.1.0.22:25 weight 0 to 1",
        ),
        ("remove-server", "1", "post: real server 10.1.0.23 removed"),
        ("disable", "", "post: virtual service removed"),
        ("enable", "", "post: virtual service added"),
        ("remove", "", "post: virtual service removed"),
    ] {
        let fields = [("action", action), ("service", "post"), ("server", server)];
        let preview = operator.post("/services/quick", &fields).await;
        assert!(preview.body.contains(check), "{action}: {}", preview.body);
        assert_eq!(operator.agree(&preview, "").await.code, 303, "{action}");
        let listed = operator.get("/services").await.body;
        assert_eq!(
            listed.contains("data-test=\"enable\""),
            action == "disable",
            "{action}"
        );
    }
    assert_eq!(config(&running).virtual_services.len(), 1);
    assert_eq!(operator.get("/services/edit/post").await.code, 404);
    assert_eq!(
        operator
            .post("/services/quick", &[("action", "explode")])
            .await
            .code,
        400
    );
}

#[tokio::test]
async fn a_backup_is_made_and_put_back() {
    let running = Running::start();
    let operator = Browser::of(&running, Access::Operator);
    let backup = operator.get("/backup/file").await;
    assert!(backup.head.contains(
        "content-disposition: attachment; filename=\"ha-agent-lb1scriptalert1script.backup\""
    ));
    assert!(backup.body.starts_with("# ha-agent backup"));
    let preview = operator.fill("/ha", &[("timeout", "3s")]).await;
    operator.agree(&preview, "").await;
    // Browsers end lines in their own way.
    let text = backup.body.replace('\n', "\r\n");
    let preview = operator
        .post("/backup/restore", &[("part", "pair"), ("backup", &text)])
        .await;
    assert!(
        preview.body.contains("ha.timeout 3s to 9s"),
        "{}",
        preview.body
    );
    assert_eq!(operator.agree(&preview, "").await.code, 303);
    assert_eq!(config(&running).ha.timeout, Duration::from_secs(9));
    for (fields, words) in [
        (vec![("backup", &*text)], "no part was chosen"),
        (
            vec![("part", "pair"), ("backup", "version: 1")],
            "not a backup",
        ),
        (
            vec![("part", "pair"), ("backup", &text[..text.len() / 2])],
            "cut short",
        ),
    ] {
        let refused = operator.post("/backup/restore", &fields).await;
        assert_eq!(
            (refused.code, refused.body.contains(words)),
            (422, true),
            "{words}: {}",
            refused.body
        );
    }
}

#[tokio::test]
async fn deeds_are_asked_about_done_and_remembered() {
    let running = Running::start();
    let operator = Browser::of(&running, Access::Operator);
    let question = operator.post("/operate/failover", &[]).await.body;
    assert!(
        question.contains("lb2 becomes active") && question.contains("id=\"confirm\""),
        "{question}"
    );
    running.was_asked(&[]).await;
    // Before it goes down, a node hands over. What moves the address comes after the answer.
    for (deed, force, does) in [
        ("failover", "", &["failover"][..]),
        ("maintenance", "", &["maintenance true false"]),
        ("maintenance", "yes", &["maintenance true true"]),
        ("resume", "", &["resume"]),
        ("push", "", &["push"]),
        ("reboot", "", &["failover", "Reboot"]),
    ] {
        let sent = [("confirmed", "yes"), ("force", force)];
        let done = operator.post(&format!("/operate/{deed}"), &sent).await;
        assert_eq!(done.code, 303, "{deed}");
        assert!(
            operator.get("/operate").await.body.contains("Done: "),
            "{deed}"
        );
        running.was_asked(does).await;
    }
    // A node that is standby has nothing to hand over.
    running.page.shown.active.store(false, Ordering::Relaxed);
    let refused = operator
        .post("/operate/failover", &[("confirmed", "yes")])
        .await;
    assert_eq!(
        (
            refused.code,
            refused.body.contains("the partner is not ready")
        ),
        (409, true)
    );
    operator
        .post("/operate/shutdown", &[("confirmed", "yes")])
        .await;
    running.was_asked(&["failover", "Shutdown"]).await;
    assert_eq!(
        operator
            .post("/operate/explode", &[("confirmed", "yes")])
            .await
            .code,
        400
    );
    let recorded = format!("{:?}", running.page.shown.recorded.lock().unwrap());
    for words in [
        "web user bob at 127.0.0.1",
        "maintenance --force",
        "CommandRefused",
        "the partner is not ready",
    ] {
        assert!(recorded.contains(words), "{words}: {recorded}");
    }
}

#[tokio::test]
async fn users_and_tokens_come_and_go() {
    let running = Running::start();
    running.set_up().await;
    let operator = Browser::of(&running, Access::Operator);
    let user = [
        ("name", "carol"),
        ("password", "another long password"),
        ("access", "viewer"),
    ];
    let made = operator
        .post("/users", &[&[("action", "add-user")], &user[..]].concat())
        .await;
    assert!(
        made.body.contains("carol may log in as viewer"),
        "{}",
        made.body
    );
    assert!(!made.body.contains("another long password"));
    let entered = running.send("/login", "", &form(&user)).await;
    assert_eq!(entered.code, 303);
    let carol = Browser {
        running: &running,
        cookie: cookie_of(&entered),
        csrf: String::new(),
    };
    let csrf = value_of(&carol.get("/").await.body, "csrf");
    let carol = Browser { csrf, ..carol };
    let wrong = [
        ("action", "password"),
        ("old", "x"),
        ("password", "a third long password"),
    ];
    assert!(
        carol
            .post("/users", &wrong)
            .await
            .body
            .contains("the old password is wrong")
    );
    let right = [
        ("action", "password"),
        ("old", "another long password"),
        ("password", "a third long password"),
    ];
    assert!(
        carol
            .post("/users", &right)
            .await
            .body
            .contains("Your password was changed")
    );
    assert_eq!(running.send("/login", "", &form(&user)).await.code, 401);
    let token = operator
        .post(
            "/users",
            &[
                ("action", "add-token"),
                ("name", "backup"),
                ("access", "operator"),
            ],
        )
        .await;
    let secret = token
        .body
        .split("id=\"secret\">")
        .nth(1)
        .unwrap()
        .split('<')
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(secret.len(), 64);
    assert!(
        !operator.get("/users").await.body.contains(&secret),
        "shown once"
    );
    assert_eq!(
        running.page.shown.door().tokens.find(&secret),
        Some(("backup".to_owned(), Access::Operator))
    );
    operator
        .post("/users", &[("action", "remove-token"), ("name", "backup")])
        .await;
    assert_eq!(running.page.shown.door().tokens.find(&secret), None);
    // Who is removed is logged out.
    operator
        .post("/users", &[("action", "remove-user"), ("name", "carol")])
        .await;
    assert_eq!(carol.get("/").await.code, 303);
    let own = operator
        .post("/users", &[("action", "remove-user"), ("name", "bob")])
        .await;
    assert!(own.body.contains("cannot remove yourself"));
    let recorded = format!("{:?}", running.page.shown.recorded.lock().unwrap());
    assert!(
        recorded.contains("web add-user carol") && !recorded.contains("long password"),
        "{recorded}"
    );
}
