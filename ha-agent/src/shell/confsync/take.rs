//! Taking a configuration over: from the file, or from the partner.

use std::fmt::Display;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::error;

use super::{Replica, has_channel};
use crate::config::model::{Config, Mode};
use crate::config::{self, Change, Diagnostic, Loaded, Secrets, shared};
use crate::control::{ConfigShown, Done, Refusal, Reloaded, Reply};
use crate::fault;
use crate::proto::confsync::{Input, NotEditable, Record, Version};
use crate::shell::agent::{Shared, lock};
use crate::shell::atomic::{Places, Prepared, replace};
use crate::shell::{addresses, clock, election, parts};
use crate::status::model::SCHEMA_VERSION;

/// How long `push` waits for the partner.
const PUSH_MAX: Duration = Duration::from_secs(15);
/// How often it looks.
const PUSH_LOOK: Duration = Duration::from_millis(5);

/// A new version that is safe on the disk, but not in force yet.
pub(super) struct Minted {
    record: Record,
    prepared: Prepared,
}

impl Replica {
    /// The version that a file would be, if it says something new; refused where there may be none.
    pub(super) fn version_of(&self, running: &Loaded, fresh: &Loaded) -> Reply<Option<Record>> {
        let core = lock(&self.core);
        let known = core.machine.version().hash;
        if fresh.shared.hash == known {
            return Ok(None);
        }
        let record = core.machine.edit(fresh.shared.hash);
        let partner = core.machine.snapshot().partner;
        drop(core);
        record.map(Some).map_err(|why| match why {
            NotEditable::NotActive => {
                let sections = shared::changed(&running.shared.document, &fresh.shared.document);
                let active = partner.filter(|claim| claim.active);
                let whose = active.map_or_else(
                    || "the active node".to_owned(),
                    |claim| format!("{}, the active node,", claim.name),
                );
                Refusal::new(
                    format!(
                        "this node is not active, so the change of {} was not taken over; the agent \
                         goes on as before",
                        sections.join(", ")
                    ),
                    format!(
                        "edit the file on {whose} and reload there: this node then gets the change by \
                         itself"
                    ),
                )
            }
            NotEditable::Applying => Refusal::new(
                "a version of the partner's is just being taken over",
                "look at what came of it (`ha-agent config diff`), and reload again",
            ),
        })
    }

    /// Prepares a new version if the file says something new; refuses where it may not.
    pub(super) fn mint(&self, running: &Loaded, fresh: &Loaded) -> Reply<Option<Minted>> {
        let Some(record) = self.version_of(running, fresh)? else {
            return Ok(None);
        };
        let prepared = self.store.prepare(&record).map_err(|error| {
            Refusal::new(
                format!("the new version cannot be stored in node.state_dir, so nothing was changed: {error}"),
                "check the disk of node.state_dir: space, mount, errors in the kernel's log",
            )
        })?;
        Ok(Some(Minted { record, prepared }))
    }

    /// The minted version counts from now on.
    pub(super) fn commit(&self, minted: Option<Minted>, document: &str) {
        let Some(Minted { record, prepared }) = minted else {
            return;
        };
        if let Err(error) = prepared.commit() {
            error!(%error, "version of the configuration not put in place");
            lock(&self.trouble).not_stored = Some(error.to_string());
        }
        let document = document.to_owned();
        self.with(|machine, out| {
            let now = clock::now();
            machine.edited(now, record, document);
            machine.handle_timeout(now, out);
        });
    }
}

impl Shared {
    /// Reads the file again and takes over what may change under traffic; on any error nothing changes.
    pub fn reload(&self) -> Reply<Reloaded> {
        let _turn = lock(&self.replica.turn);
        let fresh = Config::load(&self.path).map_err(Refusal::configuration)?;
        let changes = config::diff(&self.config(), &fresh).map_err(Refusal::configuration)?;
        let secrets = fresh.secrets().map_err(Refusal::configuration)?;
        let minted = self.replica.mint(&lock(&self.loaded), &fresh)?;
        let (warnings, document) = (fresh.warnings.clone(), fresh.shared.document.clone());
        self.put_in_force(fresh, &changes, &secrets)?;
        self.replica.commit(minted, &document);
        lock(&self.replica.trouble).restart.clear();
        Ok(Reloaded {
            changes: changes.iter().map(ToString::to_string).collect(),
            warnings,
        })
    }

    /// Takes over what the partner has, in the file and, unless that needs a restart, in force. On any error
    /// everything is as before. Yields what changed.
    pub(super) fn take_over(
        &self,
        record: &Record,
        document: &str,
        keep: bool,
    ) -> Result<Vec<String>, String> {
        let _turn = lock(&self.replica.turn);
        fault::point("apply_begins");
        let running = lock(&self.loaded).clone();
        let written = fs::read_to_string(&self.path).unwrap_or_default();
        // A file that somebody is just spoiling is no reason to have another configuration than the partner.
        let sound = Config::parse(&self.path, written.clone().into_bytes()).is_ok();
        let own = if sound { &*written } else { running.text() };
        let fresh = shared::compose(&self.path, own, document).map_err(|p| words(&p))?;
        if fresh.shared.hash != record.version.hash {
            return Err("the document is not the one that was announced".to_owned());
        }
        let secrets = fresh.secrets().map_err(|problems| words(&problems))?;
        let difference = config::difference(&running.config, &fresh);
        self.keep_lost(record, &written, sound, keep.then(|| running.text()))
            .map_err(|error| format!("what it replaces cannot be kept: {error}"))?;
        let file = Prepared::write(&self.path, fresh.text().as_bytes(), Places::CONFIGURATION);
        let file = file.map_err(|error| format!("{}: {error}", self.path.display()))?;
        let prepared = self.replica.store.prepare(record);
        let prepared = prepared.map_err(|error| format!("node.state_dir: {error}"))?;
        let failed = |error: std::io::Error| format!("{}: {error}", self.path.display());
        file.commit().map_err(failed)?;
        fault::point("configuration_replaced");
        let changes = difference.changes.iter().map(ToString::to_string).collect();
        if difference.restart.is_empty()
            && let Err(refusal) = self.put_in_force(fresh, &difference.changes, &secrets)
        {
            if let Err(error) = replace(&self.path, written.as_bytes()) {
                error!(%error, path = %self.path.display(), "the old file was not put back");
            }
            return Err(refusal.what);
        }
        fault::point("configuration_applied");
        prepared
            .commit()
            .map_err(|error| format!("node.state_dir: {error}"))?;
        fault::point("record_replaced");
        lock(&self.replica.trouble).restart = restart(&difference.restart);
        Ok(changes)
    }

    /// Keeps what would be lost: what the file says, which may be an edit that nobody has taken over yet, and
    /// the version that was in force, if this version did not come from it.
    fn keep_lost(
        &self,
        record: &Record,
        written: &str,
        sound: bool,
        running: Option<&str>,
    ) -> std::io::Result<()> {
        let version = lock(&self.replica.core).machine.version();
        let said = shared::document_hash(written);
        let known = said == record.version.hash || record.ancestors.contains(&said);
        if (!known || !sound) && !written.is_empty() {
            let hash = said;
            self.replica
                .store
                .keep(Version { hash, ..version }, written)?;
        }
        match running.filter(|_| said != version.hash) {
            Some(running) => self.replica.store.keep(version, running),
            None => Ok(()),
        }
    }

    /// Puts a checked configuration in force, as far as it differs.
    pub(super) fn put_in_force(
        &self,
        fresh: Loaded,
        changes: &[Change],
        secrets: &Secrets,
    ) -> Reply<()> {
        let failed = |error: &dyn Display| {
            Refusal::new(
                error.to_string(),
                "the agent goes on with what it has; see its log",
            )
        };
        let mut services = lock(&self.services);
        if !changes.is_empty() {
            services
                .configure(&fresh.config.virtual_services)
                .map_err(|error| failed(&error))?;
        }
        services.set_hash_seed(secrets.keys.hash_seed());
        services
            .apply(&*self.datapath)
            .map_err(|error| failed(&error))?;
        drop(services);
        let new_flows_max = fresh.config.limits.new_flows;
        self.settings
            .update(|settings| settings.new_flows_max = new_flows_max)
            .map_err(|error| failed(&error))?;
        if !changes.is_empty() {
            self.check_health(&fresh.config);
            self.guard(&fresh.config);
        }
        // The data plane first: nothing is to be signed with a key that is not accepted yet.
        let keys = parts::election_keys(secrets);
        self.tell_pair(&fresh.config, &keys)
            .map_err(|error| failed(&error))?;
        *lock(&self.loaded) = fresh;
        let config = self.config();
        self.lifetime.send_replace(addresses::lifetime(&config));
        self.election
            .send(election::Command::Settings(parts::settings(&config)));
        let digest = parts::digest(&config);
        self.election.send(election::Command::Generation(digest));
        self.election.send(election::Command::Keys(keys));
        if let Some(replication) = &self.replication {
            replication.generation(digest);
            replication.keys(secrets.keys.clone());
        }
        self.replica.set_keys(&secrets.keys);
        Ok(())
    }

    /// Makes sure, now, that the partner has what this node has, also what of the file needs a restart: that goes
    /// into both files and is in force after one.
    pub(in crate::shell) async fn push(self: &Arc<Self>) -> Reply<Done> {
        if self.config().node.mode == Mode::Off {
            return Err(Refusal::new(
                "high availability is off, so there is no partner",
                "set node.mode to first or second",
            ));
        }
        if !has_channel(self) {
            return Err(Refusal::new(
                "there is no interface over which the configuration could be replicated",
                "set ha.update_interface to one on which both nodes have an address",
            ));
        }
        let begin = clock::now();
        let node = Arc::clone(self);
        let staged = tokio::task::spawn_blocking(move || node.stage()).await;
        staged
            .unwrap_or_else(|panic| Err(Refusal::new(panic.to_string(), "see the agent's log")))?;
        let before = self.replica.snapshot().counters;
        self.replica.input(Input::Push);
        loop {
            let snapshot = self.replica.snapshot();
            let took = clock::now().since(begin);
            if snapshot.in_sync && snapshot.counters.exchanged > before.exchanged {
                let generation = snapshot.version.generation;
                let restart = lock(&self.replica.trouble).restart.len();
                let rest = match restart {
                    0 => String::new(),
                    some => {
                        format!("; {some} changes need a restart of both nodes, the standby first")
                    }
                };
                let message = format!("both nodes have version {generation}{rest}");
                return Ok(Done::timed(message, took));
            }
            if let Some(reason) = snapshot.refused.or(snapshot.not_applied) {
                return Err(Refusal::new(
                    format!("it was not taken over: {reason}"),
                    "mend that, and push again; both nodes go on with what they have",
                ));
            }
            if snapshot.counters.failed > before.failed || took > PUSH_MAX {
                let why = lock(&self.replica.trouble).channel.clone();
                return Err(Refusal::new(
                    why.unwrap_or_else(|| "the partner did not answer in time".to_owned()),
                    "see `ha-agent doctor`; the agent goes on trying by itself",
                ));
            }
            sleep(PUSH_LOOK).await;
        }
    }

    /// Takes over what the file says on an active node, or at least makes it the version of the pair.
    fn stage(&self) -> Reply<()> {
        let fresh = Config::load(&self.path).map_err(Refusal::configuration)?;
        let known = lock(&self.replica.core).machine.version().hash;
        if fresh.shared.hash == known {
            return Ok(());
        }
        let difference = config::difference(&self.config(), &fresh);
        if difference.restart.is_empty() {
            return self.reload().map(|_reloaded| ());
        }
        let _turn = lock(&self.replica.turn);
        // What this node alone would need a restart for is no business of the pair's.
        fresh.secrets().map_err(Refusal::configuration)?;
        let minted = self.replica.mint(&lock(&self.loaded), &fresh)?;
        self.replica.commit(minted, &fresh.shared.document);
        lock(&self.replica.trouble).restart = restart(&difference.restart);
        Ok(())
    }

    /// What is in force.
    pub(in crate::shell) fn shown(&self) -> ConfigShown {
        let loaded = lock(&self.loaded);
        let version = self.replica.snapshot().version;
        ConfigShown {
            schema_version: SCHEMA_VERSION,
            generation: version.generation,
            hash: version.hash,
            text: loaded.text().to_owned(),
        }
    }
}

fn words(problems: &[Diagnostic]) -> String {
    let lines = problems.iter().map(ToString::to_string);
    lines.collect::<Vec<_>>().join("; ")
}

pub(super) fn restart(problems: &[Diagnostic]) -> Vec<String> {
    problems
        .iter()
        .map(|problem| problem.what.clone())
        .collect()
}
