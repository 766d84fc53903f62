//! Which port of the host is published for whom: the choice, made from records and what the host says is free.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Ephemeral, HostPort, Refusal, State, Surroundings};
use crate::kinds::Publishing;
use crate::model::{Endpoint, EndpointId, Network, PortWish, Proto, Published, fnv1a};

/// How many ports an endpoint can have, so that its record fits the store.
const PORTS_MAX: usize = 2000;

impl State {
    /// The ports to publish for an endpoint. An ephemeral port that it has already is kept, so that a repeated request
    /// changes nothing.
    pub(super) fn publish(
        &self,
        network: &Network,
        endpoint: &Endpoint,
        wishes: &[PortWish],
        around: &Surroundings<'_>,
    ) -> Result<Vec<Published>, Refusal> {
        let mut published = Vec::new();
        for (wish, hosts) in groups(network, endpoint, wishes, around, &mut published)? {
            let kept = endpoint.published.iter().find(|p| {
                let same = p.proto == wish.proto && p.port == wish.port && hosts.contains(&p.host);
                let taken = published
                    .iter()
                    .any(|q: &Published| q.proto == p.proto && q.host_port == p.host_port);
                same && !taken && (wish.first == 0 || (wish.first..=wish.last).contains(&p.host_port))
            });
            let host_port = match kept {
                Some(kept) => kept.host_port,
                None => self.choose(endpoint, &wish, &hosts, &published, around)?,
            };
            let of = |host| Published {
                proto: wish.proto,
                host,
                host_port,
                port: wish.port,
            };
            published.extend(hosts.into_iter().map(of));
        }
        published.sort();
        published.dedup();
        if published.len() > PORTS_MAX {
            let (got, allowed) = (
                published.len().to_string(),
                "an endpoint has at most 2000, each family counted",
            );
            return Err(Refusal::Unfit {
                field: "published ports",
                got,
                allowed,
            });
        }
        Ok(published)
    }

    /// The first port of the wish's range that is free on all of `hosts`; for an ephemeral one the search begins at a
    /// place that differs from endpoint to endpoint.
    fn choose(
        &self,
        endpoint: &Endpoint,
        wish: &PortWish,
        hosts: &[IpAddr],
        published: &[Published],
        around: &Surroundings<'_>,
    ) -> Result<u16, Refusal> {
        let Ephemeral {
            first,
            last,
            reserved,
        } = match wish.first {
            0 => (around.ephemeral)(),
            first => Ephemeral {
                first,
                last: wish.last,
                reserved: Vec::new(),
            },
        };
        let count = u64::from(last.saturating_sub(first)) + 1;
        let start = if wish.first == 0 {
            fnv1a(endpoint.id.as_str().as_bytes()) % count
        } else {
            0
        };
        let mut why = String::new();
        for step in 0..count {
            // Within first..=last by the remainder, so it fits.
            let port = first + ((start + step) % count) as u16;
            if reserved.iter().any(|range| range.contains(&port)) {
                "net.ipv4.ip_local_reserved_ports keeps them".clone_into(&mut why);
                continue;
            }
            let busy = hosts
                .iter()
                .find_map(|host| self.busy(endpoint, wish.proto, *host, port, published, around));
            match busy {
                None => return Ok(port),
                Some(reason) => why = reason,
            }
        }
        let host_port = if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        };
        let host = hosts
            .first()
            .copied()
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Err(Refusal::Port {
            proto: wish.proto,
            host,
            host_port,
            why,
        })
    }

    /// Why a port can't be had, if it can't.
    fn busy(
        &self,
        endpoint: &Endpoint,
        proto: Proto,
        host: IpAddr,
        port: u16,
        published: &[Published],
        around: &Surroundings<'_>,
    ) -> Option<String> {
        let twice = |p: &Published| p.proto == proto && p.host_port == port && collide(p.host, host);
        if published.iter().any(twice) {
            return Some("asked for twice; choose another host port".to_owned());
        }
        if let Some(holder) = self
            .port_holder(proto, host, port)
            .filter(|holder| **holder != endpoint.id)
        {
            let at = self
                .endpoints
                .get(holder)
                .and_then(|e| e.addresses.first())
                .map(|a| a.addr().to_string());
            let at = at.unwrap_or_default();
            let whose = match (around.container_name)(holder) {
                Some(name) => format!("container {name}"),
                None => format!("endpoint {holder}"),
            };
            return Some(format!(
                "published for {whose} ({at}) already; choose another host port"
            ));
        }
        if endpoint.published.iter().any(twice) {
            return None;
        }
        match (around.port)(proto, host, port) {
            HostPort::Free => return None,
            HostPort::Elsewhere => {
                return Some(
                    "this host has no such address; choose one that it has, or none for all".to_owned(),
                );
            }
            HostPort::Taken => {}
        }
        let whose = (around.port_holder)(proto, host, port);
        let whose = whose.unwrap_or_else(|| "a process of this host (see 'ss -tulpn')".to_owned());
        Some(format!(
            "{whose} listens there; stop it or choose another host port"
        ))
    }

    /// The endpoint for which a port is published already on this or an including address.
    fn port_holder(&self, proto: Proto, host: IpAddr, port: u16) -> Option<&EndpointId> {
        let least = (proto, port, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let most = (proto, port, IpAddr::V6(Ipv6Addr::from(u128::MAX)));
        self.ports
            .range(least..=most)
            .find(|((_, _, other), _)| collide(*other, host))
            .map(|(_, holder)| holder)
    }
}

/// Whether two host addresses can't both have the same port.
fn collide(a: IpAddr, b: IpAddr) -> bool {
    a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
}

/// The wishes that want a port of the host, each with the addresses that it is wanted on; those that are the same but for
/// the address are one, so that they get the same port. Who has the least choice comes first, whatever the order in which
/// they were said. What is published at the endpoint's own addresses is added to `published`.
fn groups(
    network: &Network,
    endpoint: &Endpoint,
    wishes: &[PortWish],
    around: &Surroundings<'_>,
    published: &mut Vec<Published>,
) -> Result<Vec<(PortWish, Vec<IpAddr>)>, Refusal> {
    let mut groups: Vec<(PortWish, Vec<IpAddr>)> = Vec::new();
    for wish in wishes {
        let (own, hosts) = places(network, endpoint, wish, around)?;
        published.extend(own.into_iter().map(|host| Published {
            proto: wish.proto,
            host,
            host_port: wish.port,
            port: wish.port,
        }));
        if hosts.is_empty() {
            continue;
        }
        let alike = |(other, others): &&mut (PortWish, Vec<IpAddr>)| {
            let same = PortWish { host: None, ..*other } == PortWish { host: None, ..*wish };
            let both = |host: &IpAddr| others.iter().any(|other| collide(*other, *host));
            same && !hosts.iter().any(both)
        };
        match groups.iter_mut().find(alike) {
            Some((_, others)) => others.extend(hosts),
            None => groups.push((*wish, hosts)),
        }
    }
    let choice = |wish: &PortWish| match wish.first {
        0 => u16::MAX,
        first => wish.last - first,
    };
    groups.sort_by_key(|(wish, _)| choice(wish));
    Ok(groups)
}

/// Where a wish is granted: at these own addresses of the endpoint, and on these addresses of the host. The latter are the one
/// that the wish names, else the network's binding, else the host's default, else all of each family that the endpoint has.
/// An address of the host is one of its own family only, whichever way that family is published.
fn places(
    network: &Network,
    endpoint: &Endpoint,
    wish: &PortWish,
    around: &Surroundings<'_>,
) -> Result<(Vec<IpAddr>, Vec<IpAddr>), Refusal> {
    let (mut own, mut hosts) = (Vec::new(), Vec::new());
    let kind = network.spec.kind();
    // The address that stands in the way where nothing is published after all.
    let mut named = wish.host;
    let mut elsewhere = false;
    for v6 in [false, true] {
        let meant = wish.host.is_none_or(|host| host.is_ipv6() == v6);
        let publishing = kind.publishing(v6);
        elsewhere |= meant && publishing == Publishing::Elsewhere;
        let Some(address) = endpoint.address(v6).filter(|_| meant) else {
            continue;
        };
        match publishing {
            Publishing::Elsewhere => {}
            Publishing::Container if wish.host.is_some_and(|host| host.is_loopback()) => {
                return Err(unpublishable(wish, wish.host, LOOPBACK_ROUTED));
            }
            Publishing::Container => own.push(address.addr()),
            Publishing::Host(binding) => {
                // A binding of 0.0.0.0 means "everywhere" to Docker, IPv6 included; an address that the user names does not.
                let binding = binding
                    .or(around.host_binding)
                    .filter(|host| !host.is_unspecified());
                let any: IpAddr = match v6 {
                    false => Ipv4Addr::UNSPECIFIED.into(),
                    true => Ipv6Addr::UNSPECIFIED.into(),
                };
                named = wish.host.or(binding);
                hosts.extend(Some(named.unwrap_or(any)).filter(|host| host.is_ipv6() == v6));
            }
        }
    }
    if own.is_empty() && hosts.is_empty() && !elsewhere {
        let family = named.map_or("", |host| if host.is_ipv6() { "IPv6 " } else { "IPv4 " });
        let why = format!("the container has no {family}address on this network");
        return Err(unpublishable(wish, named, &why));
    }
    Ok((own, hosts))
}

/// Why a loopback address of the host is refused where ports are published at the container's own address: what is for this
/// host alone would be open to everybody who has a route.
const LOOPBACK_ROUTED: &str = "this network is routed, so its ports are open at the container's own address, and none can be \
                               for this host alone; leave the address out, or make the network with gateway mode nat";

fn unpublishable(wish: &PortWish, host: Option<IpAddr>, why: &str) -> Refusal {
    Refusal::Port {
        proto: wish.proto,
        host: host.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        host_port: wish.first.to_string(),
        why: why.to_owned(),
    }
}
