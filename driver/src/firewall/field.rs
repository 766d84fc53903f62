//! Fields of packets, and the elements of sets and maps that they are compared with.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::Truth;
use super::packet::tcp_flag;

/// A field of a packet.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Field {
    Number(u64),
    /// A number between two, these included.
    Between(u64, u64),
    Text(String),
    Address(IpAddr),
    /// Flags that are set.
    Flags(Vec<&'static str>),
    /// Several fields, compared one by one.
    Row(Vec<Field>),
    /// We can't tell.
    Open,
    /// A packet like this one has no such field, so no rule about it matches.
    Absent,
}

/// An element's key: elements of maps are pairs, elements with counters and the like are wrapped.
pub(super) fn key_of(member: &Value) -> &Value {
    let member = match member.as_array().map(Vec::as_slice) {
        Some([key, _]) => key,
        _ => member,
    };
    member.pointer("/elem/val").unwrap_or(member)
}

/// What an element leads to; in a set, itself.
pub(super) fn value_of(member: &Value) -> &Value {
    match member.as_array().map(Vec::as_slice) {
        Some([_, value]) => value,
        _ => member,
    }
}

/// Whether a field is what an element, or the right side of a match, says.
pub(super) fn compare(field: &Field, member: &Value) -> Truth {
    if let Field::Flags(flags) = field {
        let is = |word: &Value| word.as_str().is_some_and(|word| flags.contains(&word));
        return Truth::of(match (member, member.get("|").and_then(Value::as_array)) {
            (_, Some(words)) => words.iter().any(is),
            (Value::Array(words), _) => words.iter().any(is),
            (word, _) => is(word),
        });
    }
    if let Some(parts) = member.get("concat").and_then(Value::as_array) {
        return match field {
            Field::Row(fields) if fields.len() == parts.len() => {
                let pairs = fields.iter().zip(parts);
                pairs.fold(Truth::Yes, |all, (field, part)| all.and(compare(field, part)))
            }
            _ => Truth::Maybe,
        };
    }
    match (field, member) {
        (Field::Open | Field::Row(_), _) => Truth::Maybe,
        (Field::Address(address), _) if member.get("prefix").is_some() => {
            let prefix = &member["prefix"];
            let length = prefix["len"]
                .as_u64()
                .and_then(|length| u8::try_from(length).ok());
            let base = prefix["addr"].as_str().and_then(|text| text.parse().ok());
            match base
                .zip(length)
                .and_then(|(base, length)| IpNet::new(base, length).ok())
            {
                Some(net) => Truth::of(net.contains(address)),
                None => Truth::Maybe,
            }
        }
        (_, _) if member.get("range").is_some() => in_range(field, &member["range"]),
        (Field::Address(address), Value::String(text)) => match text.parse::<IpAddr>() {
            Ok(other) => Truth::of(*address == other),
            Err(_) => Truth::Maybe,
        },
        (Field::Text(name), Value::String(pattern)) => Truth::of(match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        }),
        (Field::Text(name), Value::Number(number)) => {
            let numbers = [
                ("tcp", 6),
                ("udp", 17),
                ("sctp", 132),
                ("icmp", 1),
                ("ipv6-icmp", 58),
            ];
            match numbers.iter().find(|(known, _)| known == name) {
                Some((_, known)) => Truth::of(number.as_u64() == Some(*known)),
                None => Truth::Maybe,
            }
        }
        (Field::Number(left), Value::Number(right)) => Truth::of(right.as_u64() == Some(*left)),
        (Field::Between(first, last), Value::Number(right)) => match right.as_u64() {
            Some(right) if (*first..=*last).contains(&right) => Truth::Maybe,
            _ => Truth::No,
        },
        // Whether there is one.
        (Field::Number(left), Value::Bool(there)) => Truth::of((*left != 0) == *there),
        // The numbers with names that we know: the link group that is everybody's, and flags of TCP.
        (Field::Number(left), Value::String(name)) if name == "default" => Truth::of(*left == 0),
        (Field::Number(left), _) => match flags(member) {
            Some(flags) => Truth::of(*left == flags),
            None => Truth::Maybe,
        },
        _ => Truth::Maybe,
    }
}

/// The bits of some flags of TCP.
pub(super) fn flags(value: &Value) -> Option<u64> {
    let words = value.as_array().or_else(|| value.get("|")?.as_array());
    match words {
        Some(words) => words.iter().try_fold(0, |all, word| Some(all | flags(word)?)),
        None => tcp_flag(value.as_str()?),
    }
}

fn in_range(field: &Field, range: &Value) -> Truth {
    let address = |at: usize| range[at].as_str().and_then(|text| text.parse::<IpAddr>().ok());
    match field {
        Field::Number(number) => match (range[0].as_u64(), range[1].as_u64()) {
            (Some(first), Some(last)) => Truth::of((first..=last).contains(number)),
            _ => Truth::Maybe,
        },
        Field::Between(least, most) => match (range[0].as_u64(), range[1].as_u64()) {
            (Some(first), Some(last)) if first <= *least && *most <= last => Truth::Yes,
            (Some(first), Some(last)) if last < *least || *most < first => Truth::No,
            _ => Truth::Maybe,
        },
        Field::Address(found) => match (address(0), address(1)) {
            (Some(first), Some(last)) => Truth::of((first..=last).contains(found)),
            _ => Truth::Maybe,
        },
        _ => Truth::Maybe,
    }
}

/// An element as nft lists it.
pub(super) fn shown(member: &Value) -> String {
    let part = |value: &Value| -> String {
        let one = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => match (&other["prefix"], other["range"].as_array()) {
                (Value::Object(prefix), _) => {
                    format!(
                        "{}/{}",
                        prefix["addr"].as_str().unwrap_or_default(),
                        prefix["len"]
                    )
                }
                (_, Some(ends)) => {
                    let ends = ends
                        .iter()
                        .map(|end| end.as_str().map_or_else(|| end.to_string(), str::to_owned));
                    ends.collect::<Vec<_>>().join("-")
                }
                _ => other.to_string(),
            },
        };
        match value["concat"].as_array() {
            Some(parts) => parts.iter().map(one).collect::<Vec<_>>().join(" . "),
            None => one(value),
        }
    };
    match member.as_array().map(Vec::as_slice) {
        Some([_, value]) => format!("{} : {}", part(key_of(member)), part(value)),
        _ => part(key_of(member)),
    }
}
