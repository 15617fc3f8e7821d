//! `--metrics-listen`: serves the newest snapshot to Prometheus.
//!
//! The run must not suffer from whoever connects. So one thread serves one connection at a time, reads a head of bounded
//! size in bounded time, answers in bounded time and closes. `tiny_http` was rejected for this: it has a thread for each
//! connection and no limit on their number, their headers or their time, and it is deaf after one failed `accept`.

mod http;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Board;

/// Between two tries when no connection can be accepted, for lack of descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The address that `text` names: `PORT`, `:PORT` or `IP:PORT`. Without an IP only this machine can connect; port 0 is any
/// free one.
///
/// # Errors
/// What is allowed.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let digits = text.strip_prefix(':').unwrap_or(text);
    let port = Some(digits).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let address = match port {
        Some(digits) => digits.parse().map(local).ok(),
        None => text.parse().ok(),
    };
    address.ok_or_else(|| {
        format!(
            "--metrics-listen '{text}' is not an address to listen on: write a port up to 65535 (9184: of 127.0.0.1) or an IP \
             address and a port (0.0.0.0:9184, [::1]:9184); port 0 is any free one"
        )
    })
}

/// What the server's thread and its owner share.
#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    /// The connection that is being served, for whoever ends it early.
    client: Mutex<Option<TcpStream>>,
}

impl Shared {
    fn client(&self) -> MutexGuard<'_, Option<TcpStream>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server of metrics. It ends when dropped.
pub struct MetricsServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// The listening socket, to shut it down.
    socket: TcpStream,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Listens on `address` from now on, and shows `GET /metrics` what is on the board.
    ///
    /// # Errors
    /// The address is in use, not of this machine, or not allowed.
    pub fn start(address: SocketAddr, board: Arc<Board>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        // `shutdown` wakes a thread that sleeps in `accept`, and in the standard library only a stream has it.
        let socket = TcpStream::from(OwnedFd::from(listener.try_clone()?));
        let shared = Arc::new(Shared::default());
        let thread = thread::Builder::new()
            .name(String::from("metrics"))
            .spawn({
                let shared = shared.clone();
                move || serve(&listener, &shared, &board)
            })?;
        Ok(Self {
            address,
            shared,
            socket,
            thread: Some(thread),
        })
    }

    /// Where it listens, with the port that was chosen for 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the server, at once whatever a client does.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, SeqCst);
        // Both fail only when there is nothing that could block any more.
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(client) = &*self.shared.client() {
            let _ = client.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the metrics thread panicked");
            }
        }
    }
}

fn serve(listener: &TcpListener, shared: &Shared, board: &Board) {
    while !shared.stopping.load(SeqCst) {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::debug!("no metrics connection could be accepted: {error}");
                thread::park_timeout(ACCEPT_PAUSE);
                continue;
            }
        };
        // A client that is not there for the owner to end is not served.
        let Ok(handle) = client.try_clone() else {
            continue;
        };
        *shared.client() = Some(handle);
        // Looked at after the client is there: a stop sees either the client or is seen.
        if !shared.stopping.load(SeqCst)
            && let Err(error) = http::converse(&client, board)
        {
            tracing::debug!("a metrics connection ended early: {error}");
        }
        *shared.client() = None;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn server() -> MetricsServer {
        MetricsServer::start(parse_address("0").unwrap(), Arc::default()).unwrap()
    }

    fn connect(server: &MetricsServer) -> TcpStream {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream
    }

    fn answer(server: &MetricsServer, request: &[u8]) -> String {
        let mut stream = connect(server);
        stream.write_all(request).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn addresses_by_table() {
        for (text, expected) in [
            ("9184", "127.0.0.1:9184"),
            (":9184", "127.0.0.1:9184"),
            ("0", "127.0.0.1:0"),
            ("0.0.0.0:9184", "0.0.0.0:9184"),
            ("[::1]:9184", "[::1]:9184"),
            ("[::]:0", "[::]:0"),
        ] {
            assert_eq!(parse_address(text).unwrap().to_string(), expected, "{text}");
        }
        for refused in [
            "",
            ":",
            "65536",
            "-1",
            "+1",
            "::1:9184x",
            "localhost:9184",
            "1.2.3.4",
            "1.2.3.4:",
            " 9184",
            "9184 ",
        ] {
            let message = parse_address(refused).unwrap_err();
            assert!(message.contains("0.0.0.0:9184"), "{refused}: {message}");
        }
    }

    #[test]
    fn metrics_are_served_with_their_type_and_length() {
        let server = server();
        for request in [
            "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /metrics?name=x HTTP/1.0\r\n\r\n",
            "GET /metrics HTTP/1.1\n\n",
        ] {
            let text = answer(&server, request.as_bytes());
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            assert!(
                head.contains("Content-Type: application/openmetrics-text; version=1.0.0"),
                "{head}"
            );
            assert!(
                head.contains(&format!("Content-Length: {}\r\n", body.len())),
                "{head}"
            );
            assert!(body.contains("ringsync_entries_found_total 0\n") && body.ends_with("# EOF\n"));
        }
    }

    #[test]
    fn a_snapshot_on_the_board_is_what_is_served() {
        let board = Arc::new(Board::default());
        let server = MetricsServer::start(parse_address("0").unwrap(), board.clone()).unwrap();
        let mut snapshot = crate::monitor::Snapshot::default();
        snapshot.totals.files_copied = 42;
        board.put(snapshot, crate::monitor::Point::default());
        let text = answer(&server, b"GET /metrics HTTP/1.1\r\n\r\n");
        assert!(text.contains("\nringsync_files_copied_total 42\n"));
    }

    #[test]
    fn other_requests_get_an_answer_each() {
        let server = server();
        for (request, expected) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "200 OK"),
            (b"GET /other HTTP/1.1\r\n\r\n", "404 Not Found"),
            (b"GET /metrics/ HTTP/1.1\r\n\r\n", "404 Not Found"),
            (
                b"POST /metrics HTTP/1.1\r\nContent-Length: 2\r\n\r\nab",
                "405 Method Not Allowed",
            ),
            (b"HEAD /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
            (b"\x16\x03\x01\xff\xfe\r\n\r\n", "400 Bad Request"),
            (b"GET /metrics\r\n\r\n", "400 Bad Request"),
            (b"GET /metrics HTTP/2.0\r\n\r\n", "400 Bad Request"),
        ] {
            let text = answer(&server, request);
            assert!(
                text.starts_with(&format!("HTTP/1.1 {expected}\r\n")),
                "{text}"
            );
        }
        assert!(answer(&server, b"PUT / HTTP/1.1\r\n\r\n").contains("\r\nAllow: GET\r\n"));
    }

    #[test]
    fn a_head_without_end_is_refused_and_the_next_client_is_served() {
        let server = server();
        let mut request = b"GET /metrics HTTP/1.1\r\n".to_vec();
        request.resize(20_000, b'a');
        assert!(answer(&server, &request).starts_with("HTTP/1.1 431 "));
        assert!(answer(&server, b"GET / HTTP/1.1\r\n\r\n").contains("200 OK"));
    }

    #[test]
    fn clients_that_go_early_do_no_harm() {
        let server = server();
        for sent in [&b""[..], b"GET /met", b"GET /metrics HTTP/1.1\r\n\r\n"] {
            connect(&server).write_all(sent).unwrap();
        }
        assert!(answer(&server, b"GET / HTTP/1.1\r\n\r\n").contains("200 OK"));
    }

    /// The stop would otherwise last as long as the server waits for the rest of the head; that it ended the connection
    /// itself is seen by the client.
    #[test]
    fn a_half_open_client_does_not_hold_up_the_stop() {
        let server = server();
        let mut client = connect(&server);
        client.write_all(b"GET /metrics HTT").unwrap();
        server.stop();
        assert!(matches!(client.read(&mut [0; 16]), Ok(0) | Err(_)));
    }

    #[test]
    fn a_stopped_server_gives_its_port_back() {
        let server = server();
        let address = server.address();
        drop(server);
        assert!(TcpStream::connect(address).is_err());
        // Another may listen there now.
        TcpListener::bind(address).unwrap();
    }

    #[test]
    fn a_port_in_use_is_an_error() {
        let server = server();
        let again = MetricsServer::start(server.address(), Arc::default());
        assert_eq!(
            again.err().map(|error| error.kind()),
            Some(io::ErrorKind::AddrInUse)
        );
    }
}
