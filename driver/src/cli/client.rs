//! HTTP over the control socket: one request a process, with an end to its patience where an answer has an end.

use std::future::Future;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::Value;
use tokio::net::UnixStream;

use super::failure::Failure;

/// How long the daemon may take to show something.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to change something: to put a whole saved state in the place of its own, or to agree with other
/// hosts.
const PATIENCE_CHANGE: Duration = Duration::from_secs(60);
/// The largest answer that is read, in bytes: many times what 100,000 endpoints take.
const ANSWER_MAX: usize = 256 << 20;

/// The longest line of a stream that is read, in bytes.
const LINE_MAX: usize = 1 << 20;

/// The way to the running daemon.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A way to the daemon whose control socket this is.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The document at `path`, byte for byte.
    pub fn get(&self, path: &'static str) -> Result<Bytes, Failure> {
        self.ask(Method::GET, path, Bytes::new(), PATIENCE)
    }

    /// The document at `path`.
    pub fn get_json(&self, path: &'static str) -> Result<Value, Failure> {
        let bytes = self.get(path)?;
        serde_json::from_slice(&bytes).map_err(|source| Failure::NoJson { path, source })
    }

    /// Puts `body` at `path`.
    pub fn put(&self, path: &'static str, body: Vec<u8>) -> Result<Bytes, Failure> {
        self.ask(Method::PUT, path, body.into(), PATIENCE_CHANGE)
    }

    /// Hands each line at `path` to `take` as it comes, until `take` wants no more or `until` is ready.
    ///
    /// # Errors
    /// Beside the usual ones [`Failure::Ended`] where the daemon ended first, and those of `take`.
    pub fn follow(
        &self,
        path: &'static str,
        until: impl Future<Output = ()>,
        mut take: impl FnMut(&[u8]) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        let following = async {
            let request = self.request(Method::GET, path, Bytes::new());
            let mut stream = self.patiently(PATIENCE, request).await?;
            let mut read = Vec::new();
            while let Some(Ok(frame)) = stream.frame().await {
                read.extend_from_slice(&frame.into_data().unwrap_or_default());
                while let Some(end) = read.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = read.drain(..=end).collect();
                    if take(&line[..end])?.is_break() {
                        return Ok(());
                    }
                }
                if read.len() > LINE_MAX {
                    let why = format!("a line has more than {LINE_MAX} bytes");
                    return Err(self.broken(std::io::Error::other(why)));
                }
            }
            // However the stream ends, the daemon is not there any more.
            Err(Failure::Ended {
                socket: self.socket.clone(),
            })
        };
        runtime()?.block_on(async {
            tokio::select! {
                ended = following => ended,
                () = until => Ok(()),
            }
        })
    }

    /// Asks for the connection itself, to go on with it as `protocol`.
    pub fn upgrade(
        &self,
        path: &'static str,
        protocol: &'static str,
        body: &impl Serialize,
    ) -> Result<std::os::unix::net::UnixStream, Failure> {
        let body = serde_json::to_vec(body).map_err(|source| Failure::NoJson { path, source })?;
        let upgraded = async {
            let head = [("connection", "upgrade"), ("upgrade", protocol)];
            let response = self.send(Method::POST, path, &head, body.into()).await?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Err(refusal(
                    response.status(),
                    &self.collect(response.into_body()).await?,
                ));
            }
            let upgraded = hyper::upgrade::on(response).await.map_err(|e| self.broken(e))?;
            let parts = upgraded.downcast::<TokioIo<UnixStream>>();
            let parts =
                parts.map_err(|_| self.broken(std::io::Error::other("not the connection that was made")))?;
            parts.io.into_inner().into_std().map_err(|e| self.broken(e))
        };
        runtime()?.block_on(self.patiently(PATIENCE, upgraded))
    }

    /// Has the daemon do what `path` stands for with `body`, and gives its document about it.
    pub fn post_json(&self, path: &'static str, body: &Value) -> Result<Value, Failure> {
        let body = body.to_string().into_bytes();
        let bytes = self.ask(Method::POST, path, body.into(), PATIENCE_CHANGE)?;
        serde_json::from_slice(&bytes).map_err(|source| Failure::NoJson { path, source })
    }

    fn ask(
        &self,
        method: Method,
        path: &'static str,
        body: Bytes,
        patience: Duration,
    ) -> Result<Bytes, Failure> {
        let exchange = self.exchange(method, path, body);
        runtime()?.block_on(self.patiently(patience, exchange))
    }

    async fn patiently<T>(
        &self,
        patience: Duration,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::time::timeout(patience, answer)
            .await
            .map_err(|_| Failure::NoAnswer {
                socket: self.socket.clone(),
                seconds: patience.as_secs(),
            })?
    }

    async fn exchange(&self, method: Method, path: &'static str, body: Bytes) -> Result<Bytes, Failure> {
        self.collect(self.request(method, path, body).await?).await
    }

    /// Sends a request; gives the body of a good answer, of which only the beginning may have come.
    async fn request(&self, method: Method, path: &'static str, body: Bytes) -> Result<Incoming, Failure> {
        let response = self.send(method, path, &[], body).await?;
        let status = response.status();
        if status.is_success() {
            Ok(response.into_body())
        } else {
            Err(refusal(status, &self.collect(response.into_body()).await?))
        }
    }

    /// Sends a request; gives the head of the answer, whatever it says.
    async fn send(
        &self,
        method: Method,
        path: &'static str,
        head: &[(&'static str, &'static str)],
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| self.unreachable(source))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.broken(e))?;
        // The connection's own error comes out of `send_request` as well.
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "tombolo")
            .header("content-type", "application/json");
        for (name, value) in head {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|e| self.broken(e))?;
        sender.send_request(request).await.map_err(|e| self.broken(e))
    }

    async fn collect(&self, body: Incoming) -> Result<Bytes, Failure> {
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        let body = body.map_err(|source| Failure::Broken {
            socket: self.socket.clone(),
            source,
        })?;
        Ok(body.to_bytes())
    }

    fn unreachable(&self, source: std::io::Error) -> Failure {
        let socket = self.socket.clone();
        match source.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure::NotRunning { socket },
            ErrorKind::PermissionDenied => Failure::Denied { socket },
            _ => Failure::Broken {
                socket,
                source: source.into(),
            },
        }
    }

    fn broken(&self, source: impl std::error::Error + Send + Sync + 'static) -> Failure {
        Failure::Broken {
            socket: self.socket.clone(),
            source: source.into(),
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::Process {
            doing: "speak to the daemon",
            source: source.into(),
        })
}

/// The daemon's no, in its own words where it has some.
fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = match document.get("error").and_then(Value::as_str) {
        Some(words) => words.to_owned(),
        None => format!(
            "the daemon answered {status}: {}",
            tombolo_core::model::cut(String::from_utf8_lossy(body).trim())
        ),
    };
    Failure::Refused { message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_for_root_only_says_so() {
        let failure =
            Client::new(PathBuf::from("/run/x.sock")).unreachable(ErrorKind::PermissionDenied.into());
        assert_eq!(failure.exit_code(), 1);
        assert!(
            failure
                .chain()
                .starts_with("/run/x.sock is for root only: run this command as root")
        );
    }

    #[test]
    fn an_answer_that_is_no_document_is_shown_on_one_line() {
        let failure = refusal(StatusCode::NOT_FOUND, b"page not found\n");
        assert_eq!(
            failure.chain(),
            "the daemon answered 404 Not Found: page not found"
        );
    }
}
