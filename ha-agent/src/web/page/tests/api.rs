//! The same for programs, and its description.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::api::{DOCUMENT, OPERATIONS};
use super::*;

impl Running {
    async fn call(&self, method: &str, path: &str, token: &str, body: &str) -> Answer {
        let more = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
        self.ask(&format!("{method} {path}"), &more, body).await
    }
}

#[test]
fn every_route_is_described_and_nothing_else_is() {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path}");
            assert!(operation["responses"]["200"].is_object(), "{method} {path}");
            described.insert((method.as_str(), path.as_str()));
        }
    }
    assert_eq!(described, OPERATIONS.iter().copied().collect());
    // Whatever it refers to is there.
    for reference in DOCUMENT.split("\"$ref\": \"#").skip(1) {
        let path = reference.split('"').next().unwrap();
        assert!(document.pointer(path).is_some(), "{path}");
    }
}

/// The token of a script that may do everything.
fn script(running: &Running) -> String {
    let tokens = &running.page.shown.door().tokens;
    tokens.add("script", Access::Operator).unwrap()
}

#[tokio::test]
async fn every_operation_answers_in_json_to_whom_it_should() {
    let running = Running::start();
    let tokens = &running.page.shown.door().tokens;
    let viewer = tokens.add("watch", Access::Viewer).unwrap();
    let operator = tokens.add("script", Access::Operator).unwrap();
    let stream = "/api/v1/live";
    let edit = json!({ "edits": [{ "path": ["ha", "timeout"], "value": "6s" }] });
    let base = crate::control::edits::fingerprint(&running.page.shown.file.lock().unwrap());
    // The stream is for pages alone; a reset is for another address.
    let elsewhere = [stream, "/api/v1/node/reset"];
    for (method, path) in OPERATIONS
        .iter()
        .filter(|(_, path)| !elsewhere.contains(path))
    {
        let method = method.to_uppercase();
        let body = match *path {
            "/api/v1/config/preview" => edit.to_string(),
            "/api/v1/config/apply" => json!({ "base": base, "wanted": edit }).to_string(),
            "/api/v1/ping" => json!({ "host": "192.0.2.1" }).to_string(),
            _ => String::new(),
        };
        for nobody in ["", "00", "\u{e9}"] {
            let refused = running.call(&method, path, nobody, &body).await;
            assert_eq!(refused.code, 401, "{path}");
        }
        let seen = running.call(&method, path, &viewer, &body).await;
        let writes = method == "POST" || ["/api/v1/config", "/api/v1/backup"].contains(path);
        assert_eq!(
            seen.code,
            if writes { 403 } else { 200 },
            "{path}: {}",
            seen.body
        );
        let done = running.call(&method, path, &operator, &body).await;
        assert_eq!(done.code, 200, "{path}: {}", done.body);
        if *path != "/api/v1/backup" {
            let _json: Value = serde_json::from_str(&done.body).unwrap();
        }
    }
    let recorded = format!("{:?}", running.page.shown.recorded.lock().unwrap());
    assert!(recorded.contains("token script at 127.0.0.1"), "{recorded}");
    // A token is for scripts, not for pages.
    assert_eq!(running.call("GET", "/", &operator, "").await.code, 303);
    assert_eq!(running.call("GET", stream, &operator, "").await.code, 403);
}

#[tokio::test]
async fn a_page_proves_that_it_asks() {
    let running = Running::start();
    let operator = Browser::of(&running, Access::Operator);
    let cookie = format!("Cookie: {}\r\n", operator.cookie);
    for proof in ["", "X-CSRF-Token: 00\r\n"] {
        let refused = running
            .ask("POST /api/v1/failover", &format!("{cookie}{proof}"), "")
            .await;
        assert_eq!(refused.code, 403, "{proof}");
    }
    let proof = format!("{cookie}X-CSRF-Token: {}\r\n", operator.csrf);
    assert_eq!(
        running.ask("POST /api/v1/failover", &proof, "").await.code,
        200
    );
    running.was_asked(&["failover"]).await;
}

#[tokio::test]
async fn at_a_nodes_own_address_the_api_is_about_the_node() {
    let running = Running::start();
    *running.page.shown.reach.lock().unwrap() = Some(Reach::Node);
    let token = script(&running);
    for path in ["/api/v1/services", "/api/v1/connections"] {
        assert_eq!(
            running.call("GET", path, &token, "").await.code,
            403,
            "{path}"
        );
    }
    for (section, code) in [("virtual_services", 403), ("limits", 403), ("ha", 200)] {
        let edit = json!({ "edits": [{ "path": [section, "timeout"], "value": null }] });
        let answer = running
            .call("POST", "/api/v1/config/preview", &token, &edit.to_string())
            .await;
        assert_eq!(answer.code, code, "{section}: {}", answer.body);
    }
}

#[tokio::test]
async fn hostile_requests_are_refused_and_nothing_breaks() {
    let running = Running::start();
    let token = script(&running);
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let long = format!("{{\"text\":\"{}\"}}", "x".repeat(5 << 20));
    for path in [
        "config/preview",
        "config/apply",
        "ping",
        "failover",
        "maintenance",
    ] {
        let path = format!("/api/v1/{path}");
        for body in [
            "[",
            "null",
            "[]",
            "{\"edits\":[{}]}",
            "{\"force\":1}",
            "{\"x\":1}",
            "\u{0}",
            &deep,
            "{\"host\":5}",
        ] {
            let refused = running.call("POST", &path, &token, body).await;
            assert_eq!(refused.code, 400, "{path} {body:.40}: {}", refused.body);
        }
    }
    assert_eq!(
        running
            .call("POST", "/api/v1/config/preview", &token, &long[..1 << 20])
            .await
            .code,
        400
    );
    for edit in [
        json!({ "edits": [{ "path": [], "value": 1 }] }),
        json!({ "edits": [{ "path": ["node", "name", "x"], "value": 1 }] }),
        json!({ "text": "" }),
        json!({ "text": "\u{0}" }),
        json!({ "restore": { "backup": "" } }),
        json!({ "edits": [{ "path": ["ha", "timeout"], "value": { "a": [[[]]] } }] }),
    ] {
        let refused = running
            .call("POST", "/api/v1/config/preview", &token, &edit.to_string())
            .await;
        assert_eq!(refused.code, 409, "{edit}: {}", refused.body);
    }
    let many = json!({ "edits": vec![json!({ "path": ["ha", "timeout"], "value": "3s" }); 257] });
    assert_eq!(
        running
            .call("POST", "/api/v1/config/preview", &token, &many.to_string())
            .await
            .code,
        403
    );
    for query in [
        "limit=-1",
        "limit=x",
        "client=1",
        "from=-1",
        "x=1",
        "limit=18446744073709551616",
        "limit=10001",
    ] {
        let refused = running
            .call("GET", &format!("/api/v1/connections?{query}"), &token, "")
            .await;
        assert_eq!(refused.code, 400, "{query}");
    }
    for query in ["since=yesterday", "after=-1", "x=1", "limit=1001"] {
        assert_eq!(
            running
                .call("GET", &format!("/api/v1/events?{query}"), &token, "")
                .await
                .code,
            400,
            "{query}"
        );
    }
    for path in ["/api/v1/", "/api/v2/status", "/api/v1/status/x"] {
        assert_eq!(
            running.call("GET", path, &token, "").await.code,
            404,
            "{path}"
        );
    }
    assert_eq!(
        running
            .call("DELETE", "/api/v1/status", &token, "")
            .await
            .code,
        405
    );
    assert_eq!(*running.page.shown.asked.lock().unwrap(), [""; 0]);
}
