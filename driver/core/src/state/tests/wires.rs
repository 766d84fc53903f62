//! Networks on the wire of a link of the host.

use super::*;
use crate::world::{Step, World};

/// What Docker asks for a network of `kind` with our IPAM: gateways are asked for by engines before 28 only.
fn on_wire(
    scene: &mut Scene,
    id: &str,
    pool: &str,
    gateway: Option<&str>,
    options: &[(&str, &str)],
) -> Result<PoolId, String> {
    let cidr: IpNet = pool.parse().unwrap();
    let request = PoolRequest {
        space: Space::Local,
        want: ipam::Want::Exactly(cidr),
        range: None,
        v6: cidr.addr().is_ipv6(),
        repeat: true,
    };
    let Reply::Pool(pool_id) = scene.ask(Command::RequestPool(request))? else {
        panic!("no pool")
    };
    let named = gateway.filter(|gateway| *gateway != "any");
    let leased = match gateway {
        None => None,
        Some(_) => {
            let asked = scene.ask(Command::RequestAddress {
                pool: pool_id,
                address: named.map(|gateway| gateway.parse().unwrap()),
                usage: Use::Gateway,
                repeat: false,
            })?;
            match asked {
                Reply::Address(address) => Some(address),
                other => panic!("{other:?}"),
            }
        }
    };
    let given = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let spec = Spec::read(Options::new(given.collect()), cidr.addr().is_ipv6()).map_err(|e| e.to_string())?;
    let network = Network {
        id: id.parse().unwrap(),
        spec,
        internal: false,
        subnets: vec![Subnet {
            pool: cidr,
            gateway: leased,
            aux: vec![],
            way_out: None,
            ours: true,
        }],
        released: false,
        attach: None,
    };
    // As whoever passes requests on has it: without what nobody named.
    let network = scene.state.as_named(&network).map_err(|e| e.to_string())?;
    scene.ask(Command::CreateNetwork(network))?;
    Ok(pool_id)
}

const MACVLAN: [(&str, &str); 2] = [("type", "macvlan"), ("parent", "eth0")];

/// The parent that the networks name is there, and somebody else's.
fn scene() -> Scene {
    Scene {
        found: Found {
            bridge: Some(Theirs::default()),
            ..Found::default()
        },
        ..Scene::new()
    }
}

fn join(scene: &mut Scene, network: &str, id: &str, address: &str) -> Joined {
    scene.endpoint(id, network, address).unwrap();
    let joined = scene.ask(Command::Join {
        network: network.parse().unwrap(),
        endpoint: id.parse().unwrap(),
        sandbox: format!("/run/docker/netns/{id}"),
    });
    match joined.unwrap() {
        Reply::Joined(joined) => joined,
        other => panic!("{other:?}"),
    }
}

fn lines(world: &World) -> Vec<String> {
    let steps = diff(world, &World::new());
    let kernel = steps.iter().map(Step::to_string);
    kernel.filter(|line| line.starts_with("ip ")).collect()
}

#[test]
fn the_host_has_a_link_of_its_own_on_the_wire_and_a_route_to_each_container() {
    let mut scene = scene();
    on_wire(
        &mut scene,
        "aaaaaaaaaaaa",
        "192.0.2.0/24",
        Some("192.0.2.1"),
        &MACVLAN,
    )
    .unwrap();
    let joined = join(&mut scene, "aaaaaaaaaaaa", "bbbbbbbbbbbb", "192.0.2.7/24");
    assert_eq!(joined.source.as_str(), "tbcbbbbbbbbbbbb");
    assert_eq!(joined.gateway, Some("192.0.2.1".parse().unwrap()));
    assert_eq!(
        lines(&scene.state.world()),
        [
            "ip link add link eth0 name tbsaaaaaaaaaaaa address 02:7b:c0:00:02:fe group 29807 type macvlan mode bridge",
            "ip link add link eth0 name tbcbbbbbbbbbbbb address 02:7b:c0:00:02:07 group 29807 type macvlan mode bridge",
            "ip link set tbsaaaaaaaaaaaa up",
            "ip address add 192.0.2.254/32 dev tbsaaaaaaaaaaaa",
            "ip route replace 192.0.2.7 dev tbsaaaaaaaaaaaa proto 116 metric 29807 scope link",
        ]
    );
    assert!(scene.state.world().contains_key(&Key::Setting(Setting::ArpFilter(
        "tbsaaaaaaaaaaaa".parse().unwrap()
    ))));
    scene
        .ask(Command::DeleteNetwork("aaaaaaaaaaaa".parse().unwrap()))
        .unwrap();
    assert!(scene.state.world().is_empty());
    let host = scene
        .state
        .ipam()
        .slot(Space::Local, "192.0.2.254".parse().unwrap());
    assert!(host.is_none(), "{host:?}");
}

#[test]
fn the_hosts_access_can_be_left_out_and_its_address_be_chosen() {
    let mut scene = scene();
    let off = [MACVLAN[0], MACVLAN[1], ("host_access", "off")];
    on_wire(&mut scene, "a", "192.0.2.0/24", None, &off).unwrap();
    assert!(lines(&scene.state.world()).is_empty());
    let chosen = [MACVLAN[0], MACVLAN[1], ("host_address", "198.51.100.200")];
    on_wire(&mut scene, "b", "198.51.100.0/24", None, &chosen).unwrap();
    let key = Key::Address(
        "tbs".to_owned().parse().unwrap(),
        "198.51.100.200/32".parse().unwrap(),
    );
    let addresses: Vec<Key> = scene.state.world().into_keys().collect();
    let of_host = |other: &Key| matches!((other, &key), (Key::Address(_, a), Key::Address(_, b)) if a == b);
    assert!(addresses.iter().any(of_host), "{addresses:?}");
    let stray = [MACVLAN[0], MACVLAN[1], ("host_address", "203.0.113.9")];
    let refused = on_wire(&mut scene, "c", "100.64.0.0/24", None, &stray).unwrap_err();
    assert!(refused.contains("host_address: 203.0.113.9"), "{refused}");
    for mode in ["private", "vepa", "passthru"] {
        let options = [
            MACVLAN[0],
            ("parent", "eth1"),
            ("macvlan_mode", mode),
            ("host_access", "on"),
        ];
        let refused = on_wire(&mut scene, "d", "100.65.0.0/24", None, &options).unwrap_err();
        assert!(refused.contains("macvlan_mode"), "{refused}");
    }
}

#[test]
fn a_gateway_that_nobody_named_is_none_and_its_address_is_a_containers() {
    let mut scene = scene();
    let off = [MACVLAN[0], MACVLAN[1], ("host_access", "off")];
    let pool = on_wire(&mut scene, "a", "192.0.2.0/24", Some("any"), &off).unwrap();
    let asked = scene.ask(Command::RequestAddress {
        pool,
        address: Some("192.0.2.1".parse().unwrap()),
        usage: Use::Endpoint { name: None },
        repeat: false,
    });
    assert_eq!(asked, Ok(Reply::Address("192.0.2.1/24".parse().unwrap())));
    let joined = join(&mut scene, "a", "e", "192.0.2.1/24");
    assert_eq!((joined.gateway, joined.engines_way_out), (None, false));
}

#[test]
fn two_containers_fit_into_the_smallest_subnet() {
    let mut scene = scene();
    let off = [MACVLAN[0], MACVLAN[1], ("host_access", "off")];
    let pool = on_wire(&mut scene, "a", "192.0.2.0/31", None, &off).unwrap();
    for expected in ["192.0.2.0/31", "192.0.2.1/31"] {
        let asked = scene.ask(Command::RequestAddress {
            pool,
            address: None,
            usage: Use::Endpoint { name: None },
            repeat: false,
        });
        assert_eq!(asked, Ok(Reply::Address(expected.parse().unwrap())));
    }
}

#[test]
fn a_vlan_is_made_for_the_first_network_on_it_and_goes_with_the_last() {
    let mut scene = Scene::new();
    let vlan = [("type", "macvlan"), ("parent", "eth0.30"), ("host_access", "off")];
    on_wire(&mut scene, "a", "192.0.2.0/24", None, &vlan).unwrap();
    on_wire(&mut scene, "b", "198.51.100.0/24", None, &vlan).unwrap();
    let made = "ip link add link eth0 name eth0.30 group 29807 up type vlan id 30";
    assert_eq!(lines(&scene.state.world()), [made]);
    scene.ask(Command::DeleteNetwork("a".parse().unwrap())).unwrap();
    assert_eq!(lines(&scene.state.world()), [made]);
    scene.ask(Command::DeleteNetwork("b".parse().unwrap())).unwrap();
    assert!(scene.state.world().is_empty());
    // One that was there is nobody's to make or to remove.
    scene.found.bridge = Some(Theirs::default());
    on_wire(&mut scene, "c", "192.0.2.0/24", None, &vlan).unwrap();
    assert!(lines(&scene.state.world()).is_empty());
}

#[test]
fn a_network_without_a_parent_leads_nowhere() {
    let mut scene = Scene::new();
    on_wire(
        &mut scene,
        "aaaaaaaaaaaa",
        "192.0.2.0/24",
        Some("192.0.2.1"),
        &MACVLAN[..1],
    )
    .unwrap();
    let joined = join(&mut scene, "aaaaaaaaaaaa", "bbbbbbbbbbbb", "192.0.2.7/24");
    assert_eq!(joined.gateway, None);
    assert_eq!(
        lines(&scene.state.world()),
        [
            "ip link add dm-aaaaaaaaaaaa group 29807 up type dummy",
            "ip link add link dm-aaaaaaaaaaaa name tbcbbbbbbbbbbbb address 02:7b:c0:00:02:07 group 29807 type macvlan mode bridge",
        ]
    );
}

#[test]
fn what_has_no_room_on_a_parent_is_refused() {
    let mut scene = scene();
    on_wire(&mut scene, "a", "192.0.2.0/24", None, &MACVLAN).unwrap();
    for options in [
        [("type", "ipvlan"), ("parent", "eth0")],
        [("macvlan_mode", "passthru"), ("parent", "eth0")],
    ] {
        let with_type = [options[0], options[1], ("type", "macvlan")];
        let given = if options[0].0 == "type" {
            &options[..]
        } else {
            &with_type[..]
        };
        let refused = on_wire(&mut scene, "b", "198.51.100.0/24", None, given).unwrap_err();
        assert!(refused.contains("parent: eth0 (also of network a)"), "{refused}");
    }
    scene.found.bridge = None;
    let refused = on_wire(
        &mut scene,
        "c",
        "100.64.0.0/24",
        None,
        &[MACVLAN[0], ("parent", "eth9")],
    );
    assert!(
        refused
            .unwrap_err()
            .contains("parent: eth9; there is no such link")
    );
    for (parent, reason) in [
        ("lo", "loopback"),
        ("eth0.0", "1 to 4094"),
        ("eth0.4095", "1 to 4094"),
    ] {
        let refused = on_wire(
            &mut scene,
            "d",
            "100.64.0.0/24",
            None,
            &[MACVLAN[0], ("parent", parent)],
        );
        assert!(refused.unwrap_err().contains(reason), "{parent}");
    }
}

#[test]
fn addresses_of_the_wires_own_server_are_for_macvlan_on_that_wire() {
    let mut scene = scene();
    let lent = "192.0.2.96/27";
    let refused = on_wire(
        &mut scene,
        "a",
        lent,
        None,
        &[("type", "ipvlan"), ("parent", "eth0")],
    );
    let refused = refused.unwrap_err();
    assert!(
        refused.contains("type: ipvlan") && refused.contains("macvlan"),
        "{refused}"
    );
    for (other, options) in [
        ("eth1", vec![MACVLAN[0], ("parent", "eth1")]),
        ("no parent", vec![MACVLAN[0]]),
    ] {
        let refused = on_wire(&mut scene, "a", lent, None, &options).unwrap_err();
        assert!(refused.contains(&format!("parent: {other}")), "{refused}");
    }
    on_wire(&mut scene, "a", lent, None, &MACVLAN).unwrap();
}

#[test]
fn a_rate_on_a_wire_is_refused() {
    let mut scene = scene();
    on_wire(&mut scene, "a", "192.0.2.0/24", None, &MACVLAN).unwrap();
    let refused = scene.ask(Command::CreateEndpoint {
        id: "e".parse().unwrap(),
        network: "a".parse().unwrap(),
        addresses: vec!["192.0.2.7/24".parse().unwrap()],
        mac: None,
        rate: Some(125_000),
        sysctls: Vec::new(),
    });
    let refused = refused.unwrap_err();
    assert!(refused.contains("rate: 125000 bytes a second"), "{refused}");
}

#[test]
fn links_that_share_a_hardware_address_have_none_of_their_own() {
    let mut scene = scene();
    let l3 = [("type", "ipvlan"), ("parent", "eth0"), ("ipvlan_mode", "l3")];
    on_wire(&mut scene, "a", "192.0.2.0/24", None, &l3).unwrap();
    let refused = scene.ask(Command::CreateEndpoint {
        id: "e".parse().unwrap(),
        network: "a".parse().unwrap(),
        addresses: vec!["192.0.2.7/24".parse().unwrap()],
        mac: Some("02:00:00:00:00:01".parse().unwrap()),
        rate: None,
        sysctls: Vec::new(),
    });
    assert!(refused.unwrap_err().contains("MacAddress"));
    assert_eq!(
        scene.endpoint("e", "a", "192.0.2.7/24"),
        Ok(Reply::Endpoint { chosen: None })
    );
    let joined = join(&mut scene, "a", "f", "192.0.2.8/24");
    assert_eq!(joined.routes, ["0.0.0.0/0".parse().unwrap()]);
}

#[test]
fn a_containers_link_is_made_once_and_taken_for_there_when_it_is_out_of_sight() {
    let mut scene = scene();
    on_wire(&mut scene, "a", "192.0.2.0/24", None, &MACVLAN).unwrap();
    join(&mut scene, "a", "e", "192.0.2.7/24");
    let desired = scene.state.world();
    let mut observed = desired.clone();
    observed.retain(|key, _| !matches!(key, Key::Child(_)));
    scene.state.out_of_sight(&desired, &mut observed);
    assert!(diff(&desired, &observed).is_empty());
    // One that nobody has any more is swept.
    let key = Key::Child("tbcffffffffffff".parse().unwrap());
    observed.insert(key.clone(), Value::Present);
    assert_eq!(diff(&desired, &observed), [Step::Remove(key, Value::Present)]);
}
