//! What an operator does with a node: each with a question first that says what will happen.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use tokio::time::sleep;

use super::change::worse_than_that;
use super::frame::{Frame, answer, refused};
use super::shown::Power;
use super::visitor::{Posted, Visitor};
use super::{Page, Reach, Shared, Shown};
use crate::control::{Done, Refusal};
use crate::events::{Entry, Kind};
use crate::status::model::{Role, Status};

/// How long it takes until a deed begins that was asked for at an address which moves with it. A connection to a shared
/// address ends where that address is, so the answer must have left before.
const PARTING: Duration = Duration::from_millis(500);

/// Something that is done with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Deed {
    Failover,
    Maintenance,
    Resume,
    Push,
    Reboot,
    Shutdown,
}

impl Deed {
    /// All of them, in the order of the page.
    pub(super) const ALL: [Self; 6] = [
        Self::Failover,
        Self::Maintenance,
        Self::Resume,
        Self::Push,
        Self::Reboot,
        Self::Shutdown,
    ];

    /// Its name in addresses.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Maintenance => "maintenance",
            Self::Resume => "resume",
            Self::Push => "push",
            Self::Reboot => "reboot",
            Self::Shutdown => "shutdown",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Failover => "Failover",
            Self::Maintenance => "Maintenance",
            Self::Resume => "Resume",
            Self::Push => "Force partner update",
            Self::Reboot => "Reboot",
            Self::Shutdown => "Shut down",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Failover => "Hands the active role over to the partner.",
            Self::Maintenance => "Puts this node aside, also after a restart.",
            Self::Resume => "Takes this node back, whatever put it aside.",
            Self::Push => "Makes sure, now, that both nodes have the same configuration.",
            Self::Reboot => "Hands over, and boots this machine.",
            Self::Shutdown => "Hands over, and switches this machine off.",
        }
    }

    /// What will happen, on a node that is like this.
    fn consequences(self, status: &Status) -> Vec<String> {
        let node = &status.node.name;
        let partner = status.partner.as_ref();
        let other = partner
            .and_then(|partner| partner.name.as_deref())
            .unwrap_or("the partner");
        let active = matches!(status.role, Role::Active | Role::Off);
        let alone = partner.is_none();
        let hand_over = || match (active, alone) {
            (true, false) => format!(
                "{other} becomes active and takes the shared addresses. Connections go on; if {other} cannot take over, nothing is done."
            ),
            (true, true) => format!("There is no partner: all connections through {node} end."),
            (false, _) => format!("{node} is not active, so connections are not touched."),
        };
        let page = || {
            "This page goes on at the partner, where you have to log in: users are kept by each node."
                .to_owned()
        };
        let unguarded = || format!("Until {node} is back, nobody takes over if {other} fails.");
        let away = |how: &str| format!("{node} {how}; its own page cannot be reached meanwhile.");
        match self {
            Self::Failover => {
                let mut all = vec![hand_over()];
                all.extend((active && !alone).then(page));
                all
            }
            Self::Maintenance => vec![
                hand_over(),
                format!("{node} takes no part until it is resumed, also after a restart."),
                unguarded(),
            ],
            Self::Resume => vec![format!(
                "{node} takes part again: as standby, if the other node is active."
            )],
            Self::Push => vec![
                format!(
                    "The configuration of the active node goes to the other one, and into its file."
                ),
                "No connection is touched.".to_owned(),
            ],
            Self::Reboot => vec![hand_over(), away("boots"), unguarded()],
            Self::Shutdown => vec![
                hand_over(),
                away("is off until somebody switches it on"),
                unguarded(),
            ],
        }
    }

    /// Whether the shared addresses move with it.
    const fn moves_addresses(self) -> bool {
        match self {
            Self::Failover | Self::Maintenance | Self::Reboot | Self::Shutdown => true,
            Self::Resume | Self::Push => false,
        }
    }

    /// Does it for somebody, and takes note of that. Who came to an address that moves with it is answered first.
    pub(super) async fn carry_out<S: Shown>(
        self,
        page: &Arc<Page<S>>,
        visitor: &Visitor,
        force: bool,
    ) -> Result<Done, Refusal> {
        visitor.operates()?;
        let who = visitor.who();
        let parting = self.moves_addresses()
            && visitor.reach == Reach::Pair
            && page.shown.status().await?.role == Role::Active;
        if !parting {
            let done = self.attempt(page, force).await;
            note(page, who, self.name(), force, &done);
            return done;
        }
        if !force && let Err(refusal) = page.shown.may_hand_over().await {
            let refused = Err(refusal);
            note(page, who, self.name(), force, &refused);
            return refused;
        }
        let page = Arc::clone(page);
        tokio::spawn(async move {
            sleep(PARTING).await;
            let done = self.attempt(&page, force).await;
            note(&page, who, self.name(), force, &done);
        });
        Ok(Done::new(format!(
            "{} begins now; this address goes to the partner, and what came of it is among the events",
            self.title()
        )))
    }

    async fn attempt<S: Shown>(self, page: &Page<S>, force: bool) -> Result<Done, Refusal> {
        let shown = &page.shown;
        match self {
            Self::Failover => shown.failover().await,
            Self::Maintenance => shown.maintenance(true, force).await,
            Self::Resume => shown.resume().await,
            Self::Push => Arc::clone(shown).push().await,
            Self::Reboot => leave(page, Power::Reboot, force).await,
            Self::Shutdown => leave(page, Power::Shutdown, force).await,
        }
    }
}

/// Takes note of what somebody did, or was refused.
pub(super) fn note<S: Shown>(
    page: &Page<S>,
    who: String,
    deed: &str,
    force: bool,
    done: &Result<Done, Refusal>,
) {
    let force = if force { " --force" } else { "" };
    let deed = format!("{deed}{force}");
    let (kind, why) = match done {
        Ok(_) => (Kind::Command, String::new()),
        Err(refusal) => (Kind::CommandRefused, refusal.what.clone()),
    };
    let entry = Entry::new(kind, who, &*deed).because(why);
    page.shown.note(entry.with("command", deed));
}

/// Hands over, if there is something to hand over: before a node goes.
pub(super) async fn hand_over<S: Shown>(
    page: &Page<S>,
    status: &Status,
    force: bool,
) -> Result<(), Refusal> {
    if status.role == Role::Active
        && let Err(refusal) = page.shown.failover().await
        && !force
    {
        return Err(Refusal::new(
            format!("nothing was done: {}", refusal.what),
            refusal.remedy,
        ));
    }
    Ok(())
}

/// Hands over, and goes down.
async fn leave<S: Shown>(page: &Page<S>, how: Power, force: bool) -> Result<Done, Refusal> {
    hand_over(page, &page.shown.status().await?, force).await?;
    page.blocking(move |shown| async move { shown.power(how) })
        .await?;
    Ok(Done::new(match how {
        Power::Reboot => "the machine boots",
        Power::Shutdown => "the machine shuts down",
    }))
}

/// A deed as it is shown.
struct Card {
    name: &'static str,
    title: &'static str,
    words: &'static str,
}

#[derive(Template)]
#[template(path = "operate.html")]
struct OperatePage {
    frame: Frame,
    headline: String,
    cards: Vec<Card>,
}

/// `GET /operate`.
pub(super) async fn list<S: Shown>(State(page): Shared<S>, visitor: Visitor) -> Response {
    let view = match page.view().await {
        Ok(view) => view,
        Err(worse) => return worse_than_that(&worse),
    };
    let cards = Deed::ALL.iter().map(|deed| Card {
        name: deed.name(),
        title: deed.title(),
        words: deed.words(),
    });
    let shown = OperatePage {
        frame: Frame::around(&page, &visitor, "operate", &view),
        headline: view.headline,
        cards: cards.collect(),
    };
    answer(StatusCode::OK, &shown)
}

#[derive(Template)]
#[template(path = "confirm.html")]
struct ConfirmPage {
    frame: Frame,
    name: &'static str,
    title: &'static str,
    consequences: Vec<String>,
}

/// `POST /operate/{deed}`: asks; and with the answer yes, does it.
pub(super) async fn act<S: Shown>(
    State(page): Shared<S>,
    Path(deed): Path<Deed>,
    posted: Posted,
) -> Response {
    let visitor = &posted.visitor;
    if let Err(refusal) = visitor.operates() {
        return refused(&page, visitor, "operate", StatusCode::FORBIDDEN, refusal).await;
    }
    if posted.get("confirmed") != "yes" {
        let (frame, status) = (
            Frame::of(&page, visitor, "operate").await,
            page.shown.status().await,
        );
        let (frame, status) = match (frame, status) {
            (Ok(frame), Ok(status)) => (frame, status),
            (Err(worse), _) | (_, Err(worse)) => return worse_than_that(&worse),
        };
        let asked = ConfirmPage {
            frame,
            name: deed.name(),
            title: deed.title(),
            consequences: deed.consequences(&status),
        };
        return answer(StatusCode::OK, &asked);
    }
    match deed
        .carry_out(&page, visitor, posted.get("force") == "yes")
        .await
    {
        Ok(done) => {
            if let Some(session) = &visitor.session {
                page.sessions()
                    .tell(session, format!("Done: {}.", done.message));
            }
            Redirect::to("/operate").into_response()
        }
        Err(refusal) => refused(&page, visitor, "operate", StatusCode::CONFLICT, refusal).await,
    }
}
