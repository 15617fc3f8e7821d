//! As much of HTTP as a scrape needs.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::monitor::{Board, prometheus};

/// The head of a request. Prometheus sends a few hundred bytes.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// For a whole head to come. Others wait meanwhile, and scrapes give up after ten seconds by default.
const HEAD_TIME_MAX: Duration = Duration::from_secs(2);
/// For a whole answer to be taken.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// What is read and dropped after an answer, so that closing does not reset the connection before the answer has arrived.
const REST_BYTES_MAX: usize = 64 << 10;
/// Reads one request and answers it.
pub(super) fn converse(client: &TcpStream, board: &Board) -> io::Result<()> {
    let until = Instant::now() + HEAD_TIME_MAX;
    let answer = match read_head(client, until)? {
        Head::Whole(head) => answer(&head, board),
        Head::TooLong => Answer::plain("431 Request Header Fields Too Large", "too long\n"),
        // Nobody who could read an answer.
        Head::Cut => return Ok(()),
    };
    write_all(client, &answer.bytes(), Instant::now() + ANSWER_TIME_MAX)?;
    client.shutdown(Shutdown::Write)?;
    drop_rest(client, until)
}

enum Head {
    Whole(Vec<u8>),
    TooLong,
    /// The client ended before the head did.
    Cut,
}

fn read_head(mut client: &TcpStream, until: Instant) -> io::Result<Head> {
    let mut head = vec![0; HEAD_BYTES_MAX];
    let mut length = 0;
    while length < head.len() {
        client.set_read_timeout(Some(left(until)?))?;
        let count = uninterrupted(|| client.read(&mut head[length..]))?;
        if count == 0 {
            return Ok(Head::Cut);
        }
        length += count;
        if ends(&head[..length]) {
            head.truncate(length);
            return Ok(Head::Whole(head));
        }
    }
    Ok(Head::TooLong)
}

/// Whether there is an empty line: with carriage returns, as the standard has it, or typed by hand without.
fn ends(head: &[u8]) -> bool {
    let has = |end: &[u8]| head.windows(end.len()).any(|part| part == end);
    has(b"\r\n\r\n") || has(b"\n\n")
}

fn write_all(mut client: &TcpStream, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        client.set_write_timeout(Some(left(until)?))?;
        let count = uninterrupted(|| client.write(bytes))?;
        bytes = &bytes[count..];
    }
    Ok(())
}

fn drop_rest(mut client: &TcpStream, until: Instant) -> io::Result<()> {
    let mut bytes = [0; 4 << 10];
    let mut dropped = 0;
    while dropped < REST_BYTES_MAX {
        client.set_read_timeout(Some(left(until)?))?;
        match uninterrupted(|| client.read(&mut bytes))? {
            0 => break,
            count => dropped += count,
        }
    }
    Ok(())
}

/// A call again as long as signals interrupt it. Each time the timeout starts anew, and signals are few.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    // A timeout of zero would mean none.
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

struct Answer {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

impl Answer {
    fn plain(status: &'static str, body: &str) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.to_owned(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let allow = if self.status.starts_with("405") {
            "Allow: GET\r\n"
        } else {
            ""
        };
        format!(
            "HTTP/1.1 {}\r\n{allow}Content-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             Connection: close\r\n\r\n{}",
            self.status,
            self.content_type,
            self.body.len(),
            self.body
        )
        .into_bytes()
    }
}

fn answer(head: &[u8], board: &Board) -> Answer {
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let words: Vec<&str> = std::str::from_utf8(line)
        .unwrap_or_default()
        .split_ascii_whitespace()
        .collect();
    let [method, target, version] = words[..] else {
        return Answer::plain("400 Bad Request", "not a request\n");
    };
    if !version.starts_with("HTTP/1.") {
        return Answer::plain("400 Bad Request", "not a request\n");
    }
    if method != "GET" {
        return Answer::plain("405 Method Not Allowed", "only GET\n");
    }
    match target.split('?').next().unwrap_or_default() {
        "/metrics" => metrics(board),
        "/" => Answer::plain("200 OK", "ringsync: metrics are at /metrics\n"),
        _ => Answer::plain("404 Not Found", "metrics are at /metrics\n"),
    }
}

fn metrics(board: &Board) -> Answer {
    match prometheus::encode(board.latest()) {
        Ok(body) => Answer {
            status: "200 OK",
            content_type: prometheus::CONTENT_TYPE,
            body,
        },
        Err(error) => Answer::plain("500 Internal Server Error", &error.to_string()),
    }
}
