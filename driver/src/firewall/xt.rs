//! Rules as `iptables-save` writes them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::nft::Act;
use super::walk::{Nat, Verdict};
use super::{Nic, Packet, State, Truth};

/// Whether a rule matches, and what it then does. `words` is the line from `-A` on.
pub(super) fn judge(words: &[String], packet: &Packet) -> (Truth, Act) {
    let mut truth = Truth::Yes;
    let (mut negated, mut target, mut back, mut options) = (false, None, true, Vec::new());
    let mut rest = words.iter().skip(2).map(String::as_str);
    while let Some(word) = rest.next() {
        if word == "!" {
            negated = true;
            continue;
        }
        let holds = match word {
            "-m" | "--comment" | "--limit" | "--limit-burst" => {
                rest.next();
                Truth::Yes
            }
            "-j" | "-g" => {
                (target, back) = (rest.next(), word == "-j");
                options = rest.by_ref().map(str::to_owned).collect();
                Truth::Yes
            }
            "-s" => within(packet.from, rest.next()),
            "-d" => within(packet.to, rest.next()),
            "-i" => is_nic(packet.iif.as_ref(), rest.next()),
            "-o" => is_nic(packet.oif.as_ref(), rest.next()),
            "-p" => is_protocol(packet, rest.next()),
            "--dport" | "--dports" | "--ctorigdstport" => {
                let port = if word == "--ctorigdstport" {
                    packet.original.2
                } else {
                    packet.to_port
                };
                in_ports(port, rest.next())
            }
            "--sport" | "--sports" => in_ports(packet.from_port, rest.next()),
            "--ctorigdst" => within(packet.original.1, rest.next()),
            "--ctorigsrc" => within(packet.original.0, rest.next()),
            "--ctstate" | "--state" => in_states(packet, rest.next()),
            "--mark" => has_mark(packet.mark, rest.next()),
            "--dst-type" => match packet.to_type {
                Some(kind) => Truth::of(rest.next().is_some_and(|w| w.to_ascii_lowercase() == kind)),
                None => {
                    rest.next();
                    Truth::Maybe
                }
            },
            // What we don't know may have words of its own behind it; none of them begins with a dash.
            _ => Truth::Maybe,
        };
        truth = truth.and(if std::mem::take(&mut negated) {
            holds.not()
        } else {
            holds
        });
    }
    (truth, act(target, back, &options, packet))
}

fn act(target: Option<&str>, back: bool, options: &[String], packet: &Packet) -> Act {
    let option = |name: &str| {
        options
            .iter()
            .skip_while(|o| *o != name)
            .nth(1)
            .map(String::as_str)
    };
    match target {
        None
        | Some(
            "LOG" | "NFLOG" | "TRACE" | "CT" | "CONNMARK" | "TCPMSS" | "NOTRACK" | "CLASSIFY" | "CHECKSUM",
        ) => Act::Nothing,
        Some("ACCEPT") => Act::Verdict(Verdict::Accept),
        Some("DROP") => Act::Verdict(Verdict::Drop),
        Some("REJECT") => Act::Verdict(Verdict::Reject),
        Some("RETURN") => Act::Return,
        Some("MASQUERADE") => Act::Translate(Nat::Masquerade),
        Some("SNAT") => Act::Translate(Nat::From(option("--to-source").and_then(|text| endpoint(text).0))),
        Some("DNAT") => {
            let (address, port) = option("--to-destination").map_or((None, None), endpoint);
            Act::Translate(Nat::To(address, port))
        }
        Some("REDIRECT") => Act::Translate(Nat::Redirect(
            option("--to-ports").and_then(|port| port.parse().ok()),
        )),
        Some("MARK") => match option("--set-xmark").and_then(mask) {
            Some((value, mask)) => Act::Mark((packet.mark & !mask) ^ value),
            None => Act::Nothing,
        },
        Some(chain) => Act::Jump {
            to: chain.to_owned(),
            back,
        },
    }
}

/// `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`; of ranges the first.
fn endpoint(text: &str) -> (Option<IpAddr>, Option<u16>) {
    let first = text.split('-').next().unwrap_or_default();
    if let Ok(address) = first.trim_matches(['[', ']']).parse() {
        return (Some(address), None);
    }
    match first.rsplit_once(':') {
        Some((address, port)) => (address.trim_matches(['[', ']']).parse().ok(), port.parse().ok()),
        None => (None, None),
    }
}

fn within(address: Option<IpAddr>, net: Option<&str>) -> Truth {
    let Some(net) = net else { return Truth::Maybe };
    let net = net
        .parse::<IpNet>()
        .or_else(|_| net.parse::<IpAddr>().map(IpNet::from));
    match (address, net) {
        (Some(address), Ok(net)) => Truth::of(net.contains(&address)),
        _ => Truth::Maybe,
    }
}

fn is_nic(nic: Option<&Nic>, pattern: Option<&str>) -> Truth {
    let (Some(nic), Some(pattern)) = (nic, pattern) else {
        return Truth::of(pattern.is_none());
    };
    Truth::of(match pattern.strip_suffix('+') {
        Some(beginning) => nic.name.starts_with(beginning),
        None => nic.name == pattern,
    })
}

fn is_protocol(packet: &Packet, name: Option<&str>) -> Truth {
    let (Some(layer4), Some(name)) = (packet.layer4, name) else {
        return Truth::Maybe;
    };
    let number = layer4.number(packet.v6);
    Truth::of(
        name == "all"
            || name == layer4.name(packet.v6)
            || name.parse() == Ok(number)
            || (name == "icmpv6" && number == 58),
    )
}

fn in_ports(port: Option<u16>, list: Option<&str>) -> Truth {
    let (Some(port), Some(list)) = (port, list) else {
        return Truth::Maybe;
    };
    Truth::of(list.split(',').any(|range| {
        let (first, last) = range.split_once(':').unwrap_or((range, range));
        let first = first.parse().unwrap_or(0);
        (first..=last.parse().unwrap_or(u16::MAX)).contains(&port)
    }))
}

fn in_states(packet: &Packet, list: Option<&str>) -> Truth {
    let mut words = list.unwrap_or_default().split(',');
    Truth::of(words.any(|word| match word {
        "NEW" => packet.state == State::New,
        "ESTABLISHED" => packet.state == State::Established,
        "DNAT" => packet.dnat,
        "SNAT" => packet.snat,
        _ => false,
    }))
}

fn mask(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(text)?, u32::MAX)),
    }
}

fn has_mark(mark: u32, text: Option<&str>) -> Truth {
    match text.and_then(self::mask) {
        Some((value, mask)) => Truth::of(mark & mask == value),
        None => Truth::Maybe,
    }
}
