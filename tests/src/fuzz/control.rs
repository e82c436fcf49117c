//! Lines on the control socket.

use ha_agent::control::Request;

use super::{Seed, texts};

/// Reads an input as a request.
pub fn play(input: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(input) else {
        return;
    };
    // What is asked for can be asked for, and is kept as a deed in the same words.
    let again = serde_json::to_vec(&request).expect("a request is JSON");
    let again: Request = serde_json::from_slice(&again).expect("it can be read again");
    assert_eq!(again, request);
    assert_eq!(again.deed(), request.deed());
}

/// One of each kind.
pub fn seeds() -> Vec<Seed> {
    texts([
        ("status", r#"{"command":"status"}"#),
        (
            "maintenance",
            r#"{"command":"maintenance","on":true,"force":true}"#,
        ),
        ("connections", r#"{"command":"connections","limit":10}"#),
        (
            "record",
            r#"{"command":"record","path":"/tmp/a","seconds":10}"#,
        ),
        (
            "capture",
            r#"{"command":"capture","session":7,"every":100}"#,
        ),
        (
            "trace",
            r#"{"command":"trace_packet","frame":"020000000001","interface":"front","address":true}"#,
        ),
        (
            "records-put",
            r#"{"command":"records","op":"put","namespace":"sessions","key":"a","value":{"hex":"00ff"},"ttl_ms":1000}"#,
        ),
        (
            "records-list",
            r#"{"command":"records","op":"list","namespace":"sessions","limit":100}"#,
        ),
        (
            "records-watch",
            r#"{"command":"records","op":"watch","namespace":"sessions","from":7}"#,
        ),
        (
            "web",
            r#"{"command":"web","action":"add_user","name":"op","access":"operator"}"#,
        ),
        ("events", r#"{"command":"events","limit":10}"#),
        ("pair", r#"{"command":"pair","op":"offer","minutes":10}"#),
    ])
}
