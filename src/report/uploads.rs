//! What `ringsync s3 cleanup` tells.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::HumanDuration;

use super::summary::exit;
use crate::model::path::escape;
use crate::run::cleanup::{End, Ended};

/// One line for each upload, or that there is none.
#[must_use]
pub fn text(ended: &[Ended]) -> String {
    if ended.is_empty() {
        return String::from("no unfinished uploads from before that time\n");
    }
    let mut text = String::new();
    for upload in ended {
        let begun = UNIX_EPOCH + Duration::from_secs(upload.begun.sec.try_into().unwrap_or(0));
        let ago = HumanDuration(SystemTime::now().duration_since(begun).unwrap_or_default());
        let key = escape(&upload.key);
        // Writing to a string cannot fail.
        let _ = match &upload.end {
            End::Aborted => writeln!(text, "aborted {key}, begun {ago} ago"),
            End::Found => writeln!(text, "unfinished {key}, begun {ago} ago"),
            End::Stays(why) => writeln!(text, "cannot abort {key}, begun {ago} ago: {why}"),
        };
    }
    text
}

/// 23 when one of them stays.
#[must_use]
pub fn exit_code(ended: &[Ended]) -> u8 {
    let stays = |upload: &Ended| matches!(upload.end, End::Stays(_));
    if ended.iter().any(stays) {
        exit::PARTIAL
    } else {
        exit::DONE
    }
}
