//! Transactions of an etcd, by its gateway for JSON (`POST /v3/kv/txn`): compare, then read or write.
//!
//! Keys and values are bytes, in base64 on the wire. Of several endpoints the one that answered last is asked first, and
//! the next one where it doesn't. Any transaction may be sent twice: what was compared no longer holds then.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// How long one request to one endpoint may take.
const REQUEST: Duration = Duration::from_secs(1);
/// The largest answer that is read, in bytes.
const ANSWER_MAX: usize = 128 << 20;
/// The most of an answer that stands in a text.
const SHOWN: usize = 200;

/// Why a transaction came to nothing, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No endpoint answered in time; it may have been carried out all the same.
    #[error("{endpoint}: {why}")]
    Unreached {
        /// The last endpoint that was tried.
        endpoint: String,
        /// What became of it.
        why: String,
    },
    /// It was refused as it stands, and nothing was changed.
    #[error("{endpoint} answered {status}: {text}")]
    Refused {
        /// Which endpoint.
        endpoint: String,
        /// The status of HTTP.
        status: u16,
        /// What it said.
        text: String,
    },
    /// What came can't be read.
    #[error("{endpoint} answered what can't be read: {why}")]
    Strange {
        /// Which endpoint.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Where it is.
#[derive(Debug)]
pub struct Etcd {
    endpoints: Vec<(String, u16)>,
    first: AtomicUsize,
}

/// A transaction: what must hold, and what is done then. Operations keep to etcd's bound of 128.
#[derive(Debug, Default)]
pub struct Txn {
    compare: Vec<Value>,
    then: Vec<Value>,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value; empty where only keys were asked for.
    pub value: Vec<u8>,
    /// The revision of the whole store that it is from.
    pub revision: i64,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Which cluster of etcd it was.
    pub cluster: String,
    /// Whether what was compared held, and the operations were carried out.
    pub held: bool,
    /// The entries that were read, by operation.
    pub found: Vec<Vec<Entry>>,
}

/// The end of the range of all keys that begin so: the beginning with its last byte one higher. Beginnings end with `/`.
fn end_of(beginning: &str) -> String {
    let mut end = beginning.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    BASE64.encode(end)
}

impl Txn {
    /// The key must be of this revision; of 0, if it must not be there.
    pub fn unchanged(&mut self, key: &str, revision: i64) {
        self.compare.push(json!({
            "key": BASE64.encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string(),
        }));
    }

    /// All keys that begin so must be of this revision or an earlier one.
    pub fn all_unchanged(&mut self, beginning: &str, revision: i64) {
        self.compare.push(json!({
            "key": BASE64.encode(beginning), "range_end": end_of(beginning), "target": "MOD", "result": "LESS",
            "mod_revision": revision.saturating_add(1).to_string(),
        }));
    }

    /// Reads a key.
    pub fn read(&mut self, key: &str, only_key: bool) {
        let range = json!({ "key": BASE64.encode(key), "keys_only": only_key });
        self.then.push(json!({ "request_range": range }));
    }

    /// Reads all keys that begin so.
    pub fn read_all(&mut self, beginning: &str) {
        let range = json!({ "key": BASE64.encode(beginning), "range_end": end_of(beginning) });
        self.then.push(json!({ "request_range": range }));
    }

    /// Writes a key.
    pub fn put(&mut self, key: &str, value: &[u8]) {
        let put = json!({ "key": BASE64.encode(key), "value": BASE64.encode(value) });
        self.then.push(json!({ "request_put": put }));
    }

    /// Removes a key.
    pub fn delete(&mut self, key: &str) {
        self.then
            .push(json!({ "request_delete_range": { "key": BASE64.encode(key) } }));
    }

    /// Removes all keys that begin so.
    pub fn delete_all(&mut self, beginning: &str) {
        let range = json!({ "key": BASE64.encode(beginning), "range_end": end_of(beginning) });
        self.then.push(json!({ "request_delete_range": range }));
    }

    /// How many operations, or comparisons if they are more.
    pub fn size(&self) -> usize {
        self.compare.len().max(self.then.len())
    }
}

impl Etcd {
    /// At these endpoints, of which there is at least one.
    pub fn new(endpoints: Vec<(String, u16)>) -> Self {
        Self {
            endpoints,
            first: AtomicUsize::new(0),
        }
    }

    /// Carries a transaction out, until a time.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn carry_out(&self, txn: &Txn, until: Instant) -> Result<Done, Error> {
        let body = json!({ "compare": txn.compare, "success": txn.then }).to_string();
        let body = Bytes::from(body);
        let first = self.first.load(Ordering::Relaxed);
        let mut last = Error::Unreached {
            endpoint: "etcd".to_owned(),
            why: "no time was left to ask it".to_owned(),
        };
        for n in 0..self.endpoints.len() {
            let at = first.wrapping_add(n) % self.endpoints.len();
            let Some((host, port)) = self.endpoints.get(at) else {
                continue;
            };
            let left = until.saturating_duration_since(Instant::now()).min(REQUEST);
            if left.is_zero() {
                break;
            }
            let endpoint = format!("{host}:{port}");
            let asked = tokio::time::timeout(left, ask(&endpoint, host, *port, body.clone())).await;
            let late = || Error::Unreached {
                endpoint: endpoint.clone(),
                why: format!("no answer within {} ms", left.as_millis()),
            };
            match asked.unwrap_or_else(|_| Err(late())) {
                Ok(done) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(done);
                }
                Err(refused @ Error::Refused { .. }) => return Err(refused),
                Err(error) => {
                    // What comes next begins where this one left off.
                    self.first.store(at.wrapping_add(1), Ordering::Relaxed);
                    last = error;
                }
            }
        }
        Err(last)
    }
}

async fn ask(endpoint: &str, host: &str, port: u16, body: Bytes) -> Result<Done, Error> {
    let unreached = |why: String| Error::Unreached {
        endpoint: endpoint.to_owned(),
        why,
    };
    let strange = |why: String| Error::Strange {
        endpoint: endpoint.to_owned(),
        why,
    };
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((name, port))
        .await
        .map_err(|e| unreached(e.to_string()))?;
    // Without it a small request waits for the acknowledgement of what came before.
    stream.set_nodelay(true).ok();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| unreached(e.to_string()))?;
    let connection = tokio::spawn(connection);
    let answered = async {
        let request = hyper::Request::post("/v3/kv/txn")
            .header("Host", endpoint)
            .header("Content-Type", "application/json")
            .body(Full::new(body))
            .map_err(|e| unreached(e.to_string()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| unreached(e.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|e| unreached(e.to_string()))?.to_bytes();
        match status.as_u16() {
            200 => read(&body).map_err(strange),
            // It has no leader, or can't reach it.
            status @ (500 | 502..=504) => Err(unreached(format!("{status}: {}", said(&body)))),
            status => Err(Error::Refused {
                endpoint: endpoint.to_owned(),
                status,
                text: said(&body),
            }),
        }
    };
    let answered = answered.await;
    connection.abort();
    answered
}

/// What a refusal says, as far as it says anything.
fn said(body: &[u8]) -> String {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let text = value.as_ref().and_then(|value| {
        let text = value.get("message").or_else(|| value.get("error"));
        text.and_then(Value::as_str).map(str::to_owned)
    });
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    text.chars().take(SHOWN).filter(|c| !c.is_control()).collect()
}

/// An answer of the gateway: numbers of 64 bits are texts, and what is zero, false or empty is left out.
fn read(body: &[u8]) -> Result<Done, String> {
    let answer: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let header = answer.get("header").ok_or("it has no header")?;
    let cluster = header
        .get("cluster_id")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let held = answer.get("succeeded").and_then(Value::as_bool).unwrap_or(false);
    let mut found = Vec::new();
    let responses = answer.get("responses").and_then(Value::as_array);
    for response in responses.into_iter().flatten() {
        let Some(range) = response.get("response_range") else {
            continue;
        };
        let entries = range.get("kvs").and_then(Value::as_array);
        let entries = entries.into_iter().flatten().map(entry);
        found.push(entries.collect::<Result<Vec<Entry>, String>>()?);
    }
    Ok(Done {
        cluster: cluster.to_owned(),
        held,
        found,
    })
}

fn entry(kv: &Value) -> Result<Entry, String> {
    let text = |field: &str| kv.get(field).and_then(Value::as_str).unwrap_or_default();
    let bytes = |field: &str| {
        BASE64
            .decode(text(field))
            .map_err(|e| format!("{field} '{}': {e}", tombolo_core::model::cut(text(field))))
    };
    Ok(Entry {
        key: String::from_utf8(bytes("key")?).map_err(|e| format!("key: {e}"))?,
        value: bytes("value")?,
        revision: text("mod_revision")
            .parse()
            .map_err(|e| format!("mod_revision '{}': {e}", text("mod_revision")))?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_is_read_with_what_it_leaves_out() {
        let answer = br#"{"header":{"cluster_id":"77","revision":"12"},"succeeded":true,"responses":[
            {"response_range":{"header":{},"kvs":[{"key":"YQ==","create_revision":"2","mod_revision":"9","value":"AP8="}],"count":"1"}},
            {"response_put":{}},{"response_range":{"header":{}}}]}"#;
        let done = read(answer).unwrap();
        let a = Entry {
            key: "a".to_owned(),
            value: vec![0, 255],
            revision: 9,
        };
        assert_eq!(
            done,
            Done {
                cluster: "77".to_owned(),
                held: true,
                found: vec![vec![a], Vec::new()],
            }
        );
        let refused = read(br#"{"header":{"cluster_id":"77"}}"#).unwrap();
        assert!(!refused.held && refused.found.is_empty());
    }

    #[test]
    fn a_strange_answer_is_told_and_nothing_panics() {
        let kv =
            |kv: &str| format!(r#"{{"header":{{}},"responses":[{{"response_range":{{"kvs":[{kv}]}}}}]}}"#);
        for (answer, why) in [
            ("".to_owned(), "EOF"),
            ("[]".to_owned(), "no header"),
            ("{}".to_owned(), "no header"),
            (kv(r#"{"key":"*"}"#), "key '*'"),
            (kv(r#"{"key":"/w==","mod_revision":"1"}"#), "key: invalid utf-8"),
            (kv(r#"{"key":"YQ==","value":7}"#), "mod_revision ''"),
            (kv(r#"{"key":"YQ==","mod_revision":"x"}"#), "mod_revision 'x'"),
        ] {
            let got = read(answer.as_bytes()).unwrap_err();
            assert!(got.contains(why), "{answer}: {got}");
        }
        assert_eq!(
            said(br#"{"error":"no","message":"no leader","code":14}"#),
            "no leader"
        );
        assert_eq!(said(&[b'x'; 1000]).len(), SHOWN);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever the store says: it is an answer, or an error of one line that isn't long.
        #[test]
        fn any_changed_answer_is_one_or_an_error(
            spoils in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6),
            random in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut answer = br#"{"header":{"cluster_id":"77","revision":"12"},"succeeded":true,"responses":[
                {"response_range":{"kvs":[{"key":"YQ==","mod_revision":"9","value":"AP8="}]}},{"response_put":{}}]}"#.to_vec();
            for (at, by, insert) in spoils {
                let at = at.index(answer.len());
                if insert { answer.insert(at, by) } else { answer[at] = by }
            }
            for bytes in [answer, random] {
                if let Err(error) = read(&bytes) {
                    prop_assert!(error.len() < 500, "{}", error);
                }
                prop_assert!(said(&bytes).chars().count() <= SHOWN);
                prop_assert!(!said(&bytes).chars().any(char::is_control));
            }
        }
    }

    #[test]
    fn a_range_ends_after_all_keys_that_begin_so() {
        assert_eq!(BASE64.decode(end_of("/a/")).unwrap(), b"/a0");
    }

    #[tokio::test]
    async fn the_next_endpoint_is_asked_where_one_does_not_answer_and_is_the_first_from_then_on() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let answering = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refusing = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, dead) = (
            answering.local_addr().unwrap().port(),
            refusing.local_addr().unwrap().port(),
        );
        drop(refusing);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = answering.accept().await {
                let mut buffer = [0; 4096];
                let count = stream.read(&mut buffer).await.unwrap();
                assert!(buffer[..count].starts_with(b"POST /v3/kv/txn HTTP/1.1"));
                let body = r#"{"header":{"cluster_id":"1"},"succeeded":true}"#;
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let etcd = Etcd::new(vec![
            ("127.0.0.1".to_owned(), dead),
            ("127.0.0.1".to_owned(), port),
        ]);
        let until = || Instant::now() + Duration::from_secs(5);
        assert!(etcd.carry_out(&Txn::default(), until()).await.unwrap().held);
        assert_eq!(etcd.first.load(Ordering::Relaxed), 1);
        let dead = Etcd::new(vec![("127.0.0.1".to_owned(), dead)]);
        let error = dead.carry_out(&Txn::default(), until()).await.unwrap_err();
        assert!(matches!(error, Error::Unreached { .. }), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
