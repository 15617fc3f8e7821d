//! What a sync must lead to, said a second time: whole trees at once, in memory, with none of the engine's code.

use std::collections::{BTreeMap, BTreeSet};

use ringsync::model::{Kind, Policy, Time};
use ringsync::run::{Delete, Job};

use crate::simfs::watch::{basename, is_temp, is_within, parent};
use crate::simfs::{Seen, Tree, join};

/// What the destination becomes.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) tree: Tree,
    /// Entries whose time nobody has promised.
    any_time: BTreeSet<String>,
    /// Files of the source, by path: those with the same label become one inode.
    labels: BTreeMap<String, String>,
    /// A full directory had to stay where another kind should be.
    pub(crate) in_the_way: BTreeSet<String>,
}

struct Model<'a> {
    source: &'a Tree,
    dest: &'a Tree,
    policy: &'a Policy,
    delete: bool,
    supplant_trees: bool,
    umask: u32,
    expected: Expected,
}

pub(crate) fn expected(source: &Tree, dest: &Tree, job: &Job) -> Expected {
    let delete = job.delete != Delete::Never;
    let mut model = Model {
        source,
        dest,
        policy: &job.policy,
        delete,
        supplant_trees: job.force || delete,
        umask: job.umask,
        expected: Expected::default(),
    };
    model.directory("", false);
    model.expected.join_links();
    model.expected
}

fn names<'a>(tree: &'a Tree, dir: &'a str) -> impl Iterator<Item = &'a str> {
    tree.keys()
        .filter(move |path| !path.is_empty() && parent(path) == dir)
        .map(|path| basename(path))
}

fn has_children(tree: &Tree, dir: &str) -> bool {
    names(tree, dir).next().is_some()
}

impl Model<'_> {
    fn directory(&mut self, path: &str, made: bool) {
        let of_dest = if made { None } else { self.dest.get(path) };
        let source = &self.source[path];
        let (dressed, timed) = match of_dest {
            Some(old) => self.repaired(source, old),
            None => self.made(source, None),
        };
        self.put(path, dressed, timed);
        let mut all: BTreeSet<&str> = names(self.source, path).collect();
        if !made {
            all.extend(names(self.dest, path));
        }
        for name in all {
            let child = join(path, name);
            let old = if made { None } else { self.dest.get(&child) };
            match (self.source.get(&child), old) {
                (Some(new), old) => self.entry(&child, new, old),
                (None, Some(old)) => self.extraneous(&child, old),
                (None, None) => unreachable!("a name comes from somewhere"),
            }
        }
    }

    fn put(&mut self, path: &str, entry: Seen, timed: bool) {
        if entry.kind == Kind::File {
            let link = self.source[path].link.clone();
            let label = if link.is_empty() || !self.policy.carry_links {
                path.to_owned()
            } else {
                link
            };
            self.expected.labels.insert(path.to_owned(), label);
        }
        if !timed {
            self.expected.any_time.insert(path.to_owned());
        }
        self.expected.tree.insert(path.to_owned(), entry);
    }

    fn keep(&mut self, path: &str) {
        let kept = self.dest.iter().filter(|(known, _)| is_within(known, path));
        for (known, entry) in kept {
            self.expected.tree.insert(known.clone(), entry.clone());
        }
    }

    fn extraneous(&mut self, path: &str, old: &Seen) {
        let stray = is_temp(path) && old.kind != Kind::Dir;
        if !(self.delete || stray) {
            self.keep(path);
        }
    }

    fn entry(&mut self, path: &str, new: &Seen, old: Option<&Seen>) {
        let policy = self.policy;
        let is_device = matches!(new.kind, Kind::CharDevice | Kind::BlockDevice);
        let is_special = matches!(new.kind, Kind::Fifo | Kind::Socket);
        let carried =
            (policy.carry_devices || !is_device) && (policy.carry_specials || !is_special);
        let both_dirs = new.kind == Kind::Dir && old.is_some_and(|old| old.kind == Kind::Dir);
        match old {
            _ if !carried => self.keep(path),
            None if policy.only_existing => {}
            None => self.make(path, new, None),
            Some(_) if policy.only_missing && !both_dirs => self.keep(path),
            Some(_) if both_dirs => self.directory(path, false),
            Some(old) if old.kind != new.kind => {
                let full = old.kind == Kind::Dir && has_children(self.dest, path);
                if full && !self.supplant_trees {
                    self.expected.in_the_way.insert(path.to_owned());
                    self.keep(path);
                } else {
                    self.make(path, new, None);
                }
            }
            Some(old) if self.leaves_newer(new, old) => self.keep(path),
            Some(old) if self.differs(new, old) => self.make(path, new, Some(old)),
            Some(old) => {
                let (entry, timed) = self.repaired(new, old);
                self.put(path, entry, timed);
            }
        }
    }

    fn make(&mut self, path: &str, new: &Seen, old: Option<&Seen>) {
        if new.kind == Kind::Dir {
            return self.directory(path, true);
        }
        let (entry, timed) = self.made(new, old);
        self.put(path, entry, timed);
    }

    fn leaves_newer(&self, new: &Seen, old: &Seen) -> bool {
        self.policy.keep_newer
            && new.kind == Kind::File
            && !self.same_time(new.mtime, old.mtime)
            && old.mtime > new.mtime
    }

    fn differs(&self, new: &Seen, old: &Seen) -> bool {
        match new.kind {
            Kind::Symlink => new.data != old.data,
            Kind::CharDevice | Kind::BlockDevice => new.rdev != old.rdev,
            Kind::File if new.data.len() != old.data.len() || self.policy.copy_always => true,
            Kind::File if self.policy.compare_contents => new.data != old.data,
            Kind::File if self.policy.compare_size_only => false,
            Kind::File => !self.same_time(new.mtime, old.mtime),
            _ => false,
        }
    }

    fn same_time(&self, a: Time, b: Time) -> bool {
        match self.policy.modify_window_s {
            0 => a.sec == b.sec && (a.nsec == b.nsec || a.nsec == 0 || b.nsec == 0),
            window => (a.sec - b.sec).abs() <= i64::from(window),
        }
    }

    /// A new inode in place of nothing, or of a file. Whether its time is promised.
    fn made(&self, new: &Seen, old: Option<&Seen>) -> (Seen, bool) {
        let policy = self.policy;
        let mut entry = new.clone();
        if !policy.carry_mode && new.kind != Kind::Symlink {
            let fresh = new.mode & 0o777 & !self.umask;
            let old = old.filter(|old| old.kind == Kind::File);
            entry.mode = old.map_or(fresh, |old| old.mode);
        }
        if !policy.carry_owner {
            entry.uid = 0;
        }
        if !policy.carry_group {
            entry.gid = 0;
        }
        entry.xattrs.retain(|name, _| policy.extended.wants(name));
        (entry, policy.carry_times)
    }

    /// The same inode with other attributes.
    fn repaired(&self, new: &Seen, old: &Seen) -> (Seen, bool) {
        let policy = self.policy;
        let mut entry = old.clone();
        if policy.carry_mode {
            entry.mode = new.mode;
        }
        if policy.carry_owner {
            entry.uid = new.uid;
        }
        if policy.carry_group {
            entry.gid = new.gid;
        }
        if policy.carry_times {
            entry.mtime = new.mtime;
        }
        entry.xattrs.retain(|name, _| !policy.extended.wants(name));
        let carried = new.xattrs.iter();
        let carried = carried.filter(|(name, _)| policy.extended.wants(name));
        entry
            .xattrs
            .extend(carried.map(|(name, value)| (name.clone(), value.clone())));
        (entry, policy.carry_times || new.kind != Kind::Dir)
    }
}

impl Expected {
    /// Names with one label become names of one inode, known by the first of them.
    fn join_links(&mut self) {
        let mut groups: BTreeMap<&String, Vec<&String>> = BTreeMap::new();
        for (path, label) in &self.labels {
            groups.entry(label).or_default().push(path);
        }
        for paths in groups.values() {
            for path in paths {
                if let Some(entry) = self.tree.get_mut(*path) {
                    entry.link = match paths.len() {
                        1 => String::new(),
                        _ => paths[0].clone(),
                    };
                }
            }
        }
    }

    /// How one path of the destination differs from what it should be; `None` when it does not.
    pub(crate) fn difference(
        &self,
        dest: &Tree,
        path: &str,
        policy: &Policy,
        with_links: bool,
    ) -> Option<String> {
        let (should, is) = match (self.tree.get(path), dest.get(path)) {
            (None, None) => return None,
            (Some(should), None) => return Some(format!("{path:?} lacks: {}", show(should))),
            (None, Some(is)) => return Some(format!("{path:?} is extra: {}", show(is))),
            (Some(should), Some(is)) => (should, is),
        };
        if !self.labels.contains_key(path) && !should.link.is_empty() {
            // Kept, and a name of an inode that is synced under another name.
            let kept = (should.kind, &should.data) == (is.kind, &is.data);
            return (!kept).then(|| format!("{path:?} is {}", show(is)));
        }
        let same_time = self.any_time.contains(path) || policy.times_equal(should.mtime, is.mtime);
        let shares_inode = policy.carry_links && self.labels.contains_key(path);
        let comparable = |entry: &Seen, link: String| {
            let mut entry = entry.clone();
            entry.mtime = Time::default();
            entry.link = if with_links { link } else { String::new() };
            entry.xattrs.retain(|name, _| {
                // A chown takes it away, and whose attributes that nobody carries a joined inode keeps is open.
                let may_go = shares_inode || name.as_c_str() == c"security.capability";
                !may_go || policy.extended.wants(name)
            });
            if shares_inode && !policy.compare_contents && !should.link.is_empty() {
                // Names that looked equal were joined: it has the bytes of one of them.
                entry.data.fill(0);
            }
            entry
        };
        let (ours, theirs) = if shares_inode {
            let link = self.link_among_synced(dest, path);
            (
                comparable(should, should.link.clone()),
                comparable(is, link),
            )
        } else {
            (
                comparable(should, String::new()),
                comparable(is, String::new()),
            )
        };
        (!same_time || ours != theirs)
            .then(|| format!("{path:?} is {}, should be {}", show(is), show(should)))
    }

    /// The first name of the same inode, of those that the source has: others do not count.
    fn link_among_synced(&self, dest: &Tree, path: &str) -> String {
        let link = &dest[path].link;
        let mut same = self.labels.keys().filter(|other| {
            !link.is_empty() && dest.get(*other).is_some_and(|entry| entry.link == *link)
        });
        match (same.next(), same.next()) {
            (Some(first), Some(_)) => first.clone(),
            _ => String::new(),
        }
    }

    /// All differences.
    pub(crate) fn differences(&self, dest: &Tree, policy: &Policy) -> Vec<String> {
        let paths: BTreeSet<&String> = self.tree.keys().chain(dest.keys()).collect();
        paths
            .into_iter()
            .filter_map(|path| self.difference(dest, path, policy, true))
            .collect()
    }
}

/// A tree for a failing test.
pub(crate) fn list(tree: &Tree) -> String {
    let line = |(path, entry): (&String, &Seen)| format!("\n  {path:?} {}", show(entry));
    tree.iter().map(line).collect()
}

pub(crate) fn show(entry: &Seen) -> String {
    let Seen {
        kind,
        mode,
        uid,
        gid,
        mtime,
        data,
        rdev,
        xattrs,
        link,
    } = entry;
    let start: String = data[..data.len().min(8)].escape_ascii().to_string();
    format!(
        "{kind:?} {mode:o} {uid}:{gid} {}.{} rdev {rdev} {} bytes {start} {xattrs:?} {link:?}",
        mtime.sec,
        mtime.nsec,
        data.len()
    )
}
