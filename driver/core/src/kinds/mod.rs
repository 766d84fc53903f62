//! The kinds of network: each reads its own options, says which facts follow from a record, and what Docker is told.
//!
//! A new kind is one file beside this one, one variant of [`Spec`] and one line in each match here.

pub mod bridge;
pub mod host_gateway;
pub mod ipvlan;
pub mod macvlan;
pub mod options;
pub mod overlay;
pub mod uplink;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{Attach, Endpoint, Group, IfName, Mac, NetName, Network, NetworkId, fnv1a};
use crate::modes::MacvlanMode;
use crate::world::{Hop, Value, World};
use bridge::Bridge;
use host_gateway::HostGateway;
use ipvlan::Ipvlan;
use macvlan::Macvlan;
use options::Options;
use overlay::Overlay;
use uplink::Uplink;

/// What a kind of network decides. Everything is computed from records; nothing is looked up.
pub trait Kind {
    /// The word for the kind: what `-o type=` takes.
    fn name(&self) -> &'static str;
    /// The links that belong to the network itself, the one that containers hang on first.
    fn links(&self, network: &NetworkId) -> Vec<IfName>;
    /// Largest packet, in bytes, where it isn't the kernel's own choice.
    fn mtu(&self) -> Option<u32>;
    /// Whether a family is to have no way out, no way in and no address of the host; only an internal network can be so.
    fn isolated(&self, v6: bool) -> bool;
    /// Whether no address of a family is to be kept for a gateway.
    fn without_gateway(&self, internal: bool, v6: bool) -> bool;
    /// Where the ports of its endpoints are published.
    fn publishing(&self, v6: bool) -> Publishing;
    /// Adds the facts of the network itself. Those of a tunnel need to know what it runs on.
    fn network_facts(&self, network: &Network, underlay: Option<&Underlay>, world: &mut World);
    /// Adds the facts of one endpoint.
    fn endpoint_facts(&self, network: &Network, endpoint: &Endpoint, world: &mut World);
    /// Adds what follows from something of another host's on the same network. A kind that stays on one host has nothing.
    fn remote_facts(&self, network: &Network, far: &Far<'_>, world: &mut World) {
        let (_, _, _) = (network, far, world);
    }
    /// The hardware address by which containers of this host reach an address of another host's; none if they don't, or where
    /// that is for somebody else to say.
    fn seen_as(&self, network: &Network, far: &Far<'_>) -> Option<Mac> {
        let (_, _) = (network, far);
        None
    }
    /// What Docker is told when the endpoint joins a sandbox.
    fn joined(&self, network: &Network, endpoint: &Endpoint) -> Joined;
}

/// What tunnels run on: this host among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    /// The address that stands for this host among the others.
    pub vtep: IpAddr,
    /// Whether others reach it by more addresses than that.
    pub several: bool,
    /// The port of UDP of all tunnels.
    pub port: u16,
}

impl Underlay {
    /// The source of what tunnels send. With several wires each has its own, or those at the other end who look whether a source
    /// is where it came from (`rp_filter`) would drop it: the kernel chooses by the route. IPv6 has no such look.
    pub fn source(&self) -> IpAddr {
        match self.vtep {
            IpAddr::V4(_) if self.several => IpAddr::from([0; 4]),
            vtep => vtep,
        }
    }
}

/// How another host is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reach {
    /// The ways to it for IPv4 on a wire that both are on, of equal cost, sorted; none where there is no such wire.
    pub v4: Vec<Hop>,
    /// The same for IPv6.
    pub v6: Vec<Hop>,
    /// The VTEPs that it is reached by now, where it has several.
    pub ways: Vec<IpAddr>,
}

impl Reach {
    /// The ways for a family.
    pub fn hops(&self, v6: bool) -> &[Hop] {
        if v6 { &self.v6 } else { &self.v4 }
    }

    /// Where to send what is for one of many: `vtep` where the host has no other, else one that they are spread over. When a
    /// way goes, only those move that were on it (rendezvous hashing: Thaler and Ravishankar, 1998).
    pub fn way(&self, vtep: IpAddr, of: Mac) -> IpAddr {
        // FNV-1a alone leaves the high bits of what differs at its end alike; the finish is MurmurHash3's.
        let weight = |way: &&IpAddr| {
            let hash = fnv1a(format!("{way} {of}").as_bytes());
            let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
            hash ^ (hash >> 33)
        };
        self.ways.iter().max_by_key(weight).copied().unwrap_or(vtep)
    }
}

/// Something of another host's on a network of this host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Far<'a> {
    /// An address, the hardware address behind it, and how its host is reached.
    Address(IpAddr, Mac, &'a Reach),
    /// A hardware address, the VTEP of its host, and how that is reached.
    Mac(Mac, IpAddr, &'a Reach),
    /// A host with endpoints on the network: its VTEP, and how it is reached.
    Vtep(IpAddr, &'a Reach),
    /// A group that somebody on a host hears, the host's VTEP, and how that is reached.
    Listener(Group, IpAddr, &'a Reach),
    /// A piece of the pool, and how its owner is reached.
    Piece(IpNet, &'a Reach),
}

/// What Docker needs to know to put an endpoint's link into its sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The link that Docker moves.
    pub source: IfName,
    /// What its name in the container begins with.
    pub prefix: String,
    /// The container's way out for IPv4.
    pub gateway: Option<IpAddr>,
    /// The container's way out for IPv6.
    pub gateway_v6: Option<IpAddr>,
    /// Whether the engine may give the container a way out of its own (`docker_gwbridge`) where we give it none.
    pub engines_way_out: bool,
    /// What is on the wire of the container's link besides its own subnets.
    pub routes: Vec<IpNet>,
    /// What routers lead to, where that is not said by the gateways.
    pub routers: Vec<(IpNet, IpAddr)>,
    /// The link is in the sandbox already, with all that belongs to it: there is nothing to move.
    pub made: bool,
}

/// Where published ports are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publishing {
    /// On the host, on the network's own choice of address where the user names none.
    Host(Option<IpAddr>),
    /// At the container's own address.
    Container,
    /// By the engine, or not at all.
    Elsewhere,
}

/// What is found on the host when a network is made, and kept in its record from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// The largest packet on the way to the outside, in bytes, where there is a way and it is not the usual 1500.
    pub path_mtu: Option<u32>,
    /// The largest packet that goes through a tunnel to each of the other hosts, in bytes, where the cluster knows.
    pub tunnel_mtu: Option<u32>,
    /// The bridge that the user named is there, and somebody else's.
    pub bridge: Option<Theirs>,
}

/// What the hosts of a cluster have agreed on for a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Agreed {
    /// The VXLAN network identifier.
    pub vni: Option<u32>,
    /// The largest packet in bytes, where somebody has named one.
    pub mtu: Option<u32>,
}

/// A link of somebody else's: what of it a network that uses it would change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Theirs {
    /// Its link group; 0 for none.
    pub group: u32,
    /// Whether `route_localnet` is on for it.
    pub localnet: bool,
}

/// The kind of a network and that kind's options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Spec {
    /// A Linux bridge on one host.
    Bridge(Bridge),
    /// Bridges of several hosts, joined by VXLAN.
    Overlay(Overlay),
    /// Bridges of several hosts, with routes between them.
    HostGateway(HostGateway),
    /// Links on the wire of a link of the host, each with a hardware address of its own.
    Macvlan(Macvlan),
    /// Links on the wire of a link of the host, which share its hardware address.
    Ipvlan(Ipvlan),
}

/// All kinds.
/// How containers of a network of the cluster come by the names that are on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dns {
    /// From Docker's resolver in the container, whose questions come to us first; and at the gateway.
    #[default]
    Auto,
    /// At the gateway, for who asks there.
    Gateway,
    /// Not from us.
    Off,
}

impl options::FromText for Dns {
    const ALLOWED: &'static str = "auto, gateway or off";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "gateway" => Some(Self::Gateway),
            "off" => Some(Self::Off),
            _ => None,
        }
    }
}

const KINDS: [&str; 5] = ["bridge", "host-gateway", "ipvlan", "macvlan", "overlay"];

/// All addresses of an address's family.
pub fn everywhere(address: &IpNet) -> IpNet {
    match address {
        IpNet::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpNet::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

impl Spec {
    /// Reads a network's options: `-o type=…` and what belongs to that kind.
    ///
    /// # Errors
    /// For an unknown kind, an unknown option, or a value that an option can't have.
    pub fn read(mut options: Options, v6: bool) -> Result<Self, options::Error> {
        let kind = options
            .take::<String>(&["type"])?
            .unwrap_or_else(|| "bridge".to_owned());
        let spec = match kind.as_str() {
            "bridge" => Self::Bridge(Bridge::take(&mut options, v6)?),
            "overlay" => Self::Overlay(Overlay::take(&mut options, v6)?),
            "host-gateway" => Self::HostGateway(HostGateway::take(&mut options, v6)?),
            "macvlan" => Self::Macvlan(Macvlan::take(&mut options, v6)?),
            "ipvlan" => Self::Ipvlan(Ipvlan::take(&mut options, v6)?),
            unknown => {
                let near = options::nearest_name(unknown, KINDS.into_iter());
                let hint = near
                    .map(|name| format!(" (did you mean {name}?)"))
                    .unwrap_or_default();
                return Err(options::refuse_value(
                    "type",
                    unknown,
                    &format!("{} are allowed{hint}", KINDS.join(", ")),
                ));
            }
        };
        spec.attachable(options.take(&[Attach::OPTION])?)?;
        // It says what is made on other hosts, and nothing of this network.
        options.take::<options::Switch>(&["replicate"])?;
        // The engine handles these two itself, for any driver (28 and later), after it has checked them.
        for engines in [
            "com.docker.network.advertise_addr_nmsgs",
            "com.docker.network.advertise_addr_ms",
        ] {
            options.take::<String>(&[engines])?;
        }
        options.finish(&format!("a {} network", spec.kind().name()))?;
        Ok(spec)
    }

    /// Notes what was found on the host. Without it, what remains is what the user asked for.
    pub fn note(&mut self, found: Found) {
        match self {
            Self::Bridge(bridge) => bridge.note(found),
            Self::Overlay(overlay) => overlay.note(found),
            Self::HostGateway(gateway) => gateway.note(found),
            Self::Macvlan(macvlan) => macvlan.note(found),
            Self::Ipvlan(ipvlan) => ipvlan.note(found),
        }
    }

    /// Notes what the cluster has agreed on. Without it, what remains is what the user asked for.
    pub fn agree(&mut self, agreed: Agreed) {
        match self {
            Self::Bridge(_) | Self::Macvlan(_) | Self::Ipvlan(_) => {}
            Self::Overlay(overlay) => overlay.agreed = agreed,
            Self::HostGateway(gateway) => gateway.agreed = agreed,
        }
    }

    /// What the cluster has agreed on.
    pub fn agreed(&self) -> Agreed {
        match self {
            Self::Bridge(_) | Self::Macvlan(_) | Self::Ipvlan(_) => Agreed::default(),
            Self::Overlay(overlay) => overlay.agreed,
            Self::HostGateway(gateway) => gateway.agreed,
        }
    }

    /// What the user asks the cluster to agree on.
    pub fn asks(&self) -> Agreed {
        let mtu = self.bridge().and_then(|bridge| bridge.mtu);
        match self {
            // Its hosts are its own affair.
            Self::Bridge(_) | Self::Macvlan(_) | Self::Ipvlan(_) => Agreed::default(),
            Self::Overlay(overlay) => Agreed {
                vni: overlay.vni,
                mtu,
            },
            Self::HostGateway(_) => Agreed { vni: None, mtu },
        }
    }

    /// Whether its hosts send to each other through a tunnel, so that it needs a VXLAN network identifier.
    pub fn has_tunnel(&self) -> bool {
        match self {
            Self::Bridge(_) | Self::Macvlan(_) | Self::Ipvlan(_) => false,
            Self::Overlay(_) => true,
            Self::HostGateway(gateway) => gateway.fallback,
        }
    }

    /// Whether what is sent to a group goes to other hosts.
    pub fn has_multicast(&self) -> bool {
        matches!(self, Self::Overlay(overlay) if overlay.multicast)
    }

    /// Whether its hosts must be on one wire.
    pub fn needs_wire(&self) -> bool {
        self.spans() && !self.has_tunnel()
    }

    /// The bridge that its containers hang on.
    fn bridge(&self) -> Option<&Bridge> {
        match self {
            Self::Bridge(bridge) => Some(bridge),
            Self::Overlay(overlay) => Some(&overlay.bridge),
            Self::HostGateway(gateway) => Some(&gateway.bridge),
            Self::Macvlan(_) | Self::Ipvlan(_) => None,
        }
    }

    /// The wire that its containers are on, if they are on one of a link of the host.
    pub fn uplink(&self) -> Option<&Uplink> {
        match self {
            Self::Bridge(_) | Self::Overlay(_) | Self::HostGateway(_) => None,
            Self::Macvlan(macvlan) => Some(&macvlan.uplink),
            Self::Ipvlan(ipvlan) => Some(&ipvlan.uplink),
        }
    }

    /// The same, to be changed.
    pub fn uplink_mut(&mut self) -> Option<&mut Uplink> {
        match self {
            Self::Bridge(_) | Self::Overlay(_) | Self::HostGateway(_) => None,
            Self::Macvlan(macvlan) => Some(&mut macvlan.uplink),
            Self::Ipvlan(ipvlan) => Some(&mut ipvlan.uplink),
        }
    }

    /// A link on a wire as such a network's containers have them.
    pub fn link_on(&self, parent: &IfName, mac: Mac) -> Option<Value> {
        match self {
            Self::Bridge(_) | Self::Overlay(_) | Self::HostGateway(_) => None,
            Self::Macvlan(macvlan) => Some(macvlan.link(parent, mac)),
            Self::Ipvlan(ipvlan) => Some(ipvlan.link(parent)),
        }
    }

    /// Whether the host has an address on such a network if nobody says otherwise.
    pub fn usually_has_host(&self) -> bool {
        matches!(self, Self::Macvlan(macvlan) if macvlan.mode == MacvlanMode::Bridge)
    }

    /// Whether each of its containers has a hardware address of its own.
    pub fn has_macs(&self) -> bool {
        !matches!(self, Self::Ipvlan(_))
    }

    /// Whether its containers have the wire for themselves.
    pub fn wants_all(&self) -> bool {
        matches!(self, Self::Macvlan(macvlan) if macvlan.mode == MacvlanMode::Passthru)
    }

    /// The link that the user named, which may be somebody else's.
    pub fn named_link(&self) -> Option<&IfName> {
        match self.uplink() {
            Some(uplink) => uplink.parent.as_ref(),
            None => self.bridge()?.name.as_ref(),
        }
    }

    /// The name that the network goes by in the cluster, if it has one there.
    pub fn net(&self) -> Option<&NetName> {
        match self.uplink() {
            Some(uplink) => uplink.net.as_ref(),
            None => self.bridge()?.net.as_ref(),
        }
    }

    /// How its containers come by the names of those on other hosts; not at all where these aren't reached.
    pub fn dns(&self) -> Dns {
        let reaches = self.spans() || self.uplink().is_some();
        let asked = match self.uplink() {
            Some(uplink) => uplink.dns,
            None => self.bridge().map_or(Dns::Off, |bridge| bridge.dns),
        };
        match self.is_shared() && reaches {
            true => asked,
            false => Dns::Off,
        }
    }

    /// Whether its containers' links may be made within their sandboxes.
    pub fn goes_inside(&self) -> bool {
        match self {
            // One that has the parent for itself takes the parent's hardware address, until the engine gives it its own.
            Self::Macvlan(macvlan) => macvlan.mode != MacvlanMode::Passthru,
            // Where the engine gives the container an interface of its own beside ours, it would give both one name.
            _ => self
                .bridge()
                .is_some_and(|bridge| bridge.ports == bridge::Ports::Tombolo),
        }
    }

    /// Whether its containers may come by their links as the user says.
    fn attachable(&self, attach: Option<Attach>) -> Result<(), options::Error> {
        match attach {
            Some(Attach::Inside) if !self.goes_inside() => Err(options::refuse_value(
                Attach::OPTION,
                &Attach::Inside.to_string(),
                "only on macvlan networks that are not in mode passthru, and on those with a bridge of tombolo's (bridge, host-gateway, overlay) that publish their own ports",
            )),
            _ => Ok(()),
        }
    }

    /// Whether the network is one of the cluster's: it shares its addresses with others there.
    pub fn is_shared(&self) -> bool {
        self.spans() || self.net().is_some()
    }

    /// Whether the network is one on all hosts that have it.
    pub fn spans(&self) -> bool {
        match self {
            Self::Bridge(_) | Self::Macvlan(_) | Self::Ipvlan(_) => false,
            Self::Overlay(_) | Self::HostGateway(_) => true,
        }
    }

    /// The kind behind the options.
    pub fn kind(&self) -> &dyn Kind {
        match self {
            Self::Bridge(bridge) => bridge,
            Self::Overlay(overlay) => overlay,
            Self::HostGateway(gateway) => gateway,
            Self::Macvlan(macvlan) => macvlan,
            Self::Ipvlan(ipvlan) => ipvlan,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Spec, options::Error> {
        let given = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Spec::read(Options::new(given), false)
    }

    fn refusal(pairs: &[(&str, &str)]) -> String {
        read(pairs).unwrap_err().to_string()
    }

    #[test]
    fn no_options_make_a_masqueraded_bridge() {
        let Spec::Bridge(bridge) = read(&[]).unwrap() else {
            panic!("no bridge");
        };
        assert_eq!(
            (bridge.name, bridge.mtu, bridge.masquerade, bridge.prefix.as_str()),
            (None, None, true, "eth")
        );
    }

    #[test]
    fn dockers_names_mean_the_same_as_ours() {
        let ours = [
            ("bridge_name", "br9"),
            ("mtu", "1400"),
            ("masquerade", "false"),
            ("iface_prefix", "net"),
        ];
        let dockers = [
            ("com.docker.network.bridge.name", "br9"),
            ("com.docker.network.driver.mtu", "1400"),
            ("com.docker.network.bridge.enable_ip_masquerade", "0"),
            ("com.docker.network.container_iface_prefix", "net"),
        ];
        assert_eq!(read(&ours).unwrap(), read(&dockers).unwrap());
        assert!(refusal(&[ours[1], ("com.docker.network.driver.mtu", "1300")]).contains("given twice"));
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_nearest_and_all_known() {
        let text = refusal(&[("mtuu", "1400")]);
        assert!(text.contains("unknown option mtuu (did you mean mtu?)"), "{text}");
        assert!(text.contains("com.docker.network.bridge.name, "), "{text}");
    }

    #[test]
    fn values_are_checked() {
        assert!(refusal(&[("mtu", "12")]).contains("option mtu: '12' is not allowed: 68 to 65535"));
        assert!(refusal(&[("mtu", "big")]).contains("a whole number"));
        assert!(refusal(&[("masquerade", "maybe")]).contains("true or false"));
        assert!(refusal(&[("bridge_name", "a/b")]).contains("'a/b'"));
        assert!(refusal(&[("iface_prefix", "far-too-long-a-name")]).contains("1 to 12 bytes"));
        assert!(
            refusal(&[("gateway_mode_ipv4", "isolate")]).contains("nat, routed, nat-unprotected or isolated")
        );
        assert!(refusal(&[("publish_from", "192.0.2.0/33")]).contains("prefixes"));
        assert!(refusal(&[("publish_from", "192.0.2.1/24")]).contains("no bits set behind"));
        assert!(refusal(&[("host_ipv4", "fd00::1")]).contains("an IPv4 address"));
        assert!(refusal(&[("trusted_interfaces", "eth0,a/b")]).contains("names of network interfaces"));
        assert!(refusal(&[("ports", "none")]).contains("tombolo or docker"));
        assert!(refusal(&[("com.docker.network.bridge.default_bridge", "true")]).contains("only 'false'"));
    }

    #[test]
    fn a_list_of_senders_has_no_overlaps() {
        let Spec::Bridge(bridge) = read(&[("publish_from", "10.0.0.0/8, 10.2.0.0/16,192.0.2.7")]).unwrap()
        else {
            panic!("no bridge");
        };
        let text: Vec<String> = bridge.publish_from.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["10.0.0.0/8", "192.0.2.7/32"]);
    }

    #[test]
    fn a_rate_is_read_as_tc_writes_it() {
        use options::{FromText, Rate};
        for (text, bits) in [
            ("10mbit", Some(10_000_000)),
            ("1Gbit", Some(1_000_000_000)),
            ("8001", Some(8_000)),
            ("7kbit", None),
            ("2tbit", None),
            ("mbit", None),
            ("10mbps", None),
            ("99999999999999999999", None),
            ("１０mbit", None),
        ] {
            assert_eq!(Rate::from_text(text).map(|r| r.0), bits, "{text}");
        }
    }

    #[test]
    fn a_kind_that_there_is_not_is_refused_with_the_nearest() {
        assert!(refusal(&[("type", "brigde")]).contains("did you mean bridge?"));
    }
}
