//! The options of a network, `docker network create -o key=value`: taken one by one by the kind they belong to.
//!
//! Whoever takes an option names all its spellings; what nobody has taken at the end is unknown, and the refusal lists
//! what the kind would have taken. So there is no second list of known keys that could lag behind.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::model::{Attach, IfName, NetName, cut};

/// Why options were refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A value that the option can't have.
    #[error("option {key}: '{got}' is not allowed: {allowed}")]
    Value {
        /// The option as the user spelt it.
        key: String,
        /// Its value, cut to a readable length.
        got: String,
        /// What it may be.
        allowed: String,
    },
    /// Two spellings of one option with different values.
    #[error("option {key}: given twice, also as {other}, with different values")]
    Twice {
        /// One spelling.
        key: String,
        /// The other.
        other: String,
    },
    /// Options that the kind doesn't know.
    #[error("unknown option {}{}; {}", list(.keys), nearest(.keys, .known), what_is_known(kind, .known))]
    Unknown {
        /// What it was given to, in words.
        kind: String,
        /// The unknown keys.
        keys: Vec<String>,
        /// What it knows.
        known: Vec<String>,
    },
}

fn list(keys: &[String]) -> String {
    keys.iter().map(|k| cut(k)).collect::<Vec<_>>().join(", ")
}

fn what_is_known(kind: &str, known: &[String]) -> String {
    match known {
        [] => format!("{kind} has no options"),
        known => format!("{kind} knows: {}", list(known)),
    }
}

/// ` (did you mean …?)` for the first key that is nearly a known one.
fn nearest(keys: &[String], known: &[String]) -> String {
    let near = |key: &String| {
        let key = key.get(..64).unwrap_or(key);
        nearest_name(key, known.iter().map(String::as_str)).map(str::to_owned)
    };
    keys.iter()
        .find_map(near)
        .map(|name| format!(" (did you mean {name}?)"))
        .unwrap_or_default()
}

/// The known name that a misspelt one most likely stands for.
pub fn nearest_name<'a>(got: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const ALIKE: f64 = 0.8;
    known
        .map(|name| (strsim::jaro_winkler(&got.to_ascii_lowercase(), name), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

/// The options as they came, less those that were taken.
#[derive(Debug, Clone, Default)]
pub struct Options {
    given: BTreeMap<String, String>,
    known: Vec<String>,
}

/// A type that an option's text can be read as.
pub trait FromText: Sized + PartialEq {
    /// What is allowed, to follow "is not allowed: ".
    const ALLOWED: &'static str;
    /// The value of a text, if it is one.
    fn from_text(text: &str) -> Option<Self>;
}

impl FromText for bool {
    const ALLOWED: &'static str = "true or false";
    // The spellings are those of Go's strconv.ParseBool, by which Docker's own drivers read them.
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        }
    }
}

impl FromText for String {
    const ALLOWED: &'static str = "any text";
    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl FromText for IpAddr {
    const ALLOWED: &'static str = "an IPv4 or IPv6 address";
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromText for Attach {
    const ALLOWED: &'static str = Self::ALLOWED;
    fn from_text(text: &str) -> Option<Self> {
        Self::from_text(text)
    }
}

impl FromText for IfName {
    const ALLOWED: &'static str =
        "a name that a network interface can have (1 to 15 bytes without '/', ':', '%' or blanks)";
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromText for NetName {
    const ALLOWED: &'static str =
        "a name of 1 to 63 small letters, digits, '-', '_' or '.', with a letter or digit first";
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromText for u32 {
    const ALLOWED: &'static str = "a whole number";
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromText for Ipv4Addr {
    const ALLOWED: &'static str = "an IPv4 address";
    fn from_text(text: &str) -> Option<Self> {
        text.parse()
            .ok()
            .filter(|address: &Self| usable((*address).into()))
    }
}

impl FromText for Ipv6Addr {
    const ALLOWED: &'static str = "an IPv6 address";
    fn from_text(text: &str) -> Option<Self> {
        text.parse()
            .ok()
            .filter(|address: &Self| usable((*address).into()))
    }
}

/// Whether a packet can come from an address.
fn usable(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}

/// The most elements of a list that is an option's value.
const LIST_MAX: usize = 256;

/// Prefixes, without those that others include; one address stands for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefixes(pub Vec<IpNet>);

impl FromText for Prefixes {
    const ALLOWED: &'static str = "1 to 256 prefixes (no bits set behind their length) or addresses with commas in between, such as 192.0.2.0/24,2001:db8::/32";
    fn from_text(text: &str) -> Option<Self> {
        let one = |part: &str| {
            let address = || part.parse::<IpAddr>().ok().map(IpNet::from);
            // Who writes 192.0.2.1/24 may mean one machine or 256.
            let net = part.parse::<IpNet>().ok().or_else(address)?;
            (net == net.trunc()).then_some(net)
        };
        let list: Vec<IpNet> = text
            .split(',')
            .map(|part| one(part.trim()))
            .collect::<Option<_>>()?;
        (list.len() <= LIST_MAX).then(|| Self(IpNet::aggregate(&list)))
    }
}

/// Names of links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names(pub Vec<IfName>);

impl FromText for Names {
    const ALLOWED: &'static str = "1 to 256 names of network interfaces with commas or colons in between";
    fn from_text(text: &str) -> Option<Self> {
        let names = text.split([',', ':']).map(|part| part.trim().parse().ok());
        let mut list: Vec<IfName> = names.collect::<Option<_>>()?;
        list.sort();
        list.dedup();
        (list.len() <= LIST_MAX).then_some(Self(list))
    }
}

/// On or off, as some options say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch(pub bool);

impl FromText for Switch {
    const ALLOWED: &'static str = "on or off";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "on" => Some(Self(true)),
            "off" => Some(Self(false)),
            other => bool::from_text(other).map(Self),
        }
    }
}

/// Bits a second, as tc(8) writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub u64);

impl FromText for Rate {
    const ALLOWED: &'static str =
        "8kbit to 1tbit: a whole number and bit, kbit, mbit, gbit or tbit (a second)";
    fn from_text(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let unit = match &text[digits..] {
            "bit" | "" => 1,
            "kbit" => 1_000,
            "mbit" => 1_000_000,
            "gbit" => 1_000_000_000,
            "tbit" => 1_000_000_000_000,
            _ => return None,
        };
        let bits = text[..digits].parse::<u64>().ok()?.checked_mul(unit)?;
        // The kernel counts in bytes.
        (8_000..=1_000_000_000_000)
            .contains(&bits)
            .then_some(Self(bits / 8 * 8))
    }
}

impl Options {
    /// Wraps what the user gave.
    pub fn new(given: BTreeMap<String, String>) -> Self {
        Self {
            given,
            known: Vec::new(),
        }
    }

    /// Takes an option under any of its spellings.
    ///
    /// # Errors
    /// [`Error::Value`] where it can't be read as a `T`, [`Error::Twice`] where two spellings differ.
    pub fn take<T: FromText>(&mut self, names: &[&str]) -> Result<Option<T>, Error> {
        let mut found: Option<(String, T)> = None;
        for name in names {
            self.known.push((*name).to_owned());
            let Some(text) = self.given.remove(*name) else {
                continue;
            };
            let value = T::from_text(&text).ok_or_else(|| refuse_value(name, &text, T::ALLOWED))?;
            match &found {
                Some((other, earlier)) if *earlier != value => {
                    return Err(Error::Twice {
                        key: (*name).to_owned(),
                        other: other.clone(),
                    });
                }
                _ => found = Some(((*name).to_owned(), value)),
            }
        }
        Ok(found.map(|(_, value)| value))
    }

    /// Takes an option of Docker's own bridge that we have only in its default so far, so that files which spell the
    /// default out are understood.
    ///
    /// # Errors
    /// [`Error::Value`] for any other value.
    pub fn take_default<T: FromText + fmt::Display>(&mut self, name: &str, default: T) -> Result<(), Error> {
        let Some(text) = self.given.get(name).cloned() else {
            self.known.push(name.to_owned());
            return Ok(());
        };
        match self.take::<T>(&[name])? {
            Some(value) if value != default => Err(refuse_value(
                name,
                &text,
                &format!("this version of tombolo has only '{default}' here"),
            )),
            _ => Ok(()),
        }
    }

    /// Ends the taking by `kind`, in words what the options were given to.
    ///
    /// # Errors
    /// [`Error::Unknown`] where an option is left.
    pub fn finish(mut self, kind: &str) -> Result<(), Error> {
        if self.given.is_empty() {
            return Ok(());
        }
        self.known.sort();
        Err(Error::Unknown {
            kind: kind.to_owned(),
            keys: self.given.into_keys().collect(),
            known: self.known,
        })
    }
}

/// The refusal of an option's value.
pub fn refuse_value(key: &str, got: &str, allowed: &str) -> Error {
    Error::Value {
        key: key.to_owned(),
        got: cut(got),
        allowed: allowed.to_owned(),
    }
}
