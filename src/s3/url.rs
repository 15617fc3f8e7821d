//! How users name a place in a bucket.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const SCHEME: &[u8] = b"s3://";

/// `s3://BUCKET[/PREFIX]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub bucket: String,
    /// What the keys begin with: nothing, or something that ends with a slash.
    pub prefix: String,
}

impl Url {
    /// Whether a path is such a name.
    #[must_use]
    pub fn is_one(path: &Path) -> bool {
        path.as_os_str().as_bytes().starts_with(SCHEME)
    }

    /// `None` for what is no such name; `./s3://` is a path.
    ///
    /// # Errors
    /// What is wrong with it.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Result<Self, String>> {
        let rest = name.strip_prefix(SCHEME)?;
        let Ok(rest) = std::str::from_utf8(rest) else {
            return Some(Err(String::from("keys are UTF-8, and this is not")));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Some(Err(String::from(
                "it names no bucket: write s3://BUCKET/PREFIX",
            )));
        }
        let prefix = prefix.trim_end_matches('/');
        let slash = if prefix.is_empty() { "" } else { "/" };
        Some(Ok(Self {
            bucket: bucket.to_owned(),
            prefix: format!("{prefix}{slash}"),
        }))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "s3://{}/{}",
            self.bucket,
            self.prefix.trim_end_matches('/')
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_and_prefixes() {
        for (name, bucket, prefix) in [
            ("s3://b", "b", ""),
            ("s3://b/", "b", ""),
            ("s3://b/p", "b", "p/"),
            ("s3://b/p/q//", "b", "p/q/"),
            ("s3://b//p", "b", "/p/"),
        ] {
            let url = Url::parse(name.as_bytes()).unwrap().unwrap();
            assert_eq!((url.bucket.as_str(), url.prefix.as_str()), (bucket, prefix));
        }
        assert!(Url::parse(b"./s3://b").is_none());
        assert!(Url::parse(b"s3:/b").is_none());
        assert!(Url::parse(b"s3://").unwrap().is_err());
        assert!(Url::parse(b"s3:///p").unwrap().is_err());
        assert!(Url::parse(b"s3://b/\xff").unwrap().is_err());
    }
}
