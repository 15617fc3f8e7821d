//! The S3 server of the tests, for measuring: prints its URL; for each line that it reads, prints what it was asked for since
//! the last one, and ends with its input. A number in a line says how many milliseconds an answer takes from then on; `md5`, that ETags
//! are MD5s. Nothing is kept.
#![allow(dead_code, clippy::unwrap_used)] // Tests ask it for more.

#[path = "../tests/s3/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::io::BufRead;
use std::time::Duration;

use server::{Fault, Request, Server};

fn main() {
    let server = Server::start();
    println!("{}", server.url());
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        if let Ok(millis) = line.parse() {
            let latency = Duration::from_millis(millis);
            server.faults(move |_| Some(Fault::Delay(latency)));
        }
        if line == "md5" {
            server.sum();
        }
        let mut counts = BTreeMap::<&str, u64>::new();
        for request in server.seen() {
            *counts.entry(kind(&request)).or_default() += 1;
        }
        println!("{}", serde_json::to_string(&counts).unwrap());
    }
}

fn kind(request: &Request) -> &'static str {
    match request {
        Request::List(_) => "list",
        Request::Head(_) => "head",
        Request::Get(_) => "get",
        Request::Put(_) => "put",
        Request::Copy(_) => "copy",
        Request::Begin(_) => "begin",
        Request::Part(..) => "part",
        Request::CopyPart(..) => "copy part",
        Request::Complete(_) => "complete",
        Request::Abort(_) => "abort",
        Request::Uploads => "uploads",
        Request::Versioning => "versioning",
        Request::Delete(_) | Request::DeleteMany(_) => "delete",
    }
}
