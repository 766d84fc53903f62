//! Connections: who calls, who answers, for which purpose.
//!
//! ```text
//!   member ── tombolo/1 ──────> Acceptor     both show certificates; Who::Member
//!   joiner ── tombolo-join/1 ─> Acceptor     the server alone does; Who::Joiner, whom a token must admit
//! ```
//!
//! One listener serves both: the purpose (ALPN) stands in the client's first message, and chooses what the server asks
//! for. TLS 1.3 only, and no session is ever resumed, as a resumed one isn't judged again.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{InvalidDnsNameError, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, OtherError, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, TlsStream};
use tombolo_cluster::HostId;

use super::trust::{ByToken, Judgement, Members, Peer, SharedTrust, peer_of};
use super::{Error, Identity, Print};

/// The purpose of members.
pub const MEMBER: &[u8] = b"tombolo/1";
/// The purpose of those who join.
pub const JOIN: &[u8] = b"tombolo-join/1";
/// How long a handshake may take.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// Why no connection came about. It is closed.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The handshake failed; TLS's own reason is the source, such as that the other end doesn't let us in.
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    /// It took too long.
    #[error("the handshake was not done within {} s", HANDSHAKE.as_secs())]
    Late,
    /// Neither a member's nor a joiner's purpose.
    #[error("the other end asks for something else than 'tombolo/1' and 'tombolo-join/1'")]
    Purpose,
    /// The name of the host to call is none.
    #[error("the name of a host")]
    Name(#[source] InvalidDnsNameError),
    /// The peer is not let in.
    #[error("the peer is not let in")]
    Peer(#[source] Judgement),
}

/// TLS's clock, which always says the same: nothing here depends on time.
#[derive(Debug)]
struct NoClock;

impl TimeProvider for NoClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(1_750_000_000)))
    }
}

/// Who came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A member.
    Member(Peer),
    /// Anybody. All that it may do is show a token.
    Joiner,
}

/// A connection, and who is at its other end.
#[derive(Debug)]
pub struct Accepted<S> {
    /// The connection.
    pub stream: TlsStream<S>,
    /// Who came in.
    pub who: Who,
}

/// Answers. Made anew when the secret is rotated; the trust changes under it.
#[derive(Clone)]
pub struct Acceptor {
    member: Arc<ServerConfig>,
    join: Arc<ServerConfig>,
    trust: SharedTrust,
}

impl Acceptor {
    /// Answers as this host.
    pub fn new(identity: &Identity, trust: &SharedTrust) -> Result<Self, Error> {
        Ok(Self {
            member: server(identity, MEMBER, Some(trust))?,
            join: server(identity, JOIN, None)?,
            trust: trust.clone(),
        })
    }

    /// Shakes hands. A member that isn't let in hears of it only with its first read.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> Result<Accepted<S>, DoorError> {
        in_time(async {
            let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
            let start = hello.await.map_err(fault)?;
            // A later program may offer more than one; a joiner offers no member's.
            let asks = |purpose| {
                start
                    .client_hello()
                    .alpn()
                    .is_some_and(|mut asked| asked.any(|name| name == purpose))
            };
            let (config, purpose) = match (asks(MEMBER), asks(JOIN)) {
                (true, _) => (&self.member, MEMBER),
                (false, true) => (&self.join, JOIN),
                (false, false) => return Err(DoorError::Purpose),
            };
            let stream = start.into_stream(config.clone()).await.map_err(fault)?;
            let (_, connection) = stream.get_ref();
            if connection.alpn_protocol() != Some(purpose) {
                return Err(DoorError::Purpose);
            }
            let who = match purpose {
                // The trust may have changed since the handshake began.
                MEMBER => Who::Member(peer_of(connection, &self.trust).map_err(DoorError::Peer)?),
                _ => Who::Joiner,
            };
            Ok(Accepted {
                stream: stream.into(),
                who,
            })
        })
        .await
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Acceptor({:?})", self.trust.get())
    }
}

/// Calls members, as a member. Made anew when the secret is rotated; the trust changes under it.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    trust: SharedTrust,
}

impl Connector {
    /// Calls as this host.
    pub fn new(identity: &Identity, trust: &SharedTrust) -> Result<Self, Error> {
        let config =
            ClientConfig::builder_with_details(Arc::new(aws_lc_rs::default_provider()), Arc::new(NoClock))
                .with_protocol_versions(&[&TLS13])
                .map_err(tls("choosing TLS 1.3"))?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Members(trust.clone())))
                .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
                .map_err(tls("using this host's certificate"))?;
        Ok(Self {
            config: client(config, MEMBER),
            trust: trust.clone(),
        })
    }

    /// Shakes hands with `host` and nobody else. Whether it lets us in shows with the first read.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        host: HostId,
    ) -> Result<(TlsStream<S>, Peer), DoorError> {
        let name = ServerName::try_from(self.trust.get().name_of(host)).map_err(DoorError::Name)?;
        let stream = call(self.config.clone(), name, stream, MEMBER).await?;
        let peer = peer_of(stream.get_ref().1, &self.trust).map_err(DoorError::Peer)?;
        Ok((stream, peer))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({:?})", self.trust.get())
    }
}

/// Calls a member as one who joins: believes a server that the authority with this print has certified, whichever
/// member it is. Anybody who holds that authority's secret can be that server.
pub async fn join<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    authority: Print,
) -> Result<TlsStream<S>, DoorError> {
    let config =
        ClientConfig::builder_with_details(Arc::new(aws_lc_rs::default_provider()), Arc::new(NoClock))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| DoorError::Handshake(io::Error::other(error)))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ByToken(authority)))
            .with_no_client_auth();
    // Who answers isn't known, so the name is nobody's; it is neither sent nor compared.
    let name = ServerName::try_from("join.tombolo.internal").map_err(DoorError::Name)?;
    call(client(config, JOIN), name, stream, JOIN).await
}

async fn call<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: S,
    purpose: &[u8],
) -> Result<TlsStream<S>, DoorError> {
    in_time(async {
        let connecting = TlsConnector::from(config).connect(name, stream);
        let stream = connecting.await.map_err(fault)?;
        match stream.get_ref().1.alpn_protocol() {
            Some(got) if got == purpose => Ok(stream.into()),
            _ => Err(DoorError::Purpose),
        }
    })
    .await
}

/// The reason of a handshake: ours where we refused, or else TLS's.
fn fault(error: io::Error) -> DoorError {
    let told = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let ours = match told {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) => {
            inner.downcast_ref::<Judgement>().cloned()
        }
        _ => None,
    };
    ours.map_or(DoorError::Handshake(error), DoorError::Peer)
}

async fn in_time<T>(handshake: impl Future<Output = Result<T, DoorError>>) -> Result<T, DoorError> {
    // On the heap, as the state of a handshake is large.
    match tokio::time::timeout(HANDSHAKE, Box::pin(handshake)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(DoorError::Late),
    }
}

fn tls(doing: &'static str) -> impl Fn(rustls::Error) -> Error {
    move |source| Error::Tls { doing, source }
}

fn client(mut config: ClientConfig, purpose: &[u8]) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![purpose.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

fn server(
    identity: &Identity,
    purpose: &[u8],
    trust: Option<&SharedTrust>,
) -> Result<Arc<ServerConfig>, Error> {
    let config =
        ServerConfig::builder_with_details(Arc::new(aws_lc_rs::default_provider()), Arc::new(NoClock))
            .with_protocol_versions(&[&TLS13])
            .map_err(tls("choosing TLS 1.3"))?;
    let config = match trust {
        Some(trust) => config.with_client_cert_verifier(Arc::new(Members(trust.clone()))),
        None => config.with_no_client_auth(),
    };
    let mut config = config
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(tls("using this host's certificate"))?;
    config.alpn_protocols = vec![purpose.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
