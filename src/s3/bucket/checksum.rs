//! What servers tell of the contents of objects: ETags, where they are MD5s. Those of objects that are encrypted with keys of
//! their owners are none, nor are those of some servers, and not all say so. So one that is the MD5 of other bytes says that those
//! are the same, and one that is not says nothing.

use std::sync::Arc;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::ServerSideEncryption;
use nix::errno::Errno;

use super::attributes::Listed;
use super::dir::head;
use super::store::Store;
use crate::model::Kind;
use crate::model::checksum::Checksum;
use crate::model::copies::bare_etag;

const SUM_OF_NOTHING: [u8; 16] =
    *b"\xd4\x1d\x8c\xd9\x8f\x00\xb2\x04\xe9\x80\x09\x98\xec\xf8\x42\x7e";

/// The checksum of the file that an object is; nothing when its server tells none.
///
/// # Errors
/// ENOENT, and others of [`errno_of`](super::failure::errno_of).
pub(super) async fn read(store: &Arc<Store>, key: String) -> Result<Option<Checksum>, Errno> {
    let asking = store.clone();
    let read = store.run(async move {
        let (listed, answer) = head(&asking, &key).await?;
        if is_encrypted(&answer) {
            return Ok(None);
        }
        let metadata = answer.metadata.unwrap_or_default();
        let meta = asking.form.file(&listed, &metadata, asking.dev);
        let known = parse(&listed.etag).filter(|(sum, _)| !is_placeholder(*sum, listed.size));
        let Some((sum, parts)) = known.filter(|_| meta.kind == Kind::File) else {
            return Ok(None);
        };
        let Some(parts) = parts else {
            return Ok(Some(Checksum::of_whole(sum)));
        };
        let bytes = part_bytes(&asking, &key, &listed).await;
        // Others may have parts of several sizes.
        let bytes = bytes.filter(|&bytes| bytes > 0 && listed.size.div_ceil(bytes) == parts);
        Ok(bytes.map(|bytes| Checksum::of_parts(sum, bytes)))
    });
    read.await
}

/// The size of the first part. Not all servers know; then it costs only the comparison by checksums.
async fn part_bytes(store: &Store, key: &str, listed: &Listed) -> Option<u64> {
    let request = store.client.head_object();
    let request = request.bucket(&store.bucket).key(key);
    let request = request.part_number(1).set_if_match(listed.condition());
    let answer = store.in_turn(request.send()).await.ok()?;
    u64::try_from(answer.content_length()?).ok()
}

/// With a key of somebody's own.
fn is_encrypted(answer: &HeadObjectOutput) -> bool {
    let by = answer.server_side_encryption();
    answer.sse_customer_algorithm().is_some()
        || by.is_some_and(|by| *by != ServerSideEncryption::Aes256)
}

/// What some servers give to files that they have not written themselves, whatever is in them.
fn is_placeholder(sum: [u8; 16], size: u64) -> bool {
    sum == [0; 16] || size > 0 && sum == SUM_OF_NOTHING
}

/// The MD5 that an ETag may be, and of how many parts' MD5s it is one.
fn parse(etag: &str) -> Option<([u8; 16], Option<u64>)> {
    let etag = bare_etag(etag);
    let (sum, parts) = match etag.split_once('-') {
        Some((sum, parts)) => (sum, Some(parts.parse().ok()?)),
        None => (etag, None),
    };
    let is_sum = sum.len() == 32 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_sum.then(|| u128::from_str_radix(sum, 16).ok())??;
    Some((number.to_be_bytes(), parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_md5s_are_taken_for_such() {
        let sum = *b"\x90\x01\x50\x98\x3c\xd2\x4f\xb0\xd6\x96\x3f\x7d\x28\xe1\x7f\x72";
        let hex = "900150983cd24fb0d6963f7d28e17f72";
        assert_eq!(parse(&format!("\"{hex}\"")), Some((sum, None)));
        assert_eq!(parse(&hex.to_uppercase()), Some((sum, None)));
        assert_eq!(parse(&format!("\"{hex}-12\"")), Some((sum, Some(12))));
        for other in [
            "",
            "\"\"",
            "5e8f-1a2b",
            &hex[1..],
            "\"+00150983cd24fb0d6963f7d28e17f72\"",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert_eq!(parse(&format!("\"{hex}-\"")), None);
        assert_eq!(parse(&format!("\"{hex}-x\"")), None);
    }
}
