//! `node.metrics` and `node.notify`.

use super::*;
use crate::config::model::Notify;

const MODE: &str = "  mode: first\n";

fn node(more: &str) -> Node {
    parse(&with(MODE, &format!("{MODE}  {more}\n")))
        .unwrap()
        .config
        .node
}

#[test]
fn one_address_or_several() {
    assert!(node("run_dir: /run/x").metrics.is_empty());
    let one = node("metrics: { listen: \"127.0.0.1:9573\" }").metrics;
    assert_eq!(one, ["127.0.0.1:9573".parse().unwrap()]);
    let two = node("metrics: { listen: [\"[::]:9573\", 10.0.0.11:80] }").metrics;
    assert_eq!(two.len(), 2);
}

#[test]
fn a_command_and_its_defaults() {
    assert_eq!(node("run_dir: /run/x").notify, None);
    let notify = node("notify: { command: /etc/ha-agent/notify }").notify;
    let defaults = Notify {
        command: Path::new("/etc/ha-agent/notify").to_owned(),
        user: "nobody".to_owned(),
        timeout: Duration::from_secs(10),
        instance: "ha-agent".to_owned(),
    };
    assert_eq!(notify, Some(defaults));
    let all = "notify: { command: /n, user: www-data, timeout: 500ms, instance: VI_1 }";
    let notify = node(all).notify.unwrap();
    assert_eq!((&*notify.user, &*notify.instance), ("www-data", "VI_1"));
    assert_eq!(notify.timeout, Duration::from_millis(500));
}

#[test]
fn a_page_and_its_certificate() {
    assert_eq!(node("run_dir: /run/x").web, None);
    let web = node("web: { listen: \"[::]:8443\" }").web.unwrap();
    assert_eq!((web.listen.len(), web.certificate), (1, None));
    assert_eq!(web.interfaces, None);
    let one = node("web: { listen: \"[::]:8443\", interfaces: back }")
        .web
        .unwrap();
    assert_eq!(one.interfaces, Some(vec!["back".to_owned()]));
    let nowhere = node("web: { listen: \"[::]:8443\", interfaces: [] }")
        .web
        .unwrap();
    assert_eq!(nowhere.interfaces, Some(Vec::new()));
    let all = "web: { listen: 10.0.0.11:443, certificate: /c, key: /k }";
    let (certificate, key) = node(all).web.unwrap().certificate.unwrap();
    assert_eq!(
        (certificate.as_path(), key.as_path()),
        (Path::new("/c"), Path::new("/k"))
    );
}

#[test]
fn mistakes_are_found_where_they_are() {
    let refuses = |more: &str, place: &str, what: &str| {
        refuses(MODE, &format!("{MODE}  {more}\n"), place, what);
    };
    refuses(
        "metrics: { listen: 9573 }",
        "9573",
        "not an address with a port",
    );
    refuses(
        "metrics: { listen: \"localhost:9573\" }",
        "\"localhost",
        "not an address with a port",
    );
    refuses(
        "metrics: { listen: \"127.0.0.1:0\" }",
        "\"127.0.0.1:0",
        "port 0",
    );
    refuses(
        "metrics: { listen: [\"127.0.0.1:1\", \"127.0.0.1:1\"] }",
        "\"127.0.0.1:1\"]",
        "twice",
    );
    refuses("metrics: {}", "{}", "`listen` has no value");
    refuses(
        "web: { listen: 10.0.0.11:443, interfaces: [back, side] }",
        "side",
        "no interface named `side`",
    );
    refuses(
        "metrics: { port: 1, listen: \"127.0.0.1:1\" }",
        "port",
        "unknown key",
    );
    refuses("metrics: \"127.0.0.1:1\"", "\"127", "must be a map");
    refuses(
        "notify: { user: nobody }",
        "{ user",
        "`command` has no value",
    );
    refuses("notify: { command: notify }", "notify }", "path");
    refuses("notify: { command: /n, timeout: 1h }", "1h", "out of range");
    refuses("notify: { command: /n, args: x }", "args", "unknown key");
}

#[test]
fn a_service_in_the_place_of_the_page_is_named() {
    let told = |web: &str, port: &str| {
        let text = GOOD.replace(MODE, &format!("{MODE}  web: {web}\n"));
        let mut told = said(&text.replace("    port: 80\n", &format!("    port: {port}\n")));
        told.retain(|told| told.contains("web page"));
        told
    };
    let here = |port: &str| {
        let place = "16:11";
        format!(
            "{place} this service takes TCP {port} at 10.0.0.100, where this node's web page would be"
        )
    };
    for (web, port) in [
        ("{ listen: \"[::]:8443\" }", "8443"),
        ("{ listen: \"0.0.0.0:8443\" }", "8000-9000"),
        ("{ listen: \"10.0.0.100:8443\" }", "any"),
        (
            "{ listen: [\"[::]:80\", \"[::]:8443\"], interfaces: front }",
            "8443",
        ),
    ] {
        assert_eq!(told(web, port), [here("8443")], "{web} {port}");
    }
    // Another port, protocol, address or interface, or a service that is not in force.
    for (web, port) in [
        ("{ listen: \"[::]:8443\" }", "80"),
        ("{ listen: \"[::]:8443\" }", "8443\n    protocol: udp"),
        ("{ listen: \"[::]:8443\" }", "8443\n    enabled: false"),
        ("{ listen: \"10.0.0.11:8443\" }", "8443"),
        ("{ listen: \"[::]:8443\", interfaces: back }", "8443"),
    ] {
        assert_eq!(told(web, port), [""; 0], "{web} {port}");
    }
}
