//! Rules as `nft -j` writes them (libnftables-json(5)).

use std::net::IpAddr;

use serde_json::Value;

use super::field::{Field, compare, key_of, shown, value_of};
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
    /// It sets the mark.
    Mark(u32),
    /// It sets the mark and decides.
    MarkAnd(u32, Verdict),
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

/// Whether a rule matches, and what it then does. Elements of sets that match are noted.
pub(super) fn judge(
    rules: &Ruleset,
    chain: &ChainId,
    expressions: &[Value],
    packet: &Packet,
    elements: &mut Vec<String>,
) -> (Truth, Act) {
    let mut judge = Judge {
        rules,
        chain,
        packet,
        elements,
        mark: packet.mark,
    };
    let mut truth = Truth::Yes;
    for expression in expressions {
        let Some((name, body)) = expression.as_object().and_then(|object| object.iter().next()) else {
            continue;
        };
        match judge.expression(name, body) {
            Part::Match(holds) => truth = truth.and(holds),
            Part::Act(act) => {
                let act = match act {
                    Act::Verdict(verdict) if judge.mark != packet.mark => Act::MarkAnd(judge.mark, verdict),
                    other => other,
                };
                return (truth, act);
            }
            Part::Maybe(act) => return (truth.and(Truth::Maybe), act),
        }
        if truth == Truth::No {
            return (Truth::No, Act::Nothing);
        }
    }
    if judge.mark != packet.mark {
        return (truth, Act::Mark(judge.mark));
    }
    (truth, Act::Nothing)
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
    mark: u32,
}

impl Judge<'_> {
    fn expression(&mut self, name: &str, body: &Value) -> Part {
        match name {
            "match" => Part::Match(self.matches(body)),
            // An ordinary packet is within ordinary limits.
            "limit" | "counter" | "log" | "quota" | "ct count" => Part::Match(Truth::Yes),
            "accept" => Part::Act(Act::Verdict(Verdict::Accept)),
            "drop" => Part::Act(Act::Verdict(Verdict::Drop)),
            "reject" => Part::Act(Act::Verdict(Verdict::Reject)),
            "return" => Part::Act(Act::Return),
            "jump" | "goto" => Part::Act(Act::Jump {
                to: body["target"].as_str().unwrap_or_default().to_owned(),
                back: name == "jump",
            }),
            // Some program decides.
            "queue" => Part::Maybe(Act::Verdict(Verdict::Drop)),
            "vmap" => self.verdict_map(body),
            "mangle" => {
                if body.pointer("/key/meta/key").and_then(Value::as_str) == Some("mark") {
                    match self.field(&body["value"]) {
                        Field::Number(mark) => self.mark = u32::try_from(mark).unwrap_or_default(),
                        _ => return Part::Maybe(Act::Nothing),
                    }
                }
                Part::Match(Truth::Yes)
            }
            "dnat" | "snat" => self.translation(name, body),
            "masquerade" => Part::Act(Act::Translate(Nat::Masquerade)),
            "redirect" => Part::Act(Act::Translate(Nat::Redirect(match self.field(&body["port"]) {
                Field::Number(port) => u16::try_from(port).ok(),
                _ => None,
            }))),
            "xt" => Part::Match(match body["name"].as_str() {
                Some("comment") => Truth::Yes,
                _ => Truth::Maybe,
            }),
            _ => Part::Match(Truth::Yes),
        }
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
                        _ => {}
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
                _ => port,
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
            found @ (Found::Element(_) | Found::Perhaps(_)) => {
                let (sure, verdict) = match found {
                    Found::Perhaps(value) => (false, value),
                    Found::Element(value) => (true, value),
                    Found::Nothing => return Part::Match(Truth::No),
                };
                let Some((name, body)) = verdict.as_object().and_then(|object| object.iter().next()) else {
                    return Part::Maybe(Act::Nothing);
                };
                match self.expression(name, body) {
                    Part::Act(act) if sure => Part::Act(act),
                    Part::Act(act) | Part::Maybe(act) => Part::Maybe(act),
                    other => other,
                }
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
            "<" | ">" | "<=" | ">=" => match (&field, self.field(right)) {
                (Field::Number(left), Field::Number(right)) => Truth::of(match body["op"].as_str() {
                    Some("<") => *left < right,
                    Some(">") => *left > right,
                    Some("<=") => *left <= right,
                    _ => *left >= right,
                }),
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
                    Found::Perhaps(_) => Field::Open,
                }
            }
            "&" | "|" | "^" | "<<" | ">>" => {
                let numbers: Option<Vec<u64>> = body
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|part| match self.field(part) {
                        Field::Number(number) => Some(number),
                        _ => None,
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
            "mark" => Field::Number(u64::from(self.mark)),
            "l4proto" => packet.layer4.map_or(Field::Open, |layer4| {
                Field::Text(layer4.name(packet.v6).to_owned())
            }),
            "nfproto" => Field::Text(if packet.v6 { "ipv6" } else { "ipv4" }.to_owned()),
            "protocol" => Field::Text(if packet.v6 { "ip6" } else { "ip" }.to_owned()),
            "pkttype" => Field::Text("host".to_owned()),
            _ => Field::Open,
        }
    }

    fn payload(&self, protocol: &str, field: &str) -> Field {
        let packet = self.packet;
        let address = |address: Option<IpAddr>| address.map_or(Field::Open, Field::Address);
        let port = |port: Option<u16>| port.map_or(Field::Open, |port| Field::Number(u64::from(port)));
        let carries = match (protocol, packet.layer4) {
            ("ip", _) => Some(!packet.v6),
            ("ip6", _) => Some(packet.v6),
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
            (Some(false), _) => Field::Absent,
            (None, _) => Field::Open,
            (_, "saddr") => address(packet.from),
            (_, "daddr") => address(packet.to),
            (_, "sport") => port(packet.from_port),
            (_, "dport") => port(packet.to_port),
            (_, "protocol" | "nexthdr") => packet.layer4.map_or(Field::Open, |layer4| {
                Field::Text(layer4.name(packet.v6).to_owned())
            }),
            (_, "type") => Field::Text("echo-request".to_owned()),
            // The first segment of a connection.
            (_, "flags") if packet.state == State::New => Field::Flags(vec!["syn"]),
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
                Found::Perhaps(_) => Truth::Maybe,
                Found::Nothing => Truth::No,
            };
        }
        if right.as_str().is_some_and(|name| name.starts_with('@')) {
            return match self.find(field, right) {
                Found::Element(_) => Truth::Yes,
                Found::Perhaps(_) => Truth::Maybe,
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
            return Found::Perhaps(Value::Null);
        };
        let id = (
            self.chain.family.clone(),
            self.chain.table.clone(),
            name.to_owned(),
        );
        let rules = self.rules;
        let Some(members) = rules.sets.get(&id) else {
            return Found::Perhaps(Value::Null);
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
            match compare(field, key_of(member)) {
                Truth::Yes => return Found::Element(value.clone()),
                Truth::Maybe => perhaps = Found::Perhaps(value.clone()),
                Truth::No => {}
            }
        }
        perhaps
    }
}

enum Found {
    Nothing,
    /// What the element leads to; in a set, itself.
    Element(Value),
    Perhaps(Value),
}
