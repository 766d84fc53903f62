//! Services by name: which port is `http`? As this host has it in `/etc/services` (services(5)).

use std::collections::BTreeMap;
use std::sync::LazyLock;

use tombolo_core::model::Proto;

/// Read once: it doesn't change while a machine runs.
static KNOWN: LazyLock<BTreeMap<(String, Proto), u16>> = LazyLock::new(|| {
    // Without it, what is usual is known.
    read(&std::fs::read_to_string("/etc/services").unwrap_or_default())
});

/// What a host without that file knows.
const USUAL: &str = "http 80/tcp\nhttps 443/tcp\ndomain 53/tcp\ndomain 53/udp\n";

fn read(text: &str) -> BTreeMap<(String, Proto), u16> {
    let mut known = BTreeMap::new();
    for line in text.lines().chain(USUAL.lines()) {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let (Some(name), Some((port, proto))) =
            (words.next(), words.next().and_then(|word| word.split_once('/')))
        else {
            continue;
        };
        let proto = match proto {
            "tcp" => Proto::Tcp,
            "udp" => Proto::Udp,
            "sctp" => Proto::Sctp,
            _ => continue,
        };
        let Ok(port) = port.parse() else { continue };
        for name in std::iter::once(name).chain(words) {
            known.entry((name.to_ascii_lowercase(), proto)).or_insert(port);
        }
    }
    known
}

/// The port of a service.
pub fn known_port(name: &str, proto: Proto) -> Option<u16> {
    KNOWN.get(&(name.to_owned(), proto)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_names_and_others_for_the_same() {
        let known = read(
            "# a comment\nhttp\t\t8080/tcp www # WorldWideWeb\nsyslog 514/udp\nodd\nodd x/tcp\nodd 1/ddp\n",
        );
        let port = |name: &str, proto| known.get(&(name.to_owned(), proto)).copied();
        for (name, proto, expected) in [
            ("http", Proto::Tcp, Some(8080)),
            ("www", Proto::Tcp, Some(8080)),
            ("http", Proto::Udp, None),
            ("syslog", Proto::Udp, Some(514)),
            ("https", Proto::Tcp, Some(443)),
            ("odd", Proto::Tcp, None),
        ] {
            assert_eq!(port(name, proto), expected, "{name}");
        }
    }
}
