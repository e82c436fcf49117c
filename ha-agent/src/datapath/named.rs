//! Maps that know their names, so that errors tell them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::Pod;

use super::DatapathError;
use super::sys::{Batch, BatchError, Map, Update};

/// Elements fetched by one system call when a whole map is read.
const READ_BATCH: usize = 1024;

/// A map and its name.
#[derive(Debug)]
pub(super) struct Named<K, V> {
    name: &'static str,
    map: Map<K, V>,
}

impl<K: Pod, V: Pod> Named<K, V> {
    /// Wraps the map that `open` returns by this name.
    pub(super) fn open(
        name: &'static str,
        open: impl Fn(&'static str) -> Result<OwnedFd, DatapathError>,
    ) -> Result<Self, DatapathError> {
        let map = Map::new(open(name)?).map_err(failed(name, "check sizes"))?;
        Ok(Self { name, map })
    }

    pub(super) const fn map(&self) -> &Map<K, V> {
        &self.map
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>, DatapathError> {
        self.map.lookup(key).map_err(failed(self.name, "lookup"))
    }

    pub(super) fn put(&self, key: &K, value: &V) -> Result<(), DatapathError> {
        self.map
            .update(key, value, Update::Any)
            .map_err(|source| self.not_stored(BatchError { done: 0, source }))
    }

    pub(super) fn remove(&self, key: &K) -> Result<(), DatapathError> {
        let deleted = self.map.delete(key);
        deleted.map(drop).map_err(failed(self.name, "delete"))
    }

    pub(super) fn put_all(&self, keys: &[K], values: &[V]) -> Result<(), DatapathError> {
        let stored = self.map.update_batch(keys, values);
        stored.map_err(|error| self.not_stored(error))
    }

    /// Removes elements and tells how many were there.
    pub(super) fn remove_all(&self, keys: &[K]) -> Result<usize, DatapathError> {
        self.map
            .delete_batch(keys)
            .map_err(|error| failed(self.name, "delete")(error.source))
    }

    /// All elements.
    pub(super) fn all(&self) -> Result<Vec<(K, V)>, DatapathError> {
        self.map.all(READ_BATCH).map_err(failed(self.name, "scan"))
    }

    /// About `max` elements from `cursor` on.
    pub(super) fn piece(
        &self,
        cursor: Option<u32>,
        max: usize,
    ) -> Result<Batch<K, V>, DatapathError> {
        self.map
            .lookup_batch(cursor, max)
            .map_err(failed(self.name, "scan"))
    }

    /// Calls `see` with all elements, some at a time.
    pub(super) fn each_piece(&self, mut see: impl FnMut(Vec<(K, V)>)) -> Result<(), DatapathError> {
        let mut cursor = None;
        loop {
            let batch = self.piece(cursor, READ_BATCH)?;
            see(batch.entries);
            match batch.next {
                Some(next) => cursor = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// An update's error: the kernel says `E2BIG` when a hash map is full.
    fn not_stored(&self, error: BatchError) -> DatapathError {
        if error.source.raw_os_error() == Some(libc::E2BIG) {
            DatapathError::Full {
                map: self.name,
                done: error.done,
            }
        } else {
            failed(self.name, "update")(error.source)
        }
    }
}

impl<V: Pod> Named<u32, V> {
    /// The elements of an array, in order.
    pub(super) fn elements(&self) -> Result<Vec<V>, DatapathError> {
        let mut entries = self.all()?;
        entries.sort_unstable_by_key(|(index, _)| *index);
        Ok(entries.into_iter().map(|(_, value)| value).collect())
    }

    /// Stores elements of an array from `first` on.
    pub(super) fn put_from(&self, first: u32, values: &[V]) -> Result<(), DatapathError> {
        let keys: Vec<u32> = (first..).take(values.len()).collect();
        self.put_all(&keys, values)
    }
}

impl<K, V> AsFd for Named<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

pub(super) fn failed(
    map: &'static str,
    operation: &'static str,
) -> impl Fn(io::Error) -> DatapathError {
    move |source| DatapathError::Map {
        map,
        operation,
        source,
    }
}
