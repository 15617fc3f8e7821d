//! Finds the entry of a listing by its name: the object index of one directory, or of one shard's part of it.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use crate::model::Listing;

/// Positions of entries, by the hash of their names. Names and entries stay in the listing.
#[derive(Debug)]
pub struct NameIndex {
    table: HashTable<u32>,
    hasher: RandomState,
}

impl NameIndex {
    #[must_use]
    pub fn new(hasher: RandomState) -> Self {
        Self {
            table: HashTable::new(),
            hasher,
        }
    }

    /// Adds the entry at `at`; `false` when the listing has that name already, as a directory that changes while it
    /// is read may list a name twice.
    pub fn insert(&mut self, listing: &Listing, at: usize) -> bool {
        let name = listing.name_bytes(&listing.entries[at]);
        let hash = self.hasher.hash_one(name);
        if self.position(listing, hash, name).is_some() {
            return false;
        }
        let Ok(position) = u32::try_from(at) else {
            return false;
        };
        self.table.insert_unique(hash, position, |&position| {
            let entry = &listing.entries[position as usize];
            self.hasher.hash_one(listing.name_bytes(entry))
        });
        true
    }

    /// The position of `name` in `listing`.
    #[must_use]
    pub fn find(&self, listing: &Listing, name: &[u8]) -> Option<usize> {
        self.position(listing, self.hasher.hash_one(name), name)
    }

    fn position(&self, listing: &Listing, hash: u64, name: &[u8]) -> Option<usize> {
        self.table
            .find(hash, |&position| {
                listing.name_bytes(&listing.entries[position as usize]) == name
            })
            .map(|&position| position as usize)
    }

    /// Makes room for so many more names.
    pub fn reserve(&mut self, listing: &Listing, additional: usize) {
        self.table.reserve(additional, |&position| {
            let entry = &listing.entries[position as usize];
            self.hasher.hash_one(listing.name_bytes(entry))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_name_once() {
        let mut listing = Listing::default();
        let mut index = NameIndex::new(RandomState::default());
        for i in 0..1000 {
            let name = std::ffi::CString::new(format!("name{i}")).unwrap();
            assert!(listing.push(&name, i, None));
        }
        listing.push(c"name7", 1000, None);
        index.reserve(&listing, 1001);
        for at in 0..1000 {
            assert!(index.insert(&listing, at));
        }
        assert!(
            !index.insert(&listing, 1000),
            "a name that was listed twice"
        );
        assert_eq!(index.find(&listing, b"name999"), Some(999));
        assert_eq!(index.find(&listing, b"name1000"), None);
    }
}
