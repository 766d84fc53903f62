//! Messages of rtnetlink, read by their attributes' numbers (`linux/if_link.h`, `if_addr.h`, `rtnetlink.h`, `neighbour.h`).

use ipnet::IpNet;

use super::super::attributes::{self, ip, number, text};
use super::{Address, Link, Neighbour, Port, Route, RouteKind};

/// Lengths of the headers before the attributes, in bytes.
const IFINFO: usize = 16;
const IFADDR: usize = 8;
const RTMSG: usize = 12;
const NDMSG: usize = 12;

const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 1 << 16;

fn at32(payload: &[u8], at: usize) -> Option<u32> {
    number(payload.get(at..)?)
}

fn mac(value: &[u8]) -> Option<String> {
    let bytes: Vec<String> = value.iter().map(|byte| format!("{byte:02x}")).collect();
    (value.len() == 6).then(|| bytes.join(":"))
}

pub(super) fn link(payload: &[u8]) -> Option<Link> {
    let flags = at32(payload, 8)?;
    let mut link = Link {
        index: at32(payload, 4)?,
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_LOWER_UP != 0,
        ..Link::default()
    };
    for (kind, value) in attributes::all(payload.get(IFINFO..)?) {
        match kind {
            1 => link.mac = mac(value),
            3 => link.name = text(value),
            4 => link.mtu = number(value).unwrap_or_default(),
            5 => link.peer = number(value),
            10 => link.master = number(value),
            18 => link_info(value, &mut link),
            27 => link.group = number(value).unwrap_or_default(),
            37 => link.peer_elsewhere = true,
            _ => {}
        }
    }
    Some(link)
}

/// `IFLA_INFO_KIND`, `IFLA_INFO_SLAVE_KIND` and `IFLA_INFO_SLAVE_DATA`, in that `IFLA_BRPORT_STATE` and `_ISOLATED`.
fn link_info(value: &[u8], link: &mut Link) {
    let mut bridged = false;
    for (kind, value) in attributes::all(value) {
        match kind {
            1 => link.kind = Some(text(value)),
            4 => bridged = text(value) == "bridge",
            5 if bridged => {
                let mut port = Port::default();
                for (kind, value) in attributes::all(value) {
                    match (kind, value.first()) {
                        (1, Some(state)) => port.state = *state,
                        (33, Some(isolated)) => port.isolated = *isolated != 0,
                        _ => {}
                    }
                }
                link.port = Some(port);
            }
            _ => {}
        }
    }
}

pub(super) fn address(payload: &[u8]) -> Option<Address> {
    let (mut address, mut local) = (None, None);
    for (kind, value) in attributes::all(payload.get(IFADDR..)?) {
        match kind {
            1 => address = ip(value),
            2 => local = ip(value),
            _ => {}
        }
    }
    Some(Address {
        index: at32(payload, 4)?,
        net: IpNet::new(local.or(address)?, *payload.get(1)?).ok()?,
    })
}

pub(super) fn route(payload: &[u8]) -> Option<Route> {
    let (family, length) = (*payload.first()?, *payload.get(1)?);
    let mut route = Route {
        v6: i32::from(family) == libc::AF_INET6,
        table: u32::from(*payload.get(4)?),
        kind: match payload.get(7)? {
            1 => RouteKind::Unicast,
            2 => RouteKind::Local,
            3..=5 => RouteKind::Many,
            6..=8 => RouteKind::Refused,
            _ => RouteKind::Other,
        },
        protocol: *payload.get(5)?,
        ..Route::default()
    };
    for (kind, value) in attributes::all(payload.get(RTMSG..)?) {
        match kind {
            1 => route.to = ip(value).and_then(|to| IpNet::new(to, length).ok()),
            4 => route.oif = number(value),
            5 => route.gateway = ip(value),
            6 => route.metric = number(value).unwrap_or_default(),
            7 => route.source = ip(value),
            // RTAX_MTU among the metrics.
            8 => {
                route.mtu = attributes::one(value, 2).and_then(number);
            }
            // Of several next hops the first (`struct rtnexthop`: length, flags, hops, index; then attributes).
            9 => {
                route.oif = route.oif.or(at32(value, 4));
                let hop = attributes::one(value.get(8..).unwrap_or_default(), 5);
                route.gateway = route.gateway.or(hop.and_then(ip));
            }
            15 => route.table = number(value).unwrap_or(route.table),
            // A next router of the other family: its family stands before its address.
            18 => route.gateway = value.get(2..).and_then(ip),
            _ => {}
        }
    }
    Some(route)
}

pub(super) fn neighbour(payload: &[u8]) -> Option<Neighbour> {
    let (mut address, mut hardware) = (None, None);
    for (kind, value) in attributes::all(payload.get(NDMSG..)?) {
        match kind {
            1 => address = ip(value),
            2 => hardware = mac(value),
            _ => {}
        }
    }
    Some(Neighbour {
        index: at32(payload, 4)?,
        address: address?,
        mac: hardware,
        state: payload.get(8..10)?.try_into().ok().map(u16::from_ne_bytes)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::attributes::written;
    use super::*;

    #[test]
    fn a_route_is_read_with_the_mtu_among_its_metrics() {
        let mut message = vec![2, 24, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        message.extend(written(1, &[10, 1, 2, 0]));
        message.extend(written(4, &7u32.to_ne_bytes()));
        message.extend(written(8, &written(2, &1300u32.to_ne_bytes())));
        let route = route(&message).unwrap();
        assert_eq!(route.to, Some("10.1.2.0/24".parse().unwrap()));
        assert_eq!(
            (route.oif, route.mtu, route.kind),
            (Some(7), Some(1300), RouteKind::Unicast)
        );
    }

    #[test]
    fn a_bridges_port_is_read_with_its_isolation() {
        let mut message = vec![0; IFINFO];
        message[4..8].copy_from_slice(&9u32.to_ne_bytes());
        message[8..12].copy_from_slice(&(IFF_UP | IFF_LOWER_UP).to_ne_bytes());
        message.extend(written(3, b"tbh1\0"));
        let port = [written(1, &[3]), written(33, &[1])].concat();
        let info = [written(1, b"veth\0"), written(4, b"bridge\0"), written(5, &port)].concat();
        message.extend(written(18, &info));
        let link = link(&message).unwrap();
        assert_eq!((link.name.as_str(), link.index, link.up), ("tbh1", 9, true));
        assert_eq!(
            link.port,
            Some(Port {
                state: 3,
                isolated: true
            })
        );
    }

    #[test]
    fn what_is_cut_off_is_no_message() {
        assert!(link(&[0; 10]).is_none() && route(&[2, 24]).is_none());
        assert!(neighbour(&[0; 11]).is_none() && address(&[0; 3]).is_none());
    }
}
