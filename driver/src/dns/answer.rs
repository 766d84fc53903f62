//! What is answered to a question, from the table alone.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use hickory_server::proto::rr::rdata::{A, AAAA, PTR, SOA, SRV};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use rand::seq::SliceRandom;
use tombolo_core::model::Proto;
use tombolo_core::peers::PortRow;

use super::names::{Entry, Names, View};
use super::services::known_port;

/// How long an answer may be kept, in seconds. Whoever asks has us at hand, and containers move.
pub const TTL: u32 = 1;

/// The name in the zone that its own name server has.
pub const SERVER: &str = "ns";

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// There is something.
    Found {
        /// The answer.
        answers: Vec<Record>,
        /// What the asker will want to know next.
        additionals: Vec<Record>,
    },
    /// There is that name, but nothing of that type (NODATA, RFC 2308, section 2.2).
    Nothing,
    /// There is no such name (NXDOMAIN).
    NoName,
    /// It is not ours to answer.
    NotOurs,
}

impl Answer {
    pub(super) fn of(answers: Vec<Record>, additionals: Vec<Record>) -> Self {
        match answers.is_empty() {
            true => Self::Nothing,
            false => Self::Found { answers, additionals },
        }
    }
}

/// Where names end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    text: String,
    name: Name,
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        let name = Name::from_ascii(format!("{text}.")).map_err(|error| error.to_string())?;
        if name.is_root() {
            return Err("the root can't be a zone of ours".to_owned());
        }
        Ok(Self { text, name })
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Zone {
    /// The start of authority that goes with an answer of nothing, so that nobody keeps that for longer than [`TTL`]
    /// (RFC 2308, section 3).
    pub fn authority(&self) -> Record {
        let keep = TTL as i32;
        self.start_of_authority(1, [keep; 3])
    }

    /// The same with a serial number, and how long those who have a copy keep it: until they ask anew, until they do so after a
    /// failure, and until they give up (RFC 1035, section 3.3.13), in seconds.
    pub(super) fn start_of_authority(&self, serial: u32, [refresh, retry, expire]: [i32; 3]) -> Record {
        let soa = SOA::new(
            self.server(),
            self.name.clone(),
            serial,
            refresh,
            retry,
            expire,
            TTL,
        );
        Record::from_rdata(self.name.clone(), TTL, RData::SOA(soa))
    }

    /// What the zone's own name server is called.
    pub(super) fn server(&self) -> Name {
        let name = Name::from_ascii(SERVER).and_then(|name| name.append_domain(&self.name));
        name.unwrap_or_else(|_| self.name.clone())
    }

    /// Its name.
    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// Whether a name, in small letters, is in the zone.
    pub fn has(&self, name: &str) -> bool {
        self.before(name).is_some()
    }

    /// What stands before the zone; nothing for the zone itself.
    pub(super) fn before<'a>(&self, name: &'a str) -> Option<&'a str> {
        let rest = name.strip_suffix(&self.text)?;
        match rest {
            "" => Some(""),
            rest => rest.strip_suffix('.'),
        }
    }
}

/// The labels of a name in small letters, with dots between them; none for a name that none of ours can be.
pub fn text_of(name: &Name) -> Option<String> {
    let labels: Option<Vec<&str>> = name
        .iter()
        .map(|label| {
            std::str::from_utf8(label)
                .ok()
                .filter(|label| !label.contains('.'))
        })
        .collect();
    Some(labels?.join(".").to_ascii_lowercase())
}

/// Answers a question of whoever has that view.
pub fn answer(names: &Names, view: &View, zone: &Zone, name: &Name, asked: RecordType) -> Answer {
    if let Ok(net) = name.parse_arpa_name() {
        let whole = net.prefix_len() == net.max_prefix_len();
        return match whole {
            true => reverse(names, view, zone, name, net.addr(), asked),
            false => Answer::NotOurs,
        };
    }
    let Some(text) = text_of(name) else {
        return Answer::NotOurs;
    };
    let in_zone = zone.before(&text);
    let find = |text: &str| match zone.before(text) {
        Some(before) => names.find_full(view, before),
        None => names.find(view, text),
    };
    let found = find(&text);
    if !found.is_empty() {
        return Answer::of(addresses(name, &found, asked), Vec::new());
    }
    if let Some((service, rest)) = service(&text) {
        let found = find(rest);
        if !found.is_empty() {
            return services(names, zone, name, &found, service, asked);
        }
    }
    match in_zone {
        Some("") if matches!(asked, RecordType::SOA | RecordType::ANY) => {
            Answer::of(vec![zone.authority()], Vec::new())
        }
        Some("") => Answer::Nothing,
        Some(before) if names.is_network(view, before) => Answer::Nothing,
        Some(_) => Answer::NoName,
        None => Answer::NotOurs,
    }
}

/// The addresses of those who have a name, in varying order: most clients take the first.
pub(super) fn addresses(name: &Name, found: &[Arc<Entry>], asked: RecordType) -> Vec<Record> {
    let mut all: Vec<IpAddr> = found
        .iter()
        .flat_map(|entry| &*entry.addresses)
        .copied()
        .collect();
    all.sort_unstable();
    all.dedup();
    all.shuffle(&mut rand::rng());
    address_records(name, all, asked)
}

/// Addresses as records of a name, those of the type that is asked for.
pub(super) fn address_records(name: &Name, all: Vec<IpAddr>, asked: RecordType) -> Vec<Record> {
    let data = all.into_iter().filter_map(|address| match address {
        IpAddr::V4(v4) if matches!(asked, RecordType::A | RecordType::ANY) => Some(RData::A(A(v4))),
        IpAddr::V6(v6) if matches!(asked, RecordType::AAAA | RecordType::ANY) => Some(RData::AAAA(AAAA(v6))),
        _ => None,
    });
    data.map(|data| Record::from_rdata(name.clone(), TTL, data))
        .collect()
}

/// What an endpoint is called in full.
fn full(names: &Names, zone: &Zone, entry: &Entry) -> Option<Name> {
    in_full(entry.names.first()?, &names.label(entry)?, zone)
}

pub(super) fn in_full(name: &str, network: &str, zone: &Zone) -> Option<Name> {
    // What Docker allows as a name may be too long in full.
    Name::from_ascii(format!("{name}.{network}.{}.", zone.text)).ok()
}

/// Who has an address. One on a network of the asker's that nobody has is nobody's anywhere.
fn reverse(
    names: &Names,
    view: &View,
    zone: &Zone,
    name: &Name,
    address: IpAddr,
    asked: RecordType,
) -> Answer {
    let Some(found) = names.at(view, address) else {
        return Answer::NotOurs;
    };
    let full = found
        .iter()
        .filter_map(|(entry, network)| in_full(entry.names.first()?, network, zone));
    let mut full: Vec<Name> = full.collect();
    full.dedup();
    match asked {
        _ if found.is_empty() => Answer::NoName,
        RecordType::PTR | RecordType::ANY => {
            let record = |target| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target)));
            Answer::of(full.into_iter().map(record).collect(), Vec::new())
        }
        _ => Answer::Nothing,
    }
}

/// What a question for a service asks for: its port if it names one, and its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    port: Option<u16>,
    proto: Proto,
}

/// `_PORT._PROTO.name`, the port as a number or as the host knows the service (RFC 2782), or `_PROTO.name` with nothing before it; and the name.
fn service(text: &str) -> Option<(Asked, &str)> {
    let proto = |label: &str| match label {
        "_tcp" => Some(Proto::Tcp),
        "_udp" => Some(Proto::Udp),
        "_sctp" => Some(Proto::Sctp),
        _ => None,
    };
    let (first, rest) = text.split_once('.')?;
    if let Some(proto) = proto(first) {
        return Some((Asked { port: None, proto }, rest));
    }
    let (second, rest) = rest.split_once('.')?;
    let proto = proto(second)?;
    let named = first.strip_prefix('_')?;
    // One that nobody has heard of is on no port: port 0.
    let port = named
        .parse()
        .ok()
        .or_else(|| known_port(named, proto))
        .or_else(|| (!named.bytes().all(|b| b.is_ascii_digit())).then_some(0))?;
    Some((
        Asked {
            port: Some(port),
            proto,
        },
        rest,
    ))
}

/// Where a published service is.
fn services(
    names: &Names,
    zone: &Zone,
    name: &Name,
    found: &[Arc<Entry>],
    service: Asked,
    asked: RecordType,
) -> Answer {
    let of_proto = |entry: &&Arc<Entry>| entry.services.iter().any(|own| own.proto == service.proto);
    let Some(port) = service.port else {
        // A name between two others is there, and has nothing itself (RFC 8020).
        return match found.iter().any(|entry| of_proto(&entry)) {
            true => Answer::Nothing,
            false => Answer::NoName,
        };
    };
    let wanted = PortRow {
        proto: service.proto,
        port,
    };
    let mut serving: Vec<&Arc<Entry>> = found
        .iter()
        .filter(|entry| entry.services.contains(&wanted))
        .collect();
    if serving.is_empty() {
        return Answer::NoName;
    }
    if !matches!(asked, RecordType::SRV | RecordType::ANY) {
        return Answer::Nothing;
    }
    serving.shuffle(&mut rand::rng());
    let (mut answers, mut additionals) = (Vec::new(), Vec::new());
    for entry in serving {
        let Some(target) = full(names, zone, entry) else {
            continue;
        };
        additionals.extend(addresses(&target, std::slice::from_ref(entry), RecordType::ANY));
        let data = RData::SRV(SRV::new(0, 0, port, target));
        answers.push(Record::from_rdata(name.clone(), TTL, data));
    }
    Answer::of(answers, additionals)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tombolo_cluster::HostId;

    use super::super::names::{Home, News, Place};
    use super::*;

    /// A network `shop_front` with `web` of this host and two of `api`, one of them on another host and with both families;
    /// and a network `back` that the asker isn't on.
    fn names() -> (Names, View) {
        let me = HostId::from_bytes([1; 16]);
        let front = "10.1.0.0/24".parse().unwrap();
        let back = "10.2.0.0/24".parse().unwrap();
        let entry = |pool, names: &[&str], addresses: &[&str], ports: &[u16], sandbox: Option<&str>| Entry {
            pool,
            names: names.iter().map(|name| (*name).into()).collect(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            services: ports
                .iter()
                .map(|port| PortRow {
                    proto: Proto::Tcp,
                    port: *port,
                })
                .collect(),
            place: sandbox.map(|sandbox| {
                Box::new(Place {
                    sandbox: sandbox.to_owned(),
                    hook: true,
                })
            }),
        };
        let home = |pool, extra: &[&str], label: &str| Home {
            pools: std::iter::once(pool)
                .chain(extra.iter().map(|text| text.parse().unwrap()))
                .collect(),
            labels: vec![label.to_owned(), format!("{label}-net")],
            gateways: vec![],
        };
        let entries = [
            (
                "1",
                entry(front, &["web", "www"], &["10.1.0.2"], &[80], Some("/web")),
            ),
            ("2", entry(front, &["api-1", "api"], &["10.1.0.3"], &[8080], None)),
            (
                "3",
                entry(front, &["api-2", "api"], &["10.1.0.4", "fd01::4"], &[8080], None),
            ),
            ("4", entry(back, &["db"], &["10.2.0.2"], &[], Some("/db"))),
        ];
        let entries = entries.map(|(id, entry)| ((me, id.into()), Some(entry)));
        let homes = BTreeMap::from([
            (front, home(front, &["fd01::/64"], "shop_front")),
            (back, home(back, &[], "back")),
        ]);
        let names = Names::default();
        names.hear(
            News {
                everything: true,
                entries: entries.into(),
                homes: Some(homes),
            },
            me,
        );
        let view = names.view_at(front, "10.1.0.2".parse().unwrap());
        (names, view)
    }

    fn zone() -> Zone {
        "Tombolo.Internal.".parse().unwrap()
    }

    /// What the answer to a question is, in a line: the records sorted, or NODATA, NXDOMAIN or -.
    fn ask(name: &str, asked: RecordType) -> String {
        let (names, view) = names();
        let name = Name::from_ascii(name).unwrap();
        match answer(&names, &view, &zone(), &name, asked) {
            Answer::Found { answers, .. } => {
                assert!(
                    answers
                        .iter()
                        .all(|record| record.ttl == TTL && record.name == name)
                );
                let mut lines: Vec<String> = answers.iter().map(|record| record.data.to_string()).collect();
                lines.sort();
                lines.join(" ")
            }
            Answer::Nothing => "NODATA".to_owned(),
            Answer::NoName => "NXDOMAIN".to_owned(),
            Answer::NotOurs => "-".to_owned(),
        }
    }

    #[test]
    fn names_short_and_long_have_the_addresses_of_all_who_bear_them() {
        use RecordType as T;
        for (name, asked, expected) in [
            ("web.", T::A, "10.1.0.2"),
            ("WwW.", T::A, "10.1.0.2"),
            ("api.", T::A, "10.1.0.3 10.1.0.4"),
            ("api.", T::AAAA, "fd01::4"),
            ("api.", T::ANY, "10.1.0.3 10.1.0.4 fd01::4"),
            ("web.", T::AAAA, "NODATA"),
            ("web.", T::MX, "NODATA"),
            ("api.shop_front.", T::A, "10.1.0.3 10.1.0.4"),
            ("api.shop_front-net.", T::AAAA, "fd01::4"),
            ("api-2.shop_front.tombolo.internal.", T::A, "10.1.0.4"),
            ("api-2.shop_front.tombolo.internal.", T::TXT, "NODATA"),
            ("shop_front.tombolo.internal.", T::A, "NODATA"),
            ("tombolo.internal.", T::A, "NODATA"),
            ("api.tombolo.internal.", T::A, "NXDOMAIN"),
            ("nobody.shop_front.tombolo.internal.", T::A, "NXDOMAIN"),
            ("nobody.", T::A, "-"),
            ("nobody.shop_front.", T::A, "-"),
            ("xtombolo.internal.", T::A, "-"),
            ("example.org.", T::A, "-"),
            (".", T::NS, "-"),
        ] {
            assert_eq!(ask(name, asked), expected, "{name} {asked}");
        }
        assert!(ask("tombolo.internal.", T::SOA).starts_with("ns.tombolo.internal. "));
    }

    #[test]
    fn nothing_is_said_of_networks_that_the_asker_is_not_on() {
        use RecordType as T;
        for (name, asked, expected) in [
            ("db.", T::A, "-"),
            ("db.back.", T::A, "-"),
            ("db.back.tombolo.internal.", T::A, "NXDOMAIN"),
            ("back.tombolo.internal.", T::A, "NXDOMAIN"),
            ("2.0.2.10.in-addr.arpa.", T::PTR, "-"),
        ] {
            assert_eq!(ask(name, asked), expected, "{name} {asked}");
        }
    }

    #[test]
    fn addresses_have_names_in_both_families() {
        use RecordType as T;
        let v6 = format!("4.{}1.0.d.f.ip6.arpa.", "0.".repeat(27));
        for (name, asked, expected) in [
            (
                "4.0.1.10.in-addr.arpa.",
                T::PTR,
                "api-2.shop_front.tombolo.internal.",
            ),
            (v6.as_str(), T::PTR, "api-2.shop_front.tombolo.internal."),
            ("4.0.1.10.in-addr.arpa.", T::A, "NODATA"),
            ("77.0.1.10.in-addr.arpa.", T::PTR, "NXDOMAIN"),
            ("0.1.10.in-addr.arpa.", T::PTR, "-"),
            ("1.2.0.192.in-addr.arpa.", T::PTR, "-"),
        ] {
            assert_eq!(ask(name, asked), expected, "{name} {asked}");
        }
    }

    #[test]
    fn services_are_where_their_port_is_published() {
        use RecordType as T;
        let api = "0 0 8080 api-1.shop_front.tombolo.internal. 0 0 8080 api-2.shop_front.tombolo.internal.";
        for (name, asked, expected) in [
            ("_8080._tcp.api.", T::SRV, api),
            ("_8080._tcp.api.shop_front.tombolo.internal.", T::SRV, api),
            ("_8080._tcp.api.", T::A, "NODATA"),
            ("_tcp.api.", T::SRV, "NODATA"),
            ("_udp.api.", T::SRV, "NXDOMAIN"),
            ("_8081._tcp.api.", T::SRV, "NXDOMAIN"),
            ("_8080._udp.api.", T::SRV, "NXDOMAIN"),
            ("_8080._tcp.nobody.", T::SRV, "-"),
            ("_99999._tcp.api.", T::SRV, "-"),
            (
                "_http._tcp.web.",
                T::SRV,
                "0 0 80 web.shop_front.tombolo.internal.",
            ),
            ("_http._tcp.api.", T::SRV, "NXDOMAIN"),
            ("_no-such-service._tcp.web.", T::SRV, "NXDOMAIN"),
        ] {
            assert_eq!(ask(name, asked), expected, "{name} {asked}");
        }
        let (names, view) = names();
        let name = Name::from_ascii("_80._tcp.web.").unwrap();
        let Answer::Found { additionals, .. } = answer(&names, &view, &zone(), &name, T::SRV) else {
            panic!("no answer");
        };
        assert_eq!(additionals[0].data.to_string(), "10.1.0.2");
    }

    #[test]
    fn the_order_varies() {
        let (names, view) = names();
        let first = || {
            let name = Name::from_ascii("api.").unwrap();
            match answer(&names, &view, &zone(), &name, RecordType::A) {
                Answer::Found { answers, .. } => answers[0].data.to_string(),
                other => panic!("{other:?}"),
            }
        };
        let firsts: std::collections::BTreeSet<String> = (0..64).map(|_| first()).collect();
        assert_eq!(firsts.len(), 2);
    }

    #[test]
    fn a_zone_is_the_name_of_a_domain() {
        for wrong in ["", ".", "a..b", &"x".repeat(64)] {
            assert!(wrong.parse::<Zone>().is_err(), "{wrong}");
        }
        assert_eq!(zone().to_string(), "tombolo.internal");
    }
}
