//! Just enough HTTP/1.1 over a Unix socket, written by hand so that a test can also send what no client would.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(20);

/// An answer: its status and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, as bytes.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends one request on a connection of its own and reads the answer.
///
/// # Errors
/// What the socket refused, a connection that ended early, or an answer that is no HTTP.
pub fn request(socket: &Path, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
    let mut stream = connect(socket)?;
    let head = head(method, path, body.len());
    // One that refuses a request may stop reading it: its answer counts, not the broken pipe.
    let sent = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body));
    match read_answer(&mut stream) {
        Ok(answer) => Ok(answer),
        Err(error) => Err(sent.err().unwrap_or(error)),
    }
}

/// A connection that gives up after a while.
///
/// # Errors
/// What the socket refused.
pub fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// The head of a request as Docker's plug-in client sends it: without a content type.
pub fn head(method: &str, path: &str, length: usize) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: plugin.moby.localhost\r\nUser-Agent: Go-http-client/1.1\r\n\
         Content-Length: {length}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\r\n"
    )
}

/// Reads one answer, with a body of known length, in pieces, or up to the end of the connection.
///
/// # Errors
/// A connection that ended early or was too slow, or an answer that is no HTTP.
pub fn read_answer(stream: &mut impl Read) -> io::Result<Answer> {
    let head = read_head(stream)?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| bad(&head))?;
    let header = |name: &str| {
        let mut pairs = head.split("\r\n").filter_map(|line| line.split_once(':'));
        pairs
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
    };
    let mut body = Vec::new();
    if let Some(length) = header("content-length") {
        body.resize(length.parse().map_err(|_| bad(&head))?, 0);
        stream.read_exact(&mut body)?;
    } else if header("transfer-encoding").is_some() {
        read_pieces(stream, &mut body)?;
    } else if status != 204 {
        stream.read_to_end(&mut body)?;
    }
    Ok(Answer { status, body })
}

fn read_head(stream: &mut impl Read) -> io::Result<String> {
    read_until(stream, b"\r\n\r\n")
}

fn read_until(stream: &mut impl Read, end: &[u8]) -> io::Result<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(end) {
        stream.read_exact(&mut byte)?;
        text.push(byte[0]);
    }
    text.truncate(text.len() - end.len());
    String::from_utf8(text).map_err(|_| bad("bytes that are no text"))
}

fn read_pieces(stream: &mut impl Read, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let line = read_until(stream, b"\r\n")?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(|_| bad(&line))?;
        let mut piece = vec![0; length];
        stream.read_exact(&mut piece)?;
        read_until(stream, b"\r\n")?;
        if length == 0 {
            return Ok(());
        }
        body.extend_from_slice(&piece);
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP answer: {what}"))
}
