//! The sockets, and who is served at them.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tombolo_cluster::HostId;
use tombolo_cluster::charter::Charter;

use super::Came;
use crate::cluster::calls::{self, FOR_NODE, FOR_SECRET, FOR_TUNNELS, NEXT_SECRET};
use crate::cluster::certs::{
    Acceptor, Authority, ClusterId, Connector, HostKey, Print, SharedTrust, Trust, Who,
};
use crate::cluster::joining;
use crate::cluster::secret::Secret;

/// How large the kernel's queue of datagrams is to be, in bytes.
const QUEUE: usize = 4 << 20;

/// How many connections are served at a time.
const CONNECTIONS: usize = 256;

pub(super) fn trust(
    charter: &Charter,
    secret: &Secret,
    next: Option<&Secret>,
) -> Result<Trust, crate::cluster::certs::Error> {
    let members = charter
        .hosts
        .iter()
        .map(|(host, member)| (*host, Print::from_bytes(member.key)))
        .collect();
    let current = Authority::of(secret)?;
    let next = next.map(Authority::of).transpose()?;
    let authorities: Vec<&Authority> = std::iter::once(&current).chain(&next).collect();
    Trust::new(ClusterId::from_bytes(charter.cluster), &authorities, &members)
}

pub(super) fn doors(
    charter: &Charter,
    secret: &Secret,
    me: HostId,
    key: &HostKey,
    trust: &SharedTrust,
) -> Result<(Acceptor, Connector), crate::cluster::certs::Error> {
    let identity = Authority::of(secret)?.identity(ClusterId::from_bytes(charter.cluster), me, key)?;
    Ok((
        Acceptor::new(&identity, trust)?,
        Connector::new(&identity, trust)?,
    ))
}

/// The sockets, at all addresses of the advertised one's family (of both, for IPv6).
pub(super) async fn sockets(address: SocketAddr) -> std::io::Result<(UdpSocket, TcpListener)> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, address.port()).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, address.port()).into(),
    };
    let tcp = TcpListener::bind(any).await?;
    let udp = UdpSocket::bind(any).await?;
    if sockopt::set_socket_recv_buffer_size_force(&udp, QUEUE).is_err() {
        // As much as the system lets anybody have.
        sockopt::set_socket_recv_buffer_size(&udp, QUEUE).ok();
    }
    // What is for neighbours that aren't there waits for seconds in this room, and would leave the others none.
    if sockopt::set_socket_send_buffer_size_force(&udp, QUEUE).is_err() {
        sockopt::set_socket_send_buffer_size(&udp, QUEUE).ok();
    }
    Ok((udp, tcp))
}

/// Answers calls, each in a task of its own.
pub(super) async fn serve(listener: TcpListener, acceptor: Arc<RwLock<Acceptor>>, came: mpsc::Sender<Came>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = room.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        stream.set_nodelay(true).ok();
        let acceptor = acceptor.read().unwrap_or_else(PoisonError::into_inner).clone();
        let came = came.clone();
        tokio::spawn(async move {
            if let Err(why) = converse(stream, &acceptor, &came).await {
                tracing::debug!(why, "a call came to nothing");
            }
            drop(place);
        });
    }
}

async fn converse(
    stream: tokio::net::TcpStream,
    acceptor: &Acceptor,
    came: &mpsc::Sender<Came>,
) -> Result<(), String> {
    let accepted = acceptor
        .accept(stream)
        .await
        .map_err(|e| crate::http::chain(&e))?;
    let mut stream = accepted.stream;
    let text = |e: std::io::Error| e.to_string();
    let reply = match accepted.who {
        Who::Member(peer) => {
            let (kind, bytes) = calls::in_time(calls::read_kind(&mut stream))
                .await
                .map_err(text)?;
            let (answer, answered) = oneshot::channel();
            let asked = match kind {
                FOR_NODE => Came::Asked {
                    from: peer.host,
                    bytes,
                    answer,
                },
                FOR_SECRET => Came::Secret {
                    offered: None,
                    answer,
                },
                NEXT_SECRET => Came::Secret {
                    offered: Some(bytes),
                    answer,
                },
                FOR_TUNNELS => Came::Tunnel {
                    from: peer.host,
                    bytes,
                    answer,
                },
                other => return Err(format!("a question of an unknown sort {other}")),
            };
            came.send(asked)
                .await
                .map_err(|_| "the part has ended".to_owned())?;
            tokio::time::timeout(calls::TALK, answered)
                .await
                .map_err(|_| "no answer in time".to_owned())?
                .map_err(|_| "no answer".to_owned())?
        }
        Who::Joiner => {
            let bytes = calls::in_time(calls::read(&mut stream)).await.map_err(text)?;
            let asking = tombolo_cluster::wire::decode::<joining::Asking>(&bytes)
                .ok_or("a question that can't be read")?;
            let (answer, answered) = oneshot::channel();
            came.send(Came::Join(asking, answer))
                .await
                .map_err(|_| "the part has ended".to_owned())?;
            let answer = tokio::time::timeout(calls::TALK, answered)
                .await
                .map_err(|_| "no answer in time".to_owned())?;
            tombolo_cluster::wire::encode(&answer.map_err(|_| "no answer".to_owned())?)
        }
    };
    calls::in_time(calls::write(&mut stream, None, &reply))
        .await
        .map_err(text)?;
    // The other end may have gone with its answer already.
    tokio::io::AsyncWriteExt::shutdown(&mut stream).await.ok();
    Ok(())
}
