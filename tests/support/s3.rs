//! A server of S3 in memory: listings, HEAD and GET with ranges and conditions, and the faults that a test orders. It takes any
//! credentials, and counts what it was asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// When every object was written.
pub(crate) const MODIFIED: i64 = 1_700_000_000;
const MODIFIED_ISO: &str = "2023-11-14T22:13:20.000Z";
const MODIFIED_HTTP: &str = "Tue, 14 Nov 2023 22:13:20 GMT";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Request {
    List(String),
    Head(String),
    Get(String),
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// This status instead.
    Status(u16),
    /// The connection ends after so many bytes of the body.
    CutAfter(usize),
    /// A page that says there are more, and not where.
    NoToken,
    /// The object has other contents from now on, and this answer those of before.
    Replaced,
}

#[derive(Clone)]
struct Object {
    body: Arc<Vec<u8>>,
    metadata: Vec<(String, String)>,
    version: u32,
}

type Faults = Box<dyn FnMut(&Request) -> Option<Fault> + Send>;

struct State {
    objects: BTreeMap<String, Object>,
    seen: Vec<Request>,
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
            objects: BTreeMap::new(),
            seen: Vec::new(),
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
        let object = Object {
            body: Arc::new(body.to_vec()),
            metadata: pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            version: 0,
        };
        self.state().objects.insert(key.to_owned(), object);
    }

    pub(crate) fn remove(&self, key: &str) {
        self.state().objects.remove(key).unwrap();
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
}

fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    while let Some(asked) = read_request(&mut reader) {
        if !answer(stream, state, &asked) {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn read_request(reader: &mut impl BufRead) -> Option<Asked> {
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
    Some(Asked {
        method,
        path,
        query,
        headers: headers.collect(),
    })
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
fn answer(stream: &TcpStream, state: &Mutex<State>, asked: &Asked) -> bool {
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
    let request = match (asked.method.as_str(), key.is_empty()) {
        ("GET", true) => Request::List(asked.query.get("prefix").cloned().unwrap_or_default()),
        ("HEAD", _) => Request::Head(key.clone()),
        ("GET", false) => Request::Get(key.clone()),
        (method, _) => panic!("{method} is not served"),
    };
    let mut state = state.lock().unwrap();
    let fault = (state.faults)(&request);
    state.seen.push(request.clone());
    if let Some(Fault::Status(status)) = fault {
        drop(state);
        let code = if status == 503 {
            "SlowDown"
        } else {
            "AccessDenied"
        };
        return fail(status, code);
    }
    if matches!(request, Request::List(_)) {
        let mut body = list(&state, &asked.query);
        if matches!(fault, Some(Fault::NoToken)) {
            body = body.replace("NextContinuationToken", "NextMarker");
        }
        drop(state);
        return send(stream, "200 OK", &[], body.as_bytes(), fault);
    }
    let Some(object) = state.objects.get(&key).cloned() else {
        drop(state);
        return fail(404, "NoSuchKey");
    };
    if matches!(fault, Some(Fault::Replaced))
        && let Some(object) = state.objects.get_mut(&key)
    {
        object.body = Arc::new(object.body.iter().map(|byte| byte ^ 1).collect());
        object.version += 1;
    }
    drop(state);
    send_object(stream, asked, &object, fault)
}

fn send_object(stream: &TcpStream, asked: &Asked, object: &Object, fault: Option<Fault>) -> bool {
    let etag = format!("\"{}-{}\"", object.body.len(), object.version);
    if asked
        .headers
        .get("if-match")
        .is_some_and(|wanted| *wanted != etag)
    {
        return send_error(stream, 412, "PreconditionFailed");
    }
    let mut headers = vec![
        (String::from("ETag"), etag),
        (String::from("Last-Modified"), MODIFIED_HTTP.to_owned()),
    ];
    for (name, value) in &object.metadata {
        headers.push((format!("x-amz-meta-{name}"), value.clone()));
    }
    if asked.method == "HEAD" {
        headers.push((
            String::from("Content-Length"),
            object.body.len().to_string(),
        ));
        return send_head(stream, "200 OK", &headers);
    }
    let range = asked.headers.get("range").map(|range| {
        let (start, end) = range
            .strip_prefix("bytes=")
            .unwrap()
            .split_once('-')
            .unwrap();
        start.parse::<usize>().unwrap()..end.parse::<usize>().unwrap() + 1
    });
    match range {
        Some(range) => {
            let body = &object.body[range.clone()];
            let all = object.body.len();
            let told = format!("bytes {}-{}/{all}", range.start, range.end - 1);
            headers.push((String::from("Content-Range"), told));
            send(stream, "206 Partial Content", &headers, body, fault)
        }
        None => send(stream, "200 OK", &headers, &object.body, fault),
    }
}

fn list(state: &State, query: &HashMap<String, String>) -> String {
    let text = |name: &str| query.get(name).cloned().unwrap_or_default();
    let (prefix, delimiter, after) = (
        text("prefix"),
        text("delimiter"),
        text("continuation-token"),
    );
    let keys_max = query
        .get("max-keys")
        .map_or(1000, |keys| keys.parse().unwrap());
    let keys_max = state.page.min(keys_max);
    let (mut contents, mut prefixes, mut count) = (String::new(), BTreeSet::new(), 0);
    let (mut last, mut more) = (String::new(), false);
    for (key, object) in state.objects.range(prefix.clone()..) {
        let Some(rest) = key.strip_prefix(&prefix) else {
            break;
        };
        let common = rest.split_once('/').filter(|_| !delimiter.is_empty());
        let name = common.map_or(key.clone(), |(name, _)| format!("{prefix}{name}/"));
        if name <= after || prefixes.contains(&name) {
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
                "<Contents><Key>{}</Key><LastModified>{MODIFIED_ISO}</LastModified><ETag>&quot;{}-{}&quot;</ETag><Size>{}</Size></Contents>",
                encode(key), object.body.len(), object.version, object.body.len(),
            )
            .unwrap();
        }
    }
    let mut common = String::new();
    for prefix in &prefixes {
        write!(
            common,
            "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>",
            encode(prefix)
        )
        .unwrap();
    }
    let token = if more {
        let escaped = last.replace('&', "&amp;").replace('<', "&lt;");
        format!("<NextContinuationToken>{escaped}</NextContinuationToken>")
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
    let (sent, goes_on) = match fault {
        Some(Fault::CutAfter(bytes)) => (&body[..bytes.min(body.len())], false),
        _ => (body, true),
    };
    let mut stream = stream;
    send_head(stream, status, &headers) && stream.write_all(sent).is_ok() && goes_on
}

fn send_head(mut stream: &TcpStream, status: &str, headers: &[(String, String)]) -> bool {
    let mut head = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).is_ok()
}
