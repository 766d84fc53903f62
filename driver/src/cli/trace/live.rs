//! What a trace looks at, read from this host: the only part that does.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::sight::{Asker, End, Place, Sight};
use super::target::Target;
use super::walk::Start;
use super::{Failure, Net};
use crate::firewall::{self, ChainId, Layer4};
use crate::kernel::look::{Link, Look, Query, Way, rules, spaces};

/// How long somebody may take to answer for an address: the kernel asks three times, a second apart.
const PATIENCE: Duration = Duration::from_secs(4);
/// Between two looks whether somebody has.
const GLANCE: Duration = Duration::from_millis(20);

fn failed(doing: &'static str) -> impl Fn(crate::kernel::Error) -> Failure {
    move |source| Failure::Process {
        doing,
        source: source.into(),
    }
}

fn place(look: &mut Look) -> Result<Place, crate::kernel::Error> {
    Ok(Place {
        links: look.links()?,
        addresses: look.addresses()?,
        neighbours: look.neighbours()?,
    })
}

/// The host, with all that is on it.
pub(super) fn sight(networks: Vec<Net>, endpoints: Vec<End>) -> Result<Sight, Failure> {
    let doing = "look at this host's network";
    let host = Look::new()
        .and_then(|mut look| place(&mut look))
        .map_err(failed(doing))?;
    let listings = rules::listings().map_err(failed("read the packet filter rules"))?;
    if !listings.nft {
        return Err(Failure::Refused {
            message:
                "there is no program nft on this host, so nobody can say what its rules do; install nftables"
                    .to_owned(),
        });
    }
    let rules = firewall::read(&listings).map_err(|message| Failure::Refused { message })?;
    let number =
        |path: &str| fs::read_to_string(format!("/proc/sys/net/{path}")).is_ok_and(|text| text.trim() != "0");
    let version = rules::version_chain().is_some_and(|chain| {
        rules.chains.contains_key(&ChainId {
            family: "inet".to_owned(),
            table: "tombolo".to_owned(),
            chain,
            legacy: false,
        })
    });
    Ok(Sight {
        networks,
        endpoints,
        host,
        rules,
        meanings: if version {
            rules::meanings()
        } else {
            Default::default()
        },
        bridge_calls: [
            number("bridge/bridge-nf-call-iptables"),
            number("bridge/bridge-nf-call-ip6tables"),
        ],
        forwards: [number("ipv4/ip_forward"), number("ipv6/conf/all/forwarding")],
    })
}

/// The file of the namespace that an endpoint has joined: Docker's own, or that of the container's first process where
/// Docker's is mounted out of our sight.
pub(super) fn namespace(end: &End, docker: &Path) -> Result<PathBuf, Failure> {
    let Some(sandbox) = &end.sandbox else {
        let message = format!(
            "container {0} does not run: start it (docker start {0}), then trace again",
            end.shown()
        );
        return Err(Failure::Refused { message });
    };
    let own = PathBuf::from(sandbox);
    // A file that nothing is mounted on is a plain one, and no namespace.
    if fs::metadata(&own).is_ok() && fs::File::open(&own).is_ok_and(|file| is_namespace(&file)) {
        return Ok(own);
    }
    let pid = end.container.as_ref().and_then(|name| {
        let container = super::ask_docker(docker, &format!("/containers/{name}/json")).ok()?;
        container
            .pointer("/State/Pid")
            .and_then(Value::as_u64)
            .filter(|pid| *pid > 0)
    });
    match pid {
        Some(pid) => Ok(PathBuf::from(format!("/proc/{pid}/ns/net"))),
        None => Err(Failure::Refused {
            message: format!(
                "the network namespace of container {} ({sandbox}) can't be reached from here; is this the host (and the mount \
                 namespace) that Docker runs in?",
                end.shown()
            ),
        }),
    }
}

/// Whether a file is one of the kernel's own for namespaces.
fn is_namespace(file: &fs::File) -> bool {
    nix::sys::statfs::fstatfs(file).is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

/// A walk's beginning in a container.
pub(super) fn start<'a>(
    end: &'a End,
    net: &'a Net,
    namespace: &Path,
    target: &Target,
) -> Result<Start<'a>, Failure> {
    let look = || -> Result<(Place, Way), crate::kernel::Error> {
        let mut look = Look::new()?;
        let way = look.way(Query {
            to: target.address,
            from: None,
            iif: None,
            mark: 0,
        })?;
        Ok((place(&mut look)?, way))
    };
    let looked = spaces::inside(namespace, look).map_err(|source| Failure::File {
        doing: "entering the network namespace",
        path: namespace.to_owned(),
        source,
    })?;
    let (inside, way) = looked.map_err(failed("look at the container's network"))?;
    Ok(Start {
        end,
        net,
        inside,
        way,
    })
}

/// The questions of a walk, put to the kernel.
pub(super) struct Live {
    look: Look,
}

impl Live {
    pub fn new() -> Result<Self, Failure> {
        let look = Look::new().map_err(failed("look at this host's network"))?;
        Ok(Self { look })
    }

    /// What the neighbour table says, as far as it says anything.
    fn known(&mut self, link: &Link, address: IpAddr) -> Option<bool> {
        let neighbours = self.look.neighbours().ok()?;
        let entry = neighbours
            .iter()
            .find(|n| n.index == link.index && n.address == address)?;
        match (entry.failed(), entry.asked() || entry.state == 0) {
            (true, _) => Some(false),
            (_, true) => None,
            _ => Some(true),
        }
    }
}

impl Asker for Live {
    fn way(&mut self, query: Query) -> Result<Way, String> {
        self.look.way(query).map_err(|error| error.to_string())
    }

    fn answers(&mut self, link: &Link, address: IpAddr) -> Option<bool> {
        // What has no hardware address has no neighbours to ask for.
        link.mac.as_ref()?;
        // One that failed may be there again: the kernel asks anew when something is sent.
        if self.known(link, address) == Some(true) {
            return Some(true);
        }
        self.look.ask_neighbour(link.index, address).ok()?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(known) = self.known(link, address) {
                return Some(known);
            }
            std::thread::sleep(GLANCE);
        }
        None
    }

    fn listens(&mut self, sandbox: Option<&str>, layer4: Layer4, address: IpAddr, port: u16) -> Option<bool> {
        let files = match layer4 {
            Layer4::Tcp => ["tcp", "tcp6"],
            Layer4::Udp => ["udp", "udp6"],
            Layer4::Sctp | Layer4::Echo => return None,
        };
        let read = || {
            let text =
                |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
            files.map(text).concat()
        };
        let sockets = match sandbox {
            Some(path) => spaces::inside(Path::new(path), read).ok()?,
            None => read(),
        };
        let tcp = layer4 == Layer4::Tcp;
        Some(sockets.lines().any(|line| is_listener(line, tcp, address, port)))
    }
}

/// Whether a line of `/proc/net/{tcp,udp}{,6}` is a socket that takes what is for an address and port.
fn is_listener(line: &str, tcp: bool, address: IpAddr, port: u16) -> bool {
    let mut words = line.split_whitespace().skip(1);
    let (Some(local), Some(remote), Some(state)) = (words.next(), words.next(), words.next()) else {
        return false;
    };
    let state_fits = match tcp {
        true => state == "0A",
        // A connected one takes only what comes from its own partner.
        false => remote.bytes().all(|byte| matches!(byte, b'0' | b':')),
    };
    let Some((host, local_port)) = local.split_once(':') else {
        return false;
    };
    let bound = address_of(host);
    let takes = bound.is_some_and(|bound| match bound {
        IpAddr::V4(bound) => bound.is_unspecified() && address.is_ipv4() || address == bound,
        // One of all IPv6 addresses mostly takes IPv4 as well.
        IpAddr::V6(bound) => bound.is_unspecified() || bound.to_canonical() == address,
    });
    state_fits && takes && u16::from_str_radix(local_port, 16) == Ok(port)
}

/// Words of four bytes, each in the machine's order.
fn address_of(hex: &str) -> Option<IpAddr> {
    let words: Vec<u32> = (0..hex.len() / 8)
        .filter_map(|at| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok())
        .collect();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_known_by_address_port_and_state() {
        let tcp = "0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1";
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        let other: IpAddr = "10.0.0.1".parse().unwrap();
        assert!(is_listener(tcp, true, own, 80));
        assert!(!is_listener(tcp, true, other, 80) && !is_listener(tcp, true, own, 81));
        assert!(!is_listener(&tcp.replace(" 0A ", " 01 "), true, own, 80));
        assert!(is_listener(&tcp.replace("0100007F", "00000000"), true, other, 80));
        let all6 = tcp.replace("0100007F", "00000000000000000000000000000000");
        assert!(
            is_listener(&all6, true, other, 80) && is_listener(&all6, true, "fd00::1".parse().unwrap(), 80)
        );
        let udp = "0: 00000000:0035 00000000:0000 07 0 0";
        assert!(is_listener(udp, false, other, 53));
        assert!(!is_listener(
            "0: 00000000:0035 0100000A:0035 01 0 0",
            false,
            other,
            53
        ));
        assert!(!is_listener("sl local_address rem_address st", true, own, 80));
    }
}
