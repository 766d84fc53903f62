//! The settings of a host's part in a cluster.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use tombolo_core::model::IfName;

use super::parse::{Parsed, Wrong, directory};
use crate::dns::Zone;

/// A list of hosts to join: addresses, and ports where they aren't the usual one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Join(pub Vec<(IpAddr, Option<u16>)>);

impl Join {
    /// The addresses with their ports.
    pub fn addresses(&self, port: u16) -> Vec<SocketAddr> {
        let full = |(address, own): &(IpAddr, Option<u16>)| SocketAddr::new(*address, own.unwrap_or(port));
        self.0.iter().map(full).collect()
    }
}

impl fmt::Display for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("off");
        }
        for (n, (address, port)) in self.0.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            match port {
                Some(port) => write!(f, "{comma}{}", SocketAddr::new(*address, *port))?,
                None => write!(f, "{comma}{address}")?,
            }
        }
        Ok(())
    }
}

/// A file with the cluster's key, if there is one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyFile(pub Option<PathBuf>);

impl fmt::Display for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => path.display().fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// The most places at which a host is reached.
pub const PLACES: usize = 8;

/// Where other hosts reach this one: at each of these places, by the first one where they know no more; at the source address
/// of the default route where none is named.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Advertise(pub Vec<Place>);

/// A place at which other hosts reach this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// This address.
    Address(IpAddr),
    /// The first address of this interface.
    Interface(IfName),
}

impl fmt::Display for Advertise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("auto");
        }
        for (n, place) in self.0.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            match place {
                Place::Address(address) => write!(f, "{comma}{address}")?,
                Place::Interface(name) => write!(f, "{comma}{name}")?,
            }
        }
        Ok(())
    }
}

/// What a host does that has begun anew and that nobody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Alone {
    /// It gives addresses of its share.
    #[default]
    Lease,
    /// It waits until enough others have confirmed it.
    Wait,
}

impl fmt::Display for Alone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lease => "lease",
            Self::Wait => "wait",
        })
    }
}

/// What decides for a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Store {
    /// A majority of its own hosts.
    #[default]
    Own,
    /// An etcd with a member at each of these names or addresses (of IPv6 in brackets) and ports.
    Etcd(Vec<(String, u16)>),
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("own"),
            Self::Etcd(endpoints) => {
                let endpoints: Vec<String> = endpoints
                    .iter()
                    .map(|(host, port)| format!("{host}:{port}"))
                    .collect();
                write!(f, "etcd://{}", endpoints.join(","))
            }
        }
    }
}

/// Hosts to join, or `off`.
pub(super) fn join(text: &str) -> Parsed<Join> {
    if text == "off" {
        return Ok(Join::default());
    }
    let (mut hosts, mut wrongs) = (Vec::new(), Vec::new());
    for part in text.split(',').map(str::trim) {
        match (part.parse::<IpAddr>(), part.parse::<SocketAddr>()) {
            (Ok(address), _) => hosts.push((address, None)),
            (_, Ok(socket)) if socket.port() > 0 => hosts.push((socket.ip(), Some(socket.port()))),
            _ => wrongs.push(Wrong::new(part, "it is no address, with or without a port")),
        }
    }
    if wrongs.is_empty() {
        Ok(Join(hosts))
    } else {
        Err(wrongs)
    }
}

/// A file, or `off`.
pub(super) fn key_file(text: &str) -> Parsed<KeyFile> {
    match text {
        "off" => Ok(KeyFile(None)),
        _ => directory(text).map(|path| KeyFile(Some(path))),
    }
}

/// `auto`, or addresses and interfaces.
pub(super) fn advertise(text: &str) -> Parsed<Advertise> {
    if text == "auto" {
        return Ok(Advertise::default());
    }
    let (mut places, mut wrongs) = (Vec::new(), Vec::new());
    for part in text.split(',').map(str::trim) {
        match place(part) {
            Ok(place) if places.contains(&place) => wrongs.push(Wrong::new(part, "it is named twice")),
            Ok(place) => places.push(place),
            Err(why) => wrongs.push(Wrong::new(part, why)),
        }
    }
    let family = |place: &Place| match place {
        Place::Address(address) => Some(address.is_ipv6()),
        Place::Interface(_) => None,
    };
    let families: std::collections::BTreeSet<bool> = places.iter().filter_map(family).collect();
    if families.len() > 1 {
        wrongs.push(Wrong::new(
            text,
            "its addresses are of both families: name those of one",
        ));
    }
    if places.len() > PLACES {
        wrongs.push(Wrong::new(text, format!("at most {PLACES} places are used")));
    }
    match wrongs.is_empty() {
        true => Ok(Advertise(places)),
        false => Err(wrongs),
    }
}

fn place(text: &str) -> Result<Place, &'static str> {
    match (text.parse::<IpAddr>(), text.parse::<IfName>()) {
        (Ok(address), _) if address.is_multicast() || address.is_unspecified() => {
            Err("nobody can be reached at it")
        }
        (Ok(address), _) => Ok(Place::Address(address)),
        (_, Ok(name)) if text != "auto" => Ok(Place::Interface(name)),
        _ => Err("it is neither an address nor an interface's name"),
    }
}

/// A port.
pub(super) fn port(text: &str) -> Parsed<u16> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(vec![Wrong::new(text, "it is no port from 1 to 65535")]),
    }
}

/// Whether names are told to the outside: who may have all of them at once, if they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnsExport(pub Option<Vec<IpNet>>);

impl fmt::Display for DnsExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(transfer) = &self.0 else {
            return f.write_str("off");
        };
        f.write_str("zone")?;
        transfer.iter().try_for_each(|net| write!(f, ",{net}"))
    }
}

/// `off`, or `zone` and prefixes.
pub(super) fn dns_export(text: &str) -> Parsed<DnsExport> {
    let mut parts = text.split(',').map(str::trim);
    match parts.next() {
        Some("off") if parts.next().is_none() => return Ok(DnsExport(None)),
        Some("zone") => {}
        _ => return Err(vec![Wrong::new(text, "it is neither off nor zone")]),
    }
    let net = |part: &str| {
        let address = part.parse::<IpAddr>().map(IpNet::from);
        let net = address.or_else(|_| part.parse::<IpNet>());
        net.map_err(|_| Wrong::new(part, "it is neither an address nor a prefix"))
    };
    let (good, wrong): (Vec<_>, Vec<_>) = parts.map(net).partition(Result::is_ok);
    let wrong: Vec<Wrong> = wrong.into_iter().filter_map(Result::err).collect();
    match wrong.is_empty() {
        true => Ok(DnsExport(Some(good.into_iter().flatten().collect()))),
        false => Err(wrong),
    }
}

/// The name of a domain.
pub(super) fn zone(text: &str) -> Parsed<Zone> {
    text.parse().map_err(|why: String| vec![Wrong::new(text, why)])
}

/// `lease` or `wait`.
pub(super) fn alone(text: &str) -> Parsed<Alone> {
    match text {
        "lease" => Ok(Alone::Lease),
        "wait" => Ok(Alone::Wait),
        _ => Err(vec![Wrong::new(text, "it is neither lease nor wait")]),
    }
}

/// The port that etcd serves clients at where none is given.
const ETCD_PORT: u16 = 2379;

/// `own`, or a store.
pub(super) fn store(text: &str) -> Parsed<Store> {
    let one = |why: &str| Err(vec![Wrong::new(text, why)]);
    let endpoints = match text.split_once("://") {
        _ if text == "own" => return Ok(Store::Own),
        Some(("etcd", endpoints)) => endpoints,
        Some(("etcds" | "https", _)) => {
            return one(
                "TLS to a store is not spoken: keep the way to it private, or have a proxy on this host speak TLS",
            );
        }
        Some(("http", _)) => return one("the scheme is etcd://"),
        Some((scheme, _)) => return one(&format!("{scheme}:// is unknown")),
        None => return one("it is neither own nor etcd:// and where that is"),
    };
    let (mut found, mut wrongs) = (Vec::new(), Vec::new());
    for part in endpoints.trim_end_matches('/').split(',').map(str::trim) {
        match endpoint(part) {
            Some(endpoint) if !found.contains(&endpoint) => found.push(endpoint),
            Some(_) => {}
            None => wrongs.push(Wrong::new(part, "it is no HOST or HOST:PORT")),
        }
    }
    if wrongs.is_empty() {
        Ok(Store::Etcd(found))
    } else {
        Err(wrongs)
    }
}

fn endpoint(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        // A colon within brackets is the address's own.
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse::<u16>().ok().filter(|port| *port > 0)?)
        }
        _ => (text, ETCD_PORT),
    };
    let inner = host.strip_prefix('[').map(|host| host.strip_suffix(']'));
    let fits = match inner {
        Some(address) => address?.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            !host.is_empty() && host.len() <= 253 && host.chars().all(of_name)
        }
    };
    fits.then(|| (host.to_owned(), port))
}
