//! How the buckets of a job are reached and written.

use std::path::Path;

use super::parse;
use crate::cli::{CleanupArgs, ReachArgs, S3Args, S3ListingArg, S3MetadataArg, S3WriteArgs};
use crate::model::path::escape;
use crate::run::Job;
use crate::run::cleanup::Cleanup;
use crate::s3::{Form, Listing, Options, PART_BYTES, Url};

const PART_BYTES_MIN: u64 = 8 << 20;
const PART_BYTES_MAX: u64 = 512 << 20;

/// # Errors
/// When something is given and the job has no bucket.
pub(super) fn reached(args: S3Args, job: &Job) -> Result<Options, String> {
    let reach = &args.reach;
    let given = [
        ("--endpoint-url", reach.endpoint_url.is_some()),
        ("--region", reach.region.is_some()),
        ("--profile", reach.profile.is_some()),
        ("--no-sign-request", reach.no_sign_request),
        ("--s3-metadata", args.s3_metadata.is_some()),
        ("--s3-listing", args.s3_listing.is_some()),
    ];
    if !job.has_bucket() {
        refuse(&given, job.dest.as_deref().unwrap_or(&job.source))?;
    }
    Ok(Options {
        form: match args.s3_metadata {
            None | Some(S3MetadataArg::Posix) => Form::Posix,
            Some(S3MetadataArg::Rclone) => Form::Rclone,
            Some(S3MetadataArg::None) => Form::None,
        },
        listing: match args.s3_listing {
            None | Some(S3ListingArg::Trees) => Listing::Trees,
            Some(S3ListingArg::Directories) => Listing::Directories,
        },
        ..buckets_of(args.reach)
    })
}

/// `ringsync s3 cleanup`.
///
/// # Errors
/// When the place is no bucket, or the time is none.
pub fn cleanup(args: CleanupArgs) -> Result<Cleanup, String> {
    let place = args.place.as_os_str().as_encoded_bytes();
    let url = Url::parse(place)
        .unwrap_or_else(|| Err(String::from("is no bucket: write s3://BUCKET/PREFIX")))
        .map_err(|why| format!("'{}': {why}", escape(place)))?;
    let before = parse::past(&args.before);
    Ok(Cleanup {
        url,
        before: before.map_err(|why| format!("--before: '{}' {why}", args.before))?,
        dry_run: args.dry_run,
        options: buckets_of(args.s3),
    })
}

/// How the buckets of a command that is no run are reached.
#[must_use]
pub fn buckets_of(args: ReachArgs) -> Options {
    Options {
        endpoint: args.endpoint_url,
        region: args.region,
        profile: args.profile,
        unsigned: args.no_sign_request,
        ..Options::default()
    }
}

/// The same with what is asked of new objects.
///
/// # Errors
/// When something is given that no bucket of the job can have, or a size is none.
pub(super) fn written(args: S3Args, write: S3WriteArgs, job: &Job) -> Result<Options, String> {
    let given = [
        ("--storage-class", write.storage_class.is_some()),
        ("--sse", write.sse.is_some()),
        ("--sse-kms-key-id", write.sse_kms_key_id.is_some()),
        ("--part-size", write.part_size.is_some()),
    ];
    let dest = job.dest.as_deref().unwrap_or(&job.source);
    if !Url::is_one(dest) {
        refuse(&given, dest)?;
    }
    let is_kms = write
        .sse
        .as_deref()
        .is_some_and(|how| how.starts_with("aws:kms"));
    if write.sse_kms_key_id.is_some() && !is_kms {
        return Err(String::from("--sse-kms-key-id goes with --sse aws:kms"));
    }
    Ok(Options {
        storage_class: write.storage_class,
        encryption: write.sse,
        encryption_key: write.sse_kms_key_id,
        part_bytes: match write.part_size {
            Some(text) => part_bytes(&text)?,
            None => PART_BYTES,
        },
        ..reached(args, job)?
    })
}

fn refuse(given: &[(&str, bool)], place: &Path) -> Result<(), String> {
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(format!(
            "{option} is about buckets, and '{}' is a path: write s3://BUCKET/PREFIX",
            escape(place.as_os_str().as_encoded_bytes())
        )),
    }
}

fn part_bytes(text: &str) -> Result<u64, String> {
    let bytes = parse::size(text).map_err(|why| format!("--part-size: '{text}' {why}"))?;
    if bytes.is_power_of_two() && (PART_BYTES_MIN..=PART_BYTES_MAX).contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!(
        "--part-size: '{text}' is not one of 8M, 16M, 32M, 64M, 128M, 256M and 512M"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_powers_of_two() {
        assert_eq!(part_bytes("8M"), Ok(8 << 20));
        assert_eq!(part_bytes("512M"), Ok(512 << 20));
        for text in ["4M", "1G", "12M", "0", "many"] {
            assert!(part_bytes(text).is_err(), "{text}");
        }
    }
}
