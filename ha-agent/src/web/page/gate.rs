//! What holds for every request and every answer, whoever asks.

use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// What browsers may do with the page: nothing but show it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
    img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What every answer says to browsers.
const HEADERS: [(&str, &str); 9] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    // Not `no-referrer`: with that, browsers send `Origin: null` with forms (Fetch, "append a request Origin header").
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    (
        "permissions-policy",
        "camera=(), microphone=(), geolocation=()",
    ),
    ("strict-transport-security", "max-age=31536000"),
    ("cache-control", "no-store"),
];

/// What would change something must come from a page of this very host.
pub(super) async fn same_origin(request: Request, next: Next) -> Response {
    if is_foreign(&request) {
        return plain(StatusCode::FORBIDDEN, "this came from another site");
    }
    next.run(request).await
}

/// Whether a page of another host sent this, as far as browsers tell.
fn is_foreign(request: &Request) -> bool {
    if matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    ) {
        return false;
    }
    let header = |name: &str| {
        let value = request.headers().get(name);
        value.map(|value| value.to_str().unwrap_or("?"))
    };
    let host = header("host").unwrap_or("");
    header("origin").is_some_and(|origin| origin != format!("https://{host}"))
        || header("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
}

/// Tells browsers what they may do.
pub(super) async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        // An asset that says how long it is good keeps that.
        if name == "cache-control" && response.headers().contains_key(name) {
            continue;
        }
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// An answer of one line.
pub(super) fn plain(code: StatusCode, text: &str) -> Response {
    (code, format!("{text}\n")).into_response()
}
