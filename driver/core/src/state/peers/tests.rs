//! What follows from what other hosts have, and that it follows as it comes in just as from all at once.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tombolo_ipam::HostId;

use super::*;
use crate::kinds::options::Options;
use crate::kinds::{Agreed, Found, Spec};
use crate::model::{Endpoint, Subnet};
use crate::state::{Edit, State};
use crate::world::{Hop, Key, diff};

fn host(n: u8) -> HostId {
    HostId::from_bytes([n; 16])
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn mac(n: u8) -> Mac {
    Mac::from_bytes([2, 0x7b, 0, 0, 0, n]).unwrap()
}

/// A network of a kind on two pools.
fn network(options: &[(&str, &str)]) -> Network {
    let given = options
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let mut spec = Spec::read(Options::new(given.collect()), true).unwrap();
    spec.agree(Agreed {
        vni: Some(70_000),
        mtu: None,
    });
    spec.note(Found {
        path_mtu: None,
        tunnel_mtu: Some(1450),
        bridge: None,
    });
    let subnet = |pool: &str, gateway: &str| Subnet {
        pool: net(pool),
        gateway: Some(gateway.parse().unwrap()),
        aux: vec![],
        way_out: None,
        ours: true,
    };
    Network {
        id: "0123456789abcdef".parse().unwrap(),
        spec,
        internal: false,
        subnets: vec![
            subnet("10.42.0.0/16", "10.42.0.1/16"),
            subnet("fd42::/64", "fd42::1/64"),
        ],
        released: false,
        attach: None,
    }
}

fn remote(n: u8, via: u8, addresses: &[&str]) -> Remote {
    Remote {
        pool: net("10.42.0.0/16"),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        mac: mac(n),
        via: IpAddr::from([192, 0, 2, via]),
    }
}

fn reach(via: u8) -> Reach {
    let hop = |via: IpAddr| {
        vec![Hop {
            via,
            link: "eth0".parse().unwrap(),
        }]
    };
    Reach {
        v4: hop(IpAddr::from([192, 0, 2, via])),
        v6: hop("fe80::2".parse().unwrap()),
        // Some hosts have a second address.
        ways: match via {
            4.. => vec![IpAddr::from([192, 0, 2, via]), IpAddr::from([198, 51, 100, via])],
            _ => vec![],
        },
    }
}

fn rows(rows: Vec<(HostId, &str, Option<Remote>)>) -> News {
    News {
        endpoints: rows
            .into_iter()
            .map(|(host, key, row)| (host, key.into(), row))
            .collect(),
        underlay: Some(Underlay {
            vtep: IpAddr::from([192, 0, 2, 1]),
            several: false,
            port: 4789,
        }),
        ..News::default()
    }
}

/// The groups of some addresses, heard at a VTEP.
fn heard(via: u8, groups: &[&str]) -> Heard {
    let groups = groups
        .iter()
        .map(|text| Group::of(text.parse().unwrap()).unwrap());
    Heard {
        pool: net("10.42.0.0/16"),
        groups: groups.collect(),
        via: IpAddr::from([192, 0, 2, via]),
    }
}

fn groups(rows: Vec<(HostId, &str, Option<Heard>)>) -> News {
    let rows = rows.into_iter();
    News {
        heard: rows.map(|(host, key, row)| (host, key.into(), row)).collect(),
        ..News::default()
    }
}

/// What is new in the world once a state has heard something, as an operator would type it.
fn steps(state: &mut State, news: News) -> Vec<String> {
    let before = state.world();
    let owners = state.concerned(&news);
    let facts = |state: &State| {
        let mut world = World::new();
        owners.iter().for_each(|owner| state.facts(owner, &mut world));
        world
    };
    let concerned = facts(state);
    state.hear(news);
    let steps = diff(&facts(state), &concerned);
    assert_eq!(
        steps,
        diff(&state.world(), &before),
        "not all that has changed was concerned"
    );
    steps.iter().map(ToString::to_string).collect()
}

fn with(network: Network) -> State {
    let mut state = State::default();
    state.apply(Edit::Network(network.id.clone(), Some(network)));
    state
}

fn here(address: &str, n: u8) -> Endpoint {
    Endpoint {
        id: format!("ee{n:010}").parse().unwrap(),
        network: "0123456789abcdef".parse().unwrap(),
        addresses: vec![address.parse().unwrap()],
        mac: mac(n),
        mac_chosen: true,
        sandbox: Some("/ns".to_owned()),
        linked: true,
        published: vec![],
        rate: None,
        way_out: None,
        inside: false,
        sysctls: Vec::new(),
    }
}

#[test]
fn an_overlay_forwards_to_where_an_endpoint_is() {
    let mut state = with(network(&[("type", "overlay")]));
    let tunnel = steps(&mut state, rows(vec![]));
    assert_eq!(
        tunnel,
        [
            "ip link add tbv0123456789ab mtu 1450 group 29807 up type vxlan id 70000 local 192.0.2.1 dstport 4789 nolearning",
            "ip link set tb-0123456789ab type bridge mcast_snooping 1 mcast_querier 1 mcast_igmp_version 3 mcast_mld_version 2 \
             mcast_query_response_interval 100",
            "ip link set tbv0123456789ab master tb-0123456789ab up type bridge_slave learning off neigh_suppress on isolated off \
             mcast_flood on bcast_flood on mcast_router 2",
        ]
    );
    let news = rows(vec![(
        host(2),
        "e1",
        Some(remote(7, 2, &["10.42.0.7", "fd42::7"])),
    )]);
    let came = steps(&mut state, news);
    let unicast: Vec<&String> = came.iter().filter(|step| !step.contains("append")).collect();
    assert_eq!(
        unicast,
        [
            "ip neigh replace 10.42.0.7 lladdr 02:7b:00:00:00:07 dev tb-0123456789ab nud permanent",
            "ip neigh replace fd42::7 lladdr 02:7b:00:00:00:07 dev tb-0123456789ab nud permanent",
            "bridge fdb replace 02:7b:00:00:00:07 dev tbv0123456789ab self master static dst 192.0.2.2",
        ]
    );
    let broadcast = "bridge fdb append ff:ff:ff:ff:ff:ff dev tbv0123456789ab self permanent dst 192.0.2.2";
    assert!(came.iter().any(|step| step == broadcast), "{came:?}");
    // A second one there is no second copy of what goes to everybody.
    let news = rows(vec![(host(2), "e2", Some(remote(8, 2, &["10.42.0.8"])))]);
    assert_eq!(steps(&mut state, news).len(), 2);
    // They go with their host.
    let gone = steps(
        &mut state,
        rows(vec![(host(2), "e1", None), (host(2), "e2", None)]),
    );
    assert_eq!(gone.len(), came.len() + 2);
    assert!(gone.iter().all(|step| step.contains("delete")), "{gone:?}");
}

#[test]
fn endpoints_of_a_host_on_several_wires_are_spread_over_these() {
    let mut state = with(network(&[("type", "overlay"), ("multicast", "off")]));
    let all = (10..60).map(|n| {
        let (key, address) = (format!("e{n}"), format!("10.42.0.{n}"));
        (host(5), key.into(), Some(remote(n, 5, &[&address])))
    });
    let news = |reach| News {
        underlay: Some(Underlay {
            vtep: IpAddr::from([192, 0, 2, 1]),
            several: true,
            port: 4789,
        }),
        reach: vec![(host(5), Some(reach))],
        ..News::default()
    };
    let first = News {
        endpoints: all.collect(),
        ..news(reach(5))
    };
    let made = steps(&mut state, first);
    let to = |steps: &[String], via: &str| steps.iter().filter(|step| step.ends_with(via)).count();
    // The kernel chooses the source by the route.
    assert!(made[0].contains("id 70000 local 0.0.0.0 dstport"), "{made:?}");
    let (here, there) = (to(&made, "dst 192.0.2.5"), to(&made, "dst 198.51.100.5"));
    assert_eq!(here + there, 50);
    assert!(here > 10 && there > 10, "{here} and {there}");

    // Groups go by one of them.
    let heard = heard(5, &["239.1.2.3"]);
    let mut other = with(network(&[("type", "overlay")]));
    steps(&mut other, news(reach(5)));
    let listens = groups(vec![(host(5), "mc/0", Some(heard))]);
    let joined = steps(&mut other, listens);
    let first = reach(5).way(
        IpAddr::from([192, 0, 2, 5]),
        Mac::of_net(&network(&[("type", "overlay")])),
    );
    assert!(
        joined.len() == 1 && joined[0].ends_with(&format!("dst {first}")),
        "{joined:?}"
    );
    let second = reach(5).ways.into_iter().find(|way| *way != first).unwrap();
    let one = Reach {
        ways: vec![second],
        ..reach(5)
    };
    let moved = steps(&mut other, news(one));
    assert!(
        moved
            .iter()
            .any(|step| step.contains("append") && step.ends_with(&format!("dst {second}"))),
        "{moved:?}"
    );
    assert_eq!(moved.len(), 2, "{moved:?}");

    // What was on the wire that is cut goes by the other one, and nothing else moves.
    let one = Reach {
        ways: vec![IpAddr::from([198, 51, 100, 5])],
        ..reach(5)
    };
    let cut = steps(&mut state, news(one));
    assert_eq!((cut.len(), to(&cut, "dst 198.51.100.5")), (here, here));
    let mended = steps(&mut state, news(reach(5)));
    assert_eq!((mended.len(), to(&mended, "dst 192.0.2.5")), (here, here));
}

#[test]
fn what_is_sent_to_a_group_goes_to_the_hosts_that_hear_it() {
    let mut state = with(network(&[("type", "overlay")]));
    steps(&mut state, rows(vec![]));
    let line = |verb: &str, mac: &str, via: u8| {
        format!("bridge fdb {verb} {mac} dev tbv0123456789ab self permanent dst 192.0.2.{via}")
    };
    let (v4, v6) = ("01:00:5e:01:02:03", "33:33:00:00:12:34");
    let two = heard(2, &["239.1.2.3", "ff15::1234"]);
    let news = groups(vec![
        (host(2), "mc/0", Some(two)),
        (host(3), "mc/0", Some(heard(3, &["239.1.2.3"]))),
    ]);
    assert_eq!(
        steps(&mut state, news),
        [
            line("append", v4, 2),
            line("append", v4, 3),
            line("append", v6, 2)
        ]
    );
    // One group by another address is in the same frames, and another row of one host's changes nothing.
    let news = groups(vec![
        (host(3), "mc/0", Some(heard(3, &["224.1.2.3"]))),
        (host(2), "mc/1", Some(heard(2, &["239.1.2.3"]))),
    ]);
    assert_eq!(steps(&mut state, news), Vec::<String>::new());
    let news = groups(vec![
        (host(2), "mc/0", Some(heard(2, &["ff15::1234"]))),
        (host(3), "mc/0", None),
    ]);
    assert_eq!(steps(&mut state, news), [line("delete", v4, 3)]);
    assert_eq!(
        steps(&mut state, groups(vec![(host(2), "mc/1", None)])),
        [line("delete", v4, 2)]
    );
    // What goes to all hosts with endpoints anyway isn't said twice, and nothing goes to this host itself, or of another pool.
    let nothing = [
        heard(2, &["239.0.0.251", "ff05::1"]),
        heard(1, &["239.1.2.3"]),
        Heard {
            pool: net("10.43.0.0/16"),
            ..heard(2, &["239.1.2.3"])
        },
    ];
    for (n, heard) in nothing.into_iter().enumerate() {
        let news = groups(vec![(host(4), "mc/0", Some(heard))]);
        assert_eq!(steps(&mut state, news), Vec::<String>::new(), "{n}");
    }
    let all = News {
        everything: true,
        ..News::default()
    };
    assert_eq!(steps(&mut state, all), [line("delete", v6, 2)]);
}

#[test]
fn where_groups_stay_on_their_host_nobody_is_sent_any() {
    for options in [
        &[("type", "overlay"), ("multicast", "off")][..],
        &[("type", "host-gateway"), ("fallback", "overlay")],
        &[("type", "host-gateway")],
    ] {
        let mut state = with(network(options));
        let tunnel = steps(&mut state, rows(vec![]));
        assert!(
            tunnel.iter().all(|step| !step.contains("mcast_querier")),
            "{tunnel:?}"
        );
        let news = groups(vec![(host(2), "mc/0", Some(heard(2, &["239.1.2.3"])))]);
        assert_eq!(steps(&mut state, news), Vec::<String>::new());
    }
}

#[test]
fn what_two_vteps_of_a_host_lead_to_stays_while_one_of_them_does() {
    let mut state = with(network(&[("type", "overlay")]));
    let second = Remote {
        via: IpAddr::from([198, 51, 100, 5]),
        ..remote(8, 5, &["10.42.0.8"])
    };
    let both = News {
        reach: vec![(host(5), Some(reach(5)))],
        ..rows(vec![
            (host(5), "e1", Some(remote(7, 5, &["10.42.0.7"]))),
            (host(5), "e2", Some(second)),
        ])
    };
    steps(&mut state, both);
    let gone = steps(&mut state, rows(vec![(host(5), "e1", None)]));
    assert_eq!(gone.len(), 2, "{gone:?}");
    assert!(
        !gone.iter().any(|step| step.contains("permanent dst")),
        "{gone:?}"
    );
}

#[test]
fn who_was_heard_of_last_has_the_address_and_this_host_before_all() {
    let mut state = with(network(&[("type", "overlay"), ("multicast", "off")]));
    steps(
        &mut state,
        rows(vec![(host(2), "e1", Some(remote(7, 2, &["10.42.0.7"])))]),
    );
    // The container has moved: the news of its start is here before that of its end.
    let moved = steps(
        &mut state,
        rows(vec![(host(3), "e9", Some(remote(7, 3, &["10.42.0.7"])))]),
    );
    assert_eq!(
        moved,
        ["bridge fdb replace 02:7b:00:00:00:07 dev tbv0123456789ab self master static dst 192.0.2.3"]
    );
    assert_eq!(
        steps(&mut state, rows(vec![(host(2), "e1", None)])),
        Vec::<String>::new()
    );
    // And it comes here.
    let before = state.world();
    let endpoint = here("10.42.0.7/16", 7);
    let edit = Edit::Endpoint(endpoint.id.clone(), Some(endpoint.clone()));
    let owners: BTreeSet<Owner> = state.owners(&edit).into_iter().collect();
    state.apply(edit);
    let lost: Vec<String> = diff(&state.world(), &before)
        .iter()
        .filter(|step| step.removes())
        .map(ToString::to_string)
        .collect();
    assert_eq!(lost.len(), 2, "{lost:?}");
    assert!(owners.contains(&Owner::Remote(net("10.42.0.0/16"), Place::Mac(mac(7)))));
    assert!(owners.contains(&Owner::Remote(
        net("10.42.0.0/16"),
        Place::Address("10.42.0.7".parse().unwrap())
    )));
    // It ends here, and what the other host still says holds again.
    let before = state.world();
    state.apply(Edit::Endpoint(endpoint.id.clone(), None));
    let back = diff(&state.world(), &before);
    assert_eq!(back.iter().filter(|step| !step.removes()).count(), 2, "{back:?}");
}

/// The hardware address by which containers of this host reach the address that moves.
fn seen(state: &State) -> Option<Mac> {
    let sight = state.sight(net("10.42.0.0/16"), "10.42.0.7".parse().unwrap());
    sight.map(|sight| sight.mac)
}

#[test]
fn an_address_is_seen_as_its_own_container_or_as_the_host_that_answers_for_it() {
    let gateway = |network: &Network| Some(Mac::of_net(network));
    let moved = || rows(vec![(host(2), "e1", Some(remote(7, 2, &["10.42.0.7"])))]);
    let with_reach = |reach: Reach| News {
        reach: vec![(host(2), Some(reach))],
        ..rows(vec![])
    };
    let routes: [&[(&str, &str)]; 2] = [
        &[("type", "host-gateway")],
        &[("type", "host-gateway"), ("fallback", "overlay")],
    ];
    for (options, far) in [(routes[0], None), (routes[1], Some(mac(7)))] {
        let network = network(options);
        let mut state = with(network.clone());
        assert_eq!(seen(&state), None);
        // Not on a wire with this host, then on one.
        steps(&mut state, moved());
        assert_eq!(seen(&state), far);
        steps(&mut state, with_reach(reach(2)));
        assert_eq!(seen(&state), gateway(&network));
    }
    let mut state = with(network(&[("type", "overlay")]));
    steps(&mut state, moved());
    assert_eq!(seen(&state), Some(mac(7)));
    // One that is here, and has not begun yet, is nowhere.
    let mut endpoint = here("10.42.0.7/16", 8);
    endpoint.linked = false;
    let edit = |endpoint: &Endpoint| Edit::Endpoint(endpoint.id.clone(), Some(endpoint.clone()));
    let sighted = state.sighted(&edit(&endpoint));
    assert_eq!(sighted, [(net("10.42.0.0/16"), "10.42.0.7".parse().unwrap())]);
    state.apply(edit(&endpoint));
    assert_eq!(seen(&state), None);
    endpoint.linked = true;
    state.apply(edit(&endpoint));
    let sight = |state: &State| state.sight(net("10.42.0.0/16"), "10.42.0.7".parse().unwrap());
    assert_eq!(
        sight(&state).map(|sight| (sight.mac, sight.watched)),
        Some((mac(8), false))
    );
    state.apply(edit(&here("10.42.0.9/16", 9)));
    assert_eq!(
        sight(&state).map(|sight| (sight.mac, sight.watched)),
        Some((mac(8), true))
    );
    // A network that stays on its host has no such addresses.
    let state = with(network(&[]));
    assert_eq!(state.sighted(&edit(&endpoint)), []);
}

#[test]
fn a_tunnel_ends_at_hosts_with_endpoints_that_are_reached_no_other_way() {
    let ends = |options: &[(&str, &str)], told: Vec<News>| {
        let network = network(options);
        let mut state = with(network.clone());
        told.into_iter().for_each(|news| state.hear(news));
        let ends = state.tunnel_ends(&network).into_iter();
        ends.map(|(host, vtep)| format!("{} at {vtep}", &host.to_string()[..2]))
            .collect::<Vec<_>>()
    };
    let endpoints = || {
        rows(vec![
            (host(2), "e1", Some(remote(7, 2, &["10.42.0.7"]))),
            (host(2), "e2", Some(remote(8, 2, &["10.42.0.8"]))),
            (host(3), "e1", Some(remote(9, 3, &["10.42.0.9"]))),
            // A copy of this host has its VTEP.
            (host(4), "e1", Some(remote(6, 1, &["10.42.0.6"]))),
        ])
    };
    let near = |reach: Reach| News {
        reach: vec![(host(2), Some(reach))],
        ..rows(vec![])
    };
    let both = ["02 at 192.0.2.2", "03 at 192.0.2.3"];
    let overlay = [("type", "overlay")];
    assert_eq!(ends(&overlay, vec![endpoints(), near(reach(2))]), both);
    assert_eq!(ends(&overlay, vec![near(reach(2))]), [""; 0]);
    let fallback = [("type", "host-gateway"), ("fallback", "overlay")];
    assert_eq!(ends(&fallback, vec![endpoints(), near(reach(2))]), both[1..]);
    // Of two families one has no way without the tunnel.
    let half = Reach {
        v6: vec![],
        ..reach(2)
    };
    assert_eq!(ends(&fallback, vec![endpoints(), near(half)]), both);
    assert_eq!(ends(&[("type", "host-gateway")], vec![endpoints()]), [""; 0]);
}

#[test]
fn what_no_honest_host_says_changes_nothing() {
    let mut state = with(network(&[("type", "overlay"), ("multicast", "off")]));
    steps(&mut state, rows(vec![]));
    let gateway = Mac::of_net(&network(&[("type", "overlay")]));
    let strange = [
        // The gateway's address; one outside of the network; this host's own VTEP; another pool.
        remote(9, 2, &["10.42.0.1", "fd42::1"]),
        remote(9, 2, &["10.43.0.7", "192.0.2.9"]),
    ];
    for remote in strange {
        let said = steps(&mut state, rows(vec![(host(2), "e1", Some(remote))]));
        assert!(said.iter().all(|step| step.starts_with("bridge fdb")), "{said:?}");
        steps(&mut state, rows(vec![(host(2), "e1", None)]));
    }
    let nothing = [
        Remote {
            mac: gateway,
            addresses: vec![],
            ..remote(9, 2, &[])
        },
        remote(9, 1, &["10.42.0.9"]),
        Remote {
            pool: net("10.42.0.0/24"),
            ..remote(9, 2, &["10.42.0.9"])
        },
    ];
    for remote in nothing {
        let said = steps(&mut state, rows(vec![(host(2), "e1", Some(remote))]));
        assert_eq!(said, Vec::<String>::new());
    }
}

#[test]
fn a_host_gateway_network_routes_pieces_and_answers_for_addresses() {
    let mut state = with(network(&[("type", "host-gateway")]));
    let pieces = BTreeMap::from([
        (
            net("10.42.0.0/16"),
            BTreeMap::from([(net("10.42.64.0/18"), host(2))]),
        ),
        (
            net("fd42::/64"),
            BTreeMap::from([(net("fd42::4000:0:0:0/66"), host(2))]),
        ),
    ]);
    let news = News {
        pieces,
        reach: vec![(host(2), Some(reach(2)))],
        ..rows(vec![(
            host(2),
            "e1",
            Some(remote(7, 2, &["10.42.64.7", "fd42::4000:0:0:7"])),
        )])
    };
    assert_eq!(
        steps(&mut state, news),
        [
            "ip neigh add proxy fd42::4000:0:0:7 dev tb-0123456789ab",
            "nft add element inet tombolo remote4 { \"tb-0123456789ab\" . 10.42.64.0/18 }",
            "nft add element inet tombolo remote6 { \"tb-0123456789ab\" . fd42::4000:0:0:0/66 }",
            "ip route replace 10.42.64.0/18 proto 116 metric 29807 via 192.0.2.2 dev eth0 onlink",
            "ip route replace fd42::4000:0:0:0/66 proto 116 metric 29807 via fe80::2 dev eth0 onlink",
        ]
    );
    // It is on no wire of ours any more.
    let news = News {
        reach: vec![(host(2), Some(Reach::default()))],
        ..News::default()
    };
    assert_eq!(steps(&mut state, news).len(), 5);
}

#[test]
fn a_host_gateway_network_knows_its_own_containers_before_they_are_up() {
    let mut state = with(network(&[("type", "host-gateway")]));
    let endpoint = here("10.42.0.7/16", 7);
    let neighbour = "ip neigh replace 10.42.0.7 lladdr 02:7b:00:00:00:07 dev tb-0123456789ab nud permanent";
    let mut after = |endpoint: Option<Endpoint>| {
        let before = state.world();
        let id = here("10.42.0.7/16", 7).id;
        state.apply(Edit::Endpoint(id, endpoint));
        let steps = diff(&state.world(), &before);
        steps.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let without_links = Endpoint {
        linked: false,
        ..endpoint.clone()
    };
    assert_eq!(after(Some(without_links)), Vec::<String>::new());
    let made = after(Some(endpoint));
    assert!(made.contains(&neighbour.to_owned()), "{made:?}");
    let gone = after(None);
    let deleted = "ip neigh delete 10.42.0.7 dev tb-0123456789ab".to_owned();
    assert!(gone.contains(&deleted), "{gone:?}");
}

#[test]
fn a_host_on_another_wire_is_reached_through_a_tunnel_where_that_is_asked_for() {
    let mut state = with(network(&[("type", "host-gateway"), ("fallback", "overlay")]));
    assert_eq!(steps(&mut state, rows(vec![])).len(), 2);
    let far = steps(
        &mut state,
        rows(vec![(host(2), "e1", Some(remote(7, 2, &["10.42.64.7"])))]),
    );
    assert_eq!(
        far,
        [
            "ip neigh replace 10.42.64.7 lladdr 02:7b:00:00:00:07 dev tb-0123456789ab nud permanent",
            "bridge fdb replace 02:7b:00:00:00:07 dev tbv0123456789ab self master static dst 192.0.2.2",
        ]
    );
    let news = News {
        reach: vec![(host(2), Some(reach(2)))],
        pieces: BTreeMap::from([(
            net("10.42.0.0/16"),
            BTreeMap::from([(net("10.42.64.0/18"), host(2))]),
        )]),
        ..News::default()
    };
    let near = steps(&mut state, news);
    assert!(
        near.iter().any(|step| step.starts_with("ip route replace")),
        "{near:?}"
    );
    assert!(
        near.iter().any(|step| step.starts_with("ip neigh delete")),
        "{near:?}"
    );
}

#[test]
fn a_network_whose_record_was_made_anew_gets_what_was_agreed_on() {
    let mut lost = network(&[("type", "overlay")]);
    lost.spec.agree(Agreed::default());
    let mut state = with(lost.clone());
    steps(&mut state, rows(vec![]));
    assert!(
        state
            .world()
            .keys()
            .all(|key| *key != Key::Link(lost.id.tunnel_name()))
    );
    let agreed = Agreed {
        vni: Some(70_001),
        mtu: None,
    };
    let news = News {
        agreed: BTreeMap::from([(net("10.42.0.0/16"), agreed), (net("10.43.0.0/16"), agreed)]),
        ..News::default()
    };
    steps(&mut state, news);
    assert_eq!(state.unagreed(), [(lost.id.clone(), agreed)]);
    lost.spec.agree(agreed);
    state.apply(Edit::Network(lost.id.clone(), Some(lost.clone())));
    assert!(state.world().contains_key(&Key::Link(lost.id.tunnel_name())));
    assert!(state.unagreed().is_empty());
}

/// A small world of news, in which much collides.
fn any_news() -> impl Strategy<Value = News> {
    let row = (
        1..4_u8,
        0..3_u8,
        prop::option::of((1..5_u8, 1..4_u8, prop::collection::vec(0..5_u8, 0..3))),
    );
    let rows = prop::collection::vec(row, 0..4);
    let pieces = prop::option::of(prop::collection::btree_map(0..3_u8, 1..4_u8, 0..3));
    let ways = prop::collection::vec((1..4_u8, prop::option::of(prop::option::of(1..3_u8))), 0..2);
    let groups = prop::option::of((1..4_u8, prop::collection::vec(0..5_usize, 0..4)));
    let groups = prop::collection::vec((1..4_u8, 0..2_u8, groups), 0..3);
    (
        any::<prop::sample::Index>(),
        rows,
        pieces,
        ways,
        any::<bool>(),
        groups,
    )
        .prop_map(|(all, rows, pieces, far, tunnel, groups)| {
            let of_groups = groups.into_iter().map(|(of, key, row)| {
                // Some share an address of hardware, with each other or with what goes to all.
                let text = ["239.1.2.3", "238.129.2.3", "239.0.0.251", "ff15::1234", "ff02::1"];
                let row = row.map(|(via, groups)| {
                    let groups: Vec<&str> = groups.into_iter().map(|n| text[n]).collect();
                    heard(via, &groups)
                });
                (host(of), format!("mc/{key}").into(), row)
            });
            let text = ["10.42.0.1", "10.42.0.7", "10.42.0.8", "fd42::7", "10.9.0.1"];
            let endpoints = rows.into_iter().map(|(of, key, row)| {
                let row = row.map(|(n, via, addresses)| {
                    let addresses: Vec<&str> = addresses.into_iter().map(|n| text[usize::from(n)]).collect();
                    remote(n, via, &addresses)
                });
                (host(of), format!("e{key}").into(), row)
            });
            let piece = |(n, of): (u8, u8)| (net(&format!("10.42.{}.0/24", n * 7)), host(of));
            News {
                agreed: BTreeMap::new(),
                everything: all.index(5) == 0,
                underlay: tunnel.then_some(Underlay {
                    vtep: IpAddr::from([192, 0, 2, 1]),
                    several: false,
                    port: 4789,
                }),
                endpoints: endpoints.collect(),
                heard: of_groups.collect(),
                pieces: pieces
                    .map(|pieces| (net("10.42.0.0/16"), pieces.into_iter().map(piece).collect()))
                    .into_iter()
                    .collect(),
                reach: far
                    .into_iter()
                    .map(|(of, far)| (host(of), far.map(|far| far.map(reach).unwrap_or_default())))
                    .collect(),
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever is heard, in whatever order, with endpoints of our own coming and going in between: the facts of those who
    /// are concerned change as the whole world does.
    #[test]
    fn what_is_concerned_is_all_that_changes(
        kind in 0..3_usize,
        heard in prop::collection::vec((any_news(), prop::option::of((0..3_u8, any::<bool>()))), 1..12),
    ) {
        let kinds: [&[(&str, &str)]; 3] = [
            &[("type", "overlay")],
            &[("type", "host-gateway")],
            &[("type", "host-gateway"), ("fallback", "overlay")],
        ];
        let mut state = with(network(kinds[kind]));
        for (news, own) in heard {
            steps(&mut state, news);
            let Some((n, there)) = own else { continue };
            let endpoint = here(&format!("10.42.0.{}/16", 6 + n), 1 + n);
            let edit = Edit::Endpoint(endpoint.id.clone(), there.then_some(endpoint));
            let before = state.world();
            let owners: BTreeSet<Owner> = state.owners(&edit).into_iter().collect();
            let facts = |state: &State| {
                let mut world = World::new();
                owners.iter().for_each(|owner| state.facts(owner, &mut world));
                world
            };
            let concerned = facts(&state);
            state.apply(edit);
            let of_peers = |mut world: World| {
                world.retain(|key, _| key.is_of_peers());
                world
            };
            let told = diff(&of_peers(facts(&state)), &of_peers(concerned));
            prop_assert_eq!(told, diff(&of_peers(state.world()), &of_peers(before)));
        }
        // Nothing is left of them once they are all gone, but that this host knows its own.
        steps(&mut state, News { everything: true, ..News::default() });
        let own = |key: &Key| match key {
            Key::Neighbour(_, address) => {
                kind > 0 && state.endpoints().any(|own| own.addresses.iter().any(|net| net.addr() == *address))
            }
            _ => false,
        };
        prop_assert!(state.world().keys().all(|key| !key.is_of_peers() || own(key)));
    }
}
