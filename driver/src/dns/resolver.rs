//! The server's side: a question in, an answer out. Messages are read and written by hickory.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::{DNSClass, Record};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use super::answer::{Answer, Zone, answer, text_of};
use super::names::{Names, View};
use super::upstream::Upstream;

/// The largest answer in one datagram: what passes everywhere unfragmented (RFC 9715, section 3.1).
const PAYLOAD: u16 = 1232;

/// Who asks, as far as a socket tells.
pub trait Asker: Send + Sync + Unpin + 'static {
    /// What is told to whoever asks from there; none is answered at all where there is no view.
    fn view(&self, names: &Names, source: IpAddr) -> Option<View>;
}

/// Answers questions that come in by one socket.
pub struct Resolver<A> {
    /// The table.
    pub names: Arc<Names>,
    /// Where names end.
    pub zone: Zone,
    /// Who asks.
    pub asker: A,
    /// Who is asked for what isn't ours.
    pub upstream: Upstream,
}

/// What is sent back.
#[derive(Default)]
struct Reply {
    code: Option<ResponseCode>,
    ours: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
    truncated: bool,
    authentic: bool,
}

impl Reply {
    fn refusal(code: ResponseCode) -> Self {
        Self {
            code: Some(code),
            ..Self::default()
        }
    }

    fn passed_on(message: Message) -> Self {
        Self {
            code: Some(message.metadata.response_code),
            ours: false,
            truncated: message.metadata.truncation,
            authentic: message.metadata.authentic_data,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
        }
    }
}

impl<A: Asker> Resolver<A> {
    async fn reply(&self, request: &Request) -> Reply {
        if request.metadata.message_type != MessageType::Query || request.metadata.op_code != OpCode::Query {
            return Reply::refusal(ResponseCode::NotImp);
        }
        // Exactly one question (RFC 9619).
        let Ok(info) = request.request_info() else {
            return Reply::refusal(ResponseCode::FormErr);
        };
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Reply::refusal(ResponseCode::BADVERS);
        }
        let Some(view) = self.asker.view(&self.names, request.src().ip()) else {
            return Reply::refusal(ResponseCode::Refused);
        };
        let question = info.query.original();
        let found = match question.query_class() {
            DNSClass::IN | DNSClass::ANY => answer(
                &self.names,
                &view,
                &self.zone,
                question.name(),
                question.query_type(),
            ),
            _ => Answer::NotOurs,
        };
        let in_zone = || text_of(question.name()).is_some_and(|text| self.zone.has(&text));
        let authorities = || match in_zone() {
            true => vec![self.zone.authority()],
            false => Vec::new(),
        };
        match found {
            Answer::Found { answers, additionals } => Reply {
                ours: true,
                answers,
                additionals,
                ..Reply::default()
            },
            Answer::Nothing => Reply {
                ours: true,
                authorities: authorities(),
                ..Reply::default()
            },
            Answer::NoName => Reply {
                ours: true,
                code: Some(ResponseCode::NXDomain),
                authorities: authorities(),
                ..Reply::default()
            },
            Answer::NotOurs => match self.upstream.ask(request).await {
                Some(message) => Reply::passed_on(message),
                None => Reply::refusal(ResponseCode::ServFail),
            },
        }
    }
}

#[async_trait::async_trait]
impl<A: Asker> RequestHandler for Resolver<A> {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut handle: R,
    ) -> ResponseInfo {
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code.unwrap_or(ResponseCode::NoError);
        metadata.authoritative = reply.ours;
        metadata.recursion_available = true;
        metadata.truncation = reply.truncated;
        metadata.authentic_data = reply.authentic;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_version(0);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            edns.set_max_payload(asked.max_payload().clamp(512, PAYLOAD));
            edns
        });
        let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        let (answers, authorities) = (&reply.answers, &reply.authorities);
        let response = builder.build(metadata, answers, authorities, [], &reply.additionals);
        match handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                // Whoever asked has gone, or asks again.
                tracing::debug!(%error, "an answer was not sent");
                metadata.response_code = ResponseCode::ServFail;
                hickory_server::proto::op::Header {
                    metadata,
                    counts: Default::default(),
                }
                .into()
            }
        }
    }
}
