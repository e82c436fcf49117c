//! What changes on a page while it is looked at: drawn once for everybody, sent to each as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::api::complaint;
use super::rates::EVERY;
use super::view::{Mark, View};
use super::visitor::{Caller, cookie};
use super::{Page, Shared, Shown};
use crate::control::Refusal;
use crate::shell::clock;

/// How often a page that is looked at is drawn anew.
const DRAW: Duration = Duration::from_millis(200);
/// How often somebody who is told nothing is told that: after a failover nobody ends the connections that were made to
/// the shared address, and a page notices by the silence.
const ALIVE: Duration = Duration::from_secs(2);
/// Ends a part of the template.
const MARK: &str = "<!--part-->";

#[derive(Template)]
#[template(path = "live.html")]
struct Live<'a> {
    frame: Around<'a>,
    view: &'a View,
}

/// What of a page's frame changes.
struct Around<'a> {
    squares: &'a [Mark],
}

/// A part of the page, ready to be sent, and the number of the drawing in which it last changed.
#[derive(Clone, Debug)]
struct Part {
    changed: u64,
    text: String,
    sent: Bytes,
}

/// The parts as they were last drawn.
#[derive(Debug, Default)]
pub(super) struct Drawn {
    number: u64,
    parts: Vec<Part>,
}

impl Drawn {
    /// The next drawing; none if nothing changed.
    fn next(&self, text: &str) -> Option<Self> {
        let number = self.number + 1;
        let texts = text.split(MARK).map(str::trim);
        let texts = texts.filter(|text| !text.is_empty());
        let parts: Vec<Part> = texts
            .enumerate()
            .map(|(index, text)| match self.parts.get(index) {
                Some(part) if part.text == text => part.clone(),
                _ => Part {
                    changed: number,
                    text: text.to_owned(),
                    sent: event(text),
                },
            })
            .collect();
        let news = parts.iter().any(|part| part.changed == number);
        news.then_some(Self { number, parts })
    }

    /// What somebody needs who has seen the drawing of this number.
    fn since(&self, number: u64) -> Bytes {
        let parts = self.parts.iter().filter(|part| part.changed > number);
        parts.flat_map(|part| part.sent.iter().copied()).collect()
    }
}

/// As server-sent events carry text: each of its lines is one of theirs.
fn event(text: &str) -> Bytes {
    // A carriage return alone would end a line, too.
    let text = text.replace('\r', " ");
    let lines = text.lines().map(|line| format!("data: {line}\n"));
    format!("event: part\n{}\n", lines.collect::<String>()).into()
}

impl<S: Shown> Page<S> {
    /// Draws the page anew as long as somebody looks at it, until the future is dropped.
    pub async fn draw(self: Arc<Self>) {
        let mut ticks = interval(DRAW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.drawn.receiver_count() == 0 {
                continue;
            }
            let Ok(view) = self.view().await else {
                continue;
            };
            let frame = Around {
                squares: &view.squares,
            };
            if let Ok(text) = (Live { frame, view: &view }).render() {
                self.drawn
                    .send_if_modified(|drawn| match drawn.next(&text) {
                        Some(next) => {
                            *drawn = Arc::new(next);
                            true
                        }
                        None => false,
                    });
            }
        }
    }

    /// Looks at the traffic again and again, until the future is dropped.
    pub async fn measure(self: Arc<Self>) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Ok(services) = self
                .blocking(|shown| async move { shown.services().await })
                .await
            {
                self.meter.look(clock::now(), &services);
            }
        }
    }

    /// Does what may wait, for a disk or the kernel, where nobody else waits for it.
    pub(super) async fn blocking<T, F>(
        &self,
        work: impl FnOnce(Arc<S>) -> F + Send + 'static,
    ) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Refusal>>,
    {
        let shown = Arc::clone(&self.shown);
        let runtime = tokio::runtime::Handle::current();
        let done = spawn_blocking(move || runtime.block_on(work(shown))).await;
        done.unwrap_or_else(|panic| Err(Refusal::new(panic.to_string(), "see the agent's log")))
    }
}

/// Somebody who is told of changes.
struct Subscriber<S> {
    news: watch::Receiver<Arc<Drawn>>,
    seen: u64,
    page: Arc<Page<S>>,
    headers: HeaderMap,
    _place: OwnedSemaphorePermit,
}

impl<S: Shown> Subscriber<S> {
    /// What is sent next; none when the session has ended.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            let changed = timeout(ALIVE, self.news.changed()).await;
            let secret = cookie(&self.headers)?;
            self.page.sessions().find(clock::now(), secret)?;
            if changed.is_err() {
                return Some((Ok(Bytes::from_static(b"event: alive\ndata:\n\n")), self));
            }
            changed.ok()?.ok()?;
            let drawn = Arc::clone(&self.news.borrow_and_update());
            let bytes = drawn.since(self.seen);
            self.seen = drawn.number;
            if !bytes.is_empty() {
                return Some((Ok(bytes), self));
            }
        }
    }
}

/// The page as it changes. Ends when the session does.
pub(super) async fn live<S: Shown>(
    State(page): Shared<S>,
    Caller(visitor): Caller,
    headers: HeaderMap,
) -> Response {
    if visitor.session.is_none() {
        let refusal = Refusal::new("this is for pages", "ask for /api/v1/status");
        return complaint(StatusCode::FORBIDDEN, &refusal);
    }
    let Ok(place) = Arc::clone(&page.watchers).try_acquire_owned() else {
        let refusal = Refusal::new(
            "as many pages as may be are being brought up to date",
            "close some, or load this one anew from time to time",
        );
        return complaint(StatusCode::SERVICE_UNAVAILABLE, &refusal);
    };
    let mut news = page.drawn.subscribe();
    // Also if all is as it was when somebody looked last.
    news.mark_changed();
    let subscriber = Subscriber {
        news,
        seen: 0,
        page,
        headers,
        _place: place,
    };
    let stream = futures_util::stream::unfold(subscriber, Subscriber::next);
    let kind = [(header::CONTENT_TYPE, "text/event-stream")];
    (kind, Body::from_stream(stream)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_sent() {
        let first = Drawn::default().next("a\nb<!--part-->\nc").unwrap();
        assert_eq!(
            first.since(0),
            "event: part\ndata: a\ndata: b\n\nevent: part\ndata: c\n\n"
        );
        assert!(first.next("a\nb<!--part-->\nc").is_none());
        let second = first.next("a\nb<!--part-->\nd").unwrap();
        assert_eq!(second.since(first.number), "event: part\ndata: d\n\n");
        assert_eq!(second.since(second.number), "");
        // A line of the page cannot end an event and begin another.
        assert_eq!(
            event("x\n\revent: y"),
            "event: part\ndata: x\ndata:  event: y\n\n"
        );
    }
}
