//! Questions that come by connections, of which there are only so many at once: who asks is not to be trusted, and each takes an
//! open file of ours. (hickory's own server accepts all.)

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hickory_server::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::rr::Record;
use hickory_server::proto::serialize::binary::BinEncoder;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How many connections one socket serves at once. More wait in the kernel's queue.
const AT_ONCE: usize = 64;

/// How long a connection may say nothing, or not take an answer.
const IDLE: Duration = Duration::from_secs(5);

/// An answer that is written to memory: a message, or several.
#[derive(Clone, Default)]
pub(super) struct Written(Arc<Mutex<Vec<Vec<u8>>>>);

impl Written {
    /// The messages.
    pub(super) fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl ResponseHandler for Written {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::new();
        let info = response.destructive_emit(&mut BinEncoder::new(&mut bytes))?;
        let mut messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        messages.push(bytes);
        Ok(info)
    }
}

/// Serves connections until none can be accepted any more; gives why.
pub(super) async fn serve<H: RequestHandler + Clone>(listener: TcpListener, handler: H) -> io::Error {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut connections = JoinSet::new();
    loop {
        // It is never closed.
        let permit = permits.clone().acquire_owned().await;
        let (stream, source) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return error,
        };
        while connections.try_join_next().is_some() {}
        let handler = handler.clone();
        connections.spawn(async move {
            let _permit = permit;
            if let Err(error) = converse(stream, source, &handler).await {
                tracing::debug!(%source, %error, "a connection with questions has ended");
            }
        });
    }
}

/// Answers what one connection asks, one after the other (RFC 7766: each message after its length in two bytes).
async fn converse<H: RequestHandler>(
    mut stream: TcpStream,
    source: SocketAddr,
    handler: &H,
) -> io::Result<()> {
    loop {
        let length = timeout(IDLE, stream.read_u16()).await??;
        let mut bytes = vec![0; usize::from(length)];
        timeout(IDLE, stream.read_exact(&mut bytes)).await??;
        let request = Request::from_bytes(bytes, source, Protocol::Tcp).map_err(io::Error::other)?;
        let written = Written::default();
        handler
            .handle_request::<_, TokioTime>(&request, written.clone())
            .await;
        let answers = written.take();
        if answers.is_empty() {
            return Err(io::Error::other("there is no answer"));
        }
        for answer in answers {
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let message = [&length.to_be_bytes()[..], &answer].concat();
            timeout(IDLE, stream.write_all(&message)).await??;
        }
    }
}
