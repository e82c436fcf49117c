//! The kernel's maps that there are for each family.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use aya::Pod;
use ha_common::conn::{Conn, ConnKey, Embryo, EmbryoKey, FragmentKey, Persist, PersistKey};
use ha_common::event::EarlyFragment;
use ha_common::service::{LocalAddr, ReturnPath, Service, ServiceKey};
use ha_common::{maps, stage};

use super::family::{
    ClientKey, FlowEntry, FlowKey, Kernel, ListenKey, ReturnRoute, map_client, map_entry, map_key,
    map_listen, map_return,
};
use super::inspect::Remembered;
use super::milestones::{self, is_milestone};
use super::named::{Named, failed};
use super::{DatapathError, sys};
use crate::proto::time::Instant;

/// The maps of one family.
#[derive(Debug)]
pub(super) struct Tables<A> {
    services: Named<ServiceKey<A>, Service>,
    return_paths: Named<ServiceKey<A>, ReturnPath<A>>,
    addrs: Named<A, LocalAddr>,
    conns: Named<ConnKey<A>, Conn<A>>,
    embryos: Named<EmbryoKey<A>, Embryo<A>>,
    fragments: Named<FragmentKey<A>, Conn<A>>,
    clients: Named<PersistKey<A>, Persist>,
}

/// Entries of a piece of the connection table, and where to go on.
type Piece = (Vec<(FlowKey, FlowEntry)>, Option<u32>);

impl<A> Tables<A>
where
    A: Kernel + Pod,
    ServiceKey<A>: Pod,
    ReturnPath<A>: Pod,
    ConnKey<A>: Pod,
    Conn<A>: Pod,
    EmbryoKey<A>: Pod,
    Embryo<A>: Pod,
    FragmentKey<A>: Pod,
    PersistKey<A>: Pod,
{
    /// Wraps the maps that `open` returns by name.
    pub(super) fn open(
        open: impl Fn(&'static str) -> Result<OwnedFd, DatapathError>,
    ) -> Result<Self, DatapathError> {
        let name = |v4, v6| if A::NUMBER == 4 { v4 } else { v6 };
        let conns_name = name(maps::CONNS4, maps::CONNS6);
        let conns = Named::open(conns_name, &open)?;
        sys::map_info(conns.as_fd())
            .and_then(|info| milestones::place(conns.map(), info.max_entries))
            .map_err(failed(conns_name, "update"))?;
        Ok(Self {
            services: Named::open(name(maps::SERVICES4, maps::SERVICES6), &open)?,
            return_paths: Named::open(name(maps::RETURN4, maps::RETURN6), &open)?,
            addrs: Named::open(name(maps::ADDRS4, maps::ADDRS6), &open)?,
            conns,
            embryos: Named::open(name(maps::EMBRYO4, maps::EMBRYO6), &open)?,
            fragments: Named::open(name(maps::FRAGMENTS4, maps::FRAGMENTS6), &open)?,
            clients: Named::open(name(maps::PERSIST4, maps::PERSIST6), &open)?,
        })
    }

    pub(super) fn services(&self) -> Result<Vec<(ListenKey, Service)>, DatapathError> {
        let all = self.services.all()?.into_iter();
        Ok(all
            .map(|(key, value)| (map_listen(&key, A::ip), value))
            .collect())
    }

    pub(super) fn put_service(
        &self,
        key: &ListenKey,
        service: &Service,
    ) -> Result<(), DatapathError> {
        self.services.put(&map_listen(key, A::from_ip), service)
    }

    pub(super) fn remove_service(&self, key: &ListenKey) -> Result<(), DatapathError> {
        self.services.remove(&map_listen(key, A::from_ip))
    }

    pub(super) fn return_paths(&self) -> Result<Vec<(ListenKey, ReturnRoute)>, DatapathError> {
        let all = self.return_paths.all()?.into_iter();
        Ok(all
            .map(|(from, path)| (map_listen(&from, A::ip), map_return(&path, A::ip)))
            .collect())
    }

    pub(super) fn put_return_path(
        &self,
        from: &ListenKey,
        path: &ReturnRoute,
    ) -> Result<(), DatapathError> {
        let path = map_return(path, A::from_ip);
        self.return_paths.put(&map_listen(from, A::from_ip), &path)
    }

    pub(super) fn remove_return_path(&self, from: &ListenKey) -> Result<(), DatapathError> {
        self.return_paths.remove(&map_listen(from, A::from_ip))
    }

    pub(super) fn addrs(&self) -> Result<Vec<(IpAddr, LocalAddr)>, DatapathError> {
        let all = self.addrs.all()?.into_iter();
        Ok(all.map(|(addr, value)| (addr.ip(), value)).collect())
    }

    pub(super) fn put_addr(&self, addr: IpAddr, value: LocalAddr) -> Result<(), DatapathError> {
        self.addrs.put(&A::from_ip(addr), &value)
    }

    pub(super) fn remove_addr(&self, addr: IpAddr) -> Result<(), DatapathError> {
        self.addrs.remove(&A::from_ip(addr))
    }

    pub(super) fn get_conn(&self, key: &FlowKey) -> Result<Option<FlowEntry>, DatapathError> {
        let found = self.conns.get(&map_key(key, A::from_ip))?;
        Ok(found.map(|entry| map_entry(&entry, A::ip)))
    }

    /// Stores those of the entries that are of this family.
    pub(super) fn put_conns(&self, entries: &[(FlowKey, FlowEntry)]) -> Result<(), DatapathError> {
        let (keys, values): (Vec<_>, Vec<_>) = entries
            .iter()
            .filter(|(key, _)| A::is_family(key.dst))
            .map(|(key, entry)| (map_key(key, A::from_ip), map_entry(entry, A::from_ip)))
            .unzip();
        self.conns.put_all(&keys, &values)
    }

    /// Removes those of the entries that are of this family.
    pub(super) fn remove_conns(&self, keys: &[FlowKey]) -> Result<usize, DatapathError> {
        self.conns.remove_all(&Self::keys(keys))
    }

    pub(super) fn scan_conns(&self, from: Option<u32>, max: usize) -> Result<Piece, DatapathError> {
        let mut next = from;
        let mut entries = Vec::new();
        loop {
            let batch = self.conns.piece(next, milestones::STRIDE)?;
            let connections = batch.entries.iter().filter(|(key, _)| !is_milestone(key));
            entries.extend(
                connections.map(|(key, entry)| (map_key(key, A::ip), map_entry(entry, A::ip))),
            );
            next = batch.next;
            if next.is_none() || entries.len() >= max {
                return Ok((entries, next));
            }
        }
    }

    /// Shows those of the connections that are of this family to the janitor.
    pub(super) fn expire(
        janitor: BorrowedFd<'_>,
        keys: &[FlowKey],
    ) -> Result<usize, DatapathError> {
        let mut expired = 0;
        for keys in Self::keys(keys).chunks(stage::JANITOR_KEYS / size_of::<ConnKey<A>>()) {
            let mut input = vec![0; stage::JANITOR_HEADER - size_of::<u16>()];
            input.extend_from_slice(&A::NUMBER.to_ne_bytes());
            input.extend_from_slice(sys::bytes_of(keys));
            let count =
                sys::test_run(janitor, &input).map_err(|source| DatapathError::Program {
                    program: stage::JANITOR,
                    source,
                })?;
            expired += count as usize;
        }
        Ok(expired)
    }

    /// Whether the first fragment of the packet came that this one belongs to.
    pub(super) fn first_came(&self, early: &EarlyFragment) -> Result<bool, DatapathError> {
        let key = FragmentKey {
            src: A::narrow(early.src),
            dst: A::narrow(early.dst),
            id: early.id,
            proto: early.proto,
        };
        Ok(self.fragments.get(&key)?.is_some())
    }

    pub(super) fn half_open(&self, since: Instant) -> Result<u64, DatapathError> {
        let mut found = 0;
        self.embryos.each_piece(|entries| {
            let young = |(_, embryo): &&(_, Embryo<A>)| embryo.last_seen_ns > since.as_nanos();
            found += entries.iter().filter(young).count() as u64;
        })?;
        Ok(found)
    }

    pub(super) fn clients(&self) -> Result<Vec<(ClientKey, Persist)>, DatapathError> {
        let all = self.clients.all()?.into_iter();
        Ok(all
            .map(|(key, value)| (map_client(&key, A::ip), value))
            .collect())
    }

    /// Stores those of the clients that are of this family.
    pub(super) fn put_clients(
        &self,
        clients: &[(ClientKey, Persist)],
    ) -> Result<(), DatapathError> {
        let ours = clients.iter().filter(|(key, _)| A::is_family(key.client));
        let (keys, values): (Vec<_>, Vec<_>) = ours
            .map(|(key, value)| (map_client(key, A::from_ip), *value))
            .unzip();
        self.clients.put_all(&keys, &values)
    }

    /// Removes those of the clients that are of this family.
    pub(super) fn remove_clients(&self, clients: &[ClientKey]) -> Result<usize, DatapathError> {
        let ours = clients.iter().filter(|key| A::is_family(key.client));
        let keys: Vec<_> = ours.map(|key| map_client(key, A::from_ip)).collect();
        self.clients.remove_all(&keys)
    }

    pub(super) fn forget_clients(&self, real: u16) -> Result<usize, DatapathError> {
        let mut theirs = Vec::new();
        self.clients.each_piece(|entries| {
            let entries = entries.into_iter().filter(|(_, held)| held.real == real);
            theirs.extend(entries.map(|(key, _)| key));
        })?;
        self.clients.remove_all(&theirs)
    }

    fn keys(keys: &[FlowKey]) -> Vec<ConnKey<A>> {
        let ours = keys.iter().filter(|key| A::is_family(key.dst));
        ours.map(|key| map_key(key, A::from_ip)).collect()
    }
}

impl<A> Remembered<A> for Tables<A>
where
    A: Kernel + Pod,
    ServiceKey<A>: Pod,
    ReturnPath<A>: Pod,
    ConnKey<A>: Pod,
    Conn<A>: Pod,
    EmbryoKey<A>: Pod,
    Embryo<A>: Pod,
    FragmentKey<A>: Pod,
    PersistKey<A>: Pod,
{
    fn service(&self, key: &ServiceKey<A>) -> Result<Option<Service>, DatapathError> {
        self.services.get(key)
    }

    fn return_path(&self, from: &ServiceKey<A>) -> Result<Option<ReturnPath<A>>, DatapathError> {
        self.return_paths.get(from)
    }

    fn addr(&self, addr: A) -> Result<Option<LocalAddr>, DatapathError> {
        self.addrs.get(&addr)
    }

    fn conn(&self, key: &ConnKey<A>) -> Result<Option<Conn<A>>, DatapathError> {
        self.conns.get(key)
    }

    fn embryo(&self, key: &EmbryoKey<A>) -> Result<Option<Embryo<A>>, DatapathError> {
        self.embryos.get(key)
    }

    fn fragments(&self, key: &FragmentKey<A>) -> Result<Option<Conn<A>>, DatapathError> {
        self.fragments.get(key)
    }

    fn persist(&self, key: &PersistKey<A>) -> Result<Option<Persist>, DatapathError> {
        self.clients.get(key)
    }
}
