//! Where a packet is to go, as it is typed: `ADDRESS[:PORT][/tcp|udp|sctp]`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::firewall::Layer4;
use tombolo_core::model::cut;

/// Where a packet is to go, and what it carries: a ping if no port is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub address: IpAddr,
    pub port: Option<u16>,
    pub layer4: Layer4,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const ALLOWED: &str = "ADDRESS[:PORT][/tcp|udp|sctp] is allowed, such as 192.0.2.1, 192.0.2.1:443, [2001:db8::1]:53/udp";
        let wrong = |what: &str| format!("ADDRESS: '{}' {what}; {ALLOWED}", cut(text));
        let (place, protocol) = match text.split_once('/') {
            Some((place, protocol)) => (place, Some(protocol)),
            None => (text, None),
        };
        let layer4 = match protocol {
            None => None,
            Some("tcp") => Some(Layer4::Tcp),
            Some("udp") => Some(Layer4::Udp),
            Some("sctp") => Some(Layer4::Sctp),
            Some(_) => return Err(wrong("has no protocol that can be traced")),
        };
        if let Ok(socket) = place.parse::<SocketAddr>() {
            if socket.port() == 0 {
                return Err(wrong("has port 0"));
            }
            return Ok(Self {
                address: socket.ip(),
                port: Some(socket.port()),
                layer4: layer4.unwrap_or(Layer4::Tcp),
            });
        }
        let bare = place
            .strip_prefix('[')
            .and_then(|place| place.strip_suffix(']'))
            .unwrap_or(place);
        let address = bare.parse().map_err(|_| wrong("is no IP address"))?;
        match layer4 {
            Some(_) => Err(wrong("has a protocol but no port")),
            None => Ok(Self {
                address,
                port: None,
                layer4: Layer4::Echo,
            }),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(
                f,
                "{}/{}",
                SocketAddr::new(self.address, port),
                self.layer4.name(self.address.is_ipv6())
            ),
            None => write!(f, "{} (a ping)", self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_they_are_written() {
        for (text, shown) in [
            ("192.0.2.1", "192.0.2.1 (a ping)"),
            ("192.0.2.1:80", "192.0.2.1:80/tcp"),
            ("192.0.2.1:53/udp", "192.0.2.1:53/udp"),
            ("2001:db8::1", "2001:db8::1 (a ping)"),
            ("[2001:db8::1]", "2001:db8::1 (a ping)"),
            ("[2001:db8::1]:80/sctp", "[2001:db8::1]:80/sctp"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_target_is_refused_with_what_is() {
        for text in [
            "",
            "web",
            "192.0.2.1:0",
            "192.0.2.1/udp",
            "192.0.2.1:80/icmp",
            "192.0.2.1:99999",
            "2001:db8::1/tcp",
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(
                error.starts_with("ADDRESS: '") && error.contains("is allowed"),
                "{error}"
            );
        }
    }
}
