//! The kinds of network: each reads its own options, says which facts follow from a record, and what Docker is told.
//!
//! A new kind is one file beside this one, one variant of [`Spec`] and one line in each match here.

pub mod bridge;
pub mod options;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::{Endpoint, IfName, Network, NetworkId};
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
    /// The host's address that ports are published on where the user names none.
    fn host_binding(&self) -> Option<IpAddr>;
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
        options.finish(spec.kind().name())?;
        Ok(spec)
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
        assert!(refusal(&[("com.docker.network.bridge.enable_icc", "false")]).contains("only 'true'"));
        assert!(read(&[("com.docker.network.bridge.enable_icc", "true")]).is_ok());
    }

    #[test]
    fn a_kind_that_is_not_built_says_so() {
        assert!(refusal(&[("type", "overlay")]).contains("isn't built yet"));
        assert!(refusal(&[("type", "brigde")]).contains("did you mean bridge?"));
    }
}
