//! Rules as `nft -j` writes them (libnftables-json(5)).

use std::net::IpAddr;

use serde_json::Value;

use super::field::{Field, compare, flags, key_of, shown, value_of};
use super::walk::{Nat, Verdict};
use super::{ChainId, Layer4, Packet, Ruleset, State, Truth};

/// What a rule does where it matches.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Act {
    /// Nothing that matters to us.
    Nothing,
    /// It decides.
    Verdict(Verdict),
    /// It asks for a translation, which accepts.
    Translate(Nat),
    /// It goes on in another chain, and comes back from there or not.
    Jump {
        /// The chain.
        to: String,
        /// Whether what that chain doesn't decide goes on behind this rule.
        back: bool,
    },
    /// It goes back to where its chain was jumped from.
    Return,
}

/// A rule, judged.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    /// Whether it matches.
    pub truth: Truth,
    /// What it then does.
    pub act: Act,
    /// The packet's mark, and its connection's, if it matches.
    pub marks: (u32, u32),
    /// It also does something that we can't follow: what becomes of the packet after it can't be told.
    pub lost: bool,
}

impl Judged {
    /// Whether it changes nothing, even if it matches.
    pub fn is_idle(&self, packet: &Packet) -> bool {
        self.act == Act::Nothing && !self.lost && self.marks == (packet.mark, packet.connmark)
    }
}

/// Whether a rule matches, and what it then does. Elements of sets that match are noted.
pub(super) fn judge(
    rules: &Ruleset,
    chain: &ChainId,
    expressions: &[Value],
    packet: &Packet,
    elements: &mut Vec<String>,
) -> Judged {
    let mut judge = Judge {
        rules,
        chain,
        packet,
        elements,
        marks: (packet.mark, packet.connmark),
        lost: false,
    };
    let (mut truth, mut act) = (Truth::Yes, Act::Nothing);
    for expression in expressions {
        let Some((name, body)) = expression.as_object().and_then(|object| object.iter().next()) else {
            continue;
        };
        match judge.expression(name, body) {
            Part::Match(holds) => truth = truth.and(holds),
            Part::Act(found) => act = found,
            Part::Maybe(found) => (truth, act) = (truth.and(Truth::Maybe), found),
        }
        if truth == Truth::No || act != Act::Nothing {
            break;
        }
    }
    Judged {
        truth,
        act,
        marks: judge.marks,
        lost: judge.lost,
    }
}

/// What one expression of a rule is.
enum Part {
    Match(Truth),
    Act(Act),
    /// It does something, perhaps.
    Maybe(Act),
}

struct Judge<'a> {
    rules: &'a Ruleset,
    chain: &'a ChainId,
    packet: &'a Packet,
    elements: &'a mut Vec<String>,
    marks: (u32, u32),
    lost: bool,
}

/// Statements after which a packet is as it was before.
const HARMLESS: [&str; 9] = [
    "counter",
    "log",
    "comment",
    "dup",
    "last",
    "flow",
    "secmark",
    "ct helper",
    "ct timeout",
];

impl Judge<'_> {
    fn expression(&mut self, name: &str, body: &Value) -> Part {
        match name {
            "match" => Part::Match(self.matches(body)),
            "limit" | "quota" | "ct count" => Part::Match(within_limit(name, body)),
            // It takes note of the packet, and matches if what it then asks does.
            "set" | "map" | "meter" => Part::Match(self.noted(body)),
            "accept" => Part::Act(Act::Verdict(Verdict::Accept)),
            "drop" => Part::Act(Act::Verdict(Verdict::Drop)),
            "reject" => Part::Act(Act::Verdict(Verdict::Reject)),
            "return" => Part::Act(Act::Return),
            "jump" | "goto" => Part::Act(Act::Jump {
                to: body["target"].as_str().unwrap_or_default().to_owned(),
                back: name == "jump",
            }),
            // Some program decides, or another link's way out.
            "queue" | "fwd" => Part::Maybe(Act::Verdict(Verdict::Drop)),
            "vmap" => self.verdict_map(body),
            "mangle" => self.mangle(body),
            "dnat" | "snat" => self.translation(name, body),
            "masquerade" => Part::Act(Act::Translate(Nat::Masquerade)),
            "redirect" => match (body.get("port"), self.field(&body["port"])) {
                (None, _) => Part::Act(Act::Translate(Nat::Redirect(None))),
                (_, Field::Number(port)) => {
                    Part::Act(Act::Translate(Nat::Redirect(u16::try_from(port).ok())))
                }
                _ => Part::Maybe(Act::Translate(Nat::Redirect(None))),
            },
            "xt" => match (body["type"].as_str(), body["name"].as_str()) {
                (_, Some("comment")) => Part::Match(Truth::Yes),
                (Some("target"), _) => self.loses(),
                _ => Part::Match(Truth::Maybe),
            },
            harmless if HARMLESS.contains(&harmless) => Part::Match(Truth::Yes),
            // `notrack` is one: nothing is translated then, and no answer is known for one.
            _ => self.loses(),
        }
    }

    /// It matches, and does what we can't follow.
    fn loses(&mut self) -> Part {
        self.lost = true;
        Part::Match(Truth::Yes)
    }

    fn mangle(&mut self, body: &Value) -> Part {
        let key = &body["key"];
        let of = |room: &str, field: &str| key.pointer(&format!("/{room}/{field}")).and_then(Value::as_str);
        let of_packet = match (of("meta", "key"), of("ct", "key")) {
            (Some("mark"), _) => true,
            (_, Some("mark")) => false,
            (Some("priority" | "nftrace"), _) | (_, Some("label")) => return Part::Match(Truth::Yes),
            _ if key.get("tcp option").is_some() => return Part::Match(Truth::Yes),
            _ if matches!(of("payload", "field"), Some("dscp" | "ecn" | "flowlabel")) => {
                return Part::Match(Truth::Yes);
            }
            _ => return self.loses(),
        };
        let value = match self.field(&body["value"]) {
            Field::Number(number) => u32::try_from(number).ok(),
            _ => None,
        };
        match value {
            None => return self.loses(),
            Some(value) if of_packet => self.marks.0 = value,
            Some(value) => self.marks.1 = value,
        }
        Part::Match(Truth::Yes)
    }

    fn noted(&mut self, body: &Value) -> Truth {
        let asked = match &body["stmt"] {
            Value::Array(statements) => statements.as_slice(),
            Value::Null => &[],
            one => std::slice::from_ref(one),
        };
        let mut truth = Truth::Yes;
        for statement in asked {
            for (name, body) in statement.as_object().into_iter().flatten() {
                truth = truth.and(match self.expression(name, body) {
                    Part::Match(holds) => holds,
                    Part::Act(_) | Part::Maybe(_) => Truth::Maybe,
                });
            }
        }
        truth
    }

    fn translation(&mut self, name: &str, body: &Value) -> Part {
        let family = body["family"].as_str().unwrap_or(&self.chain.family);
        if (family == "ip6") != self.packet.v6 && family != "inet" {
            return Part::Match(Truth::No);
        }
        let (mut address, mut port) = (None, None);
        match self.field(&body["addr"]) {
            Field::Row(fields) => {
                for field in fields {
                    match field {
                        Field::Address(found) => address = Some(found),
                        Field::Number(found) => port = u16::try_from(found).ok(),
                        _ => return Part::Maybe(Act::Translate(Nat::To(None, None))),
                    }
                }
            }
            Field::Address(found) => address = Some(found),
            // A map that has nothing for this packet.
            Field::Absent => return Part::Match(Truth::No),
            Field::Open if body.get("addr").is_some() => {
                return Part::Maybe(Act::Translate(Nat::To(None, None)));
            }
            _ => {}
        }
        if let Some(found) = body.get("port") {
            port = match self.field(found) {
                Field::Number(found) => u16::try_from(found).ok(),
                // The source's port is nobody's business here.
                _ if name == "snat" => None,
                _ => return Part::Maybe(Act::Translate(Nat::To(None, None))),
            };
        }
        Part::Act(Act::Translate(match name {
            "dnat" => Nat::To(address, port),
            _ => Nat::From(address),
        }))
    }

    fn verdict_map(&mut self, body: &Value) -> Part {
        let key = self.field(&body["key"]);
        if key == Field::Absent {
            return Part::Match(Truth::No);
        }
        match self.find(&key, &body["data"]) {
            Found::Nothing => Part::Match(Truth::No),
            Found::Element(verdict) => match verdict.as_object().and_then(|object| object.iter().next()) {
                Some((name, body)) => self.expression(name, body),
                None => self.loses(),
            },
            // Which of its verdicts it would be is not known either.
            Found::Perhaps => {
                self.lost = true;
                Part::Match(Truth::Maybe)
            }
        }
    }

    fn matches(&mut self, body: &Value) -> Truth {
        let field = self.field(&body["left"]);
        if field == Field::Absent {
            return Truth::No;
        }
        let right = &body["right"];
        let equal = |judge: &mut Self| judge.equals(&field, right);
        match body["op"].as_str().unwrap_or("==") {
            "!=" => equal(self).not(),
            op @ ("<" | ">" | "<=" | ">=") => match (ends(&field), self.field(right)) {
                (Some((first, last)), Field::Number(right)) => {
                    let holds = |left: u64| match op {
                        "<" => left < right,
                        ">" => left > right,
                        "<=" => left <= right,
                        _ => left >= right,
                    };
                    match (holds(first), holds(last)) {
                        (one, other) if one == other => Truth::of(one),
                        _ => Truth::Maybe,
                    }
                }
                _ => Truth::Maybe,
            },
            // Any of some bits.
            "in" if matches!(field, Field::Number(_)) => match (&field, flags(right)) {
                (Field::Number(left), Some(right)) => Truth::of(left & right != 0),
                _ => Truth::Maybe,
            },
            _ => equal(self),
        }
    }

    /// What an expression is for this packet.
    fn field(&mut self, expression: &Value) -> Field {
        match expression {
            Value::Number(number) => number.as_u64().map_or(Field::Open, Field::Number),
            Value::String(text) => match text.parse() {
                Ok(address) => Field::Address(address),
                Err(_) => Field::Text(text.clone()),
            },
            Value::Object(object) => match object.iter().next() {
                Some((name, body)) => self.named(name, body),
                None => Field::Open,
            },
            _ => Field::Open,
        }
    }

    fn named(&mut self, name: &str, body: &Value) -> Field {
        match name {
            "meta" => self.meta(body["key"].as_str().unwrap_or_default()),
            "payload" => self.payload(
                body["protocol"].as_str().unwrap_or_default(),
                body["field"].as_str().unwrap_or_default(),
            ),
            "ct" => self.connection(body),
            "fib" if body["result"] == "type" && body["flags"] == serde_json::json!(["daddr"]) => self
                .packet
                .to_type
                .map_or(Field::Open, |kind| Field::Text(kind.to_owned())),
            // Whether the sender is reached by the link that it comes in by.
            "fib"
                if body["result"] == "oif"
                    && body["flags"].as_array().is_some_and(|flags| is_way_back(flags)) =>
            {
                match self.packet.by_way_back {
                    Some(true) => Field::Number(1),
                    _ => Field::Open,
                }
            }
            "concat" => {
                let fields: Vec<Field> = body
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|part| self.field(part))
                    .collect();
                if fields.contains(&Field::Absent) {
                    return Field::Absent;
                }
                Field::Row(fields)
            }
            "map" => {
                let key = self.field(&body["key"]);
                if key == Field::Absent {
                    return Field::Absent;
                }
                match self.find(&key, &body["data"]) {
                    Found::Element(value) => self.field(&value),
                    Found::Nothing => Field::Absent,
                    Found::Perhaps => Field::Open,
                }
            }
            "&" | "|" | "^" | "<<" | ">>" => {
                let numbers: Option<Vec<u64>> = body
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|part| match self.field(part) {
                        Field::Number(number) => Some(number),
                        _ => flags(part),
                    })
                    .collect();
                match numbers.as_deref() {
                    Some([first, rest @ ..]) => {
                        Field::Number(rest.iter().fold(*first, |left, right| match name {
                            "&" => left & right,
                            "|" => left | right,
                            "^" => left ^ right,
                            "<<" => left.checked_shl(u32::try_from(*right).unwrap_or(64)).unwrap_or(0),
                            _ => left.checked_shr(u32::try_from(*right).unwrap_or(64)).unwrap_or(0),
                        }))
                    }
                    _ => Field::Open,
                }
            }
            _ => Field::Open,
        }
    }

    fn meta(&self, key: &str) -> Field {
        let packet = self.packet;
        let nic = |nic: &Option<super::Nic>| {
            Field::Text(nic.as_ref().map(|nic| nic.name.clone()).unwrap_or_default())
        };
        let group = |nic: &Option<super::Nic>| {
            nic.as_ref()
                .map_or(Field::Absent, |nic| Field::Number(u64::from(nic.group)))
        };
        match key {
            "iifname" | "iif" => nic(&packet.iif),
            "oifname" | "oif" => nic(&packet.oif),
            "iifgroup" => group(&packet.iif),
            "oifgroup" => group(&packet.oif),
            "mark" => Field::Number(u64::from(self.marks.0)),
            "l4proto" => packet.layer4.map_or(Field::Open, |layer4| {
                Field::Text(layer4.name(packet.v6).to_owned())
            }),
            "nfproto" => Field::Text(if packet.v6 { "ipv6" } else { "ipv4" }.to_owned()),
            "protocol" => Field::Text(if packet.v6 { "ip6" } else { "ip" }.to_owned()),
            // One sort of packet, which nft has two names for.
            "pkttype" => Field::Flags(vec!["host", "unicast"]),
            _ => Field::Open,
        }
    }

    fn payload(&self, protocol: &str, field: &str) -> Field {
        let packet = self.packet;
        let address = |address: Option<IpAddr>| address.map_or(Field::Open, Field::Address);
        let port = |port: Option<u16>| match (port, packet.unknown_port) {
            (Some(port), _) => Field::Number(u64::from(port)),
            (None, (first, last)) => Field::Between(u64::from(first), u64::from(last)),
        };
        let carries = match (protocol, packet.layer4) {
            ("ip", _) => Some(!packet.v6),
            ("ip6", _) => Some(packet.v6),
            ("arp", _) => Some(false),
            (_, None) => None,
            ("tcp", Some(layer4)) => Some(layer4 == Layer4::Tcp),
            ("udp", Some(layer4)) => Some(layer4 == Layer4::Udp),
            ("sctp", Some(layer4)) => Some(layer4 == Layer4::Sctp),
            ("th", Some(layer4)) => Some(layer4.has_ports()),
            ("icmp", Some(layer4)) => Some(layer4 == Layer4::Echo && !packet.v6),
            ("icmpv6", Some(layer4)) => Some(layer4 == Layer4::Echo && packet.v6),
            _ => None,
        };
        match (carries, field) {
            (_, "type") if protocol == "ether" => {
                Field::Text(if packet.v6 { "ip6" } else { "ip" }.to_owned())
            }
            (Some(false), _) => Field::Absent,
            (None, _) => Field::Open,
            (_, "saddr") => address(packet.from),
            (_, "daddr") => address(packet.to),
            (_, "sport") => port(packet.from_port),
            (_, "dport") => port(packet.to_port),
            (_, "protocol" | "nexthdr") => packet.layer4.map_or(Field::Open, |layer4| {
                Field::Text(layer4.name(packet.v6).to_owned())
            }),
            (_, "type") => Field::Text(packet.icmp_type().1.to_owned()),
            (_, "flags") => Field::Number(packet.tcp_flags()),
            _ => Field::Open,
        }
    }

    fn connection(&self, body: &Value) -> Field {
        let packet = self.packet;
        let (from, to, port) = packet.original;
        match body["key"].as_str().unwrap_or_default() {
            "state" => Field::Flags(vec![match packet.state {
                State::New => "new",
                State::Established => "established",
            }]),
            "status" => {
                let mut flags = Vec::new();
                flags.extend(packet.dnat.then_some("dnat"));
                flags.extend(packet.snat.then_some("snat"));
                flags.extend((packet.state == State::Established).then_some("seen-reply"));
                Field::Flags(flags)
            }
            "direction" => Field::Text(
                match packet.state {
                    State::New => "original",
                    State::Established => "reply",
                }
                .to_owned(),
            ),
            "mark" => Field::Number(u64::from(self.marks.1)),
            _ if body["dir"] != "original" => Field::Open,
            "saddr" | "ip saddr" | "ip6 saddr" => from.map_or(Field::Open, Field::Address),
            "daddr" | "ip daddr" | "ip6 daddr" => to.map_or(Field::Open, Field::Address),
            "proto-dst" => port.map_or(Field::Open, |port| Field::Number(u64::from(port))),
            _ => Field::Open,
        }
    }

    /// Whether a field is what is on the right side of a match.
    fn equals(&mut self, field: &Field, right: &Value) -> Truth {
        if let Some(members) = right.get("set").or(Some(right)).filter(|value| value.is_array()) {
            return match self.search(field, members.as_array().map_or(&[], Vec::as_slice)) {
                Found::Element(_) => Truth::Yes,
                Found::Perhaps => Truth::Maybe,
                Found::Nothing => Truth::No,
            };
        }
        if right.as_str().is_some_and(|name| name.starts_with('@')) {
            return match self.find(field, right) {
                Found::Element(_) => Truth::Yes,
                Found::Perhaps => Truth::Maybe,
                Found::Nothing => Truth::No,
            };
        }
        compare(field, right)
    }

    /// Looks a field up in a set or map, by name (`@name`) or as it stands.
    fn find(&mut self, field: &Field, data: &Value) -> Found {
        if let Some(members) = data.get("set").and_then(Value::as_array) {
            return self.search(field, members);
        }
        let Some(name) = data.as_str().and_then(|text| text.strip_prefix('@')) else {
            return Found::Perhaps;
        };
        let id = (
            self.chain.family.clone(),
            self.chain.table.clone(),
            name.to_owned(),
        );
        let rules = self.rules;
        let Some(members) = rules.sets.get(&id) else {
            return Found::Perhaps;
        };
        let found = self.search(field, members);
        if let (Found::Element(_), Some(member)) = (
            &found,
            members.iter().find(|m| compare(field, key_of(m)) == Truth::Yes),
        ) {
            self.elements.push(format!("{name} {{ {} }}", shown(member)));
        }
        found
    }

    fn search(&self, field: &Field, members: &[Value]) -> Found {
        let mut perhaps = Found::Nothing;
        for member in members {
            let value = value_of(member);
            match compare(field, key_of(member)).and(limited(member)) {
                Truth::Yes => return Found::Element(value.clone()),
                Truth::Maybe => perhaps = Found::Perhaps,
                Truth::No => {}
            }
        }
        perhaps
    }
}

/// Whether a packet is within a limit, or beyond it where the rule asks for that. One packet alone is within every rate,
/// and beyond none; of how many connections there are, nothing is known.
fn within_limit(name: &str, body: &Value) -> Truth {
    let beyond = body["inv"] == true;
    match name {
        // A limit of its own that many rules may share.
        _ if body.is_string() || body.get("map").is_some() => Truth::Maybe,
        "limit" => Truth::of(!beyond),
        "quota" => {
            let bytes = |number: &str, unit: &str| {
                let times = match body[unit].as_str() {
                    Some("kbytes") => 10,
                    Some("mbytes") => 20,
                    _ => 0,
                };
                body[number].as_u64().unwrap_or_default() << times
            };
            let spent = bytes("used", "used_unit") >= bytes("val", "val_unit");
            Truth::of(spent == beyond)
        }
        _ if beyond => Truth::Maybe,
        _ => Truth::Yes,
    }
}

/// `saddr . iif`, perhaps with the mark.
fn is_way_back(flags: &[Value]) -> bool {
    let has = |flag: &str| flags.iter().any(|found| found == flag);
    has("saddr") && has("iif")
}

/// Between which numbers a field is.
fn ends(field: &Field) -> Option<(u64, u64)> {
    match field {
        Field::Number(number) => Some((*number, *number)),
        Field::Between(first, last) => Some((*first, *last)),
        _ => None,
    }
}

/// Elements may have limits of their own.
fn limited(member: &Value) -> Truth {
    let element = match member.as_array().map(Vec::as_slice) {
        Some([key, _]) => &key["elem"],
        _ => &member["elem"],
    };
    let limits = ["limit", "quota", "ct count"];
    match limits.iter().any(|limit| element.get(limit).is_some()) {
        true => Truth::Maybe,
        false => Truth::Yes,
    }
}

enum Found {
    Nothing,
    /// What the element leads to; in a set, itself.
    Element(Value),
    Perhaps,
}
