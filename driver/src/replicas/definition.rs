//! What a network is, as the Docker engine tells it and takes it: enough to make the same one on another host.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tombolo_core::kinds::Spec;
use tombolo_core::kinds::options::{Options, Switch};

/// The option that says whether a network is made on the other hosts as well.
const REPLICATE: &str = "replicate";

/// How the engine calls us: as a driver, or by the name of the managed plug-in that we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Us {
    /// The driver's name.
    pub driver: String,
    /// The managed plug-in's.
    pub plugin: Option<String>,
}

impl Us {
    fn is(&self, name: &str) -> bool {
        crate::engine::reconcile::is_driver(name, &self.driver) || self.plugin.as_deref() == Some(name)
    }

    fn name(&self) -> &str {
        self.plugin.as_deref().unwrap_or(&self.driver)
    }
}

/// A network as the engine lists it (moby `api/types/network`, `Summary`).
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Listed {
    /// Its identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    driver: String,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    attachable: bool,
    #[serde(default)]
    config_only: bool,
    #[serde(rename = "EnableIPv6", default)]
    ipv6: bool,
    #[serde(rename = "EnableIPv4", default)]
    ipv4: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: ListedIpam,
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedIpam {
    #[serde(default)]
    driver: String,
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
    #[serde(default)]
    config: Option<Vec<Subnet>>,
}

impl Listed {
    /// Its driver's name.
    pub fn driver(&self) -> &str {
        &self.driver
    }
}

/// A subnet, in the engine's spelling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Subnet {
    #[serde(default)]
    subnet: String,
    #[serde(rename = "IPRange", default, skip_serializing_if = "String::is_empty")]
    range: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    gateway: String,
    #[serde(
        rename = "AuxiliaryAddresses",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    aux: Option<BTreeMap<String, String>>,
}

/// What a network is. The names of the fields are those of what hosts tell each other and keep: none is renamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    options: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    attachable: bool,
    #[serde(default)]
    ipv6: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ipv4: Option<bool>,
    /// Who gives its addresses, where that isn't us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ipam: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    ipam_options: BTreeMap<String, String>,
    #[serde(default)]
    subnets: Vec<Subnet>,
}

impl Definition {
    /// What a network is that is to be the same on all hosts; none for any other.
    pub fn of(listed: &Listed, us: &Us) -> Option<Self> {
        if !us.is(&listed.driver) || listed.config_only {
            return None;
        }
        let ipam = &listed.ipam;
        let definition = Self {
            options: listed.options.clone().unwrap_or_default(),
            labels: listed.labels.clone().unwrap_or_default(),
            internal: listed.internal,
            attachable: listed.attachable,
            ipv6: listed.ipv6,
            ipv4: listed.ipv4,
            ipam: Some(ipam.driver.clone()).filter(|driver| !us.is(driver)),
            ipam_options: ipam.options.clone().unwrap_or_default(),
            subnets: ipam.config.iter().flatten().map(Subnet::plain).collect(),
        };
        definition.is_everywhere().then_some(definition)
    }

    /// Whether such a network is one for all hosts: where its user says so, or says nothing and its kind spans them.
    pub fn is_everywhere(&self) -> bool {
        let mut options = self.read_options();
        match options.take::<Switch>(&[REPLICATE]) {
            Ok(Some(Switch(told))) => told,
            Ok(None) => self.spec().is_some_and(|spec| spec.spans()),
            Err(_) => false,
        }
    }

    fn read_options(&self) -> Options {
        Options::new(self.options.clone())
    }

    fn spec(&self) -> Option<Spec> {
        Spec::read(self.read_options(), self.ipv6).ok()
    }

    /// The word for its kind.
    pub fn kind(&self) -> Option<&'static str> {
        Some(self.spec()?.kind().name())
    }

    /// The subnets that it names.
    pub fn pools(&self) -> BTreeSet<IpNet> {
        let pools = self
            .subnets
            .iter()
            .filter_map(|subnet| subnet.subnet.parse().ok());
        pools.map(|pool: IpNet| pool.trunc()).collect()
    }

    /// A pool of it, of a family.
    pub fn pool(&self, v6: bool) -> Option<IpNet> {
        self.pools().into_iter().find(|pool| pool.addr().is_ipv6() == v6)
    }

    /// Whether two are one network. Labels are for people and tools, and what an engine adds to its lists differs from
    /// release to release.
    pub fn same(&self, other: &Self) -> bool {
        let options = match (self.spec(), other.spec()) {
            (Some(one), Some(two)) => one == two,
            _ => self.options == other.options,
        };
        options
            && self.pools() == other.pools()
            && (self.internal, self.ipv6, &self.ipam) == (other.internal, other.ipv6, &other.ipam)
    }

    /// What the engine is asked for to make it (`POST /networks/create`).
    pub fn request(&self, name: &str, us: &Us) -> Value {
        let mut request = json!({
            "Name": name,
            // Engines before 25 make a second one of a name unless they are told not to.
            "CheckDuplicate": true,
            "Driver": us.name(),
            "Internal": self.internal,
            "Attachable": self.attachable,
            "EnableIPv6": self.ipv6,
            "Options": self.options,
            "Labels": self.labels,
            "IPAM": {
                "Driver": self.ipam.as_deref().unwrap_or(us.name()),
                "Options": self.ipam_options,
                "Config": self.subnets,
            },
        });
        if let Some(ipv4) = self.ipv4 {
            request["EnableIPv4"] = ipv4.into();
        }
        request
    }
}

impl Subnet {
    /// As the engine takes it: it lists a gateway of its own choice with the length of the prefix.
    fn plain(&self) -> Self {
        let gateway = self.gateway.split('/').next().unwrap_or_default().to_owned();
        let aux = self.aux.clone().filter(|aux| !aux.is_empty());
        Self {
            gateway,
            aux,
            ..self.clone()
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn us() -> Us {
        Us {
            driver: "tombolo".to_owned(),
            plugin: None,
        }
    }

    /// A network as an engine lists it.
    pub fn listed(id: &str, name: &str, options: &[(&str, &str)], subnet: &str) -> Listed {
        let options: BTreeMap<&str, &str> = options.iter().copied().collect();
        serde_json::from_value(json!({
            "Id": id, "Name": name, "Driver": "tombolo", "EnableIPv6": false, "Internal": false, "Labels": {},
            "IPAM": {"Driver": "tombolo", "Options": null, "Config": [{"Subnet": subnet}]}, "Options": options,
        }))
        .unwrap()
    }

    fn of(options: &[(&str, &str)], subnet: &str) -> Option<Definition> {
        Definition::of(&listed("1", "app", options, subnet), &us())
    }

    #[test]
    fn networks_that_span_hosts_are_for_all_and_others_where_their_users_say_so() {
        for (options, is) in [
            (&[("type", "overlay")][..], true),
            (&[("type", "host-gateway")], true),
            (&[("type", "overlay"), ("replicate", "off")], false),
            (&[], false),
            (&[("replicate", "on")], true),
            (&[("type", "macvlan"), ("parent", "eth0")], false),
            (
                &[("type", "macvlan"), ("parent", "eth0"), ("replicate", "on")],
                true,
            ),
            (&[("type", "overlay"), ("replicate", "perhaps")], false),
            (&[("type", "no-such")], false),
        ] {
            assert_eq!(of(options, "10.42.0.0/16").is_some(), is, "{options:?}");
        }
        let mut other = listed("1", "app", &[("type", "overlay")], "10.42.0.0/16");
        other.driver = "bridge".to_owned();
        assert_eq!(Definition::of(&other, &us()), None);
    }

    #[test]
    fn it_is_the_same_network_whatever_its_labels_and_however_options_are_spelled() {
        let mtu = |name| of(&[("type", "overlay"), (name, "1400")], "10.42.0.0/16").unwrap();
        assert!(mtu("mtu").same(&mtu("com.docker.network.driver.mtu")));
        let plain = of(&[("type", "overlay")], "10.42.0.0/16").unwrap();
        assert!(!plain.same(&mtu("mtu")));
        assert!(!plain.same(&of(&[("type", "overlay")], "10.43.0.0/16").unwrap()));
        assert!(!plain.same(&of(&[("type", "host-gateway")], "10.42.0.0/16").unwrap()));
        let labelled = Definition {
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            ..plain.clone()
        };
        assert!(plain.same(&labelled));
        let told = of(&[("type", "overlay"), ("replicate", "on")], "10.42.0.0/16").unwrap();
        assert!(plain.same(&told));
    }

    #[test]
    fn an_engine_is_asked_for_what_another_one_listed_under_its_own_name_for_us() {
        let text = r#"{"Id":"1","Name":"app","Driver":"tombolo","EnableIPv6":true,"EnableIPv4":false,"Internal":true,"Attachable":true,
            "Labels":{"com.docker.compose.network":"app"},"Options":{"type":"overlay"},
            "IPAM":{"Driver":"tombolo","Options":{"net":"app"},"Config":[{"Subnet":"10.42.0.0/16","Gateway":"10.42.0.1/16",
            "IPRange":"10.42.1.0/24","AuxiliaryAddresses":{"a":"10.42.0.9"}}]}}"#;
        let listed: Listed = serde_json::from_str(text).unwrap();
        let definition = Definition::of(&listed, &us()).unwrap();
        let there = Us {
            plugin: Some("acme/net:2".to_owned()),
            ..us()
        };
        let expected = json!({
            "Name": "app", "CheckDuplicate": true, "Driver": "acme/net:2", "Internal": true, "Attachable": true,
            "EnableIPv6": true, "EnableIPv4": false, "Options": {"type": "overlay"},
            "Labels": {"com.docker.compose.network": "app"},
            "IPAM": {"Driver": "acme/net:2", "Options": {"net": "app"}, "Config": [{"Subnet": "10.42.0.0/16",
                "Gateway": "10.42.0.1", "IPRange": "10.42.1.0/24", "AuxiliaryAddresses": {"a": "10.42.0.9"}}]},
        });
        assert_eq!(definition.request("app", &there), expected);
        let kept = serde_json::to_string(&definition).unwrap();
        assert_eq!(serde_json::from_str::<Definition>(&kept).unwrap(), definition);
    }
}
