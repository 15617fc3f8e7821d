//! Other processes of a simulated world, which change trees while the engine works on them.

use std::ffi::CString;

use ringsync::error::Side;
use ringsync::model::Kind;

use super::watch::{basename, is_temp, parent};
use super::{CANARY_PATH, Inner, Inode, Rooted};

/// The first ones are names of the trees, too.
const NAMES: [&str; 6] = ["a", "b", "c", "new", "other", "z"];

/// What others do to a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Manner {
    #[default]
    Any,
    /// No file is changed where it is.
    NamesOnly,
    /// No name is given to something else, either.
    NewNames,
}

impl Inner {
    /// Now and then, something changes before an operation.
    pub(super) fn change_now_and_then(&mut self) {
        for (side, rate) in [
            (Side::Source, self.plan.source_changes),
            (Side::Destination, self.plan.dest_changes),
        ] {
            if rate > 0 && self.rng.below(1000) < rate {
                let manner = if side == Side::Source {
                    Manner::Any
                } else {
                    self.plan.dest_manner
                };
                self.change(side, manner);
            }
        }
    }

    pub(super) fn change(&mut self, side: Side, manner: Manner) {
        let all = self.all_below(side.root());
        // A file that another process writes under its temporary name is nobody else's to change.
        let mine = |path: &&String| !path.is_empty() && !is_temp(path);
        let paths: Vec<&String> = all.keys().filter(mine).collect();
        let path = if paths.is_empty() {
            String::new()
        } else {
            (*self.rng.pick(&paths)).clone()
        };
        self.watch.changes_made += 1;
        let is_dir = |number: &u64| self.inodes[number].kind == Kind::Dir;
        let may_rewrite = manner == Manner::Any || all.get(&path).is_some_and(is_dir);
        match self.rng.below(8) {
            0 | 1 if !path.is_empty() => self.take_out(side, &path),
            _ if manner == Manner::NewNames => self.appear(side, &NAMES[3..]),
            2 | 3 if !path.is_empty() && may_rewrite => self.rewrite(side, all[&path]),
            4 if !path.is_empty() => self.supplant(side, &path),
            5 if !path.is_empty() => self.move_away(side, &path, all[&path]),
            _ => self.appear(side, &NAMES),
        }
        if side == Side::Source {
            self.note_contents();
        }
    }

    fn put(&mut self, side: Side, path: &str, number: u64) {
        let dir = self.all_below(side.root())[parent(path)];
        let now = self.now();
        let name = CString::new(basename(path)).unwrap();
        let inode = self.inodes.get_mut(&dir).unwrap();
        (inode.mtime, inode.ctime) = (now, now);
        inode.entries.insert(name, number);
        let inode = self.inodes.get_mut(&number).unwrap();
        inode.parent = dir;
        inode.ctime = now;
        inode.nlink += 1;
        if side == Side::Source {
            self.watch.source_changed(path);
        }
    }

    pub(super) fn take_out(&mut self, side: Side, path: &str) {
        let dir = self.all_below(side.root())[parent(path)];
        let now = self.now();
        let name = CString::new(basename(path)).unwrap();
        let inode = self.inodes.get_mut(&dir).unwrap();
        (inode.mtime, inode.ctime) = (now, now);
        let number = inode.entries.remove(&name).unwrap();
        self.forget_tree(number);
        self.inodes.get_mut(&number).unwrap().ctime = now;
        self.watch.gone(side, path);
    }

    /// What was unlinked with a tree takes no new names.
    fn forget_tree(&mut self, number: u64) {
        let children: Vec<u64> = self.inodes[&number].entries.values().copied().collect();
        for child in children {
            self.forget_tree(child);
        }
        let inode = self.inodes.get_mut(&number).unwrap();
        inode.nlink -= 1;
        inode.entries.clear();
    }

    /// In place: other bytes, another size more often than not.
    fn rewrite(&mut self, side: Side, number: u64) {
        let now = self.now();
        let keep_len = self.rng.chance(30);
        let len = self.rng.below(40);
        let inode = self.inodes.get_mut(&number).unwrap();
        match inode.kind {
            Kind::File => {
                let len = if keep_len { inode.data.len() } else { len };
                inode.data = self.rng.bytes(len);
            }
            Kind::Symlink => {}
            _ => inode.mode ^= 0o011,
        }
        (inode.mtime, inode.ctime) = (now, now);
        if side == Side::Destination || inode.kind == Kind::Dir {
            return;
        }
        for (name, other) in self.all_below(side.root()) {
            if other == number {
                self.watch.source_changed(&name);
            }
        }
    }

    fn supplant(&mut self, side: Side, path: &str) {
        self.take_out(side, path);
        let number = self.random_inode();
        self.put(side, path, number);
    }

    fn appear(&mut self, side: Side, names: &[&str]) {
        let all = self.all_below(side.root());
        let dirs: Vec<&String> = all
            .iter()
            .filter(|(_, number)| self.inodes[number].kind == Kind::Dir)
            .map(|(path, _)| path)
            .collect();
        let dir = (*self.rng.pick(&dirs)).clone();
        let path = super::join(&dir, names[self.rng.below(names.len())]);
        if !all.contains_key(&path) {
            let number = self.random_inode();
            self.put(side, &path, number);
        }
    }

    /// To another name in the same directory, which a listing may have passed already.
    fn move_away(&mut self, side: Side, path: &str, number: u64) {
        let to = super::join(parent(path), NAMES[self.rng.below(NAMES.len())]);
        if self.all_below(side.root()).contains_key(&to) {
            return;
        }
        let dir = self.all_below(side.root())[parent(path)];
        let name = CString::new(basename(path)).unwrap();
        self.inodes.get_mut(&dir).unwrap().entries.remove(&name);
        self.inodes.get_mut(&number).unwrap().nlink -= 1;
        self.put(side, &to, number);
        self.watch.gone(side, path);
    }

    fn random_inode(&mut self) -> u64 {
        let now = self.now();
        let kind = *self
            .rng
            .pick(&[Kind::File, Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo]);
        let mut inode = Inode::new(kind, 0o755, now);
        inode.data = match kind {
            Kind::File => {
                let len = self.rng.below(40);
                self.rng.bytes(len)
            }
            Kind::Symlink => CANARY_PATH.as_bytes().to_vec(),
            _ => Vec::new(),
        };
        self.insert(inode)
    }
}
