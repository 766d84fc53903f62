//! What a trace looks at, read from this host: the only part that does.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::sight::{Asker, End, Inside, Place, Sight};
use super::target::Target;
use super::walk::Start;
use super::{Failure, Net};
use crate::firewall::{self, ChainId, Layer4};
use crate::kernel::look::{Link, Look, Neighbour, Query, Way, rules, sockets, spaces};

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
    let number = |path: &str| setting(path).is_some_and(|number| number != 0);
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

/// A container's namespace, looked at from within.
fn inside() -> Result<Inside, crate::kernel::Error> {
    let rules = rules::listings().map_err(|error| error.to_string());
    let rules = rules.and_then(|listings| firewall::read(&listings));
    let set = |path: &str| setting(path).is_some_and(|number| number != 0);
    Ok(Inside {
        place: place(&mut Look::new()?)?,
        rules,
        mute: [set("ipv4/icmp_echo_ignore_all"), set("ipv6/icmp/echo_ignore_all")],
    })
}

/// A number under `/proc/sys/net` of this thread's namespace.
fn setting(path: &str) -> Option<i64> {
    let text = fs::read_to_string(format!("/proc/sys/net/{path}")).ok()?;
    text.trim().parse().ok()
}

/// A walk's beginning in a container.
pub(super) fn start<'a>(
    end: &'a End,
    net: &'a Net,
    namespace: &Path,
    target: &Target,
) -> Result<Start<'a>, Failure> {
    let look = || -> Result<(Inside, Way), crate::kernel::Error> {
        let way = Look::new()?.way(Query {
            to: target.address,
            from: None,
            iif: None,
            mark: 0,
        })?;
        Ok((inside()?, way))
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
pub(super) struct Live<'d> {
    look: Look,
    /// The engine's socket.
    docker: &'d Path,
}

impl<'d> Live<'d> {
    pub fn new(docker: &'d Path) -> Result<Self, Failure> {
        let look = Look::new().map_err(failed("look at this host's network"))?;
        Ok(Self { look, docker })
    }

    fn neighbour(&mut self, link: &Link, address: IpAddr) -> Option<Neighbour> {
        let neighbours = self.look.neighbours().ok()?;
        neighbours
            .into_iter()
            .find(|n| n.index == link.index && n.address == address)
    }

    /// Does something in a container's namespace.
    fn within<T: Send>(
        &self,
        end: &End,
        work: impl FnOnce() -> Result<T, crate::kernel::Error> + Send,
    ) -> Result<T, String> {
        let namespace = namespace(end, self.docker).map_err(|failure| failure.to_string())?;
        let done = spaces::inside(&namespace, work).map_err(|error| error.to_string())?;
        done.map_err(|error| error.to_string())
    }
}

impl Asker for Live<'_> {
    fn way(&mut self, whose: Option<&End>, query: Query) -> Result<Way, String> {
        match whose {
            Some(end) => self.within(end, || Look::new()?.way(query)),
            None => self.look.way(query).map_err(|error| error.to_string()),
        }
    }

    fn answers(&mut self, link: &Link, address: IpAddr) -> Option<bool> {
        // What has no hardware address has no neighbours to ask for.
        link.mac.as_ref()?;
        match self.neighbour(link, address) {
            Some(entry) if entry.fixed() => return Some(true),
            // One that has answered, be it a second ago, may be gone.
            Some(entry) if entry.valid() => self.look.probe_neighbour(link.index, address).ok()?,
            // One that failed may be there again: the kernel asks anew when something is sent.
            _ => self.look.ask_neighbour(link.index, address).ok()?,
        }
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match self.neighbour(link, address) {
                Some(entry) if entry.answered() => return Some(true),
                Some(entry) if entry.failed() => return Some(false),
                _ => std::thread::sleep(GLANCE),
            }
        }
        None
    }

    fn mac(&mut self, link: &Link, address: IpAddr) -> Option<String> {
        self.neighbour(link, address)?.mac
    }

    fn listens(&mut self, whose: Option<&End>, layer4: Layer4, address: IpAddr, port: u16) -> Option<bool> {
        let tcp = match layer4 {
            Layer4::Tcp => true,
            Layer4::Udp => false,
            Layer4::Sctp | Layer4::Echo => return None,
        };
        let listeners = match whose {
            Some(end) => self.within(end, || sockets::listeners(tcp)).ok()?,
            None => sockets::listeners(tcp).ok()?,
        };
        Some(listeners.iter().any(|listener| listener.takes(address, port)))
    }

    fn setting(&mut self, path: &str) -> Option<i64> {
        setting(path)
    }

    fn inside(&mut self, end: &End) -> Result<Inside, String> {
        self.within(end, inside)
    }
}
