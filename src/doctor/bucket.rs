//! Facts about a source or destination that is a bucket, and what they mean.

use std::time::Duration;

use serde::Serialize;

use super::judge::fact;
use super::{Can, Finding, Level};
use crate::error::Side;
use crate::s3::{Options, Probe, Store, Url};

/// A server that takes longer is far away: many requests at once hide that, and one huge directory does not have many.
const FAR: Duration = Duration::from_millis(50);

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Bucket {
    #[serde(rename = "path")]
    pub(super) shown: String,
    /// Whether it can be listed.
    usable: Can,
    latency_ms: Option<f64>,
    versioned: Can,
    /// Of a destination: what was tried in it.
    trial: Option<Trial>,
}

#[derive(Clone, Debug, Serialize)]
struct Trial {
    writable: Can,
    keeps_metadata: Can,
    checks_contents: Can,
    takes_parts: Can,
    deletes: Can,
}

impl Bucket {
    pub(super) fn gather(side: Side, url: &Url, options: &Options) -> Self {
        let store = match Store::reach(options, url, side) {
            Ok(store) => store,
            Err(why) => return Self::unusable(url.to_string(), why),
        };
        let mut bucket = Self::unusable(url.to_string(), String::new());
        bucket.usable = Can::Yes;
        bucket.learn(store.probe(&url.prefix, side == Side::Destination));
        bucket
    }

    /// Nothing of it is known, for this reason.
    pub(super) fn unusable(shown: String, why: String) -> Self {
        Self {
            shown,
            usable: Can::No(why),
            latency_ms: None,
            versioned: Can::Unknown(String::from("it cannot be reached")),
            trial: None,
        }
    }

    fn learn(&mut self, probe: Probe) {
        self.latency_ms = probe.latency.map(|latency| latency.as_secs_f64() * 1000.0);
        self.versioned = match probe.is_versioned {
            Ok(is_versioned) => Can::from_bool(is_versioned, "what is replaced or deleted is gone"),
            Err(why) => Can::Unknown(why),
        };
        self.trial = probe.trial.map(|trial| Trial {
            writable: can(trial.written),
            keeps_metadata: match trial.keeps_metadata {
                Ok(keeps) => Can::from_bool(keeps, "objects lose theirs"),
                Err(why) => Can::Unknown(why),
            },
            checks_contents: Can::from_bool(
                trial.checks_contents,
                "contents with a wrong CRC32 were taken",
            ),
            takes_parts: can(trial.takes_parts),
            deletes: can(trial.deleted),
        });
    }

    pub(super) fn judge(&self) -> Vec<Finding> {
        let usable = fact("access", self.usable.words());
        if self.usable.is_no() {
            return vec![usable.advise(Level::Problem, "nothing can be done with it")];
        }
        let mut findings = vec![usable];
        if let Some(latency) = self.latency_ms {
            let told = fact(
                "latency",
                format!("{latency:.1} ms for a listing of one key"),
            );
            let is_far = latency > FAR.as_secs_f64() * 1000.0;
            let advice = "run ringsync nearer to it, if you can";
            findings.push(told.advise_if(is_far, Level::Note, advice));
        }
        findings.push(fact("versioning", self.versioned.words()));
        let Some(trial) = &self.trial else {
            return findings;
        };
        let tried = |what, can: &Can, level, advice| {
            fact(what, can.words()).advise_if(can.is_no(), level, advice)
        };
        findings.push(tried(
            "writing",
            &trial.writable,
            Level::Problem,
            "it can only be a source: the credentials need s3:PutObject",
        ));
        if trial.writable.is_no() {
            return findings;
        }
        findings.extend([
            tried(
                "metadata",
                &trial.keeps_metadata,
                Level::Warning,
                "times and modes would be lost: use --s3-metadata none",
            ),
            tried(
                "checksums",
                &trial.checks_contents,
                Level::Warning,
                "the server does not check what arrives: use --verify",
            ),
            tried(
                "parts",
                &trial.takes_parts,
                Level::Warning,
                "files larger than --part-size cannot be written",
            ),
            tried(
                "deleting",
                &trial.deletes,
                Level::Warning,
                "--delete would fail, and .ringsync-doctor-* has stayed: the credentials need s3:DeleteObject",
            ),
        ]);
        findings
    }
}

fn can(result: Result<(), String>) -> Can {
    match result {
        Ok(()) => Can::Yes,
        Err(why) => Can::No(why),
    }
}
