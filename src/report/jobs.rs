//! What `ringsync jobs` shows.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{HumanBytes, HumanCount, HumanDuration};
use serde_json::json;

use crate::model::path::escape;
use crate::state::jobs::{JobInfo, Listed};
use crate::state::runs::Ending;

/// The jobs of a state directory, in words or as one JSON object a line.
#[must_use]
pub fn text(dir: &Path, jobs: &[Listed], as_json: bool) -> String {
    let mut text = String::new();
    if as_json {
        for (id, job) in jobs {
            text += &(object(id, job).to_string() + "\n");
        }
        return text;
    }
    let shown = escape(dir.as_os_str().as_encoded_bytes());
    if jobs.is_empty() {
        return format!("no jobs in {shown}\n");
    }
    for (id, job) in jobs {
        // Writing to memory cannot fail.
        let _ = match job {
            Ok(job) => writeln!(text, "{id}  {}", words(job)),
            Err(trouble) => writeln!(text, "{id}  {trouble}"),
        };
    }
    text
}

fn words(job: &JobInfo) -> String {
    let last = job.last.as_ref().map_or_else(String::new, |last| {
        let how = match last.ending {
            Ending::Open => "did not end",
            Ending::Complete => "complete",
            Ending::Incomplete => "with errors",
            Ending::Interrupted => "interrupted",
            Ending::Void => "void: what it wrote could not be flushed",
        };
        let began = UNIX_EPOCH + Duration::from_secs(last.began);
        let ago = SystemTime::now().duration_since(began).unwrap_or_default();
        format!("run {} began {} ago, {how}; ", job.runs, HumanDuration(ago))
    });
    format!(
        "{} -> {}  {}\n                  {last}{} directories, {}",
        escape(&job.source),
        escape(&job.dest),
        job.options,
        HumanCount(job.directories),
        HumanBytes(job.bytes),
    )
}

fn object(id: &str, job: &Result<JobInfo, String>) -> serde_json::Value {
    match job {
        Ok(job) => json!({
            "job": id,
            "source": escape(&job.source),
            "destination": escape(&job.dest),
            "options": job.options,
            "runs": job.runs,
            "last_run": job.last,
            "directories": job.directories,
            "bytes": job.bytes,
        }),
        Err(trouble) => json!({ "job": id, "error": trouble }),
    }
}
