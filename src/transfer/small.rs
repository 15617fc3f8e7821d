//! Small new files where calls return at once: all of a file's operations in one go.

use super::buffers::BUFFER_BYTES;
use super::{Copied, Failure, Fsync, Lane, Place, Reflink, WriteMode};
use crate::io::{InOneGo, Links, SmallCopy};
use crate::model::{Kind, Meta};

const SET_ID_BITS: u32 = 0o6000;
/// After so many files in a row that could not be copied so, a lane does not try again: there may be attributes that cannot be
/// set on this destination, and all would be written twice.
const REFUSED_MAX: u32 = 16;

impl Lane {
    /// Copies a file in one go. `None`: this is not the way for it, and nothing was done.
    ///
    /// # Errors
    /// What failed when a complete file was to get its name; the destination then has what it had before.
    pub(super) async fn copy_in_one_go(
        &self,
        place: Place<'_>,
        wanted: &Meta,
        existing: Option<&Meta>,
    ) -> Option<Result<Copied, Failure>> {
        if !self.may_go_in_one(place, wanted) {
            return None;
        }
        let is_atomic = match self.options.write_mode {
            WriteMode::Atomic => true,
            WriteMode::Whole => return None,
            WriteMode::Direct | WriteMode::InPlace => {
                if existing.is_some() || place.way.is_some() {
                    return None;
                }
                false
            }
        };
        let temp = is_atomic.then(|| self.temp_names.next(place.name));
        let kept = existing.filter(|meta| meta.kind == Kind::File);
        let change = |made: &Meta| self.change_for(wanted, made, kept);
        let copy = SmallCopy {
            source: place.source,
            dest: place.dest,
            name: place.name,
            wanted,
            made: temp.as_deref().unwrap_or(place.name),
            mode: self.mode_to_make(wanted),
            is_temp: temp.is_some(),
            change: &change,
        };
        let mut buffer = self.buffers.take();
        let copied = self.dest.copy_small(&copy, &mut buffer);
        self.buffers.give_back(buffer);
        match copied {
            InOneGo::Copied => self.refused_in_a_row.set(0),
            InOneGo::NotNow => return None,
            InOneGo::Refused => {
                self.refused_in_a_row.set(self.refused_in_a_row.get() + 1);
                return None;
            }
        }
        if let Some(temp) = temp
            && let Err(failure) = self.replace(place, temp.clone(), existing).await
        {
            self.discard(place.dest, &temp).await;
            return Some(Err(failure));
        }
        Some(Ok(Copied {
            bytes: wanted.size,
            ..Copied::default()
        }))
    }

    /// Whether nothing about a file asks for more than its bytes and its attributes of old.
    fn may_go_in_one(&self, place: Place<'_>, wanted: &Meta) -> bool {
        let options = &self.options;
        let filesystems = (place.source.dev(), place.dest.dev());
        // One file goes the ordinary way first, to find out.
        let cannot_be_shared = options.reflink == Reflink::Never
            || options.reflink == Reflink::Auto && self.unclonable.borrow().contains(&filesystems);
        wanted.kind == Kind::File
            && wanted.size <= BUFFER_BYTES as u64
            && !wanted.has_holes
            && wanted.mode & SET_ID_BITS == 0
            && place.links == Links::Refuse
            && cannot_be_shared
            && self.refused_in_a_row.get() < REFUSED_MAX
            && options.policy.extended.is_nothing()
            && options.fsync == Fsync::None
            && !options.sparse
            && !options.verify
    }
}
