//! The connection to one bucket, and the threads that its requests run on.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::{RetryPartition, TokenBucket};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{ChecksumAlgorithm, EncodingType, ServerSideEncryption, StorageClass};
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use futures_util::future::{BoxFuture, Either, select};
use nix::errno::Errno;
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, OnceCell, OwnedSemaphorePermit, Semaphore};

use super::about::Kept;
use super::clock::Clock;
use super::delete::Deleter;
use super::endpoint::KnownEndpoint;
use super::failure::{errno_of, is_refusal, words};
use super::listing::{DELIMITER, first_names};
use super::options::{Form, Listing, Options};
use super::turns::{ASKED, Asked, Listener, Turns};
use super::url::Url;
use crate::error::Side;
use crate::model::RequestMeter;
use crate::throttle::{Cancel, Reason};

/// A request is made so often; between them the SDK waits longer and longer.
const ATTEMPTS_MAX: u32 = 6;
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Until the first byte of an answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// With all attempts; a body may take longer.
const REQUEST_MAX: Duration = Duration::from_secs(180);
/// The same where much is sent, or the server works on much: a part on a slow line.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Less is through in no time.
const LONG_BYTES_MIN: u64 = 1 << 20;
/// Where buckets are when nobody says: compatible servers take any.
const REGION: &str = "us-east-1";
/// A thread makes 3,000 to 4,000 requests a second.
const THREADS_MAX: usize = 16;
/// Requests that wait for their answers: each has a connection, and a server has its limits.
const REQUESTS_PER_THREAD: usize = 64;
/// What contents that wait to be sent may take for each thread: four parts.
const MEMORY_KIB_PER_THREAD: u32 = 64 << 10;
/// Names of directory buckets end so, and of access points to them.
const EXPRESS: [&str; 2] = ["--x-s3", "--xa-s3"];
/// Keys that are kept for directories to come: some 40 MB.
const KEYS_MAX: usize = 200_000;
/// Credentials that a server took are not doubted again for so long.
const TRUST: Duration = Duration::from_secs(5);
/// Nobody waits long to be told that nobody is there.
const FIRST_ATTEMPTS_MAX: u32 = 2;

/// What the buckets of a run have in common.
#[derive(Clone)]
pub struct Shared {
    /// Ends requests with the run.
    pub cancel: Arc<Cancel>,
    pub turns: Arc<Turns>,
    /// In a run that is measured.
    pub meter: Option<Arc<dyn RequestMeter>>,
}

impl Shared {
    /// For the threads of so many cores.
    #[must_use]
    pub fn new(cancel: Arc<Cancel>, cores: usize, meter: Option<Arc<dyn RequestMeter>>) -> Self {
        let turns = Turns::new(threads(cores) * REQUESTS_PER_THREAD);
        Self {
            cancel,
            turns,
            meter,
        }
    }
}

fn threads(cores: usize) -> usize {
    cores.clamp(1, THREADS_MAX)
}

/// A bucket that can be reached.
pub struct Store {
    runtime: Option<Runtime>,
    pub(super) client: Client,
    turns: Arc<Turns>,
    pub(super) clock: Clock,
    pub(super) bucket: String,
    /// What the run is about in it.
    prefix: String,
    /// When the server took the credentials last, as far as somebody had doubts.
    trusted: Mutex<Option<Instant>>,
    pub(super) form: Form,
    lists_directories: AtomicBool,
    /// Names are sorted, as far as is known.
    pub(super) sorts: bool,
    /// Whether it begins behind any key, when somebody has tried it.
    pub(super) begins_behind: OnceCell<bool>,
    pub(super) side: Side,
    /// Tells this bucket from others, and from filesystems.
    pub(super) dev: u64,
    /// How new objects are kept.
    pub(super) kept: Kept,
    pub(super) part_bytes: u64,
    /// Of the parts of objects; none for servers that know none.
    pub(super) checksum: Option<ChecksumAlgorithm>,
    pub(super) deleter: Deleter,
    cancel: Arc<Cancel>,
    /// What contents that wait to be sent may take, in KiB.
    memory: Arc<Semaphore>,
    memory_kib: u32,
    /// Of keys that are kept for directories to come.
    keys: Arc<Semaphore>,
}

impl Store {
    /// Connects for something else than a run.
    ///
    /// # Errors
    /// As [`Store::connect`].
    pub fn reach(options: &Options, url: &Url, side: Side) -> Result<Arc<Self>, String> {
        let shared = Shared::new(Arc::<Cancel>::default(), 1, None);
        Self::connect(options, url, side, 1, shared).map(Arc::new)
    }

    /// Connects, and lists one key.
    ///
    /// # Errors
    /// In words: what cannot be reached, read or found. A prefix that no key has does not exist.
    pub fn connect(
        options: &Options,
        url: &Url,
        side: Side,
        cores: usize,
        shared: Shared,
    ) -> Result<Self, String> {
        let Shared {
            cancel,
            turns,
            meter,
        } = shared;
        let threads = threads(cores);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("s3")
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start the threads of S3: {error}"))?;
        // Directory buckets: they do not sort, and are asked for a session at another place.
        let is_express = EXPRESS.iter().any(|end| url.bucket.ends_with(end));
        let endpoint = (!is_express).then(|| KnownEndpoint::new(url.bucket.clone()));
        let clock = Clock::default();
        let (client, config) = runtime.block_on(client(
            options,
            endpoint,
            Listener {
                turns: turns.clone(),
                clock: clock.clone(),
                meter,
            },
        ));
        let checks = config.request_checksum_calculation();
        let memory_kib = MEMORY_KIB_PER_THREAD * u32::try_from(threads).unwrap_or(1);
        let store = Self {
            runtime: Some(runtime),
            client,
            side,
            dev: match side {
                Side::Source => u64::MAX,
                Side::Destination => u64::MAX - 1,
            },
            kept: Kept {
                storage_class: options.storage_class.as_deref().map(StorageClass::from),
                encryption: options
                    .encryption
                    .as_deref()
                    .map(ServerSideEncryption::from),
                encryption_key: options.encryption_key.clone(),
            },
            part_bytes: options.part_bytes,
            checksum: (checks != Some(RequestChecksumCalculation::WhenRequired))
                .then_some(ChecksumAlgorithm::Crc32),
            deleter: Deleter::default(),
            cancel,
            memory: Arc::new(Semaphore::new(memory_kib as usize)),
            memory_kib,
            turns,
            clock,
            bucket: url.bucket.clone(),
            prefix: url.prefix.clone(),
            trusted: Mutex::new(None),
            form: options.form,
            lists_directories: AtomicBool::new(
                options.listing == Listing::Directories || is_express,
            ),
            sorts: !is_express,
            begins_behind: OnceCell::new(),
            keys: Arc::new(Semaphore::new(KEYS_MAX)),
        };
        store
            .look(url, side)
            .map_err(|why| format!("cannot list '{url}': {why}"))?;
        Ok(store)
    }

    fn look(&self, url: &Url, side: Side) -> Result<(), String> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(&url.prefix)
            .delimiter(DELIMITER)
            .encoding_type(EncodingType::Url)
            .max_keys(1);
        let impatient = request.clone().customize();
        let impatient = impatient.config_override(retries(FIRST_ATTEMPTS_MAX));
        let found = match self.block_on(impatient.send()) {
            Err(error) if is_somebody_there(&error) => self.block_on(request.send()),
            found => found,
        };
        let found = found.map_err(|error| words(&error))?;
        let has_names = !found.contents().is_empty() || !found.common_prefixes().is_empty();
        let is_empty = !has_names && found.is_truncated() != Some(true);
        if is_empty && !url.prefix.is_empty() && side == Side::Source {
            return Err(format!("no key begins with '{}'", url.prefix));
        }
        Ok(())
    }

    fn runtime(&self) -> &Runtime {
        match &self.runtime {
            Some(runtime) => runtime,
            None => unreachable!("it is there until the store goes"),
        }
    }

    pub(super) fn handle(&self) -> &tokio::runtime::Handle {
        self.runtime().handle()
    }

    /// For threads without an executor.
    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime().block_on(future)
    }

    /// Runs something on the threads of S3; it ends with the run, or when nobody waits for it any more.
    ///
    /// # Errors
    /// ECANCELED when the run ends before, EIO when it panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Errno>> + Send + 'static,
    ) -> Result<T, Errno> {
        self.unless_it_ends(self.run_to_end(work)).await
    }

    /// Waits for something, or for the end of the run.
    ///
    /// # Errors
    /// ECANCELED when that comes before.
    pub(super) async fn unless_it_ends<T>(
        &self,
        work: impl Future<Output = Result<T, Errno>>,
    ) -> Result<T, Errno> {
        if self.is_ending() {
            return Err(Errno::ECANCELED);
        }
        match select(pin!(work), self.cancel.cancelled()).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => Err(Errno::ECANCELED),
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.cancel.is_set()
    }

    /// The same for what cannot be left half done: the end of the run does not end it.
    ///
    /// # Errors
    /// EIO when it panics.
    pub(super) async fn run_to_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Errno>> + Send + 'static,
    ) -> Result<T, Errno> {
        let mut running = tokio::task::JoinSet::new();
        running.spawn_on(work, self.handle());
        match running.join_next().await {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => {
                tracing::error!(%error, "a request was lost");
                Err(Errno::EIO)
            }
            None => unreachable!("one was started"),
        }
    }

    /// Sends a request, whose future is a large one, when fewer than the most are waiting for their answers.
    pub(super) fn in_turn<'a, T: 'a>(
        &'a self,
        answer: impl Future<Output = T> + Send + 'a,
    ) -> BoxFuture<'a, T> {
        Box::pin(async move {
            let _turn = self.turns.wait().await;
            ASKED.scope(Asked::now(), answer).await
        })
    }

    /// Sends a request in its turn, on the threads of S3. It ends with the run, or when nobody waits for it any more.
    ///
    /// # Errors
    /// Those of [`errno_of`] and [`Store::run`].
    pub(super) fn ask<T, E>(
        self: &Arc<Self>,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send + 'static,
    ) -> impl Future<Output = Result<T, Errno>>
    where
        T: Send + 'static,
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        self.unless_it_ends(self.ask_to_end(request))
    }

    /// The same for what cannot be left half done.
    ///
    /// # Errors
    /// Those of [`errno_of`] and [`Store::run_to_end`].
    pub(super) fn ask_to_end<T, E>(
        self: &Arc<Self>,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send + 'static,
    ) -> impl Future<Output = Result<T, Errno>>
    where
        T: Send + 'static,
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        // It is a large one.
        let (asking, request) = (self.clone(), Box::pin(request));
        self.run_to_end(async move {
            let answer = asking.in_turn(request).await;
            answer.map_err(|error| errno_of(&error))
        })
    }

    /// What a failure is about that may be about who asks: a server may say so of one key only, or cannot say why. When it does
    /// not take the credentials for a listing either, the run ends: nothing else would go better.
    pub(super) fn reason(self: &Arc<Self>, errno: Errno) -> BoxFuture<'static, Errno> {
        let store = self.clone();
        // What waits for it stays small: it is seldom asked.
        Box::pin(async move { store.ask_for_reason(errno).await })
    }

    async fn ask_for_reason(self: Arc<Self>, errno: Errno) -> Errno {
        if !is_refusal(errno) && errno != Errno::EACCES {
            return errno;
        }
        // One asks for all who want to know.
        let turn = self.unless_it_ends(async { Ok(self.trusted.lock().await) });
        let Ok(mut trusted) = turn.await else {
            return errno;
        };
        if trusted.is_none_or(|when| when.elapsed() >= TRUST) {
            let asking = self.clone();
            let list = async move { first_names(&asking, &asking.prefix, None, 1).await };
            match self.run(list).await {
                Ok(_) | Err(Errno::EACCES) => *trusted = Some(Instant::now()),
                Err(refusal) if is_refusal(refusal) => {
                    self.cancel.set(Reason::Refused);
                    return refusal;
                }
                // It says nothing of that.
                Err(_) => return errno,
            }
        }
        Errno::EACCES
    }

    /// Waits for memory for contents that are to be sent: so many bytes, or all there is.
    ///
    /// # Errors
    /// ECANCELED when the run ends before.
    pub(super) async fn memory(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Errno> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let memory = self.memory.clone();
        let permit = memory.acquire_many_owned(kib.min(self.memory_kib));
        // Closed only with the store.
        self.unless_it_ends(async { permit.await.map_err(|_| Errno::EIO) })
            .await
    }

    /// Whether directories are asked for all keys below them.
    pub(super) fn lists_trees(&self) -> bool {
        !self.lists_directories.load(Relaxed)
    }

    /// From now on, directories are asked for their names alone.
    pub(super) fn list_directories(&self) {
        self.lists_directories.store(true, Relaxed);
    }

    /// Room for keys that are kept, when there is some.
    pub(super) fn room_for_keys(&self, count: usize) -> Option<OwnedSemaphorePermit> {
        let count = u32::try_from(count).ok()?;
        self.keys.clone().try_acquire_many_owned(count).ok()
    }

    /// Starts something that goes on beside its starter.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime().spawn(work);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Requests that hang are not waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// For requests about so many bytes, which take their time on the way, or with the server.
pub(super) fn patient(bytes: u64) -> aws_sdk_s3::config::Builder {
    if bytes < LONG_BYTES_MIN {
        return aws_sdk_s3::config::Builder::new();
    }
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_MAX)
        .read_timeout(PATIENCE)
        .operation_timeout(PATIENCE * ATTEMPTS_MAX)
        .build();
    aws_sdk_s3::config::Builder::new().timeout_config(timeouts)
}

/// Whether a server may answer the next time, that has not done so well.
fn is_somebody_there<E>(error: &SdkError<E, HttpResponse>) -> bool {
    match error {
        SdkError::ServiceError(error) => {
            let status = error.raw().status().as_u16();
            status == 429 || status >= 500
        }
        // A connection that broke off; one that cannot be had is another kind.
        SdkError::DispatchFailure(failure) => failure.is_other(),
        // An answer that broke off.
        SdkError::ResponseError(_) => true,
        _ => false,
    }
}

fn retries(attempts: u32) -> aws_sdk_s3::config::Builder {
    let retries = RetryConfig::standard().with_max_attempts(attempts);
    aws_sdk_s3::config::Builder::new().retry_config(retries)
}

async fn client(
    options: &Options,
    endpoint: Option<KnownEndpoint>,
    listener: Listener,
) -> (Client, SdkConfig) {
    let https = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let mut profile = ProfileFileRegionProvider::builder();
    if let Some(name) = &options.profile {
        profile = profile.profile_name(name);
    }
    // The machine is not asked where it is: elsewhere than at AWS, that takes seconds.
    let region = RegionProviderChain::first_try(options.region.clone().map(Region::new))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(profile.build())
        .or_else(REGION);
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_MAX)
        .read_timeout(ANSWER_MAX)
        .operation_timeout(REQUEST_MAX)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(https)
        .region(region)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX))
        .timeout_config(timeouts);
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    if options.unsigned {
        loader = loader.no_credentials();
    }
    let shared = loader.load().await;
    // Compatible servers seldom have a host name for each bucket.
    let is_compatible =
        shared.endpoint_url().is_some() || std::env::var_os("AWS_ENDPOINT_URL_S3").is_some();
    // How often a request is repeated is bounded by its own attempts, and how many there are by the turns.
    let unbounded = RetryPartition::custom("ringsync").token_bucket(TokenBucket::unlimited());
    let config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(is_compatible)
        .retry_partition(unbounded.build())
        .interceptor(listener);
    let config = match endpoint {
        Some(endpoint) => config.endpoint_resolver(endpoint),
        None => config,
    };
    (Client::from_conf(config.build()), shared)
}
