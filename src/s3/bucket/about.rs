//! What objects have besides their contents, and how it gets into the requests that make them.

use std::collections::HashMap;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};

use super::store::Store;

#[derive(Clone, Debug, Default)]
pub(super) struct About {
    pub(super) metadata: HashMap<String, String>,
    pub(super) content_type: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_language: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) cache_control: Option<String>,
    pub(super) expires: Option<DateTime>,
    pub(super) kept: Kept,
}

/// How the server keeps an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    pub(super) storage_class: Option<StorageClass>,
    pub(super) encryption: Option<ServerSideEncryption>,
    pub(super) encryption_key: Option<String>,
}

/// Puts what an [`About`] has into a request that makes an object.
macro_rules! dressed {
    ($request:expr, $about:expr) => {{
        let about: $crate::s3::bucket::about::About = $about;
        $request
            .set_metadata(Some(about.metadata))
            .set_content_type(about.content_type)
            .set_content_encoding(about.content_encoding)
            .set_content_language(about.content_language)
            .set_content_disposition(about.content_disposition)
            .set_cache_control(about.cache_control)
            .set_expires(about.expires)
            .set_storage_class(about.kept.storage_class)
            .set_server_side_encryption(about.kept.encryption)
            .set_ssekms_key_id(about.kept.encryption_key)
    }};
}
pub(super) use dressed;

impl About {
    /// Of an object that is there.
    pub(super) fn of(answer: HeadObjectOutput) -> Self {
        let expires = answer.expires_string();
        let expires = expires.map(|text| DateTime::from_str(text, DateTimeFormat::HttpDate));
        Self {
            expires: expires.and_then(Result::ok),
            metadata: answer.metadata.unwrap_or_default(),
            content_type: answer.content_type,
            content_encoding: answer.content_encoding,
            content_language: answer.content_language,
            content_disposition: answer.content_disposition,
            cache_control: answer.cache_control,
            kept: Kept {
                storage_class: answer.storage_class,
                encryption: answer.server_side_encryption,
                encryption_key: answer.ssekms_key_id,
            },
        }
    }

    /// Of a new object.
    pub(super) fn new(store: &Store, metadata: HashMap<String, String>) -> Self {
        Self {
            metadata,
            kept: store.kept.clone(),
            ..Self::default()
        }
    }

    /// The same with other attributes of the file.
    pub(super) fn with(&self, attributes: HashMap<String, String>) -> Self {
        let mut about = self.clone();
        about.metadata.extend(attributes);
        about
    }

    /// The same as a store wants new objects.
    pub(super) fn in_store(self, store: &Store) -> Self {
        let kept = store.kept.clone();
        Self { kept, ..self }
    }

    /// The same, but for what a store wants otherwise.
    pub(super) fn still_in_store(mut self, store: &Store) -> Self {
        let Kept {
            storage_class,
            encryption,
            ..
        } = &store.kept;
        if storage_class.is_some() {
            self.kept.storage_class.clone_from(storage_class);
        }
        if encryption.is_some() {
            self.kept.encryption.clone_from(encryption);
            self.kept
                .encryption_key
                .clone_from(&store.kept.encryption_key);
        }
        self
    }
}
