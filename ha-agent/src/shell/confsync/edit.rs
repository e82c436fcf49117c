//! Changes of the configuration that do not come from an editor: the same file, the same checks, the same way into
//! force and to the partner.

use crate::config;
use crate::control::edits::{Applied, Apply, Draft, Preview, Wanted, fingerprint, mend};
use crate::control::{Refusal, Reloaded, Reply};
use crate::shell::agent::{Shared, lock};
use crate::shell::atomic::{Places, Prepared, replace};
use crate::shell::happened;

impl Shared {
    /// The file in place, and its fingerprint.
    pub(in crate::shell) fn written(&self) -> Reply<(String, String)> {
        let bytes = config::read(&self.path).map_err(Refusal::configuration)?;
        let text = String::from_utf8(bytes).map_err(|_binary| mend("it is not UTF-8 text"))?;
        let base = fingerprint(&text);
        Ok((text, base))
    }

    /// What a change would do. Changes nothing.
    pub(in crate::shell) fn preview(&self, wanted: &Wanted) -> Reply<Preview> {
        let draft = self.draft(wanted)?;
        let refused = self.replica.version_of(&lock(&self.loaded), &draft.fresh);
        Ok(draft.preview(refused.err()))
    }

    fn draft(&self, wanted: &Wanted) -> Reply<Draft> {
        let (old, _) = self.written()?;
        Draft::of(&self.path, old, wanted, &self.config())
    }

    /// Makes a change that was looked at; on any error nothing changes. The history tells who wanted it.
    pub(in crate::shell) fn apply_for(&self, who: &str, order: &Apply) -> Reply<Applied> {
        let reply = self.apply(order);
        self.tallies.reloaded(reply.is_ok());
        let told = reply.as_ref().map(|applied| Reloaded {
            changes: applied.changes.clone(),
            warnings: Vec::new(),
        });
        self.events
            .record(happened::reloaded(who, &told.map_err(Clone::clone)));
        reply
    }

    fn apply(&self, order: &Apply) -> Reply<Applied> {
        let _turn = lock(&self.replica.turn);
        let Draft {
            old,
            fresh,
            difference,
        } = self.draft(&order.wanted)?;
        if fingerprint(&old) != order.base {
            return Err(Refusal::new(
                "the file was changed since this change was looked at",
                "look at the change again: it may mean something else now",
            ));
        }
        if !difference.restart.is_empty() && !order.restart {
            return Err(Refusal {
                problems: difference.restart,
                ..Refusal::new(
                    "this change needs a restart, which was not agreed to",
                    "agree to it, or leave out what needs one",
                )
            });
        }
        let secrets = fresh.secrets().map_err(Refusal::configuration)?;
        let minted = self.replica.mint(&lock(&self.loaded), &fresh)?;
        let file = Prepared::write(&self.path, fresh.text().as_bytes(), Places::CONFIGURATION);
        file.and_then(Prepared::commit).map_err(|error| {
            Refusal::new(
                format!("{}: {error}; nothing was changed", self.path.display()),
                "check the disk, and whether the agent may write there",
            )
        })?;
        let (warnings, document) = (fresh.warnings.clone(), fresh.shared.document.clone());
        let mut restart = lock(&self.replica.trouble).restart.clone();
        if difference.restart.is_empty() {
            if let Err(refusal) = self.put_in_force(fresh, &difference.changes, &secrets) {
                self.put_back(&old);
                return Err(refusal);
            }
            restart.clear();
        } else {
            restart = super::take::restart(&difference.restart);
        }
        self.replica.commit(minted, &document);
        lock(&self.replica.trouble).restart = restart;
        let live = difference.restart.is_empty();
        let changes = difference.changes.iter().filter(|_| live);
        Ok(Applied {
            generation: self.replica.snapshot().version.generation,
            changes: changes.map(ToString::to_string).collect(),
            restart: difference.restart,
            warnings,
        })
    }

    fn put_back(&self, old: &str) {
        if let Err(error) = replace(&self.path, old.as_bytes()) {
            tracing::error!(%error, path = %self.path.display(), "the old file was not put back");
        }
    }
}
