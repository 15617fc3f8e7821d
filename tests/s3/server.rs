//! A server of S3 in memory: listings, objects that are read, written, copied and deleted, in parts too, with ranges and
//! conditions, and the faults that a test orders. It takes any credentials, and notes what it was asked for.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use md5::{Digest, Md5};

/// When the objects of a test were written.
pub(crate) const MODIFIED: i64 = 1_700_000_000;
const HTTP_DATE: &str = "%a, %d %b %Y %H:%M:%S GMT";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Request {
    List(String),
    Head(String),
    Get(String),
    Put(String),
    Copy(String),
    Begin(String),
    Part(String, u32),
    CopyPart(String, u32),
    Complete(String),
    Abort(String),
    Uploads,
    Versioning,
    Delete(String),
    DeleteMany(usize),
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// This status instead.
    Status(u16),
    /// The same with a code of its own.
    Code(u16, &'static str),
    /// The connection ends after so many bytes of the body.
    CutAfter(usize),
    /// A page that says there are more, and not where.
    NoToken,
    /// The object has other contents from now on, and this answer those of before.
    Replaced,
    /// The answer has other contents than the object.
    Altered,
    /// The request is not even read.
    Reset,
    /// It is carried out, and nobody is told.
    LostReply,
    /// All goes well, and later.
    Delay(Duration),
    /// All goes well, and somebody else writes this object.
    Meanwhile(&'static str),
}

#[derive(Clone)]
struct Object {
    body: Arc<Vec<u8>>,
    /// As with real servers, the same contents have the same.
    etag: String,
    /// With a key of its owner.
    is_encrypted: bool,
    /// In bytes, where the server knows its parts.
    first_part: Option<usize>,
    metadata: Vec<(String, String)>,
    modified: i64,
}

impl Object {
    fn new(body: Arc<Vec<u8>>, metadata: Vec<(String, String)>, modified: i64) -> Self {
        // What differs in these tests differs there.
        let beginning = &body[..body.len().min(1024)];
        let etag = format!("{:08x}-{}", crc32(beginning), body.len());
        Self {
            body,
            etag,
            is_encrypted: false,
            first_part: None,
            metadata,
            modified,
        }
    }

    /// With an MD5 as its ETag, like those of AWS.
    fn summed(self, parts: &[Arc<Vec<u8>>]) -> Self {
        let sums: Vec<u8> = parts.iter().flat_map(|part| Md5::digest(&**part)).collect();
        let etag = match parts {
            [] => hex(&Md5::digest(&*self.body)),
            parts => format!("{}-{}", hex(&Md5::digest(&sums)), parts.len()),
        };
        let first_part = parts.first().map(|part| part.len());
        Self {
            etag,
            first_part,
            ..self
        }
    }
}

/// An object that comes in parts.
struct Upload {
    key: String,
    metadata: Vec<(String, String)>,
    parts: BTreeMap<u32, Arc<Vec<u8>>>,
}

thread_local! {
    /// Seconds that the server is ahead, for the dates of its answers.
    static AHEAD: Cell<i64> = const { Cell::new(0) };
}

type Faults = Box<dyn FnMut(&Request) -> Option<Fault> + Send>;

/// How a server differs from others when it lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Habit {
    #[default]
    None,
    /// It does not know `start-after`.
    BeginsAnew,
    /// It refuses that.
    Refuses,
    /// What is in a directory comes before what has its name and more.
    Walks,
}

struct State {
    habit: Habit,
    /// ETags are MD5s.
    sums: bool,
    /// Listings that were to begin behind a key.
    behind: usize,
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    /// Of the requests that put an object.
    headers: HashMap<String, HashMap<String, String>>,
    /// Of objects and uploads so far.
    count: u32,
    seen: Vec<Request>,
    /// Seconds that its clock is ahead of that of the machine.
    ahead: i64,
    faults: Faults,
    page: usize,
}

pub(crate) struct Server {
    state: Arc<Mutex<State>>,
    address: std::net::SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            habit: Habit::None,
            sums: false,
            behind: 0,
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            headers: HashMap::new(),
            count: 0,
            seen: Vec::new(),
            ahead: 0,
            faults: Box::new(|_| None),
            page: 1000,
        }));
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, end) = (state.clone(), ended.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(SeqCst) {
                    return;
                }
                let (stream, state) = (stream.unwrap(), shared.clone());
                stream.set_nodelay(true).unwrap();
                thread::spawn(move || serve(&stream, &state));
            }
        });
        Self {
            state,
            address,
            ended,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn put(&self, key: &str, body: &[u8], metadata: &[(&str, &str)]) {
        let pairs = metadata.iter();
        let metadata = pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut object = Object::new(Arc::new(body.to_vec()), metadata, MODIFIED);
        let mut state = self.state();
        if state.sums {
            object = object.summed(&[]);
        }
        state.objects.insert(key.to_owned(), object);
    }

    /// Says of an object that it is encrypted.
    pub(crate) fn encrypt(&self, key: &str) {
        let mut state = self.state();
        state.objects.get_mut(key).unwrap().is_encrypted = true;
    }

    /// Gives an object another ETag.
    pub(crate) fn retag(&self, key: &str, etag: &str) {
        let mut state = self.state();
        etag.clone_into(&mut state.objects.get_mut(key).unwrap().etag);
    }

    /// From now on, ETags are MD5s.
    pub(crate) fn sum(&self) {
        self.state().sums = true;
    }

    /// As [`Server::put`], of parts, with an MD5.
    pub(crate) fn put_in_parts(&self, key: &str, parts: &[&[u8]]) {
        let mut state = self.state();
        let object = state.objects.get_mut(key).unwrap();
        let parts: Vec<_> = parts.iter().map(|part| Arc::new(part.to_vec())).collect();
        *object = Object {
            body: Arc::new(parts.iter().flat_map(|part| part.iter().copied()).collect()),
            ..object.clone()
        }
        .summed(&parts);
    }

    /// As [`Server::put`], now.
    pub(crate) fn overwrite(&self, key: &str, body: &[u8], metadata: &[(&str, &str)]) {
        self.put(key, body, metadata);
        let mut state = self.state();
        let now = state.now();
        let object = state.objects.get_mut(key).unwrap();
        object.modified = now;
    }

    /// Lets time go by, for the server.
    pub(crate) fn pass(&self, seconds: i64) {
        self.state().ahead += seconds;
    }

    /// The contents of an object.
    pub(crate) fn body(&self, key: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.objects.get(key).map(|object| object.body.to_vec())
    }

    /// What an object has under a name of its metadata.
    pub(crate) fn metadata(&self, key: &str, name: &str) -> Option<String> {
        let state = self.state();
        let mut pairs = state.objects.get(key)?.metadata.iter();
        pairs
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// What a header of the request said that wrote an object.
    pub(crate) fn header(&self, key: &str, name: &str) -> Option<String> {
        let state = self.state();
        state.headers.get(key)?.get(name).cloned()
    }

    /// How many uploads were begun and neither completed nor aborted.
    pub(crate) fn unfinished(&self) -> usize {
        self.state().uploads.len()
    }

    pub(crate) fn remove(&self, key: &str) {
        self.state().objects.remove(key).unwrap();
    }

    pub(crate) fn habit(&self, habit: Habit) {
        self.state().habit = habit;
    }

    /// How many listings were to begin behind a key, since that was asked the last time.
    pub(crate) fn behind(&self) -> usize {
        std::mem::take(&mut self.state().behind)
    }

    /// Keys on a page.
    pub(crate) fn page(&self, keys: usize) {
        self.state().page = keys;
    }

    pub(crate) fn faults(&self, faults: impl FnMut(&Request) -> Option<Fault> + Send + 'static) {
        self.state().faults = Box::new(faults);
    }

    /// What was asked for since it was asked the last time.
    pub(crate) fn seen(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().seen)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

struct Asked {
    method: String,
    path: String,
    query: HashMap<String, String>,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    while let Some(asked) = read_request(stream, &mut reader) {
        if !answer(stream, state, &asked) {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn read_request(mut stream: &TcpStream, reader: &mut impl BufRead) -> Option<Asked> {
    let mut lines = std::iter::from_fn(|| {
        let mut line = String::new();
        let count = reader.read_line(&mut line).ok()?;
        (count > 0).then(|| line.trim_end().to_owned())
    });
    let first = lines.next()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query.split('&').filter(|pair| !pair.is_empty());
    let query = query.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), decode(value))
    });
    let query = query.collect();
    let path = decode(path);
    let headers = lines.take_while(|line| !line.is_empty());
    let headers = headers.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_lowercase(), value.trim().to_owned()))
    });
    let headers: HashMap<String, String> = headers.collect();
    assert!(
        !headers.contains_key("transfer-encoding"),
        "bodies come with their length"
    );
    let len = headers.get("content-length");
    if headers.contains_key("expect") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let mut body = vec![0; len.map_or(0, |len| len.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some(Asked {
        method,
        path,
        query,
        headers,
        body,
    })
}

impl Asked {
    fn request(&self, key: &str) -> Request {
        let key = key.to_owned();
        let has = |name| self.query.contains_key(name);
        let number = || self.query["partNumber"].parse().unwrap();
        let is_copy = self.headers.contains_key("x-amz-copy-source");
        match (self.method.as_str(), key.is_empty()) {
            ("GET", true) if has("uploads") => Request::Uploads,
            ("GET", true) if has("versioning") => Request::Versioning,
            ("GET", true) => Request::List(self.query.get("prefix").cloned().unwrap_or_default()),
            ("POST", true) if has("delete") => Request::DeleteMany(keys_in(&self.text()).len()),
            // Whether a bucket is there is not worth a kind of its own.
            ("HEAD", _) => Request::Head(key),
            ("GET", false) => Request::Get(key),
            ("POST", false) if has("uploads") => Request::Begin(key),
            ("POST", false) if has("uploadId") => Request::Complete(key),
            ("PUT", false) if has("partNumber") && is_copy => Request::CopyPart(key, number()),
            ("PUT", false) if has("partNumber") => Request::Part(key, number()),
            ("PUT", false) if is_copy => Request::Copy(key),
            ("PUT", false) => Request::Put(key),
            ("DELETE", false) if has("uploadId") => Request::Abort(key),
            ("DELETE", false) => Request::Delete(key),
            (method, _) => panic!("{method} {key} {:?} is not served", self.query),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    fn metadata(&self) -> Vec<(String, String)> {
        let headers = self.headers.iter();
        let own = headers.filter_map(|(name, value)| {
            let name = name.strip_prefix("x-amz-meta-")?;
            Some((name.to_owned(), value.clone()))
        });
        let mut own: Vec<_> = own.collect();
        own.sort();
        own
    }

    fn range(&self, name: &str) -> Option<std::ops::Range<usize>> {
        let range = self.headers.get(name)?.strip_prefix("bytes=").unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let end = if end.is_empty() {
            usize::MAX
        } else {
            end.parse::<usize>().unwrap() + 1
        };
        Some(start.parse().unwrap()..end)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn crc32(bytes: &[u8]) -> u32 {
    let table: [u32; 256] = std::array::from_fn(|byte| {
        let byte = u32::try_from(byte).unwrap();
        (0..8).fold(byte, |rest, _| (rest >> 1) ^ (0xedb8_8320 * (rest & 1)))
    });
    let rest = bytes.iter().fold(u32::MAX, |rest, byte| {
        let at = usize::try_from((rest ^ u32::from(*byte)) & 0xff).unwrap();
        (rest >> 8) ^ table[at]
    });
    !rest
}

/// As it is in a header.
fn base64(number: u32) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = u64::from(number) << 4;
    let digits = (0..6).rev().map(|at| {
        let digit = usize::try_from(bits >> (6 * at) & 63).unwrap();
        char::from(DIGITS[digit])
    });
    digits.chain("==".chars()).collect()
}

/// The keys of a request to delete them.
fn keys_in(xml: &str) -> Vec<String> {
    let keys = xml.split("<Key>").skip(1);
    let keys = keys.map(|rest| rest.split("</Key>").next().unwrap());
    keys.map(|key| {
        let key = key.replace("&lt;", "<").replace("&gt;", ">");
        let key = key.replace("&quot;", "\"").replace("&apos;", "'");
        key.replace("&amp;", "&")
    })
    .collect()
}

impl State {
    /// In whole seconds since 1970.
    fn now(&self) -> i64 {
        Timestamp::now().as_second() + self.ahead
    }

    /// `parts`: of which it was put together.
    fn insert(
        &mut self,
        key: &str,
        body: Arc<Vec<u8>>,
        metadata: Vec<(String, String)>,
        parts: &[Arc<Vec<u8>>],
    ) -> String {
        self.count += 1;
        let mut object = Object::new(body, metadata, self.now());
        if self.sums {
            object = object.summed(parts);
        }
        let etag = object.etag.clone();
        self.objects.insert(key.to_owned(), object);
        etag
    }

    /// The object that a request says to copy, as far as it says.
    fn copied(&self, asked: &Asked) -> Result<Vec<u8>, (u16, &'static str)> {
        let source = decode(&asked.headers["x-amz-copy-source"]);
        let source = source.trim_start_matches('/').strip_prefix("bucket/");
        let object = source.and_then(|key| self.objects.get(key));
        let object = object.ok_or((404, "NoSuchKey"))?;
        let wanted = asked.headers.get("x-amz-copy-source-if-match");
        if wanted.is_some_and(|wanted| *wanted != format!("\"{}\"", object.etag)) {
            return Err((412, "PreconditionFailed"));
        }
        let all = 0..object.body.len();
        let range = asked.range("x-amz-copy-source-range").unwrap_or(all);
        Ok(object.body[range].to_vec())
    }

    /// Carries out a request that changes something. Returns the answer's body, and its ETag.
    fn change(
        &mut self,
        request: &Request,
        asked: &Asked,
    ) -> Result<(String, Option<String>), (u16, &'static str)> {
        let told = asked.headers.get("x-amz-checksum-crc32");
        if told.is_some_and(|told| *told != base64(crc32(&asked.body))) {
            return Err((400, "BadDigest"));
        }
        let upload = asked.query.get("uploadId").cloned().unwrap_or_default();
        let body = || Arc::new(asked.body.clone());
        let nothing = String::new;
        Ok(match request {
            Request::Put(key) => {
                self.headers.insert(key.clone(), asked.headers.clone());
                let etag = self.insert(key, body(), asked.metadata(), &[]);
                (nothing(), Some(etag))
            }
            Request::Copy(key) => {
                let body = Arc::new(self.copied(asked)?);
                let etag = self.insert(key, body, asked.metadata(), &[]);
                let answer =
                    format!("<CopyObjectResult><ETag>&quot;{etag}&quot;</ETag></CopyObjectResult>");
                (answer, None)
            }
            Request::Begin(key) => {
                self.count += 1;
                let id = self.count.to_string();
                let upload = Upload {
                    key: key.clone(),
                    metadata: asked.metadata(),
                    parts: BTreeMap::new(),
                };
                self.uploads.insert(id.clone(), upload);
                let answer = format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                );
                (answer, None)
            }
            Request::Part(_, number) | Request::CopyPart(_, number) => {
                let is_copy = matches!(request, Request::CopyPart(..));
                let part = if is_copy {
                    Arc::new(self.copied(asked)?)
                } else {
                    body()
                };
                let etag = format!("{number}-{}", part.len());
                let upload = self.uploads.get_mut(&upload).ok_or((404, "NoSuchUpload"))?;
                upload.parts.insert(*number, part);
                let answer =
                    format!("<CopyPartResult><ETag>&quot;{etag}&quot;</ETag></CopyPartResult>");
                (if is_copy { answer } else { nothing() }, Some(etag))
            }
            Request::Complete(key) => {
                let upload = self.uploads.remove(&upload).ok_or((404, "NoSuchUpload"))?;
                assert_eq!(upload.key, *key);
                let named = asked.text().matches("<PartNumber>").count();
                assert_eq!(named, upload.parts.len(), "all parts are named");
                let parts: Vec<_> = upload.parts.into_values().collect();
                let whole: Vec<&[u8]> = parts.iter().map(|part| part.as_slice()).collect();
                let whole = Arc::new(whole.concat());
                let etag = self.insert(key, whole, upload.metadata, &parts);
                let answer = format!(
                    "<CompleteMultipartUploadResult><ETag>&quot;{etag}&quot;</ETag></CompleteMultipartUploadResult>"
                );
                (answer, None)
            }
            Request::Abort(_) => {
                self.uploads.remove(&upload).ok_or((404, "NoSuchUpload"))?;
                (nothing(), None)
            }
            Request::Uploads => {
                let mut uploads = String::new();
                for (id, upload) in &self.uploads {
                    let key = encode(&upload.key);
                    write!(uploads, "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>2023-11-14T22:13:20.000Z</Initiated></Upload>").unwrap();
                }
                let answer = format!(
                    "<ListMultipartUploadsResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>{uploads}</ListMultipartUploadsResult>"
                );
                (answer, None)
            }
            Request::Versioning => (
                String::from(
                    "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
                ),
                None,
            ),
            Request::Delete(key) => {
                self.objects.remove(key);
                (nothing(), None)
            }
            Request::DeleteMany(_) => {
                for key in keys_in(&asked.text()) {
                    self.objects.remove(&key);
                }
                (String::from("<DeleteResult></DeleteResult>"), None)
            }
            Request::List(_) | Request::Head(_) | Request::Get(_) => unreachable!(),
        })
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let digits = std::str::from_utf8(&tail[..2]).unwrap();
            bytes.push(u8::from_str_radix(digits, 16).unwrap());
            rest = &tail[2..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b' ' => encoded.push('+'),
            b'/' | b'-' | b'.' | b'_' => encoded.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            byte => write!(encoded, "%{byte:02X}").unwrap(),
        }
    }
    encoded
}

/// Whether the connection goes on.
fn answer(stream: &TcpStream, shared: &Mutex<State>, asked: &Asked) -> bool {
    let key = asked.path.strip_prefix("/bucket");
    let key = key.map(|key| key.strip_prefix('/').unwrap_or(key).to_owned());
    let is_head = asked.method == "HEAD";
    let fail = |status, code: &str| {
        if is_head {
            let nothing = [(String::from("Content-Length"), String::from("0"))];
            send_head(stream, &format!("{status} {code}"), &nothing)
        } else {
            send_error(stream, status, code)
        }
    };
    let Some(key) = key else {
        return fail(404, "NoSuchBucket");
    };
    let request = asked.request(&key);
    let mut state = shared.lock().unwrap();
    AHEAD.set(state.ahead);
    let fault = (state.faults)(&request);
    state.seen.push(request.clone());
    if let Some(Fault::Delay(time)) = fault {
        drop(state);
        thread::sleep(time);
        state = shared.lock().unwrap();
    }
    let refused = match fault {
        Some(Fault::Status(503)) => Some((503, "SlowDown")),
        Some(Fault::Status(status)) => Some((status, "AccessDenied")),
        Some(Fault::Code(status, code)) => Some((status, code)),
        _ => None,
    };
    if let Some((status, code)) = refused {
        drop(state);
        return fail(status, code);
    }
    if let Some(Fault::Meanwhile(key)) = fault {
        state.insert(key, Arc::new(b"theirs".to_vec()), Vec::new(), &[]);
    }
    let only_read = matches!(
        request,
        Request::List(_) | Request::Head(_) | Request::Get(_)
    );
    // What is only read leaves no trace.
    if matches!(
        (fault, only_read),
        (Some(Fault::Reset), _) | (Some(Fault::LostReply), true)
    ) {
        return false;
    }
    if !only_read {
        let changed = state.change(&request, asked);
        drop(state);
        if matches!(fault, Some(Fault::LostReply)) {
            return false;
        }
        return match changed {
            Ok((body, etag)) => {
                let etag = etag.map(|etag| (String::from("ETag"), format!("\"{etag}\"")));
                let headers: Vec<_> = etag.into_iter().collect();
                send(stream, "200 OK", &headers, body.as_bytes(), None)
            }
            Err((status, code)) => fail(status, code),
        };
    }
    if matches!(request, Request::List(_)) {
        let is_behind = asked.query.contains_key("start-after");
        state.behind += usize::from(is_behind);
        if is_behind && state.habit == Habit::Refuses {
            drop(state);
            return fail(501, "NotImplemented");
        }
        let mut body = list(&state, &asked.query);
        if matches!(fault, Some(Fault::NoToken)) {
            body = body.replace("NextContinuationToken", "NextMarker");
        }
        drop(state);
        return send(stream, "200 OK", &[], body.as_bytes(), fault);
    }
    if key.is_empty() {
        drop(state);
        return send(stream, "200 OK", &[], b"", None);
    }
    let Some(object) = state.objects.get(&key).cloned() else {
        drop(state);
        return fail(404, "NoSuchKey");
    };
    if matches!(fault, Some(Fault::Replaced))
        && let Some(object) = state.objects.get_mut(&key)
    {
        let body = object.body.iter().map(|byte| byte ^ 1).collect();
        *object = Object::new(Arc::new(body), object.metadata.clone(), object.modified);
    }
    drop(state);
    send_object(stream, asked, &object, fault)
}

fn send_object(stream: &TcpStream, asked: &Asked, object: &Object, fault: Option<Fault>) -> bool {
    let etag = format!("\"{}\"", object.etag);
    if asked
        .headers
        .get("if-match")
        .is_some_and(|wanted| *wanted != etag)
    {
        return send_error(stream, 412, "PreconditionFailed");
    }
    let mut headers = vec![
        (String::from("ETag"), etag),
        (String::from("Last-Modified"), written(object, HTTP_DATE)),
    ];
    for (name, value) in &object.metadata {
        headers.push((format!("x-amz-meta-{name}"), value.clone()));
    }
    if object.is_encrypted {
        let name = String::from("x-amz-server-side-encryption");
        headers.push((name, String::from("aws:kms")));
    }
    if asked.method == "HEAD" {
        let part = object
            .first_part
            .filter(|_| asked.query.contains_key("partNumber"));
        let len = part.unwrap_or(object.body.len());
        headers.push((String::from("Content-Length"), len.to_string()));
        return send_head(stream, "200 OK", &headers);
    }
    match asked.range("range") {
        Some(range) => {
            let all = object.body.len();
            let range = range.start.min(all)..range.end.min(all);
            let body = &object.body[range.clone()];
            let told = format!("bytes {}-{}/{all}", range.start, range.end - 1);
            headers.push((String::from("Content-Range"), told));
            send(stream, "206 Partial Content", &headers, body, fault)
        }
        None => send(stream, "200 OK", &headers, &object.body, fault),
    }
}

fn written(object: &Object, format: &str) -> String {
    let time = Timestamp::from_second(object.modified).unwrap();
    time.strftime(format).to_string()
}

fn list(state: &State, query: &HashMap<String, String>) -> String {
    let text = |name: &str| query.get(name).cloned().unwrap_or_default();
    // Of one that walks directories, what is in one comes before its neighbours.
    let (slash, behind) = match state.habit {
        Habit::Walks => ('\u{0}', '\u{1}'),
        // The next byte after a slash is a zero.
        _ => ('/', '0'),
    };
    let turned = |text: String| text.replace('/', &slash.to_string());
    let encoded = |text: &str| encode(&text.replace(slash, "/"));
    let walked: BTreeMap<String, Object>;
    let objects = if state.habit == Habit::Walks {
        let all = state.objects.iter();
        walked = all
            .map(|(key, object)| (turned(key.clone()), object.clone()))
            .collect();
        &walked
    } else {
        &state.objects
    };
    let (prefix, delimiter) = (turned(text("prefix")), text("delimiter"));
    let done = turned(decode(&text("continuation-token").replace('+', " ")));
    let after = match state.habit {
        Habit::BeginsAnew => String::new(),
        _ => turned(text("start-after")),
    };
    let keys_max = query
        .get("max-keys")
        .map_or(1000, |keys| keys.parse().unwrap());
    let keys_max = state.page.min(keys_max);
    let (mut contents, mut prefixes, mut count) = (String::new(), BTreeSet::new(), 0);
    let (mut last, mut more) = (String::new(), false);
    let mut from = Bound::Included(prefix.clone().max(done.clone()).max(after.clone()));
    while let Some((key, object)) = objects.range((from, Bound::Unbounded)).next() {
        let Some(rest) = key.strip_prefix(&prefix) else {
            break;
        };
        let common = rest.split_once(slash).filter(|_| !delimiter.is_empty());
        let name = common.map_or(key.clone(), |(name, _)| format!("{prefix}{name}{slash}"));
        from = match common {
            Some((name, _)) => Bound::Included(format!("{prefix}{name}{behind}")),
            None => Bound::Excluded(key.clone()),
        };
        // A directory that keys before are in is told once more, as by some servers.
        if name <= done || *key <= after {
            continue;
        }
        if count == keys_max {
            more = true;
            break;
        }
        count += 1;
        last.clone_from(&name);
        if common.is_some() {
            prefixes.insert(name);
        } else {
            write!(
                contents,
                "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>&quot;{}&quot;</ETag><Size>{}</Size></Contents>",
                encoded(key), written(object, "%Y-%m-%dT%H:%M:%S.000Z"), object.etag, object.body.len(),
            )
            .unwrap();
        }
    }
    let mut common = String::new();
    for prefix in &prefixes {
        write!(
            common,
            "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>",
            encoded(prefix)
        )
        .unwrap();
    }
    let token = if more {
        let token = encoded(&last);
        format!("<NextContinuationToken>{token}</NextContinuationToken>")
    } else {
        String::new()
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>bucket</Name><EncodingType>url</EncodingType><KeyCount>{count}</KeyCount><IsTruncated>{more}</IsTruncated>{token}{contents}{common}</ListBucketResult>"
    )
}

fn send_error(stream: &TcpStream, status: u16, code: &str) -> bool {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as ordered</Message></Error>"
    );
    send(
        stream,
        &format!("{status} {code}"),
        &[],
        body.as_bytes(),
        None,
    )
}

fn send(
    stream: &TcpStream,
    status: &str,
    headers: &[(String, String)],
    body: &[u8],
    fault: Option<Fault>,
) -> bool {
    let mut headers = headers.to_vec();
    headers.push((String::from("Content-Length"), body.len().to_string()));
    let altered: Vec<u8> = body.iter().map(|byte| byte ^ 1).collect();
    let (sent, goes_on) = match fault {
        Some(Fault::Altered) => (&altered[..], true),
        Some(Fault::CutAfter(bytes)) => (&body[..bytes.min(body.len())], false),
        _ => (body, true),
    };
    let mut stream = stream;
    send_head(stream, status, &headers) && stream.write_all(sent).is_ok() && goes_on
}

fn send_head(mut stream: &TcpStream, status: &str, headers: &[(String, String)]) -> bool {
    let now = Timestamp::now() + SignedDuration::from_secs(AHEAD.get());
    let date = now.strftime(HTTP_DATE);
    let mut head = format!("HTTP/1.1 {status}\r\nDate: {date}\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).is_ok()
}
