//! Who may come in, and what others may not.

use super::*;

#[tokio::test]
async fn the_first_user_is_made_by_a_link_that_works_once() {
    let running = Running::start();
    assert_eq!(running.get("/", "").await.code, 303);
    let login = running.get("/login", "").await;
    assert!(login.body.contains("Nobody can log in yet") && !login.body.contains("<form"));
    assert_eq!(running.get("/setup?token=00", "").await.code, 403);
    assert_eq!(running.get("/setup", "").await.code, 403);
    let path = running.page.setup_path().unwrap();
    assert_eq!(running.get(&path, "").await.code, 200);
    let token = path.split_once('=').unwrap().1.to_owned();
    for (name, password, problem) in [
        ("alice", "short", "at least 12 characters"),
        ("Alice%00", "correct+horse+battery", "lower-case"),
        ("", "correct+horse+battery", "lower-case"),
    ] {
        let body = format!("token={token}&name={name}&password={password}");
        let refused = running.send("/setup", "", &body).await;
        assert_eq!(refused.code, 400);
        assert!(refused.body.contains(problem), "{}", refused.body);
        assert!(!refused.body.contains(password), "a password comes back");
    }
    let cookie = running.set_up().await;
    assert_eq!(running.page.setup_path(), None);
    assert_eq!(running.get(&path, "").await.code, 403);
    let home = running.get("/", &cookie).await;
    assert_eq!(home.code, 200);
    assert!(home.body.contains("alice (operator)"), "{}", home.body);
    // The file is its owner's alone, and holds no password.
    use std::os::unix::fs::MetadataExt as _;
    let file = running.dir.path().join("web-users.json");
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("$argon2id$") && !text.contains(PASSWORD),
        "{text}"
    );
    let recorded = running.page.shown.recorded.lock().unwrap().len();
    assert_eq!(recorded, 1);
    // After a restart the user is still there.
    assert!(!Users::new(running.dir.path()).is_empty());
}

#[tokio::test]
async fn logging_in_and_out() {
    let running = Running::start();
    running.set_up().await;
    let body = "name=alice&password=correct+horse+battery";
    let entered = running.send("/login", "", body).await;
    assert_eq!(entered.code, 303);
    let cookie = cookie_of(&entered);
    let home = running.get("/", &cookie).await;
    assert_eq!(home.code, 200);
    let csrf = home.body.split("name=\"csrf\" value=\"").nth(1).unwrap();
    let csrf = csrf.split('"').next().unwrap();
    // Somebody who has no token of this session ends nothing.
    let line = format!("Cookie: {cookie}\r\n");
    assert_eq!(running.send("/logout", &line, "csrf=00").await.code, 403);
    assert_eq!(running.get("/", &cookie).await.code, 200);
    let out = running
        .send("/logout", &line, &format!("csrf={csrf}"))
        .await;
    assert_eq!(out.code, 303);
    assert_eq!(running.get("/", &cookie).await.code, 303);
    // Wrong names and passwords are answered alike, and not for long.
    for body in [
        "name=alice&password=wrong+wrong+wrong",
        "name=nobody&password=correct+horse+battery",
    ] {
        let refused = running.send("/login", "", body).await;
        assert_eq!(refused.code, 401);
        assert!(refused.body.contains("Name or password is wrong."));
    }
    for _ in 0..3 {
        running
            .send("/login", "", "name=alice&password=wrong+wrong+wrong")
            .await;
    }
    assert_eq!(running.send("/login", "", body).await.code, 429);
    let recorded = running.page.shown.recorded.lock().unwrap();
    assert_eq!(recorded.len(), 1 + 1 + 5);
}

#[tokio::test]
async fn nothing_is_told_to_strangers() {
    let running = Running::start();
    let cookie = running.set_up().await;
    for path in ["status", "services", "events", "counters", "live"] {
        let path = format!("/api/v1/{path}");
        let refused = running.get(&path, "").await;
        assert_eq!(refused.code, 401, "{path}");
        assert_eq!(
            running.get(&path, "__Host-ha-agent=00").await.code,
            401,
            "{path}"
        );
        assert!(!refused.body.contains("lb2"));
    }
    let status = running.get("/api/v1/status", &cookie).await;
    let status: serde_json::Value = serde_json::from_str(&status.body).unwrap();
    assert_eq!(status["term"], 3);
    assert_eq!(running.get("/api/v1/services", &cookie).await.code, 200);
    assert_eq!(running.get("/api/v1/counters", &cookie).await.code, 200);
    assert_eq!(running.get("/api/v1/events", &cookie).await.code, 200);
    assert_eq!(running.get("/nothing", &cookie).await.code, 404);
}

#[tokio::test]
async fn other_sites_can_do_nothing_and_browsers_are_told_so() {
    let running = Running::start();
    running.set_up().await;
    let body = "name=alice&password=correct+horse+battery";
    for foreign in [
        "Origin: https://evil.example\r\n",
        "Origin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
    ] {
        assert_eq!(
            running.send("/login", foreign, body).await.code,
            403,
            "{foreign}"
        );
    }
    for path in ["/login", "/assets/style.css", "/api/v1/status", "/nothing"] {
        let head = running.get(path, "").await.head;
        for wanted in [
            "content-security-policy: default-src 'none';",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: same-origin",
            "strict-transport-security:",
            "cache-control: no-",
        ] {
            assert!(head.contains(wanted), "{path}: {wanted}: {head}");
        }
        assert!(!head.contains("unsafe"), "{head}");
    }
    let big = format!("name=alice&password={}", "x".repeat(4 << 20));
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let head = format!(
        "POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
        big.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The answer may come before all of it is read.
    let _reset = stream.write_all(big.as_bytes()).await;
    assert_eq!(running.get("/login", "").await.code, 200);
}
