//! Calls from host to host: a connection, a question, an answer.
//!
//! A question begins with a byte that says whom it is for: the node, or this room itself where secrets are handed over.
//! Lengths are bounded, and so is the time; a connection has one question.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tombolo_cluster::HostId;
use tombolo_cluster::node::Called;
use tombolo_cluster::wire::CALL;

use super::certs::{Connector, DoorError, Judgement};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a question and its answer may take once hands were shaken.
pub const TALK: Duration = Duration::from_secs(10);

/// For the node.
pub const FOR_NODE: u8 = 0;
/// May I have the secret that is in force, or the next one?
pub const FOR_SECRET: u8 = 1;
/// Here is the next secret.
pub const NEXT_SECRET: u8 = 2;
/// Shall we try a tunnel?
pub const FOR_TUNNELS: u8 = 3;

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody is there, or not in time.
    #[error("{address} can't be reached: {why}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// Why.
        why: String,
    },
    /// Whoever is there doesn't let us in.
    #[error("the host at {0} doesn't know this one as a member")]
    Refused(SocketAddr),
    /// Hands were not shaken.
    #[error("no connection with {address}: {source}")]
    Door {
        /// With whom.
        address: SocketAddr,
        /// Why.
        source: DoorError,
    },
    /// The connection ended.
    #[error("the connection with {address} ended: {source}")]
    Ended {
        /// With whom.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Calls a member.
///
/// # Errors
/// [`Error`].
pub async fn call(
    connector: &Connector,
    address: SocketAddr,
    host: HostId,
    kind: u8,
    question: &[u8],
) -> Result<Vec<u8>, Error> {
    let stream = connect(address).await?;
    let shaken = connector.connect(stream, host).await;
    let (mut stream, _) = shaken.map_err(|source| match refused_us(&source) {
        true => Error::Refused(address),
        false => Error::Door { address, source },
    })?;
    let talk = async {
        write(&mut stream, Some(kind), question).await?;
        read(&mut stream).await
    };
    let answer = in_time(talk).await;
    answer.map_err(|source| match is_alert(&source) {
        true => Error::Refused(address),
        false => Error::Ended { address, source },
    })
}

/// How the node is told of it.
pub fn called(outcome: Result<Vec<u8>, Error>) -> Called {
    match outcome {
        Ok(answer) => Called::Answer(answer),
        Err(Error::Refused(_)) => Called::Refused,
        Err(error) => {
            tracing::debug!(%error, "a call failed");
            Called::Failed
        }
    }
}

/// Connects, within bounds.
///
/// # Errors
/// [`Error::Unreachable`].
pub async fn connect(address: SocketAddr) -> Result<TcpStream, Error> {
    let why = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // Without it a small answer waits for the acknowledgement of what came before.
            stream.set_nodelay(true).ok();
            return Ok(stream);
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", CONNECT.as_secs()),
    };
    Err(Error::Unreachable { address, why })
}

/// Gives a talk its time.
///
/// # Errors
/// The talk's own, or that it took too long.
pub async fn in_time<T>(talk: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it took too long");
    tokio::time::timeout(TALK, talk).await.map_err(late)?
}

/// Writes one message.
///
/// # Errors
/// Of the connection.
pub async fn write<S: AsyncWrite + Unpin>(stream: &mut S, kind: Option<u8>, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(bytes.len() + 5);
    message.extend(kind);
    message.extend(length.to_be_bytes());
    message.extend(bytes);
    stream.write_all(&message).await?;
    stream.flush().await
}

/// Reads one message that was written without a kind.
///
/// # Errors
/// Of the connection, or if it is longer than may be.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await? as usize;
    if length > CALL {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message of {length} bytes: at most {CALL} are read"),
        ));
    }
    // Memory follows what comes, not what was announced.
    let mut bytes = Vec::new();
    let got = stream.take(length as u64).read_to_end(&mut bytes).await?;
    match got == length {
        true => Ok(bytes),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Reads the kind of a message, and the message.
///
/// # Errors
/// As for [`read`].
pub async fn read_kind<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await?;
    Ok((kind, read(stream).await?))
}

/// Whether the other end said, in the connection that it proved itself in, that our certificate doesn't do.
fn is_alert(error: &io::Error) -> bool {
    let told = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        told,
        Some(rustls::Error::AlertReceived(
            AlertDescription::CertificateUnknown
                | AlertDescription::BadCertificate
                | AlertDescription::AccessDenied
                | AlertDescription::UnknownCA
                | AlertDescription::CertificateRevoked
        ))
    )
}

fn refused_us(error: &DoorError) -> bool {
    match error {
        DoorError::Handshake(source) => is_alert(source),
        // That the other one is none to us is another matter.
        DoorError::Peer(Judgement::Stranger { .. }) | DoorError::Peer(_) => false,
        DoorError::Late | DoorError::Purpose | DoorError::Name(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whoever is at the other end says this, and no more.
    fn heard(bytes: &[u8]) -> io::Result<(u8, Vec<u8>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(read_kind(&mut &*bytes))
    }

    #[test]
    fn a_message_longer_than_may_be_is_refused_before_it_is_read() {
        let announced = |length: usize| {
            let head = [&[FOR_NODE][..], &(length as u32).to_be_bytes()].concat();
            heard(&head).unwrap_err()
        };
        assert_eq!(announced(CALL).kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(announced(CALL + 1).kind(), io::ErrorKind::InvalidData);
        assert_eq!(
            announced(u32::MAX as usize).to_string(),
            "a message of 4294967295 bytes: at most 4194304 are read"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(kind: u8, bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut written = Vec::new();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(write(&mut written, Some(kind), &bytes)).unwrap();
            prop_assert_eq!(heard(&written).unwrap(), (kind, bytes));
        }

        /// Of any bytes exactly as many are a message as were announced, or there is none.
        #[test]
        fn any_bytes_are_the_message_that_they_announce_or_none(
            mut bytes in prop::collection::vec(any::<u8>(), 0..300),
            small: bool,
        ) {
            if let (true, Some(high)) = (small, bytes.get_mut(1..4)) {
                high.fill(0);
            }
            let length = bytes.get(1..5).map(|four| u32::from_be_bytes(four.try_into().unwrap()) as usize);
            let whole = length.filter(|length| *length <= bytes.len().saturating_sub(5));
            match (heard(&bytes), whole) {
                (Ok((kind, message)), Some(length)) => {
                    prop_assert_eq!((kind, &message[..]), (bytes[0], &bytes[5..5 + length]));
                }
                (outcome, whole) => prop_assert!(outcome.is_err() && whole.is_none()),
            }
        }
    }
}
