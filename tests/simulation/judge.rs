//! What must hold after a run in which things went wrong.

use std::collections::BTreeSet;

use nix::errno::Errno;
use ringsync::error::{Cause, Class, Error, OpKind, Side};
use ringsync::model::Kind;
use ringsync::run::Job;
use ringsync::throttle::Reason;

use crate::model::{Expected, expected};
use crate::simfs::watch::{Injected, final_path, is_temp, is_within, parent};
use crate::simfs::{Tree, World};
use crate::simrun::Ended;

/// One run, and what was there before it.
pub(crate) struct Case<'a> {
    pub(crate) world: &'a World,
    pub(crate) source: Tree,
    pub(crate) dest: Tree,
    pub(crate) canary: Tree,
    pub(crate) job: &'a Job,
    pub(crate) wants_items: bool,
}

type Verdict = Result<(), String>;

fn require(holds: bool, text: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(text()) }
}

/// One a line, for a failing test.
fn lines(all: impl Iterator<Item = impl ToString>) -> String {
    let all: Vec<String> = all.map(|one| one.to_string()).collect();
    format!("\n  {}", all.join("\n  "))
}

fn path_of(error: &Error) -> &str {
    std::str::from_utf8(&error.path).unwrap()
}

fn errno_of(error: &Error) -> Option<Errno> {
    match error.cause {
        Cause::Errno(errno) | Cause::CopiedInstead(errno) => Some(errno),
        _ => None,
    }
}

fn is_of_attributes(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::SetOwner | OpKind::SetMode | OpKind::SetXattrs | OpKind::SetTimes
    )
}

/// Something that is not a file any more is told as what changes.
fn replaced(failure: &Injected, error: &Error) -> bool {
    (failure.kind, failure.errno) == (OpKind::Open, Errno::ELOOP)
        && matches!(error.cause, Cause::Changing | Cause::Replaced)
}

impl Case<'_> {
    /// What holds whatever happens: nothing outside is touched, the source stays, removals are justified, and nothing
    /// has its final name that is not complete or reported.
    pub(crate) fn judge_always(&self, ended: &Ended) -> Verdict {
        let watched = self.world.watched();
        require(watched.violations.is_empty(), || {
            format!("violations: {:#?}", watched.violations)
        })?;
        require(self.world.canary() == self.canary, || {
            String::from("the canary was touched")
        })?;
        let changing: BTreeSet<&str> = ended
            .errors
            .iter()
            .filter(|error| error.cause == Cause::Changing)
            .map(path_of)
            .collect();
        let untold = watched
            .torn
            .iter()
            .find(|path| !changing.contains(path.as_str()));
        require(untold.is_none(), || {
            format!("{untold:?} was installed torn and not reported")
        })
    }

    /// What holds when operations failed but nobody else changed anything.
    pub(crate) fn judge_faults(&self, ended: &Ended) -> Verdict {
        let watched = self.world.watched();
        self.judge_always(ended)?;
        require(self.world.seen(Side::Source) == self.source, || {
            String::from("the source was changed")
        })?;
        let expected = expected(&self.source, &self.dest, self.job);
        self.judge_reports(ended, &watched.injected, &expected)?;
        self.judge_exit_code(ended, &watched.injected, &expected)?;
        if ended.outcome.cancelled.is_none() {
            self.judge_what_others_got(&watched.injected, &expected)?;
        }
        Ok(())
    }

    /// Every failure is told once, with its side and path, and nothing else is told.
    fn judge_reports(&self, ended: &Ended, injected: &[Injected], expected: &Expected) -> Verdict {
        let mut told: Vec<&Error> = ended.errors.iter().collect();
        let mut untold: Vec<&Injected> = injected.iter().collect();
        // Those of the same operation first: of two failures of one entry, an error belongs to the one that it names.
        for same_operation in [true, false] {
            untold.retain(|failure| {
                let path = self.told_path(&failure.path);
                let tells = |error: &&Error| {
                    let told = path_of(error);
                    (!same_operation || error.op == failure.kind)
                        && error.side == failure.side
                        && (errno_of(error) == Some(failure.errno) || replaced(failure, error))
                        && (told == path
                            || told == failure.path
                            || self.goes_as_a_whole(told, &path)
                            || self.was_to_open_up(failure, told)
                            || self.was_to_link(failure, told))
                };
                let at = told.iter().position(tells);
                at.map(|at| told.remove(at)).is_none()
            });
        }
        // Asked once more before a removal; that it is not there is what the source says anyway.
        let asked = |failure: &Injected| {
            failure.kind == OpKind::Stat
                && failure.side == Side::Source
                && failure.errno == Errno::ENOENT
                && !self.source.contains_key(&failure.path)
        };
        // Of several attributes that could not be read or set, one is told, or what went wrong with the entry afterwards.
        let told_otherwise = |failure: &Injected| {
            let path = self.told_path(&failure.path);
            let dresses = is_of_attributes(failure.kind) || failure.kind == OpKind::ReadXattrs;
            dresses && ended.errors.iter().any(|error| path_of(error) == path)
        };
        untold.retain(|failure| !told_otherwise(failure));
        untold.retain(|failure| !asked(failure) && !self.may_be_silent(failure, injected));
        require(untold.is_empty(), || {
            let told = lines(ended.errors.iter());
            let (untold, all) = (lines(untold.iter().copied()), lines(injected.iter()));
            format!("not told: {untold}\ntold: {told}\ninjected: {all}")
        })?;
        // What a first attempt made could not be removed, and is in the way of the second one.
        let left_in_the_way = |error: &Error| {
            (error.op, errno_of(error)) == (OpKind::Create, Some(Errno::EEXIST))
                && injected.iter().any(|failure| {
                    (failure.kind, failure.path.as_str()) == (OpKind::Unlink, path_of(error))
                })
        };
        told.retain(|error| {
            let in_the_way = error.cause == Cause::DirectoryInTheWay
                && expected.in_the_way.contains(path_of(error));
            !in_the_way && !left_in_the_way(error)
        });
        require(told.is_empty(), || {
            let told = lines(told.into_iter());
            format!(
                "told without a reason: {told}\ninjected: {}",
                lines(injected.iter())
            )
        })
    }

    /// A temporary file is told by the name that it was to have.
    fn told_path(&self, path: &str) -> String {
        if self.source.contains_key(path) || self.dest.contains_key(path) {
            path.to_owned()
        } else {
            final_path(path)
        }
    }

    /// Whether `above` is a tree with `path` in it that is removed because something else takes its place.
    fn goes_as_a_whole(&self, above: &str, path: &str) -> bool {
        let is_dir = |tree: &Tree| tree.get(above).is_some_and(|entry| entry.kind == Kind::Dir);
        is_within(path, above)
            && is_dir(&self.dest)
            && self.source.contains_key(above)
            && !is_dir(&self.source)
    }

    /// Whether the failure kept a directory from being opened up for the sake of an entry.
    fn was_to_open_up(&self, failure: &Injected, told: &str) -> bool {
        failure.kind == OpKind::SetMode && !self.job.privileged && parent(told) == failure.path
    }

    /// Whether the failure kept a name from becoming a link to another one in that directory.
    fn was_to_link(&self, failure: &Injected, told: &str) -> bool {
        let source = self.source.get(told);
        failure.kind == OpKind::OpenDir
            && failure.side == Side::Destination
            && source.is_some_and(|entry| !entry.link.is_empty())
    }

    /// Failures after which the engine has another way, or nothing to add to what it tells already.
    fn may_be_silent(&self, failure: &Injected, all: &[Injected]) -> bool {
        let Injected {
            side,
            kind,
            path,
            errno,
            ..
        } = failure;
        let told_for_directory = |other: &Injected| {
            other.kind == OpKind::OpenDir
                && other.side == Side::Source
                && is_within(path, &other.path)
        };
        match kind {
            // A file that went stale is opened again, and copied from its beginning.
            OpKind::Read | OpKind::SeekData | OpKind::Stat | OpKind::ReadXattrs
                if (*side, *errno) == (Side::Source, Errno::ESTALE) =>
            {
                true
            }
            OpKind::Clone | OpKind::CopyRange => matches!(
                errno,
                Errno::EXDEV
                    | Errno::EINVAL
                    | Errno::EOPNOTSUPP
                    | Errno::ENOSYS
                    | Errno::ETXTBSY
                    | Errno::EPERM
            ),
            // It was only read.
            OpKind::Close => *side == Side::Source,
            // The clearing up after another failure.
            OpKind::Unlink if is_temp(path) => !self.dest.contains_key(path),
            OpKind::Unlink => all.iter().any(|other| {
                let writes = matches!(
                    other.kind,
                    OpKind::Write | OpKind::Close | OpKind::Clone | OpKind::CopyRange
                );
                let dresses = is_of_attributes(other.kind);
                let reads = matches!(other.kind, OpKind::Read | OpKind::Stat);
                other.path == *path && (writes || dresses || reads)
            }),
            // Asked for display only.
            OpKind::ReadLink => self.wants_items && *side == Side::Source,
            // A closed directory is asked for its attributes, in case it tells them.
            OpKind::Stat | OpKind::OpenDir => all
                .iter()
                .any(|other| other != failure && told_for_directory(other)),
            _ => false,
        }
    }

    fn judge_exit_code(
        &self,
        ended: &Ended,
        injected: &[Injected],
        expected: &Expected,
    ) -> Verdict {
        let class = |class| ended.errors.iter().any(|error| error.class() == class);
        let code = match () {
            () if class(Class::Fatal) => 11,
            () if class(Class::Entry) => 23,
            () if class(Class::Vanished) => 24,
            () => 0,
        };
        require(ended.exit_code == code, || {
            format!(
                "exit code {} for {}",
                ended.exit_code,
                lines(ended.errors.iter())
            )
        })?;
        let stopped = ended.outcome.cancelled == Some(Reason::Fatal);
        require(stopped == (code == 11), || {
            format!(
                "cancelled {:?} with exit code {code}",
                ended.outcome.cancelled
            )
        })?;
        if code == 0 && !class(Class::Warning) {
            let dest = self.world.seen(Side::Destination);
            let differences = expected.differences(&dest, &self.job.policy);
            require(differences.is_empty(), || {
                format!(
                    "exit code 0, but {differences:#?}\ninjected: {}",
                    lines(injected.iter())
                )
            })?;
        }
        Ok(())
    }

    /// One bad entry costs only itself and what is below it.
    fn judge_what_others_got(&self, injected: &[Injected], expected: &Expected) -> Verdict {
        let dest = self.world.seen(Side::Destination);
        let paths: BTreeSet<&String> = expected.tree.keys().chain(dest.keys()).collect();
        let failures: Vec<(OpKind, String)> = injected
            .iter()
            .map(|failure| (failure.kind, self.told_path(&failure.path)))
            .collect();
        let harmed = |path: &str| {
            self.same_inode(path).any(|path| {
                failures
                    .iter()
                    .any(|(kind, failed)| self.is_harmed(path, *kind, failed, expected))
            })
        };
        for path in paths {
            if is_temp(path) && !self.source.contains_key(path) && !injected.is_empty() {
                continue;
            }
            if let Some(text) = expected.difference(&dest, path, &self.job.policy, false)
                && !harmed(path)
            {
                return Err(format!("{text}\ninjected: {}", lines(injected.iter())));
            }
        }
        Ok(())
    }

    /// All names that share what happens to one of them.
    fn same_inode<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a str> {
        let link = |path: &str| {
            let entry = self
                .source
                .get(path)
                .filter(|_| self.job.policy.carry_links);
            entry.map_or("", |entry| &entry.link)
        };
        let own = link(path);
        let others = self.source.keys().map(String::as_str);
        let others = others.filter(move |other| !own.is_empty() && link(other) == own);
        std::iter::once(path).chain(others)
    }

    /// Whether a failure may cost this path.
    fn is_harmed(&self, path: &str, kind: OpKind, failed: &str, expected: &Expected) -> bool {
        let is_dir =
            |tree: &Tree, path: &str| tree.get(path).is_some_and(|entry| entry.kind == Kind::Dir);
        // Root does not need the mode to go on below.
        let of_attributes = self.job.privileged && is_of_attributes(kind);
        // A look at the source before a removal decides about all removals of its directory.
        let is_extra = |path: &str| !self.source.contains_key(path);
        if kind == OpKind::Stat
            && (is_extra(failed) || is_dir(&self.source, failed))
            && is_extra(path)
            && (is_within(path, parent(failed)) || is_within(path, failed))
        {
            return true;
        }
        if path == failed || (is_within(path, failed) && !of_attributes) {
            return true;
        }
        if is_within(failed, path) {
            // Directories above the failure are there with their attributes all the same, if they were to stay.
            return !is_dir(&expected.tree, path);
        }
        // Such a tree goes from top to bottom, or stops at the failure.
        self.dest
            .keys()
            .filter(|above| is_within(path, above))
            .any(|above| self.goes_as_a_whole(above, failed))
    }

    /// What holds when others changed the source meanwhile, and nothing failed by itself: entries that nobody touched are synced.
    pub(crate) fn judge_untouched(&self, ended: &Ended) -> Verdict {
        self.judge_always(ended)?;
        let watched = self.world.watched();
        let (source, dest) = (
            self.world.seen(Side::Source),
            self.world.seen(Side::Destination),
        );
        if watched.omitted > 0 {
            // What no listing shows, nobody can sync.
            return Ok(());
        }
        let expected = expected(&self.source, &self.dest, self.job);
        for (path, entry) in &self.source {
            let stays = watched.is_stable(path) && source.get(path) == Some(entry);
            if entry.kind != Kind::File || !stays {
                continue;
            }
            if let Some(text) = expected.difference(&dest, path, &self.job.policy, false) {
                let told = lines(ended.errors.iter());
                return Err(format!("nobody touched it, but {text}\ntold: {told}"));
            }
        }
        Ok(())
    }
}
