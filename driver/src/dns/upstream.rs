//! Questions that aren't ours, put to somebody else.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hickory_server::net::runtime::{RuntimeProvider, TokioRuntimeProvider};
use hickory_server::net::tcp::TcpClientStream;
use hickory_server::net::udp::UdpClientStream;
use hickory_server::net::xfer::{DnsHandle, DnsRequestSender, FirstAnswer, Protocol};
use hickory_server::proto::op::{DnsRequest, DnsRequestOptions, Message, ResponseCode};
use hickory_server::server::Request;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Until when an answer must have come, whoever is asked. Clients ask again after 2 to 5 seconds.
const BOUND: Duration = Duration::from_millis(1_600);

/// How long the first of several servers is waited for.
const FIRST: Duration = Duration::from_millis(800);

/// How many questions of one place may be under way at once; each has a socket. More are answered with a failure at once.
const AT_ONCE: usize = 256;

/// How many servers of a host are used, as its own resolver does (resolv.conf(5), `MAXNS`).
const SERVERS: usize = 3;

/// The port of name servers.
pub const PORT: u16 = 53;

/// Who is asked, and how.
#[derive(Clone)]
pub struct Upstream<P> {
    servers: Arc<dyn Fn() -> Vec<SocketAddr> + Send + Sync>,
    provider: P,
    permits: Arc<Semaphore>,
}

impl Upstream<TokioRuntimeProvider> {
    /// The name servers of this host, as they are when a question comes. `not` are addresses of our own, where we would ask
    /// ourselves.
    pub fn of_host(not: impl Fn(&IpAddr) -> bool + Send + Sync + 'static) -> Self {
        let servers = move || {
            let servers = crate::host::resolvers().into_iter();
            let servers = servers.filter(|server| !not(&server.ip()));
            servers.take(SERVERS).collect()
        };
        Self::new(servers, TokioRuntimeProvider::new())
    }
}

impl<P: RuntimeProvider> Upstream<P> {
    /// Servers that are asked by sockets of a certain sort.
    pub fn new(servers: impl Fn() -> Vec<SocketAddr> + Send + Sync + 'static, provider: P) -> Self {
        Self {
            servers: Arc::new(servers),
            provider,
            permits: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// The answer to a question; none if there is none in time. The servers are asked in their order: the next one if one says
    /// nothing or that it can't.
    pub async fn ask(&self, request: &Request) -> Option<Message> {
        let _permit = self.permits.try_acquire().ok()?;
        let end = Instant::now() + BOUND;
        let message = Message::from_vec(request.as_slice()).ok()?;
        let servers = (self.servers)();
        let mut last = None;
        for (n, server) in servers.iter().enumerate() {
            let until = match n + 1 == servers.len() {
                true => end,
                false => end.min(Instant::now() + FIRST),
            };
            let asked = timeout_at(
                until,
                ask(*server, message.clone(), request.protocol(), &self.provider),
            );
            match asked.await {
                Ok(Ok(answer)) if !failed(answer.metadata.response_code) => return Some(answer),
                // What the last one says is better than nothing.
                Ok(Ok(answer)) => last = Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, error, "a name server gave no answer"),
                Err(late) => tracing::debug!(%server, %late, "a name server gave no answer"),
            }
        }
        last
    }
}

/// Whether another server may know better.
fn failed(code: ResponseCode) -> bool {
    matches!(
        code,
        ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp
    )
}

/// Asks one server, in the way in which we were asked: who asks by datagrams gets what fits in one, and asks again by a
/// connection for the rest.
async fn ask<P: RuntimeProvider>(
    server: SocketAddr,
    message: Message,
    protocol: Protocol,
    provider: &P,
) -> Result<Message, String> {
    let mut options = DnsRequestOptions::default();
    options.use_edns = false;
    let mut message = message;
    // Another number for each question, as the port is another one: an answer is hard to forge so.
    message.metadata.id = rand::random();
    let request = DnsRequest::new(message, options);
    let answered = match protocol {
        Protocol::Tcp => {
            let connected = TcpClientStream::exchange(server, None, BOUND, None, provider.clone());
            let exchange = connected.await.map_err(|error| error.to_string())?;
            exchange.send(request).first_answer().await
        }
        _ => {
            let builder = UdpClientStream::builder(server, provider.clone());
            let mut stream = builder.with_timeout(Some(BOUND)).build();
            match stream.send_message(request).next().await {
                Some(answer) => answer,
                None => return Err("no answer".to_owned()),
            }
        }
    };
    let answer = answered.map_err(|error| error.to_string())?;
    Ok(answer.into_message())
}
