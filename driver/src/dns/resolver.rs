//! The server's side: a question in, an answer out. Messages are read and written by hickory.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_server::Server;
use hickory_server::net::NetError;
use hickory_server::net::runtime::{RuntimeProvider, Time};
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::{DNSClass, Record, RecordType};
use hickory_server::proto::serialize::binary::BinDecoder;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageResponseBuilder, Queries};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::SemaphorePermit;

use super::answer::{Answer, Zone, answer, text_of};
use super::export::Authority;
use super::names::{Names, View};
use super::stream;
use super::upstream::Upstream;

/// The largest answer in one datagram: what passes everywhere unfragmented (RFC 9715, section 3.1).
const PAYLOAD: u16 = 1232;

/// How many records of a whole zone go into one message: with names as long as they may be it stays below the 64 KiB of one.
const IN_A_MESSAGE: usize = 100;

/// What a message has before its question, in bytes (RFC 1035, section 4.1.1).
const HEADER: usize = 12;

/// Who asks, as far as a socket tells.
pub trait Asker: Clone + Send + Sync + Unpin + 'static {
    /// What is told to whoever asks from there; none is answered at all where there is no view.
    fn view(&self, names: &Names, source: IpAddr) -> Option<View>;
    /// What is said of the zone itself, where it is open to those who ask; they are told of nothing else.
    fn authority(&self) -> Option<&Authority> {
        None
    }
}

/// Answers questions that come in at one place.
#[derive(Clone)]
pub struct Resolver<A, P> {
    /// The table.
    pub names: Arc<Names>,
    /// Where names end.
    pub zone: Zone,
    /// Who asks.
    pub asker: A,
    /// Who is asked for what isn't ours.
    pub upstream: Upstream<P>,
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

impl<A: Asker, P: RuntimeProvider> Resolver<A, P> {
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
        let (name, asked) = (question.name(), question.query_type());
        let outside = self.asker.authority();
        if outside.is_some() && !self.names.is_known() {
            // What isn't known yet is not to be taken for what there is not.
            return Reply::refusal(ResponseCode::ServFail);
        }
        if outside.is_some() && matches!(asked, RecordType::AXFR) {
            // Who may have it was answered before.
            return Reply::refusal(ResponseCode::Refused);
        }
        let found = match (question.query_class(), outside) {
            (DNSClass::IN | DNSClass::ANY, Some(authority)) => {
                authority.answer(&self.names, &self.zone, name, asked)
            }
            (DNSClass::IN | DNSClass::ANY, None) => answer(&self.names, &view, &self.zone, name, asked),
            _ => Answer::NotOurs,
        };
        let in_zone = || text_of(name).is_some_and(|text| self.zone.has(&text));
        let start = || match outside {
            Some(authority) => authority.start(&self.zone, &self.names),
            None => self.zone.authority(),
        };
        let authorities = || match in_zone() {
            true => vec![start()],
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
            Answer::NotOurs if outside.is_some() => Reply::refusal(ResponseCode::Refused),
            Answer::NotOurs => match self.upstream.ask(request).await {
                Some(message) => Reply::passed_on(message),
                None => Reply::refusal(ResponseCode::ServFail),
            },
        }
    }
}

impl<A: Asker, P: RuntimeProvider> Resolver<A, P> {
    /// Answers what comes in by two sockets for as long as they work; gives why they don't any more.
    pub async fn serve(self, udp: UdpSocket, tcp: TcpListener) -> String {
        let mut datagrams = Server::new(self.clone());
        datagrams.register_socket(udp);
        tokio::select! {
            ended = datagrams.block_until_done() => match ended {
                Ok(()) => "its socket is closed".to_owned(),
                Err(error) => error.to_string(),
            },
            error = stream::serve(tcp, self) => error.to_string(),
        }
    }
}

impl<A: Asker, P: RuntimeProvider> Resolver<A, P> {
    /// The whole zone, where that is asked for by who may have it: by a connection, and one at a time. A question for what has changed
    /// is answered with all of it as well (RFC 1995, section 4).
    fn whole_zone(&self, request: &Request) -> Option<(Vec<Record>, SemaphorePermit<'_>)> {
        let authority = self.asker.authority()?;
        let asked = request.request_info().ok()?;
        let question = asked.query.original();
        let is_transfer = matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR)
            && request.metadata.message_type == MessageType::Query
            && request.metadata.op_code == OpCode::Query
            && question.name() == self.zone.name()
            && self.names.is_known();
        let may =
            is_transfer && request.protocol() == Protocol::Tcp && authority.may_transfer(request.src().ip());
        let turn = may.then(|| authority.turn())??;
        Some((authority.whole(&self.names, &self.zone), turn))
    }

    /// Sends many records in as many messages as they take (RFC 5936, section 2.2).
    async fn transfer<R: ResponseHandler>(
        &self,
        request: &Request,
        whole: Vec<Record>,
        mut handle: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        let asked = asked(request);
        let asked = asked.as_ref().unwrap_or(&request.queries);
        let mut sent = Err(NetError::from("nothing was sent"));
        for records in whole.chunks(IN_A_MESSAGE) {
            let response = MessageResponseBuilder::new(asked, None);
            sent = handle
                .send_response(response.build(metadata, records, [], [], []))
                .await;
            if sent.is_err() {
                break;
            }
        }
        sent.unwrap_or_else(|error| unsent(metadata, &error))
    }
}

/// What is said of an answer that was not sent: whoever asked has gone, or asks again.
fn unsent(mut metadata: Metadata, error: &NetError) -> ResponseInfo {
    tracing::debug!(%error, "an answer was not sent");
    metadata.response_code = ResponseCode::ServFail;
    hickory_server::proto::op::Header {
        metadata,
        counts: Default::default(),
    }
    .into()
}

/// The question of a request, written anew; none where it doesn't have one. The library repeats it byte by byte, and in the
/// answer a pointer there would lead elsewhere.
fn asked(request: &Request) -> Option<Queries> {
    let mut message = Message::query();
    if let Ok(info) = request.request_info() {
        message.add_query(info.query.original().clone());
    }
    let count = message.queries.len();
    let bytes = message.to_vec().ok()?;
    Queries::read(&mut BinDecoder::new(bytes.get(HEADER..)?), count).ok()
}

#[async_trait::async_trait]
impl<A: Asker, P: RuntimeProvider> RequestHandler for Resolver<A, P> {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut handle: R,
    ) -> ResponseInfo {
        if let Some((whole, _turn)) = self.whole_zone(request) {
            return self.transfer(request, whole, handle).await;
        }
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code.unwrap_or(ResponseCode::NoError);
        metadata.authoritative = reply.ours;
        metadata.recursion_available = self.asker.authority().is_none();
        metadata.truncation = reply.truncated;
        metadata.authentic_data = reply.authentic;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_version(0);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            edns.set_max_payload(asked.max_payload().clamp(512, PAYLOAD));
            edns
        });
        let asked = asked(request);
        let asked = asked.as_ref().unwrap_or(&request.queries);
        let builder = MessageResponseBuilder::new(asked, edns.as_ref());
        let (answers, authorities) = (&reply.answers, &reply.authorities);
        let response = builder.build(metadata, answers, authorities, [], &reply.additionals);
        let sent = handle.send_response(response).await;
        sent.unwrap_or_else(|error| unsent(metadata, &error))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hickory_server::net::runtime::{TokioRuntimeProvider, TokioTime};
    use hickory_server::net::xfer::Protocol;
    use hickory_server::proto::op::Query;
    use hickory_server::proto::rr::{Name, RecordType};
    use ipnet::IpNet;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use tombolo_cluster::HostId;

    use super::super::names::{Entry, Home, News};
    use super::super::stream::Written;
    use super::*;

    #[derive(Clone)]
    struct Anybody(IpNet);

    impl Asker for Anybody {
        fn view(&self, names: &Names, source: IpAddr) -> Option<View> {
            let view = names.view_at(self.0, source);
            (view != View::default()).then_some(view)
        }
    }

    /// A network with three containers, and no name servers outside.
    fn resolver() -> Resolver<Anybody, TokioRuntimeProvider> {
        resolver_for(Anybody("10.1.0.0/24".parse().unwrap()))
    }

    fn resolver_for<A: Asker>(asker: A) -> Resolver<A, TokioRuntimeProvider> {
        let pool: IpNet = "10.1.0.0/24".parse().unwrap();
        let me = HostId::from_bytes([1; 16]);
        let entry = |n: u8| Entry {
            pool,
            names: [format!("web-{n}").into(), "web".into()].into(),
            addresses: [
                format!("10.1.0.{n}").parse().unwrap(),
                format!("fd01::{n}").parse().unwrap(),
            ]
            .into(),
            services: [].into(),
            place: None,
        };
        let home = Home {
            pools: vec![pool, "fd01::/64".parse().unwrap()],
            labels: vec!["app".to_owned()],
            gateways: vec![],
        };
        let names = Names::default();
        names.hear(
            News {
                everything: true,
                entries: (2..5)
                    .map(|n| ((me, n.to_string().into()), Some(entry(n))))
                    .collect(),
                homes: Some(BTreeMap::from([(pool, home)])),
            },
            me,
        );
        Resolver {
            names: Arc::new(names),
            zone: super::super::ZONE.parse().unwrap(),
            asker,
            upstream: Upstream::new(Vec::new, TokioRuntimeProvider::new()),
        }
    }

    /// What a question is answered, if it is one at all.
    async fn ask<A: Asker>(
        resolver: &Resolver<A, TokioRuntimeProvider>,
        bytes: Vec<u8>,
        from: &str,
    ) -> Option<Vec<u8>> {
        let source = format!("{from}:4000").parse().unwrap();
        let request = Request::from_bytes(bytes, source, Protocol::Tcp).ok()?;
        let written = Written::default();
        resolver
            .handle_request::<_, TokioTime>(&request, written.clone())
            .await;
        Some(written.take().into_iter().next().expect("an answer"))
    }

    fn question(name: &str, asked: RecordType) -> Message {
        let mut message = Message::query();
        message.metadata.id = 77;
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), asked));
        message
    }

    #[tokio::test]
    async fn what_cannot_be_answered_is_refused_in_the_right_words() {
        let resolver = resolver();
        let code = async |message: &Message, from: &str| {
            let answer = ask(&resolver, message.to_vec().unwrap(), from).await.unwrap();
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!(answer.metadata.id, 77);
            answer.metadata.response_code
        };
        let known = question("web.", RecordType::A);
        assert_eq!(code(&known, "10.1.0.2").await, ResponseCode::NoError);
        assert_eq!(
            code(&known, "10.9.0.2").await,
            ResponseCode::Refused,
            "a stranger"
        );
        let unknown = question("example.org.", RecordType::A);
        assert_eq!(
            code(&unknown, "10.1.0.2").await,
            ResponseCode::ServFail,
            "nobody to ask"
        );
        let mut two = known.clone();
        two.add_query(Query::query(Name::from_ascii("web.").unwrap(), RecordType::AAAA));
        assert_eq!(code(&two, "10.1.0.2").await, ResponseCode::FormErr);
        let mut notify = known.clone();
        notify.metadata.op_code = OpCode::Notify;
        assert_eq!(code(&notify, "10.1.0.2").await, ResponseCode::NotImp);
        let mut later = known.clone();
        let mut edns = Edns::new();
        edns.set_version(1);
        later.set_edns(edns);
        // 16 is BADVERS here, and BADSIG where a message is signed (RFC 6895, section 2.3).
        assert_eq!(u16::from(code(&later, "10.1.0.2").await), 16);
    }

    /// Questions that nobody would ask, `HOSTILE_QUERIES` of them.
    #[tokio::test]
    async fn whatever_is_asked_is_answered_with_a_message_or_not_at_all() {
        let count = std::env::var("HOSTILE_QUERIES").map_or(20_000, |text| text.parse().expect("a number"));
        hostile(&resolver(), count).await;
        // One who may have all of it, from outside.
        let authority = Authority::new(vec!["10.1.0.0/24".parse().unwrap()]);
        hostile(&resolver_for(authority), count).await;
    }

    async fn hostile<A: Asker>(resolver: &Resolver<A, TokioRuntimeProvider>, count: usize) {
        let mut rng = StdRng::seed_from_u64(7);
        let names = [
            "web.",
            "web-2.app.",
            "web.app.tombolo.internal.",
            "app.tombolo.internal.",
            "tombolo.internal.",
            "2.0.1.10.in-addr.arpa.",
            "_80._tcp.web.",
            "example.org.",
            ".",
        ];
        let types = [
            RecordType::A,
            RecordType::AAAA,
            RecordType::PTR,
            RecordType::SRV,
            RecordType::ANY,
            RecordType::AXFR,
        ];
        let mut answered = 0;
        for _ in 0..count {
            let name = names[rng.random_range(0..names.len())];
            let mut message = question(name, types[rng.random_range(0..types.len())]);
            if rng.random() {
                message.set_edns(Edns::new());
            }
            let mut bytes = message.to_vec().unwrap();
            for _ in 0..rng.random_range(0..4) {
                let at = rng.random_range(0..bytes.len());
                match rng.random_range(0..4) {
                    0 => bytes[at] ^= 1 << rng.random_range(0..8),
                    1 => bytes[at] = rng.random(),
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, rng.random()),
                }
            }
            let id = bytes.get(..2).map(<[u8]>::to_vec);
            let asked = bytes.clone();
            if let Some(answer) = ask(resolver, bytes, "10.1.0.2").await {
                let read = Message::from_vec(&answer);
                let read =
                    read.unwrap_or_else(|error| panic!("{error}: {asked:02x?} is answered {answer:02x?}"));
                assert_eq!(read.metadata.message_type, MessageType::Response);
                assert_eq!(id.as_deref(), answer.get(..2), "its number");
                answered += 1;
            }
        }
        assert!(answered > count / 4, "{answered}");
    }
}
