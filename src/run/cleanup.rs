//! `ringsync s3 cleanup`: uploads that nobody will finish go.

use crate::error::Side;
use crate::model::Time;
use crate::s3::{Options, Store, Unfinished, Url};

/// What is to go.
#[derive(Debug)]
pub struct Cleanup {
    pub options: Options,
    pub url: Url,
    /// Younger uploads may still be under way.
    pub before: Time,
    /// Only look.
    pub dry_run: bool,
}

/// What became of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub key: Vec<u8>,
    pub begun: Time,
    pub end: End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Aborted,
    /// A dry run.
    Found,
    /// In the server's words.
    Stays(String),
}

impl Cleanup {
    /// # Errors
    /// In words: when the bucket cannot be reached, or its uploads cannot be listed.
    pub fn run(&self) -> Result<Vec<Ended>, String> {
        let store = Store::reach(&self.options, &self.url, Side::Destination)?;
        let found = store.unfinished(&self.url.prefix, self.before);
        let found = found.map_err(|why| format!("cannot list uploads of '{}': {why}", self.url))?;
        let ends = if self.dry_run {
            vec![End::Found; found.len()]
        } else {
            let aborted = store.abort(&found).into_iter();
            let end =
                |aborted: Result<(), String>| aborted.map_or_else(End::Stays, |()| End::Aborted);
            aborted.map(end).collect()
        };
        let ended = |(upload, end): (Unfinished, End)| Ended {
            key: upload.key,
            begun: upload.begun,
            end,
        };
        Ok(found.into_iter().zip(ends).map(ended).collect())
    }
}
