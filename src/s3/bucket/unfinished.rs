//! Uploads in parts that nobody has finished: a run that was killed leaves them, and their parts are paid for until they go.

use std::sync::Arc;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{EncodingType, MultipartUpload};
use futures_util::{StreamExt, stream};

use super::failure::words;
use super::listing::told;
use super::options::Unfinished;
use super::store::Store;
use crate::model::Time;

/// Uploads that are aborted at once.
const ABORTS_MAX: usize = 16;

impl Store {
    /// Uploads to keys with a prefix that were begun before a time.
    ///
    /// # Errors
    /// In the server's words.
    pub fn unfinished(&self, prefix: &str, before: Time) -> Result<Vec<Unfinished>, String> {
        self.block_on(async {
            let (mut found, mut marker) = (Vec::new(), (None, None));
            loop {
                let request = self.client.list_multipart_uploads().bucket(&self.bucket);
                let request = request
                    .prefix(prefix)
                    .encoding_type(EncodingType::Url)
                    .set_key_marker(marker.0.clone())
                    .set_upload_id_marker(marker.1.clone());
                let page = self.in_turn(request.send()).await;
                let page = page.map_err(|error| words(&error))?;
                let decode = |key: &str| told(key, page.encoding_type());
                let uploads = page.uploads().iter();
                let uploads = uploads.filter_map(|upload| Unfinished::of(upload, decode));
                found.extend(uploads.filter(|upload| upload.begun < before));
                if page.is_truncated() != Some(true) {
                    return Ok(found);
                }
                let key = page.next_key_marker().map(decode);
                let key = key.map(|key| String::from_utf8_lossy(&key).into_owned());
                let next = (key, page.next_upload_id_marker().map(str::to_owned));
                if next.0.is_none() || next == marker {
                    return Err(String::from(
                        "the server says that there are more uploads, and not where",
                    ));
                }
                marker = next;
            }
        })
    }

    /// Aborts uploads. Returns, in their order, the server's words where one could not be.
    pub fn abort(self: &Arc<Self>, uploads: &[Unfinished]) -> Vec<Result<(), String>> {
        let aborts = uploads.iter().map(|upload| async {
            let key = std::str::from_utf8(&upload.key).map_err(|error| error.to_string())?;
            let request = self.client.abort_multipart_upload().bucket(&self.bucket);
            let request = request.key(key).upload_id(&upload.id);
            let answer = self.in_turn(request.send()).await;
            match answer {
                Ok(_) => Ok(()),
                // It was finished meanwhile.
                Err(error) if error.code() == Some("NoSuchUpload") => Ok(()),
                Err(error) => Err(words(&error)),
            }
        });
        self.block_on(stream::iter(aborts).buffered(ABORTS_MAX).collect())
    }
}

impl Unfinished {
    /// `None` when the server does not tell what is needed to abort it.
    fn of(upload: &MultipartUpload, decode: impl Fn(&str) -> Vec<u8>) -> Option<Self> {
        let begun = upload.initiated()?;
        Some(Self {
            key: decode(upload.key()?),
            begun: Time {
                sec: begun.secs(),
                nsec: begun.subsec_nanos(),
            },
            id: upload.upload_id()?.to_owned(),
        })
    }
}
