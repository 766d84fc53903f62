//! The kinds of network: each reads its own options, says which facts follow from a record, and what Docker is told.
//!
//! A new kind is one file beside this one, one variant of [`Spec`] and one line in each match here.

pub mod bridge;
pub mod options;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::{Endpoint, IfName, NetName, Network, NetworkId};
use crate::world::World;
use bridge::Bridge;
use options::Options;

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
    /// Adds the facts of the network itself.
    fn network_facts(&self, network: &Network, world: &mut World);
    /// Adds the facts of one endpoint.
    fn endpoint_facts(&self, network: &Network, endpoint: &Endpoint, world: &mut World);
    /// What Docker is told when the endpoint joins a sandbox.
    fn joined(&self, network: &Network, endpoint: &Endpoint) -> Joined;
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
    /// The bridge that the user named is there, and somebody else's.
    pub bridge: Option<Theirs>,
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
}

/// Kinds that have a name but no code yet.
const PLANNED: [&str; 3] = ["host-gateway", "macvlan", "overlay"];

impl Spec {
    /// Reads a network's options: `-o type=…` and what belongs to that kind.
    ///
    /// # Errors
    /// For an unknown or not yet built kind, an unknown option, or a value that an option can't have.
    pub fn read(mut options: Options, v6: bool) -> Result<Self, options::Error> {
        let kind = options
            .take::<String>(&["type"])?
            .unwrap_or_else(|| "bridge".to_owned());
        let spec = match kind.as_str() {
            "bridge" => Self::Bridge(Bridge::take(&mut options, v6)?),
            planned if PLANNED.contains(&planned) => {
                let allowed = "this kind isn't built yet; this version has: bridge";
                return Err(options::refuse_value("type", planned, allowed));
            }
            unknown => {
                let near = options::nearest_name(unknown, ["bridge"].into_iter().chain(PLANNED));
                let hint = near
                    .map(|name| format!(" (did you mean {name}?)"))
                    .unwrap_or_default();
                return Err(options::refuse_value(
                    "type",
                    unknown,
                    &format!("bridge is allowed{hint}"),
                ));
            }
        };
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
        }
    }

    /// The link that the user named, which may be somebody else's.
    pub fn named_link(&self) -> Option<&IfName> {
        match self {
            Self::Bridge(bridge) => bridge.name.as_ref(),
        }
    }

    /// The name that the network goes by in the cluster, if it shares its addresses with others there.
    pub fn net(&self) -> Option<&NetName> {
        match self {
            Self::Bridge(bridge) => bridge.net.as_ref(),
        }
    }

    /// The kind behind the options.
    pub fn kind(&self) -> &dyn Kind {
        match self {
            Self::Bridge(bridge) => bridge,
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
        let Spec::Bridge(bridge) = read(&[]).unwrap();
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
        let Spec::Bridge(bridge) = read(&[("publish_from", "10.0.0.0/8, 10.2.0.0/16,192.0.2.7")]).unwrap();
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
    fn a_kind_that_is_not_built_says_so() {
        assert!(refusal(&[("type", "overlay")]).contains("isn't built yet"));
        assert!(refusal(&[("type", "brigde")]).contains("did you mean bridge?"));
    }
}
