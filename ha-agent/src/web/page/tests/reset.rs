//! A node that is to forget everything.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::*;

/// As the node is called.
const NAME: &str = "lb1<script>alert(1)</script>";
const API: &str = "POST /api/v1/node/reset";

fn recorded(running: &Running) -> String {
    format!("{:?}", running.page.shown.recorded.lock().unwrap())
}

#[tokio::test]
async fn at_its_own_address_it_is_asked_and_told_and_done() {
    let running = Running::start();
    *running.page.shown.reach.lock().unwrap() = Some(Reach::Node);
    let operator = Browser::of(&running, Access::Operator);
    assert!(operator.get("/backup").await.body.contains("do-reset"));
    let question = operator.post("/reset", &[]).await;
    assert_eq!(question.code, 200, "{}", question.body);
    for told in [
        "lb2 becomes active",
        "Nobody takes over if lb2 fails",
        "Nothing of this can be taken back",
        "/etc/ha-agent/ha-agent.yaml",
        "/var/lib/&#60;ha&#62;",
    ] {
        assert!(question.body.contains(told), "{told}: {}", question.body);
    }
    // Not without its name.
    for named in ["", "lb2"] {
        let refused = operator
            .post("/reset", &[("confirmed", "yes"), ("node", named)])
            .await;
        assert_eq!(refused.code, 409, "{named}");
        assert!(refused.body.contains("nothing was done: this is lb1"));
    }
    running.was_asked(&[]).await;
    let done = operator
        .post("/reset", &[("confirmed", "yes"), ("node", NAME)])
        .await;
    assert_eq!(done.code, 200, "{}", done.body);
    assert!(done.body.contains("id=\"done\"") && !done.body.contains("<script>"));
    running.was_asked(&["failover", "reset"]).await;
    let recorded = recorded(&running);
    assert!(recorded.contains("web user bob at 127.0.0.1"), "{recorded}");
}

#[tokio::test]
async fn nothing_goes_if_nobody_takes_over_unless_it_is_forced() {
    let running = Running::start();
    *running.page.shown.reach.lock().unwrap() = Some(Reach::Node);
    let token = running.page.shown.door().tokens.add("x", Access::Operator);
    let more = format!("Authorization: Bearer {}\r\n", token.unwrap());
    // Active all the same: its partner just cannot take over.
    running.page.shown.ready.store(false, Ordering::Relaxed);
    let body = json!({ "node": NAME }).to_string();
    let refused = running.ask(API, &more, &body).await;
    assert_eq!(refused.code, 409, "{}", refused.body);
    assert!(
        refused
            .body
            .contains("nothing was done: the partner is not ready")
    );
    running.was_asked(&["failover"]).await;
    let body = json!({ "node": NAME, "force": true }).to_string();
    let done = running.ask(API, &more, &body).await;
    assert_eq!(done.code, 200, "{}", done.body);
    running.was_asked(&["failover", "reset"]).await;
    assert!(recorded(&running).contains("reset --force"));
}

#[tokio::test]
async fn a_standby_has_nothing_to_hand_over() {
    let running = Running::start();
    *running.page.shown.reach.lock().unwrap() = Some(Reach::Node);
    running.page.shown.active.store(false, Ordering::Relaxed);
    let operator = Browser::of(&running, Access::Operator);
    let question = operator.post("/reset", &[]).await;
    assert!(
        question
            .body
            .contains("is not active, so connections are not touched")
    );
    let done = operator
        .post("/reset", &[("confirmed", "yes"), ("node", NAME)])
        .await;
    assert_eq!(done.code, 200, "{}", done.body);
    running.was_asked(&["reset"]).await;
}

#[tokio::test]
async fn not_at_a_shared_address_and_not_by_viewers() {
    let running = Running::start();
    let token = running.page.shown.door().tokens.add("x", Access::Operator);
    let more = format!("Authorization: Bearer {}\r\n", token.unwrap());
    let operator = Browser::of(&running, Access::Operator);
    let page = operator.get("/backup").await;
    assert!(page.body.contains("reset-elsewhere") && !page.body.contains("do-reset"));
    let fields = [("confirmed", "yes"), ("node", NAME)];
    for refused in [
        operator.post("/reset", &[]).await,
        operator.post("/reset", &fields).await,
        running
            .ask(API, &more, &json!({ "node": NAME }).to_string())
            .await,
    ] {
        assert!(matches!(refused.code, 403 | 409), "{}", refused.code);
        assert!(
            refused.body.contains("reset at its own address"),
            "{}",
            refused.body
        );
    }
    *running.page.shown.reach.lock().unwrap() = Some(Reach::Node);
    let viewer = Browser::of(&running, Access::Viewer);
    assert!(!viewer.get("/backup").await.body.contains("do-reset"));
    for fields in [&[][..], &fields] {
        let refused = viewer.post("/reset", fields).await;
        assert!(refused.body.contains("may look"), "{}", refused.body);
    }
    for body in [
        "",
        "{}",
        "{\"node\":5}",
        "{\"node\":\"lb1\",\"x\":1}",
        "[\"lb1\"]",
    ] {
        assert_eq!(running.ask(API, &more, body).await.code, 400, "{body}");
    }
    running.was_asked(&[]).await;
}
