//! Objects that the server copies: to another key, or onto themselves with other metadata.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use aws_sdk_s3::types::{CompletedPart, MetadataDirective};
use futures_util::{StreamExt, TryStreamExt, stream};
use nix::errno::Errno;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::about::{About, dressed};
use super::attributes::Listed;
use super::dir::head;
use super::store::{Store, patient};
use super::upload::Upload;
use crate::io::Change;
use crate::model::Meta;
use crate::model::copies::Version;

/// Objects of up to so many parts are copied as a whole: a server takes some seconds for a gigabyte.
const WHOLE_PARTS_MAX: u64 = 16;
/// No server copies more at once.
const WHOLE_BYTES_MAX: u64 = 5 << 30;
/// Parts of one object that are copied at once.
const PARTS_AT_ONCE: usize = 16;
/// What a key keeps of itself in a header.
const KEY: AsciiSet = NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// An object as it is, which the server can make others of.
#[derive(Debug)]
pub(super) struct Original {
    bucket: String,
    key: String,
    pub(super) version: Listed,
    about: About,
}

impl Original {
    /// As it is now.
    ///
    /// # Errors
    /// ENOENT, and others of [`errno_of`].
    pub(super) async fn find(store: &Arc<Store>, key: String) -> Result<Self, Errno> {
        let (asking, asked) = (store.clone(), key.clone());
        let head = store.run(async move { head(&asking, &asked).await });
        let (version, answer) = head.await?;
        Ok(Self {
            bucket: store.bucket.clone(),
            key,
            version,
            about: About::of(answer),
        })
    }

    pub(super) fn meta(&self, store: &Store) -> Meta {
        let About { metadata, .. } = &self.about;
        store.form.file(&self.version, metadata, store.dev)
    }

    /// Gives the object itself other attributes.
    ///
    /// # Errors
    /// As [`Original::copy_to`].
    pub(super) async fn redress(
        &self,
        store: &Arc<Store>,
        change: &Change,
    ) -> Result<Option<Version>, Errno> {
        let attributes = store.form.metadata(self.meta(store).kind, change);
        if attributes.is_empty() {
            return Ok(None);
        }
        let about = self.about.with(attributes).still_in_store(store);
        self.copy_about(store, &self.key, about).await
    }

    fn source(&self) -> String {
        format!("{}/{}", self.bucket, utf8_percent_encode(&self.key, &KEY))
    }

    /// Makes the object of a key a copy of this one, with these attributes instead of its own. Returns its version.
    ///
    /// # Errors
    /// ESTALE when this one was replaced; others of [`errno_of`].
    pub(super) async fn copy_to(
        &self,
        store: &Arc<Store>,
        key: &str,
        attributes: HashMap<String, String>,
    ) -> Result<Option<Version>, Errno> {
        let about = self.about.with(attributes).in_store(store);
        self.copy_about(store, key, about).await
    }

    async fn copy_about(
        &self,
        store: &Arc<Store>,
        key: &str,
        about: About,
    ) -> Result<Option<Version>, Errno> {
        let whole_max = WHOLE_BYTES_MAX.min(WHOLE_PARTS_MAX * store.part_bytes);
        if self.version.size > whole_max {
            return self.copy_in_parts(store, key, about).await;
        }
        let request = store.client.copy_object();
        let request = request.bucket(&store.bucket).key(key);
        let request = request
            .copy_source(self.source())
            .set_copy_source_if_match(self.version.condition())
            .metadata_directive(MetadataDirective::Replace);
        let request = dressed!(request, about).customize();
        let request = request.config_override(patient(self.version.size));
        let answer = store.ask(request.send()).await?;
        let etag = answer.copy_object_result.and_then(|copy| copy.e_tag);
        Ok(Version::of_etag(&etag.unwrap_or_default()))
    }

    async fn copy_in_parts(
        &self,
        store: &Arc<Store>,
        key: &str,
        about: About,
    ) -> Result<Option<Version>, Errno> {
        let upload = Upload::new(store.clone(), key.to_owned());
        upload.begin_with(about).await?;
        let part_bytes = upload.part_bytes(self.version.size);
        let count = self.version.size.div_ceil(part_bytes);
        let parts = (0..count).map(|number| {
            let start = number * part_bytes;
            let range = start..self.version.size.min(start + part_bytes);
            self.copy_part(store, &upload, number, range)
        });
        let parts = stream::iter(parts).buffer_unordered(PARTS_AT_ONCE);
        let copied = parts.try_collect::<Vec<_>>().await;
        let done = match copied {
            Ok(parts) => upload.complete(parts).await,
            Err(errno) => Err(errno),
        };
        if done.is_err() {
            upload.abandon().await;
        }
        done
    }

    async fn copy_part(
        &self,
        store: &Arc<Store>,
        upload: &Upload,
        number: u64,
        range: Range<u64>,
    ) -> Result<CompletedPart, Errno> {
        let number = i32::try_from(number + 1).map_err(|_| Errno::EFBIG)?;
        let request = store.client.upload_part_copy();
        let request = request.bucket(&store.bucket).key(upload.key());
        let request = request
            .set_upload_id(upload.id())
            .part_number(number)
            .copy_source(self.source())
            .copy_source_range(format!("bytes={}-{}", range.start, range.end - 1))
            .set_copy_source_if_match(self.version.condition())
            .customize()
            .config_override(patient(range.end - range.start));
        let answer = store.ask(request.send()).await?;
        let part = answer.copy_part_result.ok_or(Errno::EPROTO)?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(part.e_tag)
            .set_checksum_crc32(part.checksum_crc32)
            .build())
    }
}
