//! What the data plane remembers of each family, as one packet sees it.

use std::cell::RefCell;
use std::fmt::Debug;
use std::hash::Hash;

use ha_common::conn::{Conn, ConnKey, Embryo, EmbryoKey, FragmentKey, Persist, PersistKey};
use ha_common::event::{ConnEvent, EventKind};
use ha_common::maps;
use ha_common::service::{Addr6, ReturnPath, Service, ServiceKey};
use ha_ebpf::fake::{FakeFlows, FakeTables};
use ha_ebpf::tables::{Flows, InsertError, Shared, Tables as _};
use ha_ebpf::work::Work;

use super::model::{Entry, Topic};
use super::notes::{Answer, Details};
use super::view::View;
use super::words;
use crate::datapath::family::Kernel;
use crate::datapath::inspect::{Inspect, Remembered};

/// Entries as they were read: some are changed in place.
pub(super) struct Loaded<A> {
    conns: RefCell<Vec<(ConnKey<A>, Conn<A>)>>,
    embryos: RefCell<Vec<(EmbryoKey<A>, Embryo<A>)>>,
}

impl<A> Default for Loaded<A> {
    fn default() -> Self {
        Self {
            conns: RefCell::default(),
            embryos: RefCell::default(),
        }
    }
}

/// A family of addresses.
pub(super) trait Side: Kernel + Debug + Eq + Hash {
    /// Its maps.
    fn maps(maps: &dyn Inspect) -> &dyn Remembered<Self>;
    /// Its part of the overlay.
    fn overlay(tables: &FakeTables) -> &FakeFlows<Self>;
    /// What was read of it.
    fn loaded<'a>(view: &'a View<'_>) -> &'a Loaded<Self>;

    /// One of two names, by family.
    fn name(v4: &'static str, v6: &'static str) -> &'static str {
        if Self::NUMBER == 4 { v4 } else { v6 }
    }
}

impl Side for u32 {
    fn maps(maps: &dyn Inspect) -> &dyn Remembered<Self> {
        maps.v4()
    }

    fn overlay(tables: &FakeTables) -> &FakeFlows<Self> {
        &tables.v4
    }

    fn loaded<'a>(view: &'a View<'_>) -> &'a Loaded<Self> {
        &view.v4
    }
}

impl Side for Addr6 {
    fn maps(maps: &dyn Inspect) -> &dyn Remembered<Self> {
        maps.v6()
    }

    fn overlay(tables: &FakeTables) -> &FakeFlows<Self> {
        &tables.v6
    }

    fn loaded<'a>(view: &'a View<'_>) -> &'a Loaded<Self> {
        &view.v6
    }
}

impl View<'_> {
    fn load_conn<A: Side>(&self, key: &ConnKey<A>) -> Option<Conn<A>> {
        let table = &A::overlay(&self.overlay).conns;
        let map = A::name(maps::CONNS4, maps::CONNS6);
        let read = || A::maps(self.maps).conn(key);
        if let Some(conn) = self.fetch(map, table, *key, read) {
            A::loaded(self).conns.borrow_mut().push((*key, conn));
        }
        table.get(key)
    }

    fn load_embryo<A: Side>(&self, key: &EmbryoKey<A>) -> Option<Embryo<A>> {
        let table = &A::overlay(&self.overlay).embryos;
        let map = A::name(maps::EMBRYO4, maps::EMBRYO6);
        let read = || A::maps(self.maps).embryo(key);
        if let Some(embryo) = self.fetch(map, table, *key, read) {
            A::loaded(self).embryos.borrow_mut().push((*key, embryo));
        }
        table.get(key)
    }

    /// The packet is handled by this entry, unless it is by one that was found before. Tells whether.
    fn handled_by(&self, entry: Entry) -> bool {
        let first = self.found.entry.get().is_none();
        if first {
            self.found.entry.set(Some(entry));
        }
        first
    }

    /// Tells which entries were changed in place.
    pub(super) fn note_changes<A: Side>(&self) {
        let overlay = A::overlay(&self.overlay);
        let loaded = A::loaded(self);
        for (key, before) in &*loaded.conns.borrow() {
            let changed = overlay.conns.get(key).filter(|now| now != before);
            if let Some(now) = changed {
                let (before, now) = (
                    words::conn_fields(before, self.now_ns()),
                    words::conn_fields(&now, self.now_ns()),
                );
                let about = words::flow(key);
                self.notes
                    .note(Topic::Change, about, difference(&before, now));
            }
        }
        for (key, before) in &*loaded.embryos.borrow() {
            let changed = overlay.embryos.get(key).filter(|now| now != before);
            if let Some(now) = changed {
                let (before, now) = (
                    words::embryo(before, self.now_ns()),
                    words::embryo(&now, self.now_ns()),
                );
                let about = format!("half-open {}", client(key));
                let difference = difference(&before.details, now.details);
                self.notes.note(Topic::Change, about, difference);
            }
        }
    }
}

/// The fields that are other than before.
fn difference(before: &Details, now: Details) -> Answer {
    let mut changed = now;
    changed.retain(|name, value| before.get(name) != Some(value));
    let text = match changed.len() {
        0 => "fields that are not shown".to_owned(),
        _ => "to what follows".to_owned(),
    };
    Answer {
        text,
        details: changed,
    }
}

fn client<A: Kernel>(key: &EmbryoKey<A>) -> String {
    words::endpoint(key.client.ip(), key.port)
}

fn place<A: Kernel>(key: &ServiceKey<A>) -> String {
    let protocol = words::protocol(key.proto.into());
    if key.port == 0 {
        return format!("{protocol} {}, any port", key.addr.ip());
    }
    format!("{protocol} {}", words::endpoint(key.addr.ip(), key.port))
}

impl<A: Side> Flows<A> for &View<'_>
where
    for<'b> &'b FakeTables: Flows<A>,
{
    fn service(self, key: &ServiceKey<A>) -> Option<Shared<Service>> {
        let table = &A::overlay(&self.overlay).services;
        let map = A::name(maps::SERVICES4, maps::SERVICES6);
        self.fetch(map, table, *key, || A::maps(self.maps).service(key));
        // The entries that the packet might have had were looked for before.
        self.handled_by(Entry::None);
        let Some(service) = table.get(key) else {
            self.notes.note(Topic::Service, place(key), "none");
            return None;
        };
        let name = (self.surroundings.service)(key.addr.ip(), key.proto.into(), key.port);
        let name = name.unwrap_or_else(|| place(key));
        let words = words::service(&service, &name);
        self.notes.note(Topic::Service, place(key), words);
        self.choice.service.set(Some(service));
        *self.found.service.borrow_mut() = Some(name);
        (&self.overlay).service(key)
    }

    fn return_path(self, key: &ServiceKey<A>) -> Option<Shared<ReturnPath<A>>> {
        let table = &A::overlay(&self.overlay).return_paths;
        let map = A::name(maps::RETURN4, maps::RETURN6);
        self.fetch(map, table, *key, || A::maps(self.maps).return_path(key));
        self.handled_by(Entry::None);
        let about = place(key);
        match table.get(key) {
            None => self.notes.note(Topic::ReturnPath, about, "none"),
            Some(path) if path.ambiguous != 0 => {
                let text = "belongs to several services";
                self.notes.note(Topic::ReturnPath, about, text);
            }
            Some(path) => {
                let port = if path.vport == 0 {
                    key.port
                } else {
                    path.vport
                };
                let text = format!("answers for {}", words::endpoint(path.vip.ip(), port));
                let name = (self.surroundings.service)(path.vip.ip(), key.proto.into(), path.vport);
                self.notes.note(Topic::ReturnPath, about, text);
                *self.found.service.borrow_mut() = name;
            }
        }
        (&self.overlay).return_path(key)
    }

    fn conn(self, key: &ConnKey<A>) -> Option<Shared<Conn<A>>> {
        let about = words::flow(key);
        match self.load_conn(key) {
            None => self.notes.note(Topic::Connection, about, "none"),
            Some(conn) => {
                if self.handled_by(Entry::Connection) {
                    self.found.real.set(Some(conn.real));
                }
                let words = words::conn(&conn, self.now_ns());
                self.notes.note(Topic::Connection, about, words);
            }
        }
        (&self.overlay).conn(key)
    }

    fn add_conn(self, key: &ConnKey<A>, value: &Conn<A>) -> Result<(), InsertError> {
        self.load_conn(key);
        let added = (&self.overlay).add_conn(key, value);
        let about = words::flow(key);
        match added {
            Ok(()) => {
                self.taken();
                self.found.entry.set(Some(Entry::NewConnection));
                let words = words::conn(value, self.now_ns());
                self.notes.note(Topic::Add, about, words);
            }
            Err(InsertError::Exists) => {
                self.notes
                    .note(Topic::Add, about, "not done: there is one already");
            }
            Err(InsertError::Full) => {
                self.notes
                    .note(Topic::Add, about, "not done: the table is full");
            }
        }
        added
    }

    fn remove_conn(self, key: &ConnKey<A>) -> bool {
        self.load_conn(key);
        let removed = (&self.overlay).remove_conn(key);
        if removed {
            self.found.entry.set(None);
            self.found.real.set(None);
            let loaded = A::loaded(self);
            loaded.conns.borrow_mut().retain(|(known, _)| known != key);
            self.notes
                .note(Topic::Remove, words::flow(key), "not to be used any more");
        }
        removed
    }

    fn embryo(self, key: &EmbryoKey<A>) -> Option<Shared<Embryo<A>>> {
        match self.load_embryo(key) {
            None => self.notes.note(Topic::HalfOpen, client(key), "none"),
            Some(embryo) => {
                if matches!(self.found.entry.get(), None | Some(Entry::None)) {
                    self.found.entry.set(Some(Entry::HalfOpen));
                }
                let words = words::embryo(&embryo, self.now_ns());
                self.notes.note(Topic::HalfOpen, client(key), words);
            }
        }
        (&self.overlay).embryo(key)
    }

    fn put_embryo(self, key: &EmbryoKey<A>, value: &Embryo<A>) -> bool {
        self.load_embryo(key);
        self.taken();
        self.found.entry.set(Some(Entry::NewHalfOpen));
        let loaded = A::loaded(self);
        loaded
            .embryos
            .borrow_mut()
            .retain(|(known, _)| known != key);
        let about = format!("half-open {}", client(key));
        let words = words::embryo(value, self.now_ns());
        self.notes.note(Topic::Add, about, words);
        (&self.overlay).put_embryo(key, value)
    }

    fn remove_embryo(self, key: &EmbryoKey<A>) {
        if self.load_embryo(key).is_some() {
            let about = format!("half-open {}", client(key));
            self.notes
                .note(Topic::Remove, about, "not half-open any more");
        }
        (&self.overlay).remove_embryo(key);
    }

    fn fragments(self, key: &FragmentKey<A>) -> Option<Shared<Conn<A>>> {
        let table = &A::overlay(&self.overlay).fragments;
        let map = A::name(maps::FRAGMENTS4, maps::FRAGMENTS6);
        self.fetch(map, table, *key, || A::maps(self.maps).fragments(key));
        let about = format!("{} to {}", key.src.ip(), key.dst.ip());
        match table.get(key) {
            None => self.notes.note(Topic::Fragment, about, "none is known"),
            Some(conn) => {
                self.handled_by(Entry::Fragment);
                let words = words::conn(&conn, self.now_ns());
                self.notes.note(Topic::Fragment, about, words);
            }
        }
        (&self.overlay).fragments(key)
    }

    fn put_fragments(self, key: &FragmentKey<A>, value: &Conn<A>) -> bool {
        let about = format!("fragments of {} to {}", key.src.ip(), key.dst.ip());
        let words = words::conn(value, self.now_ns());
        self.notes.note(Topic::Add, about, words);
        (&self.overlay).put_fragments(key, value)
    }

    fn persist(self, key: &PersistKey<A>) -> Option<Shared<Persist>> {
        let table = &A::overlay(&self.overlay).persist;
        let map = A::name(maps::PERSIST4, maps::PERSIST6);
        self.fetch(map, table, *key, || A::maps(self.maps).persist(key));
        let about = key.client.ip().to_string();
        match table.get(key) {
            None => self.notes.note(Topic::Persistence, about, "not known"),
            Some(held) => {
                let text = format!("goes to {}", self.real_name(held.real));
                let idle = self.now_ns().saturating_sub(held.last_seen_ns) / 1_000_000_000;
                let details = [
                    ("generation", held.real_generation.to_string()),
                    ("idle", format!("{idle} s")),
                ];
                self.notes
                    .note(Topic::Persistence, about, Answer::new(text, details));
            }
        }
        (&self.overlay).persist(key)
    }

    fn put_persist(self, key: &PersistKey<A>, value: &Persist) -> bool {
        let about = format!("client {}", key.client.ip());
        let text = format!("goes to {}", self.real_name(value.real));
        self.notes.note(Topic::Add, about, text);
        (&self.overlay).put_persist(key, value)
    }

    fn event(self, fill: impl FnOnce(&mut ConnEvent<A>)) -> bool {
        let mut text = "";
        let told = (&self.overlay).event(|event| {
            fill(event);
            text = match EventKind::from_u8(event.kind) {
                Some(EventKind::Add) => "a connection began",
                Some(EventKind::State) => "a connection changed its state",
                Some(EventKind::Delete) => "a connection ended",
                None => "nothing it knows",
            };
        });
        self.notes.note(Topic::Tell, "replication", text);
        told
    }

    fn table_full(self) -> bool {
        // The settings are in the overlay once they were asked for.
        let _settings = self.config();
        let full = (&self.overlay).table_full();
        let text = if full {
            "the connection table is nearly full: by hash, without an entry"
        } else {
            "the connection table has room"
        };
        self.notes.note(Topic::Room, "", text);
        full
    }

    fn work(self) -> Option<Shared<Work<A>>> {
        (&self.overlay).work()
    }
}
