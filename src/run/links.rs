//! Which names of the source are one inode, and which inode of the destination stands for it: what `--hard-links` has to
//! remember. Only inodes with several names are here, and each is forgotten when its last name was seen.
//!
//! ```text
//!              join                 done                      join (again and again)
//!   unknown ─────────> pending ─────────────> made ─────────────────────────────────> forgotten
//!      ^                  │ lead dropped        │ the first name's inode takes no more links: replaced
//!      └──────────────────┘                     └──> made
//! ```
//!
//! **No deadlock.** Who leads is already at work and waits for no other inode; who waits here waits for a leader.
//! The table is split into stripes by hash; a lock is held for a lookup, never over an await.

use std::ffi::CStr;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender};
use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use nix::sys::stat::{major, minor};

use crate::model::Meta;

/// Enough that even with 128 cores two seldom meet.
const STRIPES: usize = 256;

/// What tells inodes of all filesystems apart. Packed, because there may be millions of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(Rust, packed(4))]
pub(super) struct InodeId {
    ino: u64,
    dev: u32,
}

impl From<&Meta> for InodeId {
    fn from(meta: &Meta) -> Self {
        Self {
            ino: meta.ino,
            dev: kernel_dev(meta.dev),
        }
    }
}

/// A device as the kernel has it: 12 bits of major and 20 of minor number.
fn kernel_dev(dev: u64) -> u32 {
    let numbers = (major(dev) << 20) | (minor(dev) & 0xf_ffff);
    u32::try_from(numbers & u64::from(u32::MAX)).unwrap_or(0)
}

/// The path of a directory of the destination, shared by all that is remembered there.
pub(super) type DirPath = Arc<Box<[u8]>>;

/// The inode of the destination that stands for one of the source, and one of its names.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub inode: InodeId,
    pub dir: DirPath,
    pub name: Box<CStr>,
}

enum State {
    Pending(Receiver<()>),
    Made(Made),
}

struct Group {
    source: InodeId,
    state: State,
    /// Names of the source that have not come yet.
    left: u32,
}

/// An inode of the destination that has several names, and the inode of the source that it stands for.
struct Claim {
    dest: InodeId,
    source: InodeId,
    left: u32,
}

#[derive(Default)]
struct Stripe {
    /// By source. Boxed, because a table is half empty when it has just grown.
    groups: HashTable<Box<Group>>,
    /// By destination.
    claims: HashTable<Box<Claim>>,
}

/// Everything that is remembered, for all shards.
pub(super) struct LinkTable {
    stripes: Box<[CachePadded<Mutex<Stripe>>]>,
    hasher: RandomState,
}

/// What a name of an inode with several names has to do.
pub(super) enum Turn {
    /// It is the first: it is transferred, and the others wait for it.
    Lead(Lead),
    /// It becomes a link to this.
    Follow(Made),
}

/// The duty to tell the others. Dropped without that (a failure), the next name leads.
pub(super) struct Lead {
    table: Arc<LinkTable>,
    source: InodeId,
    /// Closed when dropped: wakes those who wait.
    _wakes: Sender<()>,
    is_done: bool,
}

impl LinkTable {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            stripes: (0..STRIPES).map(|_| CachePadded::default()).collect(),
            hasher: RandomState::default(),
        })
    }

    /// The stripe for an inode, and its hash there.
    fn stripe(&self, inode: InodeId) -> (MutexGuard<'_, Stripe>, u64) {
        let hash = self.hasher.hash_one(inode);
        // Tables take the low bits and the topmost ones.
        let at = usize::try_from(hash >> 32).unwrap_or(0) % STRIPES;
        let lock = self.stripes[at].lock();
        // A panic elsewhere ends the run anyway.
        (lock.unwrap_or_else(PoisonError::into_inner), hash)
    }

    /// Announces one of `names` names of an inode. Waits while another name is being transferred for the first time.
    pub(super) async fn join(self: &Arc<Self>, source: InodeId, names: u32) -> Turn {
        loop {
            let pending = match self.try_join(source, names) {
                Ok(turn) => return turn,
                Err(pending) => pending,
            };
            // Nothing is sent: the end is the closing.
            let _ = pending.recv().await;
        }
    }

    fn try_join(self: &Arc<Self>, source: InodeId, names: u32) -> Result<Turn, Receiver<()>> {
        let (mut stripe, hash) = self.stripe(source);
        match stripe.groups.entry(
            hash,
            |group| group.source == source,
            |group| self.hasher.hash_one(group.source),
        ) {
            Entry::Vacant(vacant) => {
                let (wakes, pending) = async_channel::bounded(1);
                vacant.insert(Box::new(Group {
                    source,
                    state: State::Pending(pending),
                    left: names.saturating_sub(1),
                }));
                Ok(Turn::Lead(Lead {
                    table: self.clone(),
                    source,
                    _wakes: wakes,
                    is_done: false,
                }))
            }
            Entry::Occupied(mut group) => {
                let made = match &group.get().state {
                    State::Pending(pending) => return Err(pending.clone()),
                    State::Made(made) => made.clone(),
                };
                group.get_mut().left = group.get().left.saturating_sub(1);
                if group.get().left == 0 {
                    group.remove();
                }
                Ok(Turn::Follow(made))
            }
        }
    }

    /// From now on, other names are linked to this. Nothing when none is left to come.
    pub(super) fn set_made(&self, source: InodeId, made: Made) {
        let (mut stripe, hash) = self.stripe(source);
        if let Ok(mut group) = stripe
            .groups
            .find_entry(hash, |group| group.source == source)
        {
            if group.get().left == 0 {
                group.remove();
            } else {
                group.get_mut().state = State::Made(made);
            }
        }
    }

    fn withdraw(&self, source: InodeId) {
        let (mut stripe, hash) = self.stripe(source);
        let found = stripe
            .groups
            .find_entry(hash, |group| group.source == source);
        if let Ok(group) = found {
            group.remove();
        }
    }

    /// Whether an inode of the destination, which has `names` names, may stand for this one of the source: only one may.
    pub(super) fn claim(&self, dest: InodeId, names: u32, source: InodeId) -> bool {
        let (mut stripe, hash) = self.stripe(dest);
        match stripe.claims.entry(
            hash,
            |claim| claim.dest == dest,
            |claim| self.hasher.hash_one(claim.dest),
        ) {
            Entry::Vacant(vacant) => {
                if names > 1 {
                    vacant.insert(Box::new(Claim {
                        dest,
                        source,
                        left: names - 1,
                    }));
                }
                true
            }
            Entry::Occupied(mut claim) => {
                let is_ours = claim.get().source == source;
                claim.get_mut().left -= 1;
                if claim.get().left == 0 {
                    claim.remove();
                }
                is_ours
            }
        }
    }
}

impl Lead {
    pub(super) fn done(mut self, made: Made) {
        self.is_done = true;
        self.table.set_made(self.source, made);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if !self.is_done {
            self.table.withdraw(self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn inode(ino: u64) -> InodeId {
        InodeId { ino, dev: 1 }
    }

    fn made(ino: u64) -> Made {
        Made {
            inode: inode(ino),
            dir: Arc::new(Box::from(&b"dir"[..])),
            name: c"name".into(),
        }
    }

    fn groups(table: &LinkTable) -> usize {
        let count = |stripe: &CachePadded<Mutex<Stripe>>| stripe.lock().unwrap().groups.len();
        table.stripes.iter().map(count).sum()
    }

    fn join(table: &Arc<LinkTable>, source: u64, names: u32) -> Option<Turn> {
        table.join(inode(source), names).now_or_never()
    }

    fn lead(table: &Arc<LinkTable>, source: u64, names: u32) -> Lead {
        match join(table, source, names) {
            Some(Turn::Lead(lead)) => lead,
            _ => panic!("the first one leads"),
        }
    }

    #[test]
    fn names_follow_the_first_one_and_are_forgotten_after_the_last() {
        let table = LinkTable::new();
        let leader = lead(&table, 7, 3);
        assert!(join(&table, 7, 3).is_none(), "the leader is at work");
        leader.done(made(70));
        for _ in 0..2 {
            assert_eq!(groups(&table), 1);
            match join(&table, 7, 3) {
                Some(Turn::Follow(made)) => assert_eq!(made.inode, inode(70)),
                _ => panic!("it is made"),
            }
        }
        assert_eq!(groups(&table), 0);
    }

    #[test]
    fn after_a_failure_the_next_name_leads() {
        let table = LinkTable::new();
        let leader = lead(&table, 7, 2);
        let mut waiting = Box::pin(table.join(inode(7), 2));
        assert!((&mut waiting).now_or_never().is_none());
        drop(leader);
        assert!(matches!(waiting.now_or_never(), Some(Turn::Lead(_))));
    }

    #[test]
    fn a_full_inode_is_replaced_by_the_next() {
        let table = LinkTable::new();
        lead(&table, 7, 4).done(made(70));
        assert!(matches!(join(&table, 7, 4), Some(Turn::Follow(_))));
        table.set_made(inode(7), made(71));
        match join(&table, 7, 4) {
            Some(Turn::Follow(made)) => assert_eq!(made.inode, inode(71)),
            _ => panic!("it is made"),
        }
    }

    #[test]
    fn an_inode_of_the_destination_stands_for_one_of_the_source() {
        let table = LinkTable::new();
        assert!(table.claim(inode(70), 3, inode(7)));
        assert!(!table.claim(inode(70), 3, inode(8)));
        assert!(table.claim(inode(70), 3, inode(7)));
        assert!(
            table.claim(inode(70), 3, inode(8)),
            "forgotten with its last name"
        );
    }

    #[test]
    fn what_is_remembered_is_small() {
        assert!(size_of::<Group>() <= 56, "{}", size_of::<Group>());
        assert!(size_of::<Claim>() <= 32, "{}", size_of::<Claim>());
    }
}
