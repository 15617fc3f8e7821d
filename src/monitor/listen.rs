//! `--metrics-listen`: serves the newest snapshot over HTTP. One thread, which the run never waits for.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;

use tiny_http::{Header, Method, Request, Response, Server};

use super::prometheus::{self, CONTENT_TYPE};
use super::snapshot::Board;

/// Serves until it is dropped.
pub struct MetricsServer {
    server: Arc<Server>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// What the kernel says of the address.
    pub fn start(address: SocketAddr, board: Arc<Board>) -> io::Result<Self> {
        let server = Server::http(address).map_err(io::Error::other)?;
        let server = Arc::new(server);
        let address = server.server_addr().to_ip().unwrap_or(address);
        let thread = {
            let server = server.clone();
            std::thread::Builder::new()
                .name(String::from("metrics"))
                .spawn(move || {
                    // Ends with the error that `unblock` makes.
                    while let Ok(request) = server.recv() {
                        answer(request, &board);
                    }
                })?
        };
        Ok(Self {
            server,
            address,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that serves metrics panicked");
        }
    }
}

fn answer(request: Request, board: &Board) {
    let is_read = matches!(request.method(), Method::Get | Method::Head);
    let path = request.url().split('?').next().unwrap_or("");
    let response = match (is_read, path) {
        (false, _) => plain("only GET is served\n", 405),
        (true, "/metrics") => match prometheus::encode(board.latest()) {
            Ok(text) => with_type(Response::from_string(text), CONTENT_TYPE),
            Err(error) => plain(&format!("{error}\n"), 500),
        },
        (true, "/") => plain("ringsync: metrics are at /metrics\n", 200),
        (true, _) => plain("not found; metrics are at /metrics\n", 404),
    };
    if let Err(error) = request.respond(response) {
        // Whoever asked has gone.
        tracing::debug!(%error, "metrics were not delivered");
    }
}

fn plain(text: &str, status: u16) -> Response<io::Cursor<Vec<u8>>> {
    let response = Response::from_string(text).with_status_code(status);
    with_type(response, "text/plain; charset=utf-8")
}

fn with_type(
    response: Response<io::Cursor<Vec<u8>>>,
    content_type: &str,
) -> Response<io::Cursor<Vec<u8>>> {
    match Header::from_bytes("Content-Type", content_type) {
        Ok(header) => response.with_header(header),
        Err(()) => response,
    }
}

/// The address of `--metrics-listen`: a port alone is one of the loopback interface, for the metrics tell names of trees.
///
/// # Errors
/// What is allowed.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    text.parse().map_err(|_| {
        format!(
            "--metrics-listen '{text}' is no address: write a port (of 127.0.0.1), or address and port such as \
             0.0.0.0:9184 or [::1]:9184"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    fn get(address: SocketAddr, method: &str, path: &str) -> String {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        ask(address, &request)
    }

    #[test]
    fn metrics_are_served_and_nothing_else() {
        let address = parse_address("0").unwrap();
        let server = MetricsServer::start(address, Arc::default()).unwrap();
        let metrics = get(server.address(), "GET", "/metrics");
        assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
        assert!(
            metrics.contains(CONTENT_TYPE) && metrics.contains("ringsync_entries_found_total 0")
        );
        for (method, path, status) in [
            ("GET", "/", "200"),
            ("GET", "/etc/passwd", "404"),
            ("POST", "/metrics", "405"),
        ] {
            let reply = get(server.address(), method, path);
            assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{reply}");
        }
        ask(server.address(), "nonsense\r\n\r\n");
    }

    #[test]
    fn a_client_that_says_nothing_does_not_keep_the_server_from_ending() {
        let server = MetricsServer::start(parse_address("0").unwrap(), Arc::default()).unwrap();
        let silent = TcpStream::connect(server.address()).unwrap();
        let metrics = get(server.address(), "GET", "/metrics");
        assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
        drop(server);
        drop(silent);
    }

    #[test]
    fn a_port_alone_is_one_of_this_machine() {
        for (text, address) in [
            ("9184", "127.0.0.1:9184"),
            (":9184", "127.0.0.1:9184"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(parse_address(text).unwrap().to_string(), address);
        }
        for text in ["", "x", "65536", "1.2.3.4", "host:80", "-1"] {
            assert!(
                parse_address(text).unwrap_err().contains("127.0.0.1"),
                "{text}"
            );
        }
    }
}
