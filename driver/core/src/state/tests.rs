//! What comes in, and what must come out.

mod wires;

use super::*;
use crate::kinds::options::Options;
use crate::kinds::{Found, Spec, Theirs};
use crate::model::{Attach, Published, Subnet};
use crate::world::{Setting, diff};

/// A state together with the surroundings of its commands.
struct Scene {
    state: State,
    serves: bool,
    busy: Option<u16>,
    reserved: Vec<std::ops::RangeInclusive<u16>>,
    found: Found,
    outside: Option<String>,
    attach: Attach,
    enterable: bool,
}

impl Scene {
    fn new() -> Self {
        Self {
            state: State::default(),
            serves: true,
            busy: None,
            reserved: Vec::new(),
            found: Found::default(),
            outside: None,
            attach: Attach::Classic,
            enterable: false,
        }
    }

    fn ask(&mut self, command: Command) -> Result<Reply, String> {
        let carve = [
            "10.208.0.0/16:24".parse().unwrap(),
            "fd00::/48:64".parse().unwrap(),
        ];
        let (busy, reserved) = (self.busy, self.reserved.clone());
        let around = Surroundings {
            now_s: 0,
            carve: &carve,
            avoid: &[],
            engine_serves: self.serves,
            engine_pools: &BTreeMap::new(),
            ephemeral: &|| Ephemeral {
                first: 32768,
                last: 32770,
                reserved: reserved.clone(),
            },
            port: &|_, host, port| match host.to_string().as_str() {
                "198.51.100.1" => HostPort::Elsewhere,
                _ if Some(port) == busy => HostPort::Taken,
                _ => HostPort::Free,
            },
            port_holder: &|_, _, _| None,
            container_name: &|_| None,
            lent: &|address| {
                let lent = address.to_string() == "192.0.2.99";
                lent.then(|| ("0e:7b:00:00:00:01".parse().unwrap(), "192.0.2.1".parse().ok()))
            },
            lender: &|pool| {
                let lent = pool.to_string() == "192.0.2.96/27";
                lent.then(|| "eth0".parse().unwrap())
            },
            host_binding: None,
            found: self.found,
            outside: self.outside.as_deref(),
            attach: self.attach,
            enterable: self.enterable,
        };
        let decision = self.state.decide(&command, &around);
        match (&command, &decision) {
            (_, Err(refusal)) => self.state.owe_release(refusal),
            (Command::ReleasePool(pool), _) => self.state.released(pool),
            _ => {}
        }
        let (edits, reply) = decision.map_err(|refusal| refusal.to_string())?;
        for edit in edits {
            self.state.apply(edit);
        }
        Ok(reply)
    }

    fn network(&mut self, id: &str, pool: &str) -> Result<Reply, String> {
        self.ask(Command::CreateNetwork(network(id, pool)))
    }

    fn endpoint(&mut self, id: &str, network: &str, address: &str) -> Result<Reply, String> {
        self.ask(Command::CreateEndpoint {
            id: id.parse().unwrap(),
            network: network.parse().unwrap(),
            addresses: vec![address.parse().unwrap()],
            mac: None,
            rate: None,
            sysctls: Vec::new(),
        })
    }

    fn publish(
        &mut self,
        network: &str,
        endpoint: &str,
        wishes: Vec<PortWish>,
    ) -> Result<Vec<Published>, String> {
        let id: EndpointId = endpoint.parse().unwrap();
        let network = network.parse().unwrap();
        self.ask(Command::Publish {
            network,
            endpoint: id.clone(),
            wishes,
        })?;
        Ok(self.state.endpoint(&id).unwrap().published.clone())
    }

    /// What Docker asks for a network of ours with our IPAM.
    fn with_pool(&mut self, id: &str, pool: &str) -> Result<PoolId, String> {
        let request = PoolRequest {
            space: Space::Local,
            want: ipam::Want::Exactly(pool.parse().unwrap()),
            range: None,
            v6: false,
            repeat: true,
        };
        let Reply::Pool(pool_id) = self.ask(Command::RequestPool(request))? else {
            panic!("no pool")
        };
        self.ask(Command::RequestAddress {
            pool: pool_id,
            address: None,
            usage: Use::Gateway,
            repeat: false,
        })?;
        self.network(id, pool)?;
        Ok(pool_id)
    }
}

fn network(id: &str, pool: &str) -> Network {
    let pool: IpNet = pool.parse().unwrap();
    let gateway = IpNet::new(pool.hosts().next().unwrap(), pool.prefix_len()).unwrap();
    Network {
        id: id.parse().unwrap(),
        spec: Spec::read(Options::default(), pool.addr().is_ipv6()).unwrap(),
        internal: false,
        subnets: vec![Subnet {
            pool,
            gateway: Some(gateway),
            aux: vec![],
            way_out: None,
            ours: true,
        }],
        released: false,
        attach: None,
    }
}

fn wish(proto: Proto, first: u16, port: u16) -> PortWish {
    PortWish {
        proto,
        host: None,
        first,
        last: first,
        port,
    }
}

#[test]
fn a_creation_may_be_repeated_but_not_with_other_words() {
    let mut scene = Scene::new();
    scene.network("n1", "10.1.0.0/24").unwrap();
    scene.network("n1", "10.1.0.0/24").unwrap();
    let error = scene.network("n1", "10.2.0.0/24").unwrap_err();
    assert!(
        error.contains("network n1 exists, but with different subnets: 10.1.0.0/24"),
        "{error}"
    );

    let first = scene.endpoint("e1", "n1", "10.1.0.2/24").unwrap();
    assert_eq!(scene.endpoint("e1", "n1", "10.1.0.2/24").unwrap(), first);
    assert!(
        scene
            .endpoint("e1", "n1", "10.1.0.3/24")
            .unwrap_err()
            .contains("different addresses")
    );
}

#[test]
fn networks_that_overlap_are_refused_with_both_subnets() {
    let mut scene = Scene::new();
    scene.network("n1", "10.1.0.0/16").unwrap();
    for pool in ["10.1.2.0/24", "10.0.0.0/8", "10.1.0.0/16"] {
        let error = scene.network("n2", pool).unwrap_err();
        assert!(
            error.contains(&format!("subnet {pool} overlaps 10.1.0.0/16 of network n1")),
            "{error}"
        );
    }
    scene.network("n2", "10.2.0.0/16").unwrap();
}

#[test]
fn subnets_and_gateways_that_cannot_be_are_refused() {
    let mut scene = Scene::new();
    for pool in [
        "127.0.0.0/8",
        "0.0.0.0/1",
        "224.0.0.0/24",
        "fe80::/64",
        "ff05::/64",
    ] {
        assert!(
            scene
                .network("n", pool)
                .unwrap_err()
                .contains("are no container's"),
            "{pool}"
        );
    }
    scene.network("metadata", "169.254.170.0/24").unwrap();
    let mut wrong = network("n", "10.1.0.0/24");
    wrong.subnets[0].gateway = Some("10.1.0.1/8".parse().unwrap());
    assert!(
        scene
            .ask(Command::CreateNetwork(wrong))
            .unwrap_err()
            .contains("its subnet's prefix length")
    );
}

#[test]
fn two_networks_or_endpoints_with_one_link_name_are_refused() {
    let mut scene = Scene::new();
    let same = "0123456789abcdef";
    scene.network(&format!("{same}1"), "10.1.0.0/24").unwrap();
    assert!(
        scene
            .network(&format!("{same}2"), "10.2.0.0/24")
            .unwrap_err()
            .contains("tb-0123456789ab is taken")
    );
    scene
        .endpoint(&format!("{same}1"), &format!("{same}1"), "10.1.0.2/24")
        .unwrap();
    let error = scene
        .endpoint(&format!("{same}2"), &format!("{same}1"), "10.1.0.3/24")
        .unwrap_err();
    assert!(error.contains("tbh0123456789ab is taken by endpoint"), "{error}");
}

#[test]
fn what_takes_down_succeeds_for_the_unknown() {
    let mut scene = Scene::new();
    let endpoint: EndpointId = "e".parse().unwrap();
    let pool: PoolId = "local/10.9.0.0/24".parse().unwrap();
    let commands = [
        Command::DeleteNetwork("n".parse().unwrap()),
        Command::DeleteEndpoint(endpoint.clone()),
        Command::Leave(endpoint.clone()),
        Command::Unpublish(endpoint.clone()),
        Command::Lost(endpoint),
        Command::ReleasePool(pool),
        Command::ReleaseAddress(pool, "10.9.0.2".parse().unwrap()),
    ];
    for command in commands {
        assert!(command.shrinks());
        assert_eq!(scene.ask(command).unwrap(), Reply::Done);
    }
}

#[test]
fn the_link_stays_from_joining_until_the_endpoint_is_deleted() {
    let mut scene = Scene::new();
    scene.network("n", "10.1.0.0/24").unwrap();
    scene.endpoint("e", "n", "10.1.0.2/24").unwrap();
    let (network, id): (NetworkId, EndpointId) = ("n".parse().unwrap(), "e".parse().unwrap());
    let link = Key::Link(id.host_link());
    assert!(!scene.state.world().contains_key(&link));
    assert!(
        !scene.state.world().contains_key(&Key::Setting(Setting::Forward4)),
        "no router before the first container"
    );
    let join = |sandbox: &str| Command::Join {
        network: network.clone(),
        endpoint: id.clone(),
        sandbox: sandbox.to_owned(),
    };
    let Reply::Joined(joined) = scene.ask(join("/run/netns/1")).unwrap() else {
        panic!("not joined")
    };
    assert_eq!(
        (joined.source, joined.gateway),
        (id.container_link(), Some("10.1.0.1".parse().unwrap()))
    );
    assert!(scene.state.world().contains_key(&link));
    assert!(
        scene
            .ask(join("/run/netns/2"))
            .unwrap_err()
            .contains("must leave it first")
    );
    scene.ask(Command::Leave(id.clone())).unwrap();
    assert!(scene.state.world().contains_key(&link));
    scene.ask(Command::DeleteEndpoint(id.clone())).unwrap();
    assert!(!scene.state.world().contains_key(&link));
}

#[test]
fn an_endpoint_with_the_address_of_a_forgotten_one_takes_its_place() {
    let mut scene = Scene::new();
    scene.network("n", "10.1.0.0/24").unwrap();
    scene.endpoint("old", "n", "10.1.0.2/24").unwrap();
    scene.endpoint("new", "n", "10.1.0.2/24").unwrap();
    assert!(scene.state.endpoint(&"old".parse().unwrap()).is_none());
    assert_eq!(scene.state.endpoints_of(&"n".parse().unwrap()).count(), 1);
}

#[test]
fn an_internal_network_has_a_guard_and_no_way_out() {
    let mut scene = Scene::new();
    let mut internal = network("n", "10.1.0.0/24");
    internal.internal = true;
    scene.ask(Command::CreateNetwork(internal)).unwrap();
    scene.endpoint("e", "n", "10.1.0.2/24").unwrap();
    let world = scene.state.world();
    let bridge = NetworkId::bridge_name(&"n".parse().unwrap());
    assert!(world.contains_key(&Key::Guard(bridge.clone())));
    assert!(!world.contains_key(&Key::Masquerade(bridge, Family::V4)));
    let join = Command::Join {
        network: "n".parse().unwrap(),
        endpoint: "e".parse().unwrap(),
        sandbox: "/run/netns/1".to_owned(),
    };
    let Reply::Joined(joined) = scene.ask(join).unwrap() else {
        panic!("not joined")
    };
    assert_eq!((joined.gateway, joined.gateway_v6), (None, None));
    assert!(!scene.state.world().contains_key(&Key::Setting(Setting::Forward4)));
}

#[test]
fn ports_are_published_once_and_ephemeral_ones_kept() {
    let mut scene = Scene::new();
    scene.network("n", "10.1.0.0/24").unwrap();
    scene.endpoint("a", "n", "10.1.0.2/24").unwrap();
    scene.endpoint("b", "n", "10.1.0.3/24").unwrap();
    let published = scene
        .publish(
            "n",
            "a",
            vec![wish(Proto::Tcp, 80, 8080), wish(Proto::Udp, 0, 53)],
        )
        .unwrap();
    assert_eq!(
        (published[0].host_port, published[0].host),
        (80, "0.0.0.0".parse().unwrap())
    );
    assert!((32768..=32770).contains(&published[1].host_port));
    // A second request without a first being revoked, as newer engines send it, changes nothing.
    let again = scene
        .publish(
            "n",
            "a",
            vec![wish(Proto::Tcp, 80, 8080), wish(Proto::Udp, 0, 53)],
        )
        .unwrap();
    assert_eq!(again, published);

    let error = scene
        .publish("n", "b", vec![wish(Proto::Tcp, 80, 80)])
        .unwrap_err();
    assert!(
        error.contains("port 80/tcp on 0.0.0.0: published for endpoint a (10.1.0.2)"),
        "{error}"
    );
    let mut narrow = wish(Proto::Tcp, 80, 80);
    narrow.host = Some("127.0.0.1".parse().unwrap());
    assert!(
        scene
            .publish("n", "b", vec![narrow])
            .unwrap_err()
            .contains("on 127.0.0.1")
    );
    let mut unreachable = wish(Proto::Tcp, 90, 80);
    unreachable.host = Some("::1".parse().unwrap());
    assert!(
        scene
            .publish("n", "b", vec![unreachable])
            .unwrap_err()
            .contains("on ::1: the container has no IPv6 address on this network")
    );
    let mut range = wish(Proto::Tcp, 80, 80);
    range.last = 82;
    assert_eq!(scene.publish("n", "b", vec![range]).unwrap()[0].host_port, 81);
    scene.ask(Command::Unpublish("a".parse().unwrap())).unwrap();
    assert_eq!(
        scene.publish("n", "b", vec![wish(Proto::Tcp, 80, 80)]).unwrap()[0].host_port,
        80
    );
}

#[test]
fn who_has_the_least_choice_gets_a_port_first() {
    let (any, fixed) = (wish(Proto::Tcp, 0, 1), wish(Proto::Tcp, 32768, 3));
    let mut range = wish(Proto::Tcp, 32768, 2);
    range.last = 32769;
    for order in [
        [any, range, fixed],
        [any, fixed, range],
        [range, any, fixed],
        [range, fixed, any],
        [fixed, any, range],
        [fixed, range, any],
    ] {
        let mut scene = Scene::new();
        scene.network("n", "10.1.0.0/24").unwrap();
        scene.endpoint("a", "n", "10.1.0.2/24").unwrap();
        let published = scene.publish("n", "a", order.to_vec()).unwrap();
        let ports: Vec<_> = published.iter().map(|p| (p.port, p.host_port)).collect();
        assert_eq!(ports, [(3, 32768), (2, 32769), (1, 32770)], "{order:?}");
    }
}

#[test]
fn one_port_of_several_addresses_is_the_same_on_each() {
    let mut scene = Scene::new();
    scene.network("n", "10.1.0.0/24").unwrap();
    scene.endpoint("a", "n", "10.1.0.2/24").unwrap();
    scene.endpoint("b", "n", "10.1.0.3/24").unwrap();
    let on = |host: &str, first, port| PortWish {
        host: Some(host.parse().unwrap()),
        ..wish(Proto::Tcp, first, port)
    };
    // Wherever the search begins, one of the ports is taken on one of the addresses.
    for taken in 32768..=32770 {
        scene.publish("n", "b", vec![on("127.0.0.1", taken, 9)]).unwrap();
        let wishes = vec![on("127.0.0.1", 0, 80), on("192.0.2.1", 0, 80)];
        let published = scene.publish("n", "a", wishes).unwrap();
        let ports: Vec<u16> = published.iter().map(|p| p.host_port).collect();
        assert!(
            ports.len() == 2 && ports[0] == ports[1] && ports[0] != taken,
            "{ports:?}"
        );
        scene.ask(Command::Unpublish("a".parse().unwrap())).unwrap();
    }
}

/// A network of both families with options, and an endpoint `e` on it.
fn dual(options: &[(&str, &str)]) -> Scene {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let mut dual = network("n", "10.1.0.0/24");
    dual.subnets.extend(network("n", "fd01::/64").subnets);
    dual.spec = Spec::read(Options::new(options.collect()), true).unwrap();
    let mut scene = Scene::new();
    scene.ask(Command::CreateNetwork(dual)).unwrap();
    scene
        .ask(Command::CreateEndpoint {
            id: "e".parse().unwrap(),
            network: "n".parse().unwrap(),
            addresses: vec!["10.1.0.2/24".parse().unwrap(), "fd01::2/64".parse().unwrap()],
            mac: None,
            rate: None,
            sysctls: Vec::new(),
        })
        .unwrap();
    scene
}

#[test]
fn an_address_of_the_host_is_one_of_its_family_also_where_the_other_is_routed() {
    let mut scene = dual(&[("gateway_mode_ipv6", "routed")]);
    let mut at = |host: Option<&str>| {
        let wish = PortWish {
            host: host.map(|host| host.parse().unwrap()),
            ..wish(Proto::Tcp, 8080, 80)
        };
        let published = scene.publish("n", "e", vec![wish])?;
        let text = |p: &Published| format!("{} {}", p.host, p.host_port);
        Ok::<_, String>(published.iter().map(text).collect::<Vec<_>>())
    };
    assert_eq!(at(None).unwrap(), ["0.0.0.0 8080", "fd01::2 80"]);
    assert_eq!(at(Some("127.0.0.1")).unwrap(), ["127.0.0.1 8080"]);
    assert_eq!(at(Some("2001:db8::1")).unwrap(), ["fd01::2 80"]);
    assert!(at(Some("::1")).unwrap_err().contains("this network is routed"));
}

#[test]
fn a_binding_of_a_family_that_the_container_lacks_is_refused() {
    let mut scene = Scene::new();
    let mut network = network("n", "10.1.0.0/24");
    let options = [("host_binding".to_owned(), "2001:db8::1".to_owned())];
    network.spec = Spec::read(Options::new(options.into()), false).unwrap();
    scene.ask(Command::CreateNetwork(network)).unwrap();
    scene.endpoint("e", "n", "10.1.0.2/24").unwrap();
    let refused = scene
        .publish("n", "e", vec![wish(Proto::Tcp, 8080, 80)])
        .unwrap_err();
    assert!(
        refused.contains("on 2001:db8::1: the container has no IPv6 address"),
        "{refused}"
    );
}

#[test]
fn a_bridge_of_somebody_elses_must_leave_us_what_we_change_of_it() {
    let theirs = |group, localnet| {
        let mut scene = Scene::new();
        scene.found = Found {
            bridge: Some(Theirs { group, localnet }),
            ..Found::default()
        };
        let mut network = network("n", "10.1.0.0/24");
        let options = [("bridge_name".to_owned(), "br0".to_owned())];
        network.spec = Spec::read(Options::new(options.into()), false).unwrap();
        scene.ask(Command::CreateNetwork(network))
    };
    theirs(0, false).unwrap();
    assert!(theirs(5, false).unwrap_err().contains("br0 (link group 5)"));
    assert!(theirs(0, true).unwrap_err().contains("br0 (route_localnet is 1)"));
    // What an earlier try of ours has left.
    theirs(crate::world::ADOPTED_GROUP, true).unwrap();
}

#[test]
fn a_port_that_a_process_of_the_host_has_is_refused() {
    let mut scene = Scene::new();
    scene.network("n", "10.1.0.0/24").unwrap();
    scene.endpoint("a", "n", "10.1.0.2/24").unwrap();
    scene.busy = Some(22);
    assert!(
        scene
            .publish("n", "a", vec![wish(Proto::Tcp, 22, 22)])
            .unwrap_err()
            .contains("a process of this host")
    );
    scene.busy = Some(32769);
    let published = scene
        .publish("n", "a", vec![wish(Proto::Tcp, 0, 1), wish(Proto::Tcp, 0, 2)])
        .unwrap();
    let ports: Vec<u16> = published.iter().map(|p| p.host_port).collect();
    assert!(ports.contains(&32768) && ports.contains(&32770), "{ports:?}");
    scene.ask(Command::Unpublish("a".parse().unwrap())).unwrap();
    scene.reserved = vec![32768..=32768];
    let published = scene.publish("n", "a", vec![wish(Proto::Tcp, 0, 1)]).unwrap();
    assert_eq!(
        published[0].host_port, 32770,
        "the only one that is neither taken nor kept"
    );
    let mut foreign = wish(Proto::Tcp, 80, 80);
    foreign.host = Some("198.51.100.1".parse().unwrap());
    let refused = scene.publish("n", "a", vec![foreign]).unwrap_err();
    assert!(
        refused.contains("on 198.51.100.1: this host has no such address"),
        "{refused}"
    );
    scene.reserved.clear();
    let three = [1, 2, 3].map(|port| wish(Proto::Tcp, 0, port)).to_vec();
    assert!(
        scene
            .publish("n", "a", three)
            .unwrap_err()
            .contains("32768-32770")
    );
}

#[test]
fn a_pool_is_asked_for_again_only_while_the_engine_starts() {
    let mut scene = Scene::new();
    let pool = scene.with_pool("n", "10.1.0.0/24").unwrap();
    assert!(
        scene
            .with_pool("m", "10.1.0.0/24")
            .unwrap_err()
            .contains("pool 10.1.0.0/24 is used by network n")
    );
    scene.serves = false;
    let again = |address: &str| Command::RequestAddress {
        pool,
        address: Some(address.parse().unwrap()),
        usage: Use::Endpoint { name: None },
        repeat: true,
    };
    assert_eq!(
        scene.ask(again("10.1.0.9")).unwrap(),
        scene.ask(again("10.1.0.9")).unwrap()
    );
    scene.serves = true;
    assert!(scene.ask(again("10.1.0.9")).unwrap_err().contains("10.1.0.9"));
}

#[test]
fn an_address_that_a_running_container_has_is_no_repeat_whatever_is_known_of_the_engine() {
    let mut scene = Scene::new();
    let pool = scene.with_pool("n", "10.1.0.0/24").unwrap();
    scene.serves = false;
    let again = || Command::RequestAddress {
        pool,
        address: Some("10.1.0.9".parse().unwrap()),
        usage: Use::Endpoint { name: None },
        repeat: true,
    };
    scene.ask(again()).unwrap();
    scene.endpoint("a", "n", "10.1.0.9/24").unwrap();
    scene.ask(again()).unwrap();
    let join = Command::Join {
        network: "n".parse().unwrap(),
        endpoint: "a".parse().unwrap(),
        sandbox: "/var/run/docker/netns/1".to_owned(),
    };
    scene.ask(join).unwrap();
    assert!(scene.ask(again()).unwrap_err().contains("10.1.0.9"));
    scene.ask(Command::Lost("a".parse().unwrap())).unwrap();
    scene.ask(again()).unwrap();
}

#[test]
fn undoing_a_refused_second_network_takes_nothing_from_the_first() {
    let mut scene = Scene::new();
    scene.serves = false;
    let pool = scene.with_pool("n", "10.1.0.0/24").unwrap();
    // The second one's request for the pool is granted as a repeat; that for a gateway is not, and Docker undoes it.
    assert!(scene.with_pool("m", "10.1.0.0/24").is_err());
    scene.ask(Command::ReleasePool(pool)).unwrap();
    assert!(scene.state.ipam().pool(&pool).is_some());
    // The first one's own release is heard.
    scene.ask(Command::ReleasePool(pool)).unwrap();
    assert!(scene.state.ipam().pool(&pool).is_none());
}

#[test]
fn giving_back_one_range_of_a_subnet_leaves_the_network_of_the_other_alone() {
    let mut scene = Scene::new();
    let mut pool = |range: &str| {
        let request = PoolRequest {
            space: Space::Local,
            want: ipam::Want::Exactly("10.1.0.0/24".parse().unwrap()),
            range: Some(range.parse().unwrap()),
            v6: false,
            repeat: true,
        };
        match scene.ask(Command::RequestPool(request)).unwrap() {
            Reply::Pool(pool) => pool,
            other => panic!("{other:?}"),
        }
    };
    let (first, second) = (pool("10.1.0.0/25"), pool("10.1.0.128/25"));
    let gateway = Command::RequestAddress {
        pool: first,
        address: Some("10.1.0.1".parse().unwrap()),
        usage: Use::Gateway,
        repeat: false,
    };
    scene.ask(gateway).unwrap();
    scene.network("n1", "10.1.0.0/24").unwrap();

    scene.ask(Command::ReleasePool(second)).unwrap();
    let refused = scene.network("n2", "10.1.0.0/24").unwrap_err();
    assert!(refused.contains("overlaps"), "{refused}");
    scene.ask(Command::ReleasePool(first)).unwrap();
    scene.network("n2", "10.1.0.0/24").unwrap();
}

#[test]
fn what_is_left_of_a_creation_whose_answer_was_lost_gives_way() {
    let mut scene = Scene::new();
    let pool = scene.with_pool("lost", "10.1.0.0/24").unwrap();
    scene.ask(Command::ReleasePool(pool)).unwrap();
    scene.with_pool("next", "10.1.0.0/24").unwrap();
    let ids: Vec<&str> = scene.state.networks().map(|n| n.id.as_str()).collect();
    assert_eq!(ids, ["next"]);
}

#[test]
fn taking_edits_back_restores_the_facts() {
    let mut scene = Scene::new();
    scene.network("n", "10.1.0.0/24").unwrap();
    scene.endpoint("e", "n", "10.1.0.2/24").unwrap();
    let before = scene.state.world();
    let edits = vec![
        Edit::Endpoint("e".parse().unwrap(), None),
        Edit::Network("n".parse().unwrap(), None),
        Edit::Network("m".parse().unwrap(), Some(network("m", "10.1.0.0/16"))),
    ];
    let mut taken: Vec<Edit> = edits.into_iter().map(|edit| scene.state.apply(edit)).collect();
    taken.reverse();
    assert!(!diff(&before, &scene.state.world()).is_empty());
    taken.into_iter().for_each(|edit| drop(scene.state.apply(edit)));
    assert!(diff(&before, &scene.state.world()).is_empty());
    scene.network("m", "10.2.0.0/16").unwrap();
}

#[test]
fn no_networks_no_facts() {
    let mut scene = Scene::new();
    scene.network("n", "10.1.0.0/24").unwrap();
    assert!(scene.state.world().contains_key(&Key::Table));
    scene.ask(Command::DeleteNetwork("n".parse().unwrap())).unwrap();
    assert!(scene.state.world().is_empty());
}

#[test]
fn addresses_without_an_endpoint_are_those_that_had_one_or_will() {
    let mut scene = Scene::new();
    let pool = scene.with_pool("n1", "10.1.0.0/24").unwrap();
    let unheld = |scene: &Scene| {
        scene
            .state
            .unheld()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(unheld(&scene), [""; 0], "the gateway is no endpoint's");
    for address in ["10.1.0.7", "10.1.0.9"] {
        scene
            .ask(Command::RequestAddress {
                pool,
                address: Some(address.parse().unwrap()),
                usage: Use::Endpoint { name: None },
                repeat: false,
            })
            .unwrap();
    }
    scene.endpoint("e7", "n1", "10.1.0.7/24").unwrap();
    assert_eq!(unheld(&scene), ["10.1.0.7", "10.1.0.9"]);
    scene
        .ask(Command::Join {
            network: "n1".parse().unwrap(),
            endpoint: "e7".parse().unwrap(),
            sandbox: "/run/x".to_owned(),
        })
        .unwrap();
    assert_eq!(unheld(&scene), ["10.1.0.9"]);
    let release = Command::ReleaseAddress(pool, "10.1.0.9".parse().unwrap());
    scene.ask(release).unwrap();
    assert_eq!(unheld(&scene), ["10.1.0.9"], "it cools");
    scene.ask(Command::DeleteEndpoint("e7".parse().unwrap())).unwrap();
    assert_eq!(unheld(&scene), ["10.1.0.7", "10.1.0.9"]);
}

/// A network that shares its addresses with others of the cluster.
fn shared(id: &str, pool: &str) -> Command {
    let options = Options::new([("net".to_owned(), "app".to_owned())].into());
    Command::CreateNetwork(Network {
        spec: Spec::read(options, false).unwrap(),
        ..network(id, pool)
    })
}

#[test]
fn a_pool_of_the_cluster_is_for_networks_that_say_so_and_leases_only_from_its_share() {
    use tombolo_ipam::share::Deal;
    let pool: IpNet = "10.1.0.0/24".parse().unwrap();
    let mut scene = Scene::new();
    let id = scene.with_pool("old", "10.1.0.0/24").unwrap();
    scene.ask(Command::DeleteNetwork("old".parse().unwrap())).unwrap();
    let refused = scene.ask(shared("aaa", "10.1.0.0/24")).unwrap_err();
    assert!(refused.contains("is in no cluster"), "{refused}");
    let deal = |at, pieces: &[&str]| {
        let pieces = pieces.iter().map(|net| (net.parse().unwrap(), 1)).collect();
        let gifts = Vec::new();
        Command::Deal(pool, Deal::Grant { at, pieces, gifts })
    };
    let Ok(Reply::Share(Some(share))) = scene.ask(deal(1, &[])) else {
        panic!("there is a share")
    };
    assert_eq!((share.applied, share.pieces.len()), (1, 0));
    let refused = scene.network("aaa", "10.1.0.0/24").unwrap_err();
    assert!(refused.contains("-o net=NAME"), "{refused}");
    scene.ask(shared("aaa", "10.1.0.0/24")).unwrap();
    let lease = Command::RequestAddress {
        pool: id,
        address: None,
        usage: Use::Endpoint { name: None },
        repeat: false,
    };
    let refused = scene.ask(lease.clone()).unwrap_err();
    assert!(refused.contains("10.1.0.0/24"), "{refused}");
    scene.ask(deal(2, &["10.1.0.64/26"])).unwrap();
    let Ok(Reply::Address(address)) = scene.ask(lease.clone()) else {
        panic!("there is room")
    };
    assert_eq!(address.to_string(), "10.1.0.64/24");
    scene.outside = Some("it was forgotten".to_owned());
    let refused = scene.ask(lease).unwrap_err();
    assert!(refused.contains("it was forgotten"), "{refused}");
}
