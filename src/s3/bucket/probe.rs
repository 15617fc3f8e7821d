//! What a bucket and its server can do, found out by trying.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::ByteStream;

use super::dir::head;
use super::failure::words;
use super::options::{Probe, Trial};
use super::store::Store;

/// Listings of one key that are timed.
const LISTINGS: usize = 7;
const BODY: &[u8] = b"ringsync";
/// The CRC32 of something else.
const WRONG_CRC32: &str = "AAAAAA==";
const METADATA: (&str, &str) = ("ringsync", "doctor");

impl Store {
    /// Tries the bucket out; `writes`: also with an object below the prefix.
    #[must_use]
    pub fn probe(self: &Arc<Self>, prefix: &str, writes: bool) -> Probe {
        self.block_on(async {
            Probe {
                latency: self.latency(prefix).await,
                is_versioned: self.is_versioned().await,
                trial: if writes {
                    Some(self.trial(prefix).await)
                } else {
                    None
                },
            }
        })
    }

    async fn latency(&self, prefix: &str) -> Option<Duration> {
        let mut times = Vec::new();
        for _ in 0..LISTINGS {
            let request = self.client.list_objects_v2().bucket(&self.bucket);
            let request = request.prefix(prefix).max_keys(1);
            let began = Instant::now();
            self.in_turn(request.send()).await.ok()?;
            times.push(began.elapsed());
        }
        times.sort_unstable();
        times.get(LISTINGS / 2).copied()
    }

    async fn is_versioned(&self) -> Result<bool, String> {
        let request = self.client.get_bucket_versioning().bucket(&self.bucket);
        let answer = self.in_turn(request.send()).await;
        let answer = answer.map_err(|error| words(&error))?;
        Ok(answer.status() == Some(&aws_sdk_s3::types::BucketVersioningStatus::Enabled))
    }

    async fn trial(self: &Arc<Self>, prefix: &str) -> Trial {
        let id = RandomState::new().build_hasher().finish();
        let key = format!("{prefix}.ringsync-doctor-{id:016x}");
        let put = || {
            let request = self.client.put_object().bucket(&self.bucket).key(&key);
            request.body(ByteStream::from_static(BODY))
        };
        let metadata = HashMap::from([(METADATA.0.to_owned(), METADATA.1.to_owned())]);
        let written = self
            .in_turn(put().set_metadata(Some(metadata)).send())
            .await;
        let written = match written {
            Ok(answer) => answer,
            Err(error) => {
                let not_tried = || Err(String::from("nothing can be written"));
                return Trial {
                    written: Err(words(&error)),
                    keeps_metadata: not_tried().map(|()| false),
                    checks_contents: false,
                    takes_parts: not_tried(),
                    deleted: not_tried(),
                };
            }
        };
        let keeps_metadata = match head(self, &key).await {
            Ok((_, answer)) => Ok(answer
                .metadata()
                .and_then(|metadata| metadata.get(METADATA.0))
                .is_some_and(|value| value == METADATA.1)),
            Err(errno) => Err(errno.desc().to_owned()),
        };
        let wrong = self.in_turn(put().checksum_crc32(WRONG_CRC32).send()).await;
        let refused = wrong.err().and_then(|error| {
            let answer = error.raw_response()?;
            Some(answer.status().as_u16())
        });
        Trial {
            written: Ok(()),
            keeps_metadata,
            checks_contents: refused.is_some_and(|status| (400..500).contains(&status)),
            takes_parts: self.take_parts(&key).await,
            deleted: {
                // Of a versioned bucket, this very version.
                let request = self.client.delete_object().bucket(&self.bucket).key(&key);
                let request = request.set_version_id(written.version_id);
                let answer = self.in_turn(request.send()).await;
                answer.map(drop).map_err(|error| words(&error))
            },
        }
    }

    async fn take_parts(&self, key: &str) -> Result<(), String> {
        let request = self.client.create_multipart_upload();
        let request = request.bucket(&self.bucket).key(key);
        let answer = self.in_turn(request.send()).await;
        let answer = answer.map_err(|error| words(&error))?;
        let request = self.client.abort_multipart_upload();
        let request = request.bucket(&self.bucket).key(key);
        let request = request.set_upload_id(answer.upload_id);
        let answer = self.in_turn(request.send()).await;
        answer.map(drop).map_err(|error| words(&error))
    }
}
