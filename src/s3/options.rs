//! What is asked of buckets, and what they have told: the words that others use with them.

use std::time::Duration;

use crate::model::Time;

/// How to reach a bucket. What is not given comes from the environment and the files of the AWS tools.
#[derive(Clone, Debug)]
pub struct Options {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub profile: Option<String>,
    /// Public buckets are read without credentials.
    pub unsigned: bool,
    pub form: Form,
    pub listing: Listing,
    /// Of objects that are written; the bucket's own when nothing is given.
    pub storage_class: Option<String>,
    /// `AES256` or `aws:kms`, and the key of the latter.
    pub encryption: Option<String>,
    pub encryption_key: Option<String>,
    /// Objects go in parts of so many bytes, a power of two from 8 MiB on; the largest ones in larger ones.
    pub part_bytes: u64,
}

/// What `Options::part_bytes` is when nobody says.
pub const PART_BYTES: u64 = 16 << 20;

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            profile: None,
            unsigned: false,
            form: Form::default(),
            listing: Listing::default(),
            storage_class: None,
            encryption: None,
            encryption_key: None,
            part_bytes: PART_BYTES,
        }
    }
}

/// `--s3-metadata`: where the attributes of files are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// `file-mtime`, `file-permissions`, `file-owner` and `file-group`, as AWS DataSync and FSx write them.
    #[default]
    Posix,
    /// `mtime` alone, as rclone writes it.
    Rclone,
    /// Nowhere: a file's time is when its object was written, and nobody has to ask for more than a listing.
    None,
}

/// `--s3-listing`: what a directory's first request is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listing {
    /// For all keys below it. What that tells of directories below is known without other requests.
    #[default]
    Trees,
    /// For its names alone.
    Directories,
}

/// How a bucket is used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ways {
    /// Objects are asked for what a listing does not tell, their own times among it.
    pub asks: bool,
    /// The other side can have objects copied by the server, so they are opened without their contents.
    pub copies: bool,
}

/// What was found out. Failures are in the server's words.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The median time of a listing of one key.
    pub latency: Option<Duration>,
    /// Whether what is replaced or deleted can be had again.
    pub is_versioned: Result<bool, String>,
    /// Of a destination.
    pub trial: Option<Trial>,
}

/// What was tried with an object of its own, which is gone again.
#[derive(Clone, Debug)]
pub struct Trial {
    pub written: Result<(), String>,
    /// Whether an object keeps its metadata.
    pub keeps_metadata: Result<bool, String>,
    /// Whether contents that are not what their checksum says are refused.
    pub checks_contents: bool,
    pub takes_parts: Result<(), String>,
    pub deleted: Result<(), String>,
}

/// An upload that was begun, and neither completed nor aborted. A server tells nothing else of it, not even who began it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// As the server writes it, decoded.
    pub key: Vec<u8>,
    pub begun: Time,
    pub(super) id: String,
}
