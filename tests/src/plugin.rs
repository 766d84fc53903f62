//! A client of the plug-in socket that speaks as Docker does, or as Docker never would.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::Value;

use crate::host::Host;
use crate::http::{self, Answer};

/// The plug-in socket on its host.
pub const SOCKET: &str = "/run/docker/plugins/tombolo.sock";

/// A client of the plug-in socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of a host's plug-in socket.
    pub fn new(host: &Host) -> Self {
        Self {
            socket: host.path(SOCKET),
        }
    }

    /// Sends a body of any bytes to a method on a connection of its own.
    #[track_caller]
    pub fn bytes(&self, method: &str, body: &[u8]) -> Answer {
        http::request(&self.socket, "POST", &format!("/{method}"), body)
            .unwrap_or_else(|e| panic!("no answer to {method} with {} bytes: {e}", body.len()))
    }

    /// Calls a method as Docker does; the status must be 200 and the answer JSON.
    #[track_caller]
    pub fn call(&self, method: &str, request: &Value) -> Value {
        let body = if request.is_null() {
            Vec::new()
        } else {
            request.to_string().into_bytes()
        };
        let answer = self.bytes(method, &body);
        assert_eq!(answer.status, 200, "{method}: {}", answer.text());
        crate::json::parse(&answer.text())
    }

    /// Calls a method, which must not refuse.
    #[track_caller]
    pub fn accepted(&self, method: &str, request: &Value) -> Value {
        let answer = self.call(method, request);
        assert_eq!(refusal(&answer), None, "{method} refused {request}");
        answer
    }

    /// Calls a method, which must refuse, and returns why.
    #[track_caller]
    pub fn refused(&self, method: &str, request: &Value) -> String {
        let answer = self.call(method, request);
        refusal(&answer).unwrap_or_else(|| panic!("{method} accepted {request}: {answer}"))
    }

    /// A connection on which a test sends what it likes.
    pub fn connect(&self) -> UnixStream {
        http::connect(&self.socket).unwrap_or_else(|e| panic!("connecting to the plug-in socket: {e}"))
    }

    /// A connection on which part of a request has been sent.
    pub fn half_sent(&self, bytes: &[u8]) -> UnixStream {
        let mut stream = self.connect();
        stream.write_all(bytes).expect("sending part of a request");
        stream
    }
}

/// Why an answer refuses, if it does: `Err` of the network methods, `Error` of the address methods.
pub fn refusal(answer: &Value) -> Option<String> {
    let reason = |key: &str| {
        answer
            .get(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    reason("Err").or_else(|| reason("Error")).map(str::to_owned)
}
