//! Rules as `iptables-save` writes them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::nft::{Act, Judged};
use super::packet::tcp_flag;
use super::walk::{Nat, Verdict};
use super::{Layer4, Nic, Packet, State, Truth};

/// Matches that say something with their options only. What the others ask for (`socket`, …) their name says.
const ASK_BY_OPTIONS: [&str; 26] = [
    "addrtype",
    "comment",
    "connlimit",
    "connmark",
    "conntrack",
    "hashlimit",
    "icmp",
    "icmp6",
    "iprange",
    "length",
    "limit",
    "mac",
    "mark",
    "multiport",
    "owner",
    "physdev",
    "pkttype",
    "quota",
    "recent",
    "sctp",
    "set",
    "state",
    "statistic",
    "string",
    "tcp",
    "udp",
];

/// Whether a rule matches, and what it then does. `words` is the line from `-A` on.
pub(super) fn judge(words: &[String], packet: &Packet) -> Judged {
    let mut judged = Judged {
        truth: Truth::Yes,
        act: Act::Nothing,
        marks: (packet.mark, packet.connmark),
        lost: false,
    };
    let (mut negated, mut module) = (false, "");
    let mut rest = words.iter().skip(2).map(String::as_str);
    while let Some(word) = rest.next() {
        if word == "!" {
            negated = true;
            continue;
        }
        let holds = match word {
            "-m" => {
                module = rest.next().unwrap_or_default();
                match (module, ASK_BY_OPTIONS.contains(&module)) {
                    (_, true) => Truth::Yes,
                    ("rpfilter", _) if packet.by_way_back == Some(true) => Truth::Yes,
                    _ => Truth::Maybe,
                }
            }
            "--loose" | "--validmark" | "--accept-local" if module == "rpfilter" => Truth::Yes,
            "--invert" if module == "rpfilter" && packet.by_way_back == Some(true) => Truth::No,
            "--comment" | "--limit-burst" => {
                rest.next();
                Truth::Yes
            }
            // One packet alone is within every rate, and above none.
            "--limit" | "--hashlimit-upto" | "--hashlimit-above" => {
                rest.next();
                Truth::of(word != "--hashlimit-above")
            }
            _ if word.starts_with("--hashlimit-") => {
                rest.next();
                Truth::Yes
            }
            "-j" | "-g" => {
                let target = rest.next().unwrap_or_default();
                let options: Vec<&str> = rest.by_ref().collect();
                act(target, word == "-j", &options, &mut judged);
                Truth::Yes
            }
            "-s" => within(packet.from, rest.next()),
            "-d" => within(packet.to, rest.next()),
            "-i" => is_nic(packet.iif.as_ref(), rest.next()),
            "-o" => is_nic(packet.oif.as_ref(), rest.next()),
            "-p" => is_protocol(packet, rest.next()),
            "--dport" | "--dports" => in_ports(packet.to_port, packet, rest.next()),
            "--sport" | "--sports" => in_ports(packet.from_port, packet, rest.next()),
            "--ctorigdstport" => in_ports(packet.original.2, packet, rest.next()),
            "--ports" => {
                let ports = rest.next();
                let [from, to] = [packet.from_port, packet.to_port].map(|port| in_ports(port, packet, ports));
                from.not().and(to.not()).not()
            }
            "--icmp-type" | "--icmpv6-type" => is_icmp(packet, rest.next()),
            "--tcp-flags" => has_flags(packet, rest.next(), rest.next()),
            "--src-range" => in_addresses(packet.from, rest.next()),
            "--dst-range" => in_addresses(packet.to, rest.next()),
            "--pkt-type" => Truth::of(
                rest.next()
                    .is_some_and(|kind| kind == "unicast" || kind == "host"),
            ),
            // What is ordinary is whole.
            "-f" => Truth::No,
            "--ctdir" => Truth::of((rest.next() == Some("REPLY")) == (packet.state == State::Established)),
            "--ctorigdst" => within(packet.original.1, rest.next()),
            "--ctorigsrc" => within(packet.original.0, rest.next()),
            "--ctstate" | "--state" => in_states(packet, rest.next()),
            "--mark" => has_mark(
                if module == "connmark" {
                    packet.connmark
                } else {
                    packet.mark
                },
                rest.next(),
            ),
            "--dst-type" => match packet.to_type {
                Some(kind) => Truth::of(
                    rest.next()
                        .is_some_and(|words| words.split(',').any(|word| word.eq_ignore_ascii_case(kind))),
                ),
                None => {
                    rest.next();
                    Truth::Maybe
                }
            },
            // What we don't know may have words of its own behind it; none of them begins with a dash.
            _ => Truth::Maybe,
        };
        judged.truth = judged.truth.and(if std::mem::take(&mut negated) {
            holds.not()
        } else {
            holds
        });
    }
    judged
}

/// Targets after which a packet is as it was before.
const HARMLESS: [&str; 16] = [
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CONNSECMARK",
    "DSCP",
    "ECN",
    "IDLETIMER",
    "LED",
    "LOG",
    "NFLOG",
    "RATEEST",
    "SECMARK",
    "SET",
    "TCPMSS",
    "TEE",
    "TOS",
];

/// Targets of whose effect we know nothing. What is neither here nor known is a chain, if there is one of that name.
const LOST: [&str; 9] = [
    "CLUSTERIP",
    "HL",
    "HMARK",
    "NETMAP",
    "NOTRACK",
    "SYNPROXY",
    "TPROXY",
    "TTL",
    "TCPOPTSTRIP",
];

fn act(target: &str, back: bool, options: &[&str], judged: &mut Judged) {
    let option = |name: &str| {
        let mut behind = options.iter().skip_while(|option| **option != name);
        behind.nth(1).copied()
    };
    let (mark, connmark) = judged.marks;
    judged.act = match target {
        "ACCEPT" => Act::Verdict(Verdict::Accept),
        "DROP" => Act::Verdict(Verdict::Drop),
        "REJECT" => Act::Verdict(Verdict::Reject),
        "RETURN" => Act::Return,
        // Some program decides, if there is one that does.
        "NFQUEUE" | "QUEUE" => {
            judged.truth = judged.truth.and(Truth::Maybe);
            Act::Verdict(Verdict::Drop)
        }
        "MASQUERADE" => Act::Translate(Nat::Masquerade),
        "SNAT" => Act::Translate(Nat::From(
            option("--to-source")
                .and_then(endpoint)
                .and_then(|(address, _)| address),
        )),
        "DNAT" => match option("--to-destination").and_then(endpoint) {
            Some((address, port)) => Act::Translate(Nat::To(address, port)),
            None => {
                judged.lost = true;
                Act::Translate(Nat::To(None, None))
            }
        },
        "REDIRECT" => {
            let port = option("--to-ports").map(str::parse);
            judged.lost = matches!(port, Some(Err(_)));
            Act::Translate(Nat::Redirect(port.and_then(Result::ok)))
        }
        "MARK" => {
            match option("--set-xmark").and_then(mask) {
                Some((value, mask)) => judged.marks.0 = (mark & !mask) ^ value,
                None => judged.lost = true,
            }
            Act::Nothing
        }
        "CONNMARK" => {
            let masks = ["--nfmask", "--ctmask"].map(|name| option(name).and_then(self::mask));
            let [of_packet, of_connection] = masks.map(|mask| mask.map_or(u32::MAX, |(value, _)| value));
            if options.contains(&"--restore-mark") {
                judged.marks.0 = (mark & !of_packet) ^ (connmark & of_connection);
            } else if options.contains(&"--save-mark") {
                judged.marks.1 = (connmark & !of_connection) ^ (mark & of_packet);
            } else if let Some((value, mask)) = option("--set-xmark").and_then(self::mask) {
                judged.marks.1 = (connmark & !mask) ^ value;
            } else {
                judged.lost = true;
            }
            Act::Nothing
        }
        // A helper for a protocol is no matter; without tracking nothing is translated, and no answer is known for one.
        "CT" => {
            judged.lost = !options.contains(&"--helper");
            Act::Nothing
        }
        target if HARMLESS.contains(&target) => Act::Nothing,
        target if LOST.contains(&target) => {
            judged.lost = true;
            Act::Nothing
        }
        chain => Act::Jump {
            to: chain.to_owned(),
            back,
        },
    };
}

/// `ADDRESS`, `ADDRESS:PORT`, `[ADDRESS]:PORT` or `:PORT`. None for ranges: which of them it would be can't be told.
fn endpoint(text: &str) -> Option<(Option<IpAddr>, Option<u16>)> {
    if let Ok(address) = text.trim_matches(['[', ']']).parse() {
        return Some((Some(address), None));
    }
    let (address, port) = text.rsplit_once(':')?;
    let address = match address.trim_matches(['[', ']']) {
        "" => None,
        address => Some(address.parse().ok()?),
    };
    Some((address, Some(port.parse().ok()?)))
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

fn in_ports(port: Option<u16>, packet: &Packet, list: Option<&str>) -> Truth {
    let (Some(layer4), Some(list)) = (packet.layer4, list) else {
        return Truth::Maybe;
    };
    if !layer4.has_ports() {
        return Truth::No;
    }
    let (least, most) = port.map_or(packet.unknown_port, |port| (port, port));
    let judge = |range: &str| {
        let (first, last) = range.split_once(':').unwrap_or((range, range));
        let first: u16 = first.parse().unwrap_or(0);
        let last = last.parse().unwrap_or(u16::MAX);
        match (first <= least && most <= last, last < least || most < first) {
            (true, _) => Truth::Yes,
            (_, true) => Truth::No,
            _ => Truth::Maybe,
        }
    };
    let none = list.split(',').map(|range| judge(range).not());
    none.fold(Truth::Yes, Truth::and).not()
}

/// `8`, `8/0`, `any`; names are not saved.
fn is_icmp(packet: &Packet, wanted: Option<&str>) -> Truth {
    let (Some(layer4), Some(wanted)) = (packet.layer4, wanted) else {
        return Truth::Maybe;
    };
    if layer4 != Layer4::Echo {
        return Truth::No;
    }
    let (kind, code) = wanted.split_once('/').unwrap_or((wanted, "0"));
    match (kind, kind.parse::<u64>(), code.parse::<u64>()) {
        ("any", ..) => Truth::Yes,
        (_, Ok(kind), Ok(code)) => Truth::of(kind == packet.icmp_type().0 && code == 0),
        _ => Truth::Maybe,
    }
}

/// Which flags are looked at, and which of them must be set.
fn has_flags(packet: &Packet, looked_at: Option<&str>, set: Option<&str>) -> Truth {
    let bits = |words: Option<&str>| {
        words?.split(',').try_fold(0, |all, word| match word {
            "ALL" => Some(0x3f),
            "NONE" => Some(all),
            word => Some(all | tcp_flag(word)?),
        })
    };
    match (packet.layer4, bits(looked_at), bits(set)) {
        (Some(layer4), ..) if layer4 != Layer4::Tcp => Truth::No,
        (Some(_), Some(looked_at), Some(set)) => Truth::of(packet.tcp_flags() & looked_at == set),
        _ => Truth::Maybe,
    }
}

fn in_addresses(address: Option<IpAddr>, range: Option<&str>) -> Truth {
    let ends = range.and_then(|range| range.split_once('-'));
    let ends = ends.and_then(|(first, last)| first.parse::<IpAddr>().ok().zip(last.parse::<IpAddr>().ok()));
    match (address, ends) {
        (Some(address), Some((first, last))) => Truth::of((first..=last).contains(&address)),
        _ => Truth::Maybe,
    }
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
