//! What a client says (RFC 2131, section 4.4.1, table 5), and what it reads of an answer. The encoding is dhcproto's.
//!
//! An answer is read lazily, option by option, and only options that are asked for: of others a wrong length or text that is
//! not UTF-8 would end the reading of all that follow, and in a build for debugging the crate asserts on some of them.

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode, borrowed};
use ipnet::Ipv4Net;
use tombolo_core::model::{Mac, cut};

/// The longest message that is taken, in bytes: what fits into a frame of Ethernet behind IP and UDP.
pub const MOST: u16 = 1_472;

/// How many name servers of an answer are kept.
const NAME_SERVERS: usize = 8;

/// The shortest lease that is taken, in seconds. No server is set up for less, and each lease costs an exchange.
pub const LEAST_LEASE_S: u32 = 10;

/// A lease without an end (RFC 2131, section 3.3).
const INFINITE: u32 = u32::MAX;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The hardware address.
    pub mac: Mac,
    /// The whole client identifier (option 61), its type included.
    pub client_id: Vec<u8>,
    /// The host name (option 12).
    pub host_name: Option<String>,
}

/// What is said, besides who says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// Which addresses are there?
    Discover {
        /// The address that is wished for.
        wanted: Option<Ipv4Addr>,
    },
    /// I take this offer of that server.
    Select {
        /// The address.
        address: Ipv4Addr,
        /// The server.
        server: Ipv4Addr,
    },
    /// Is this address still mine? It may be used only after the answer.
    Reboot {
        /// The address.
        address: Ipv4Addr,
    },
    /// I have this address and want it for longer; if for all, of any server.
    Extend {
        /// The address.
        address: Ipv4Addr,
        /// Whether all are asked.
        all: bool,
    },
    /// Somebody else has this address.
    Decline {
        /// The address.
        address: Ipv4Addr,
        /// The server that gave it.
        server: Ipv4Addr,
    },
    /// I don't need this address any more.
    Release {
        /// The address.
        address: Ipv4Addr,
        /// The server that gave it.
        server: Ipv4Addr,
    },
}

impl Say {
    /// The message.
    ///
    /// The broadcast flag has servers answer to all, so that the answer is seen before anybody has the address and before a
    /// link takes frames for the hardware address. A server that is told an address in use (`ciaddr`) may answer to that.
    pub fn message(self, who: &Who, xid: u32, secs: u16) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let held = match self {
            Self::Extend { address, .. } | Self::Release { address, .. } => address,
            _ => none,
        };
        let mut message = Message::new_with_id(xid, held, none, none, none, &who.mac.bytes());
        message.set_secs(secs);
        let (kind, wanted, server) = match self {
            Self::Discover { wanted } => (MessageType::Discover, wanted, None),
            Self::Select { address, server } => (MessageType::Request, Some(address), Some(server)),
            Self::Reboot { address } => (MessageType::Request, Some(address), None),
            Self::Extend { .. } => (MessageType::Request, None, None),
            Self::Decline { address, server } => (MessageType::Decline, Some(address), Some(server)),
            Self::Release { server, .. } => (MessageType::Release, None, Some(server)),
        };
        let mut options = vec![
            DhcpOption::MessageType(kind),
            DhcpOption::ClientIdentifier(who.client_id.clone()),
        ];
        options.extend(wanted.map(DhcpOption::RequestedIpAddress));
        options.extend(server.map(DhcpOption::ServerIdentifier));
        if matches!(kind, MessageType::Discover | MessageType::Request) {
            options.extend(who.host_name.clone().map(DhcpOption::Hostname));
            options.push(DhcpOption::MaxMessageSize(MOST));
            options.push(DhcpOption::ParameterRequestList(WISHES.to_vec()));
            if !matches!(self, Self::Extend { all: false, .. }) {
                message.set_flags(Flags::default().set_broadcast());
            }
        }
        message.set_opts(options.into_iter().collect());
        message
    }
}

/// What servers are asked to tell (option 55).
const WISHES: [OptionCode; 7] = [
    OptionCode::SubnetMask,
    OptionCode::Router,
    OptionCode::DomainNameServer,
    OptionCode::AddressLeaseTime,
    OptionCode::ServerIdentifier,
    OptionCode::Renewal,
    OptionCode::Rebinding,
];

/// What an answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// An address can be had.
    Offer(Terms),
    /// An address is given, or given for longer.
    Ack(Terms),
    /// It is not, for a reason where one is said.
    Nak(Option<String>),
}

/// An address, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The address, with the length of its network's prefix.
    pub address: Ipv4Net,
    /// The first router.
    pub router: Option<Ipv4Addr>,
    /// Name servers, the first few.
    pub name_servers: Vec<Ipv4Addr>,
    /// For how long, in seconds; without an end if none.
    pub lease_s: Option<u32>,
    /// After how many seconds the server is to be asked again, as it says.
    pub t1_s: Option<u32>,
    /// After how many seconds all servers are, as it says.
    pub t2_s: Option<u32>,
}

/// An answer of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// To which question.
    pub xid: u32,
    /// To whom.
    pub mac: Mac,
    /// Which server answers (option 54).
    pub server: Option<Ipv4Addr>,
    /// From which hardware address the frame came: the server's, or that of a router or relay on the way.
    pub hop: Mac,
    /// What.
    pub kind: Kind,
}

impl Answer {
    /// Reads an answer; none if it is none, or one that says nothing useful.
    pub fn read(bytes: &[u8], hop: Mac) -> Option<Self> {
        let message = borrowed::Message::new(bytes).ok()?;
        // The length is looked at before the address, which the crate cuts out by it.
        if message.opcode() != Opcode::BootReply || message.hlen() != 6 {
            return None;
        }
        let mac = Mac::from_bytes(message.chaddr().try_into().ok()?).ok()?;
        let told = Told::of(&message);
        let kind = match told.kind? {
            MessageType::Offer => Kind::Offer(told.terms(message.yiaddr())?),
            MessageType::Ack => Kind::Ack(told.terms(message.yiaddr())?),
            MessageType::Nak => Kind::Nak(told.why),
            _ => return None,
        };
        Some(Self {
            xid: message.xid(),
            mac,
            server: told.server.filter(usable),
            hop,
            kind,
        })
    }
}

/// Options as they came.
#[derive(Default)]
struct Told {
    kind: Option<MessageType>,
    server: Option<Ipv4Addr>,
    mask: Option<Ipv4Addr>,
    router: Option<Ipv4Addr>,
    name_servers: Vec<Ipv4Addr>,
    lease_s: Option<u32>,
    t1_s: Option<u32>,
    t2_s: Option<u32>,
    why: Option<String>,
}

impl Told {
    fn of(message: &borrowed::Message) -> Self {
        let mut told = Self::default();
        for option in message.opts() {
            let length = match option.code() {
                OptionCode::MessageType => 1,
                OptionCode::Router | OptionCode::DomainNameServer if !option.is_empty() => option.len(),
                OptionCode::ServerIdentifier
                | OptionCode::SubnetMask
                | OptionCode::AddressLeaseTime
                | OptionCode::Renewal
                | OptionCode::Rebinding => 4,
                OptionCode::Message => {
                    told.why = Some(cut(&String::from_utf8_lossy(option.data())));
                    continue;
                }
                _ => continue,
            };
            if option.len() != length {
                continue;
            }
            match option.into_option() {
                Ok(DhcpOption::MessageType(kind)) => told.kind = Some(kind),
                Ok(DhcpOption::ServerIdentifier(server)) => told.server = Some(server),
                Ok(DhcpOption::SubnetMask(mask)) => told.mask = Some(mask),
                Ok(DhcpOption::Router(routers)) => told.router = routers.into_iter().find(usable),
                Ok(DhcpOption::DomainNameServer(servers)) => {
                    told.name_servers = servers.into_iter().filter(usable).take(NAME_SERVERS).collect();
                }
                Ok(DhcpOption::AddressLeaseTime(seconds)) => told.lease_s = Some(seconds),
                Ok(DhcpOption::Renewal(seconds)) => told.t1_s = Some(seconds),
                Ok(DhcpOption::Rebinding(seconds)) => told.t2_s = Some(seconds),
                _ => {}
            }
        }
        told
    }

    /// What is given, if it can be used.
    fn terms(&self, address: Ipv4Addr) -> Option<Terms> {
        let lease_s = self.lease_s.filter(|seconds| *seconds >= LEAST_LEASE_S)?;
        let mask = self.mask.unwrap_or_else(|| mask_of_class(address));
        let address = Ipv4Net::with_netmask(address, mask).ok()?;
        usable(&address.addr()).then(|| Terms {
            address,
            router: self.router,
            name_servers: self.name_servers.clone(),
            lease_s: Some(lease_s).filter(|seconds| *seconds != INFINITE),
            t1_s: self.t1_s,
            t2_s: self.t2_s,
        })
    }
}

/// Whether an address can be a host's.
fn usable(address: &Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && !address.is_loopback() && first < 224
}

/// What the mask is where a server says none: that of the address's class, as it was when no server had to say one.
fn mask_of_class(address: Ipv4Addr) -> Ipv4Addr {
    let length = match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    };
    Ipv4Addr::from(u32::MAX << (32 - length))
}

#[cfg(test)]
mod tests {
    use dhcproto::Encodable;
    use proptest::prelude::*;

    use super::*;

    fn mac(last: u8) -> Mac {
        Mac::from_bytes([2, 0, 0, 0, 0, last]).unwrap()
    }

    fn answer(kind: MessageType, options: impl IntoIterator<Item = DhcpOption>) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(7, none, [192, 0, 2, 9].into(), none, none, &mac(1).bytes());
        message.set_opcode(Opcode::BootReply);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        for option in options {
            message.opts_mut().insert(option);
        }
        message
    }

    fn read(message: &Message) -> Option<Answer> {
        Answer::read(&message.to_vec().unwrap(), mac(2))
    }

    fn terms(options: impl IntoIterator<Item = DhcpOption>) -> Option<Terms> {
        match read(&answer(MessageType::Ack, options))?.kind {
            Kind::Ack(terms) => Some(terms),
            other => panic!("{other:?}"),
        }
    }

    const HOUR: DhcpOption = DhcpOption::AddressLeaseTime(3_600);

    #[test]
    fn an_answer_is_read_whole() {
        let message = answer(
            MessageType::Offer,
            [
                HOUR,
                DhcpOption::SubnetMask([255, 255, 255, 128].into()),
                DhcpOption::ServerIdentifier([192, 0, 2, 1].into()),
                DhcpOption::Router(vec![[0, 0, 0, 0].into(), [192, 0, 2, 1].into()]),
                DhcpOption::DomainNameServer((1..20).map(|n| Ipv4Addr::new(192, 0, 2, n)).collect()),
                DhcpOption::Renewal(5),
                DhcpOption::Rebinding(8),
            ],
        );
        let answer = read(&message).unwrap();
        assert_eq!((answer.xid, answer.mac, answer.hop), (7, mac(1), mac(2)));
        assert_eq!(answer.server, Some([192, 0, 2, 1].into()));
        let Kind::Offer(terms) = answer.kind else { panic!() };
        assert_eq!(terms.address, "192.0.2.9/25".parse().unwrap());
        assert_eq!(terms.router, Some([192, 0, 2, 1].into()));
        assert_eq!(terms.name_servers.len(), NAME_SERVERS);
        assert_eq!(
            (terms.lease_s, terms.t1_s, terms.t2_s),
            (Some(3_600), Some(5), Some(8))
        );
    }

    #[test]
    fn what_gives_no_address_for_a_while_is_no_answer() {
        assert!(terms([]).is_none(), "no time");
        assert!(terms([DhcpOption::AddressLeaseTime(0)]).is_none());
        assert!(terms([DhcpOption::AddressLeaseTime(LEAST_LEASE_S - 1)]).is_none());
        let mask = DhcpOption::SubnetMask([255, 0, 255, 0].into());
        assert!(terms([HOUR, mask]).is_none());
        for address in [
            [0, 0, 0, 0],
            [0, 1, 2, 3],
            [127, 0, 0, 1],
            [224, 0, 0, 1],
            [255; 4],
        ] {
            let mut message = answer(MessageType::Ack, [HOUR]);
            message.set_yiaddr(address);
            assert!(read(&message).is_none(), "{address:?}");
        }
        let mut question = answer(MessageType::Ack, [HOUR]);
        question.set_opcode(Opcode::BootRequest);
        assert!(read(&question).is_none());
        assert!(read(&answer(MessageType::Discover, [HOUR])).is_none());
        // Of a length that would lead the crate outside of the message.
        let mut bytes = answer(MessageType::Ack, []).to_vec().unwrap();
        bytes[2] = 255;
        assert!(Answer::read(&bytes, mac(2)).is_none());
    }

    #[test]
    fn a_lease_may_have_no_end_and_a_mask_may_be_that_of_the_class() {
        let endless = terms([DhcpOption::AddressLeaseTime(INFINITE)]).unwrap();
        assert_eq!(endless.lease_s, None);
        assert_eq!(endless.address, "192.0.2.9/24".parse().unwrap());
    }

    #[test]
    fn an_option_that_is_not_asked_for_may_be_anything() {
        // A host name that is not UTF-8, an option that must be empty and isn't, one that is cut off; then what counts.
        let mut bytes = answer(MessageType::Ack, []).to_vec().unwrap();
        assert_eq!(bytes.pop(), Some(255));
        bytes.extend([12, 2, 0xff, 0xfe, 80, 1, 1, 94, 1, 1, 81, 1, 0, 58, 1, 9, 3, 0]);
        bytes.extend([51, 4, 0, 0, 14, 16, 15, 200]);
        let Kind::Ack(terms) = Answer::read(&bytes, mac(2)).unwrap().kind else {
            panic!()
        };
        assert_eq!(
            (terms.lease_s, terms.t1_s, terms.router),
            (Some(3_600), None, None)
        );
    }

    #[test]
    fn a_refusal_says_why_on_one_line() {
        let message = answer(MessageType::Nak, [DhcpOption::Message("no\n\x1b[1mway".into())]);
        let Kind::Nak(why) = read(&message).unwrap().kind else {
            panic!()
        };
        assert_eq!(why.unwrap(), "no\\n\\u{1b}[1mway");
    }

    #[test]
    fn each_question_bears_what_the_rfc_asks_for() {
        let who = Who {
            mac: mac(1),
            client_id: vec![1, 2, 0, 0, 0, 0, 1],
            host_name: Some("web".into()),
        };
        let (address, server) = (Ipv4Addr::new(192, 0, 2, 9), Ipv4Addr::new(192, 0, 2, 1));
        let none = Ipv4Addr::UNSPECIFIED;
        // What is said; then ciaddr, requested address, server identifier, broadcast flag (RFC 2131, table 5 and 4.3.6).
        let cases = [
            (Say::Discover { wanted: None }, none, None, None, true),
            (
                Say::Discover {
                    wanted: Some(address),
                },
                none,
                Some(address),
                None,
                true,
            ),
            (
                Say::Select { address, server },
                none,
                Some(address),
                Some(server),
                true,
            ),
            (Say::Reboot { address }, none, Some(address), None, true),
            (Say::Extend { address, all: false }, address, None, None, false),
            (Say::Extend { address, all: true }, address, None, None, true),
            (
                Say::Decline { address, server },
                none,
                Some(address),
                Some(server),
                false,
            ),
            (
                Say::Release { address, server },
                address,
                None,
                Some(server),
                false,
            ),
        ];
        for (say, held, wanted, named, broadcast) in cases {
            let message = say.message(&who, 7, 3);
            let options = message.opts();
            let requested = options.get(OptionCode::RequestedIpAddress).cloned();
            assert_eq!(message.ciaddr(), held, "{say:?}");
            assert_eq!(requested, wanted.map(DhcpOption::RequestedIpAddress), "{say:?}");
            let identifier = options.get(OptionCode::ServerIdentifier).cloned();
            assert_eq!(identifier, named.map(DhcpOption::ServerIdentifier), "{say:?}");
            assert_eq!(message.flags().broadcast(), broadcast, "{say:?}");
            assert!(options.contains(OptionCode::ClientIdentifier), "{say:?}");
            // These must not bear a list of wishes.
            let asks = !matches!(say, Say::Decline { .. } | Say::Release { .. });
            assert_eq!(
                options.contains(OptionCode::ParameterRequestList),
                asks,
                "{say:?}"
            );
            assert_eq!(
                (message.xid(), message.secs(), message.chaddr()),
                (7, 3, &mac(1).bytes()[..])
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            Answer::read(&bytes, mac(2));
        }

        #[test]
        fn no_options_are_too_strange(options in proptest::collection::vec(any::<u8>(), 0..300), hlen in 0..20u8) {
            let mut bytes = answer(MessageType::Ack, [HOUR]).to_vec().unwrap();
            bytes.pop();
            bytes[2] = hlen;
            bytes.extend(options);
            Answer::read(&bytes, mac(2));
        }
    }
}
