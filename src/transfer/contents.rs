//! The bytes of files: sharing, copying and comparing them, with their holes.

use std::ops::Range;
use std::rc::Rc;

use nix::errno::Errno;
use xxhash_rust::xxh3::Xxh3;

use super::buffers::{BUFFER_BYTES, Buffers};
use super::large::LARGE_BYTES_MIN;
use super::partial::Partial;
use super::{Copied, Failure, Lane, Reflink, Spread, WriteMode};
use crate::error::Side;
use crate::io::{Buffer, DIRECT_BYTES, Fs, Handle, Op, OpError, Reply};
use crate::model::Meta;
use crate::throttle::Cancel;

/// Up to here one read and one write are cheaper than copy_file_range, which asks both files for ranges and locks.
const COPY_RANGE_BYTES_MIN: u64 = 128 * 1024;
/// One copy_file_range call: about a millisecond of memory bandwidth, after which others get their turn.
const COPY_RANGE_BYTES_MAX: u64 = 4 << 20;

/// Zeros that become a hole: the block size of nearly all filesystems. Reads begin at multiples of it.
const HOLE_BYTES: usize = 4096;
const _: () = assert!(BUFFER_BYTES.is_multiple_of(HOLE_BYTES));

/// What is copied at most of a file that says it is empty and is not: some of them never end.
const UNSIZED_BYTES_MAX: u64 = 1 << 30;

/// An open source file and the file it is copied to.
pub(super) struct Pair<'a> {
    pub(super) source_fs: &'a Rc<dyn Fs>,
    pub(super) dest_fs: &'a Rc<dyn Fs>,
    pub(super) source: &'a Handle,
    pub(super) dest: &'a Handle,
    pub(super) method: Method,
    pub(super) cancel: &'a Cancel,
}

/// How the bytes of a file get to where they go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    pub(super) way: Way,
    /// What the source's filesystem says is a hole is not read. The destination has its final size and nothing in it.
    pub(super) skip_holes: bool,
    /// Blocks of zeros are not written. The destination as above.
    pub(super) make_holes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// copy_file_range where that works, which on some filesystems shares blocks; else reads and writes.
    Kernel,
    /// Reads and writes.
    Buffers,
    /// Reads and writes past the page cache, of whole blocks of [`DIRECT_BYTES`].
    Direct,
}

impl Method {
    pub(super) fn needs_size_first(self) -> bool {
        self.skip_holes || self.make_holes
    }
}

impl Pair<'_> {
    /// Copies a range with its holes, up to the end of the source if that comes first. Returns how far it got, in bytes.
    /// `digest` takes in what is copied, when it passes through buffers; no file with holes has one.
    pub(super) async fn copy_span(
        &self,
        span: Range<u64>,
        buffers: &Buffers,
        digest: Option<&mut Xxh3>,
    ) -> Result<u64, Failure> {
        if !self.method.skip_holes {
            return self.copy_data(span, buffers, digest).await;
        }
        debug_assert!(digest.is_none(), "holes have none");
        let mut at = span.start;
        while at < span.end {
            let Some(data) = self
                .next_data(at)
                .await?
                .filter(|data| data.start < span.end)
            else {
                at = span.end;
                break;
            };
            let data = data.start.max(at)..data.end.min(span.end);
            let copied = self.copy_data(data.clone(), buffers, None).await?;
            at = data.start + copied;
            if copied == 0 || at < data.end {
                break;
            }
            self.may_go_on(at < span.end)?;
        }
        Ok(at - span.start)
    }

    async fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>, Failure> {
        let file = self.source.clone();
        match self.source_fs.start(Op::SeekData { file, offset }).await {
            Ok(Reply::Data(range)) => Ok(range),
            Ok(other) => unreachable!("a seek does not reply {other:?}"),
            Err(error) => Err(Failure::new(Side::Source, error)),
        }
    }

    /// Copies a range: by copy_file_range where that works, else by reading and writing. Short counts are looped; the end
    /// of the source ends it. Returns the bytes copied.
    async fn copy_data(
        &self,
        span: Range<u64>,
        buffers: &Buffers,
        digest: Option<&mut Xxh3>,
    ) -> Result<u64, Failure> {
        let mut at = span.start;
        while self.method.way == Way::Kernel && span.end - at >= COPY_RANGE_BYTES_MIN {
            match self.copy_range(at, span.end - at).await? {
                Some(0) | None => break,
                Some(count) => at += count,
            }
            self.may_go_on(at < span.end)?;
            glommio::executor().yield_if_needed().await;
        }
        let copied = at - span.start;
        let left = at..span.end;
        Ok(copied + self.read_and_write(left, buffers, digest).await?)
    }

    /// A run that ends does not wait for the rest of a file: on a slow filesystem that takes minutes.
    fn may_go_on(&self, is_more: bool) -> Result<(), Failure> {
        if is_more && self.cancel.is_set() {
            return Err(Failure::interrupted(Side::Source));
        }
        Ok(())
    }

    /// One copy_file_range; `None` when these files cannot have it.
    async fn copy_range(&self, offset: u64, len: u64) -> Result<Option<u64>, Failure> {
        let op = Op::CopyRange {
            from: self.source.clone(),
            to: self.dest.clone(),
            offset,
            len: len.min(COPY_RANGE_BYTES_MAX),
        };
        match self.dest_fs.start(op).await {
            Ok(Reply::Copied(count)) => Ok(Some(count)),
            Ok(other) => unreachable!("a copy does not reply {other:?}"),
            Err(error) if is_unsupported(error) => Ok(None),
            Err(error) => Err(Failure::new(Side::Destination, error)),
        }
    }

    /// Reads up to the end of the range, or of the file if that comes first, and writes it. Only a read of nothing is the
    /// end of the file: FUSE and /proc give short counts before it.
    async fn read_and_write(
        &self,
        span: Range<u64>,
        buffers: &Buffers,
        digest: Option<&mut Xxh3>,
    ) -> Result<u64, Failure> {
        let buffer = buffers.take();
        match self.read_and_write_with(buffer, span, digest).await {
            Ok((buffer, count)) => {
                buffers.give_back(buffer);
                Ok(count)
            }
            Err(failure) => {
                buffers.lose(1);
                Err(failure)
            }
        }
    }

    async fn read_and_write_with(
        &self,
        mut buffer: Buffer,
        span: Range<u64>,
        mut digest: Option<&mut Xxh3>,
    ) -> Result<(Buffer, u64), Failure> {
        let mut at = span.start;
        while at < span.end {
            let count;
            (buffer, count) = read(self.source_fs, self.source, buffer, at, Side::Source).await?;
            let mut count_wanted = usize::try_from(span.end - at)
                .unwrap_or(usize::MAX)
                .min(count);
            if self.method.way == Way::Direct {
                // Only where the source has become shorter is there less than whole blocks.
                count_wanted -= count_wanted % DIRECT_BYTES;
            }
            if count_wanted == 0 {
                break;
            }
            if let Some(digest) = &mut digest {
                digest.update(&buffer[..count_wanted]);
            }
            buffer = self.write(buffer, count_wanted, at).await?;
            at += count_wanted as u64;
            self.may_go_on(at < span.end)?;
            glommio::executor().yield_if_needed().await;
        }
        Ok((buffer, at - span.start))
    }

    /// The digest of what the destination has in a range.
    pub(super) async fn dest_digest(
        &self,
        span: Range<u64>,
        buffers: &Buffers,
    ) -> Result<u128, Failure> {
        let (mut digest, mut at) = (Xxh3::new(), span.start);
        let mut buffer = buffers.take();
        while at < span.end {
            let read = read(self.dest_fs, self.dest, buffer, at, Side::Destination);
            let count;
            (buffer, count) = read.await.inspect_err(|_| buffers.lose(1))?;
            let left = usize::try_from(span.end - at).unwrap_or(usize::MAX);
            let count = count.min(left);
            if count == 0 || self.cancel.is_set() {
                break;
            }
            digest.update(&buffer[..count]);
            at += count as u64;
            glommio::executor().yield_if_needed().await;
        }
        buffers.give_back(buffer);
        Ok(digest.digest128())
    }

    /// Writes the first `len` bytes of a buffer, or those that are not in blocks of zeros.
    async fn write(&self, mut buffer: Buffer, len: usize, offset: u64) -> Result<Buffer, Failure> {
        if !self.method.make_holes {
            return self.write_all(buffer, 0..len, offset).await;
        }
        let mut at = 0;
        while let Some(run) = next_run(&buffer[..len], at) {
            at = run.end;
            buffer = self.write_all(buffer, run, offset).await?;
        }
        Ok(buffer)
    }

    /// Writes `buffer[range]`; `offset` is where the buffer's start belongs.
    async fn write_all(
        &self,
        mut buffer: Buffer,
        range: Range<usize>,
        offset: u64,
    ) -> Result<Buffer, Failure> {
        let mut written = range.start;
        while written < range.end {
            let op = Op::Write {
                file: self.dest.clone(),
                buffer,
                range: written..range.end,
                offset: offset + written as u64,
            };
            let count;
            (buffer, count) = match self.dest_fs.start(op).await {
                Ok(Reply::Moved(buffer, count)) => (buffer, count),
                Ok(other) => unreachable!("a write does not reply {other:?}"),
                Err(error) => return Err(Failure::new(Side::Destination, error)),
            };
            if count == 0 {
                // POSIX allows it for a full device; looping on it would never end.
                let (kind, errno) = (crate::error::OpKind::Write, Errno::ENOSPC);
                return Err(Failure::new(Side::Destination, OpError { kind, errno }));
            }
            written += count;
        }
        Ok(buffer)
    }
}

/// The next bytes from `at` on that are not in whole blocks of zeros.
fn next_run(buffer: &[u8], at: usize) -> Option<Range<usize>> {
    let is_hole = |block: &[u8]| block.len() == HOLE_BYTES && block.iter().all(|&byte| byte == 0);
    let mut blocks = buffer[at..].chunks(HOLE_BYTES);
    let start = at + HOLE_BYTES * blocks.position(|block| !is_hole(block))?;
    let data = blocks.take_while(|block| !is_hole(block));
    let end = (start + HOLE_BYTES).min(buffer.len()) + data.map(<[u8]>::len).sum::<usize>();
    Some(start..end)
}

pub(super) async fn read(
    fs: &Rc<dyn Fs>,
    file: &Handle,
    buffer: Buffer,
    offset: u64,
    side: Side,
) -> Result<(Buffer, usize), Failure> {
    let file = file.clone();
    let op = Op::Read {
        file,
        buffer,
        offset,
    };
    match fs.start(op).await {
        Ok(Reply::Moved(buffer, count)) => Ok((buffer, count)),
        Ok(other) => unreachable!("a read does not reply {other:?}"),
        Err(error) => Err(Failure::new(side, error)),
    }
}

/// Errors that say "not these files" rather than "not now".
fn is_unsupported(error: OpError) -> bool {
    matches!(
        error.errno,
        Errno::EOPNOTSUPP
            | Errno::EXDEV
            | Errno::EINVAL
            | Errno::ENOSYS
            | Errno::ENOTTY
            | Errno::EBADF
            // A swap file; a sandbox that forbids the call.
            | Errno::ETXTBSY
            | Errno::EPERM
    )
}

impl Lane {
    /// Makes the contents of an empty `dest` those of `source`, which looked like `meta` when it was opened.
    pub(super) async fn copy_contents(
        &self,
        source: &Handle,
        dest: &Handle,
        meta: &Meta,
        partial: Option<Partial>,
        spread: &dyn Spread,
    ) -> Result<Copied, Failure> {
        let size = meta.size;
        if size > 0 && self.clone_contents(source, dest).await? {
            return Ok(Copied {
                bytes: size,
                cloned: true,
                ..Copied::default()
            });
        }
        let method = self.method_for(meta);
        let pair = Pair {
            source_fs: &self.source,
            dest_fs: &self.dest,
            source,
            dest,
            method,
            cancel: &self.cancel,
        };
        let is_large = size >= LARGE_BYTES_MIN;
        let is_whole = self.options.write_mode == WriteMode::Whole;
        if is_large || is_whole || method.needs_size_first() {
            let file = dest.clone();
            self.on_dest(Op::Truncate { file, len: size }).await?;
        }
        if is_large {
            return self.copy_large(pair, size, partial, spread).await;
        }
        // Some files (of /proc) say 0 and have contents: those are read to their end.
        let end = if size == 0 { UNSIZED_BYTES_MAX } else { size };
        let bytes = pair.copy_span(0..end, &self.buffers, None).await?;
        if size == 0 && bytes >= UNSIZED_BYTES_MAX {
            let (kind, errno) = (crate::error::OpKind::Read, Errno::EFBIG);
            return Err(Failure::new(Side::Source, OpError { kind, errno }));
        }
        Ok(Copied {
            bytes,
            ..Copied::default()
        })
    }

    pub(super) fn method_for(&self, meta: &Meta) -> Method {
        // A file that says 0 (in /proc) may have contents, which only reading tells.
        let sized = meta.size > 0;
        let in_kernel = self.options.reflink != Reflink::Never
            && !self.options.sparse
            && meta.size >= COPY_RANGE_BYTES_MIN;
        Method {
            way: if in_kernel { Way::Kernel } else { Way::Buffers },
            skip_holes: self.options.trust_holes && meta.has_holes,
            make_holes: self.options.sparse && sized,
        }
    }

    /// Shares the blocks of the source. `false` when that is not possible and need not be.
    async fn clone_contents(&self, source: &Handle, dest: &Handle) -> Result<bool, Failure> {
        let filesystems = (source.dev(), dest.dev());
        let always = self.options.reflink == Reflink::Always;
        let hopeless = self.unclonable.borrow().contains(&filesystems);
        if self.options.reflink == Reflink::Never || (hopeless && !always) {
            return Ok(false);
        }
        let (from, to) = (source.clone(), dest.clone());
        match self.dest.start(Op::Clone { from, to }).await {
            Ok(_) => Ok(true),
            Err(error) if always || !is_unsupported(error) => {
                Err(Failure::new(Side::Destination, error))
            }
            Err(error) => {
                // These may be about this one file (a swap file, no-copy-on-write); the others are about the pair.
                let about_file = matches!(error.errno, Errno::EINVAL | Errno::ETXTBSY);
                if !about_file && !hopeless {
                    self.unclonable.borrow_mut().push(filesystems);
                }
                Ok(false)
            }
        }
    }

    /// Whether two open files have the same bytes.
    pub(super) async fn contents_equal(
        &self,
        source: &Handle,
        dest: &Handle,
    ) -> Result<bool, Failure> {
        let lent = (self.buffers.take(), self.buffers.take());
        match self.contents_equal_with(lent, source, dest).await {
            Ok(((ours, theirs), equal)) => {
                self.buffers.give_back(ours);
                self.buffers.give_back(theirs);
                Ok(equal)
            }
            Err(failure) => {
                self.buffers.lose(2);
                Err(failure)
            }
        }
    }

    async fn contents_equal_with(
        &self,
        (mut ours, mut theirs): (Buffer, Buffer),
        source: &Handle,
        dest: &Handle,
    ) -> Result<((Buffer, Buffer), bool), Failure> {
        let mut offset = 0;
        let equal = loop {
            let (source_count, dest_count);
            (ours, source_count) = read(&self.source, source, ours, offset, Side::Source).await?;
            (theirs, dest_count) =
                read(&self.dest, dest, theirs, offset, Side::Destination).await?;
            // Either side may read short; what both have is compared, and the rest is read again.
            let both = source_count.min(dest_count);
            if ours[..both] != theirs[..both] {
                break false;
            }
            if both == 0 {
                break source_count == dest_count;
            }
            if self.cancel.is_set() {
                return Err(Failure::interrupted(Side::Source));
            }
            offset += both as u64;
            glommio::executor().yield_if_needed().await;
        };
        Ok(((ours, theirs), equal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(buffer: &[u8]) -> Vec<Range<usize>> {
        let (mut runs, mut at) = (Vec::new(), 0);
        while let Some(run) = next_run(buffer, at) {
            at = run.end;
            runs.push(run);
        }
        runs
    }

    #[test]
    fn only_whole_blocks_of_zeros_are_left_out() {
        const B: usize = HOLE_BYTES;
        assert!(runs(&[]).is_empty());
        assert!(runs(&[0; 3 * B]).is_empty());
        assert_eq!(
            next_run(&[0; 10], 0),
            Some(0..10),
            "an incomplete block is data"
        );
        let mut buffer = vec![0; 5 * B + 7];
        buffer[B] = 1;
        buffer[3 * B - 1] = 1;
        buffer[4 * B + 5] = 1;
        assert_eq!(runs(&buffer), [B..3 * B, 4 * B..5 * B + 7]);
    }
}
