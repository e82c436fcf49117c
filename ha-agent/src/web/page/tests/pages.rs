//! Each page, for each role and at each address.

use super::*;

/// Pages, and something that is on each.
const PAGES: [(&str, &str); 11] = [
    ("/", "standby, paired"),
    ("/services", "connection &#60;refused&#62;"),
    ("/services/new", "A new virtual service"),
    ("/services/edit/web", "Virtual service web"),
    ("/connections", "192.0.2.1:4000"),
    ("/ha", "Force partner update"),
    ("/interfaces", "10000 Mbit/s, full duplex"),
    ("/operate", "Hands the active role over"),
    ("/diagnosis", "Run all checks"),
    ("/events", "partner silent"),
    ("/backup", "Download a backup"),
];

#[tokio::test]
async fn each_page_is_there_for_operators_with_squares_and_no_foreign_markup() {
    let running = Running::start();
    let operator = Browser::of(&running, Access::Operator);
    for (path, wanted) in PAGES {
        let page = operator.get(path).await;
        assert_eq!(page.code, 200, "{path}: {}", page.body);
        assert!(page.body.contains(wanted), "{path}: {}", page.body);
        for always in [
            "data-colour=\"green\"",
            "bob (operator)",
            "<h1",
            "lang=\"en\"",
            "aria-current=\"page\"",
        ] {
            assert!(page.body.contains(always), "{path}: {always}");
        }
        for never in ["http://", " style=", "onclick", "<script>", "javascript:"] {
            assert!(!page.body.contains(never), "{path}: {never}: {}", page.body);
        }
        // Each thing that can be used has a name, and no two have the same.
        let mut ids: Vec<&str> = page
            .body
            .split(" id=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap())
            .collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "{path}: {ids:?}");
    }
    let users = operator.get("/users").await;
    assert!(users.body.contains("Tokens for scripts"));
}

#[tokio::test]
async fn viewers_see_the_same_and_are_offered_nothing_to_change() {
    let running = Running::start();
    let viewer = Browser::of(&running, Access::Viewer);
    for (path, _) in PAGES {
        let page = viewer.get(path).await;
        assert_eq!(page.code, 200, "{path}: {}", page.body);
        for button in [
            "-preview\"",
            "id=\"do-",
            "id=\"apply\"",
            "data-test=",
            "backup-download",
            "ha-push",
            "id=\"ping\"",
        ] {
            assert!(!page.body.contains(button), "{path}: {button}");
        }
    }
    assert!(!viewer.get("/users").await.body.contains("Tokens"));
    assert_eq!(viewer.get("/backup/file").await.code, 403);
    // What is not offered is not done, either.
    let edit = r#"{"edits":[{"path":["ha","timeout"],"value":"3s"}]}"#;
    for (path, fields) in [
        ("/operate/failover", &[("confirmed", "yes")][..]),
        ("/operate/reboot", &[("confirmed", "yes")]),
        ("/change", &[("wanted", edit), ("base", "")]),
        (
            "/services/quick",
            &[("action", "remove"), ("service", "web")],
        ),
        (
            "/users",
            &[
                ("action", "add-user"),
                ("name", "eve"),
                ("password", PASSWORD),
                ("access", "operator"),
            ],
        ),
        ("/users", &[("action", "add-token"), ("name", "eve")]),
        ("/diagnosis/ping", &[("host", "192.0.2.1")]),
    ] {
        let refused = viewer.post(path, fields).await;
        assert!(
            matches!(refused.code, 403 | 409 | 422),
            "{path}: {}",
            refused.code
        );
        assert!(
            refused.body.contains("bob may look, and change nothing"),
            "{path}: {}",
            refused.body
        );
    }
    assert!(
        running
            .page
            .shown
            .asked
            .lock()
            .unwrap()
            .iter()
            .all(|asked| asked.starts_with("connections"))
    );
    assert_eq!(running.page.shown.door().users.list().unwrap(), []);
}

#[tokio::test]
async fn at_a_nodes_own_address_there_is_what_concerns_the_node() {
    let running = Running::start();
    *running.page.shown.reach.lock().unwrap() = Some(Reach::Node);
    let operator = Browser::of(&running, Access::Operator);
    for path in [
        "/services",
        "/services/new",
        "/services/edit/web",
        "/connections",
    ] {
        let refused = operator.get(path).await;
        assert_eq!(refused.code, 403, "{path}");
        assert!(refused.body.contains("use a shared address"), "{path}");
    }
    for path in [
        "/",
        "/ha",
        "/interfaces",
        "/operate",
        "/diagnosis",
        "/events",
        "/backup",
        "/users",
    ] {
        let page = operator.get(path).await;
        assert_eq!(page.code, 200, "{path}");
        assert!(!page.body.contains("id=\"nav-services\""), "{path}");
        assert!(page.body.contains("https://10.0.0.100:8443/"), "{path}");
    }
    for action in ["remove", "disable"] {
        let fields = [("action", action), ("service", "web")];
        assert_eq!(operator.post("/services/quick", &fields).await.code, 409);
    }
    let preview = operator.fill("/ha", &[("timeout", "3s")]).await;
    assert_eq!(operator.agree(&preview, "").await.code, 303);
    let edit = r#"{"edits":[{"path":["virtual_services","web"],"value":null}]}"#;
    let whole = r#"{"text":"version: 1"}"#;
    for wanted in [edit, whole] {
        let refused = operator
            .post("/change", &[("wanted", wanted), ("base", "")])
            .await;
        assert!(refused.body.contains("this node only"), "{}", refused.body);
    }
    // Where the page may not be used, nobody is known.
    *running.page.shown.reach.lock().unwrap() = None;
    assert_eq!(operator.get("/").await.code, 303);
}

#[tokio::test]
async fn the_page_is_whole_without_scripts_and_small() {
    let running = Running::start();
    let cookie = running.set_up().await;
    let home = running.get("/", &cookie).await.body;
    for wanted in [
        "standby, paired",
        "10.0.0.100/24",
        "1\u{202f}048\u{202f}576",
        "http-equiv=\"refresh\"",
        "find that host",
        "0123456789abcdef",
        "2026-11-29 08:00 UTC",
        "partner silent",
        "<svg",
        "https://10.0.0.12:8443/",
    ] {
        assert!(home.contains(wanted), "{wanted}: {home}");
    }
    assert!(home.contains("&#60;b&#62;has"), "{home}");
    let mut size = home.len();
    for path in ["/assets/style.css", "/assets/live.js", "/assets/icon.svg"] {
        let asset = running.get(path, "").await;
        assert_eq!(asset.code, 200);
        size += asset.body.len();
    }
    assert!(size < 150_000, "{size}");
}

#[tokio::test]
async fn the_page_lives_with_scripts_and_ends_with_the_session() {
    let running = Running::start();
    let cookie = running.set_up().await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let request = format!("GET /api/v1/live HTTP/1.1\r\nHost: lb1\r\nCookie: {cookie}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let mut piece = [0; 4096];
    while !(seen.contains("event: part") && seen.contains("What else happened last")) {
        let read = timeout(PATIENCE, stream.read(&mut piece))
            .await
            .unwrap()
            .unwrap();
        assert!(read > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    let head = seen.to_lowercase();
    assert!(
        head.contains("content-type: text/event-stream")
            && head.contains("cache-control: no-store")
    );
    assert!(seen.contains("data-colour=\"green\""), "{seen}");
    // A change of role is told at once, and only what changed.
    running
        .page
        .shown
        .active
        .store(false, std::sync::atomic::Ordering::Relaxed);
    let mut news = String::new();
    while !news.contains("is standby") {
        let read = timeout(PATIENCE, stream.read(&mut piece))
            .await
            .unwrap()
            .unwrap();
        assert!(read > 0, "{news}");
        news.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    assert!(!news.contains("What else happened last"), "{news}");
    running.page.sessions().end_all();
    running
        .page
        .shown
        .active
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(!String::from_utf8_lossy(&rest).contains("is active"));
}

#[tokio::test]
async fn as_many_pages_as_may_be_are_kept_up_to_date() {
    let running = Running::start();
    let all = u32::try_from(WATCHERS).unwrap();
    let _taken = Arc::clone(&running.page.watchers)
        .try_acquire_many_owned(all)
        .unwrap();
    let viewer = Browser::of(&running, Access::Viewer);
    assert_eq!(viewer.get("/api/v1/live").await.code, 503);
    assert_eq!(viewer.get("/").await.code, 200);
}

#[tokio::test]
async fn connections_come_in_pages_and_no_request_reads_the_table() {
    let running = Running::start();
    let viewer = Browser::of(&running, Access::Viewer);
    let first = viewer.get("/connections").await;
    assert_eq!(first.body.matches("192.0.2.1:4000").count(), 100);
    assert!(first.body.contains("id=\"next\"") && first.body.contains("name=\"from\" value=\"1\""));
    // Nobody matches: the search ends long before the table does, and can go on.
    let none = viewer.get("/connections?client=192.0.2.99").await;
    assert!(
        none.body.contains("Search on") && none.body.contains("name=\"from\" value=\"16\""),
        "{}",
        none.body
    );
    let last = viewer.get("/connections?client=192.0.2.99&from=120").await;
    assert!(!last.body.contains("Search on") && last.body.contains("None was found."));
    let asked = running.page.shown.asked.lock().unwrap().clone();
    assert_eq!(
        asked,
        [
            "connections 8192",
            "connections 131072",
            "connections 24576"
        ]
    );
    for hostile in ["client=web", "real=10.1.0.21%3A8080", "client=%3Cscript%3E"] {
        let refused = viewer.get(&format!("/connections?{hostile}")).await;
        assert_eq!(refused.code, 400);
        assert!(refused.body.contains("without a port") && !refused.body.contains("<script>"));
    }
    assert_eq!(viewer.get("/connections?from=x&limit=-1").await.code, 200);
}

#[tokio::test]
async fn checks_and_echoes() {
    let running = Running::start();
    let operator = Browser::of(&running, Access::Operator);
    let checked = operator.post("/diagnosis/checks", &[]).await.body;
    assert!(
        checked.contains("data-verdict=\"bad\"") && checked.contains("mend it"),
        "{checked}"
    );
    // What is wrong stands first.
    assert!(checked.find("data-check=\"gateway\"") < checked.find("data-check=\"kernel\""));
    let echoes = operator
        .post(
            "/diagnosis/ping",
            &[("host", "10.1.0.21"), ("interface", "front")],
        )
        .await
        .body;
    assert!(
        echoes.contains("0.250 ms") && echoes.contains("no answer"),
        "{echoes}"
    );
    let refused = operator
        .post("/diagnosis/ping", &[("host", "-f; reboot")])
        .await;
    assert_eq!(
        (refused.code, refused.body.contains("not an IP address")),
        (422, true)
    );
    assert_eq!(
        *running.page.shown.asked.lock().unwrap(),
        ["ping 10.1.0.21 Some(\"front\")"]
    );
}
