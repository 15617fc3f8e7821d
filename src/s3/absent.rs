//! In a build without buckets: none can be reached.

use std::convert::Infallible;
use std::sync::Arc;

use super::options::{Options, Probe, Unfinished, Ways};
use super::url::Url;
use crate::control::requests::Figures;
use crate::error::Side;
use crate::io::{Fs, Handle, Op, Outcome, Pending};
use crate::model::{Instruments, RequestMeter, Time};
use crate::throttle::Cancel;

/// There is none.
pub struct Store(Infallible);

/// There is none.
pub struct ObjectFs(Infallible);

/// Nobody waits for one.
#[derive(Debug)]
pub struct Turns;

/// What the buckets of a run would have in common.
#[derive(Clone, Debug)]
pub struct Shared {
    pub turns: Arc<Turns>,
}

impl Shared {
    #[must_use]
    pub fn new(_cancel: Arc<Cancel>, _cores: usize, _meter: Option<Arc<dyn RequestMeter>>) -> Self {
        Self {
            turns: Arc::new(Turns),
        }
    }
}

impl Turns {
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures::default()
    }
}

#[must_use]
pub fn root(store: &Store, _prefix: &str) -> Handle {
    match store.0 {}
}

impl Store {
    /// # Errors
    /// Always.
    pub fn connect(
        _options: &Options,
        url: &Url,
        _side: Side,
        _cores: usize,
        _shared: Shared,
    ) -> Result<Self, String> {
        Err(format!(
            "cannot reach '{url}': this ringsync was built without buckets (the feature s3)"
        ))
    }

    /// # Errors
    /// Always.
    pub fn reach(options: &Options, url: &Url, side: Side) -> Result<Arc<Self>, String> {
        let shared = Shared::new(Arc::default(), 1, None);
        Self::connect(options, url, side, 1, shared).map(Arc::new)
    }

    #[must_use]
    pub fn probe(&self, _prefix: &str, _writes: bool) -> Probe {
        match self.0 {}
    }

    /// # Errors
    /// None.
    pub fn unfinished(&self, _prefix: &str, _before: Time) -> Result<Vec<Unfinished>, String> {
        match self.0 {}
    }

    #[must_use]
    pub fn abort(&self, _uploads: &[Unfinished]) -> Vec<Result<(), String>> {
        match self.0 {}
    }
}

impl ObjectFs {
    #[must_use]
    #[allow(clippy::needless_pass_by_value)] // As where there are buckets.
    pub fn new(store: Arc<Store>, _: Instruments, _: Side, _: Ways) -> Self {
        match store.0 {}
    }

    /// # Errors
    /// None.
    #[allow(clippy::needless_pass_by_value)] // As where there are buckets.
    pub fn run_blocking(store: &Arc<Store>, _op: Op) -> Outcome {
        match store.0 {}
    }
}

impl Fs for ObjectFs {
    fn start(&self, _op: Op) -> Pending {
        match self.0 {}
    }

    fn is_slow(&self, _dev: u64) -> bool {
        match self.0 {}
    }
}
