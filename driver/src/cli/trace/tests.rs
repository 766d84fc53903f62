//! Walks through a host that is made up. Real ones are in the system tests, beside real packets.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tombolo_core::world::LINK_GROUP;

use super::sight::{Asker, End, Place, Sight};
use super::story::{Fate, Story};
use super::walk::Start;
use super::*;
use crate::firewall::{self, Layer4};
use crate::kernel::look::rules::Listings;
use crate::kernel::look::{Address, Link, Neighbour, Port, Query, Route, RouteKind, Way};

/// A kernel of a few answers.
#[derive(Default)]
struct Fake {
    ways: BTreeMap<IpAddr, Way>,
    silent: Vec<IpAddr>,
    listening: bool,
}

impl Asker for Fake {
    fn way(&mut self, query: Query) -> Result<Way, String> {
        Ok(self
            .ways
            .get(&query.to)
            .cloned()
            .unwrap_or_else(|| Way::None("Network is unreachable".to_owned())))
    }

    fn answers(&mut self, _: &Link, address: IpAddr) -> Option<bool> {
        Some(!self.silent.contains(&address))
    }

    fn listens(&mut self, _: Option<&str>, _: Layer4, _: IpAddr, _: u16) -> Option<bool> {
        Some(self.listening)
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn to(oif: u32, gateway: Option<&str>, kind: RouteKind) -> Way {
    Way::Route(Route {
        oif: Some(oif),
        gateway: gateway.map(ip),
        kind,
        ..Route::default()
    })
}

fn link(index: u32, name: &str, master: Option<u32>) -> Link {
    let kind = if name.starts_with("tb-") {
        Some("bridge")
    } else {
        Some("veth")
    };
    Link {
        index,
        name: name.to_owned(),
        group: if name.starts_with("tb") { LINK_GROUP } else { 0 },
        kind: kind.map(str::to_owned),
        mac: Some(format!("02:00:00:00:00:{index:02x}")),
        mtu: 1500,
        up: true,
        carrier: true,
        master,
        port: master.map(|_| Port {
            state: 3,
            isolated: false,
        }),
        ..Link::default()
    }
}

fn end(id: &str, network: &str, container: &str, address: &str, index: u32) -> End {
    End {
        id: id.to_owned(),
        network: network.to_owned(),
        container: Some(container.to_owned()),
        addresses: vec![ip(address)],
        mac: format!("02:00:00:00:01:{index:02x}"),
        host_link: Some(format!("tbh{index}")),
        sandbox: Some(format!("/sandbox/{id}")),
    }
}

/// Networks `one` (web, app) and `two` (db), and a way out by eth0; no rules.
fn sight() -> Sight {
    let net = |id: &str, bridge: &str| Net {
        id: id.to_owned(),
        name: Some(id.to_owned()),
        bridge: bridge.to_owned(),
        internal: false,
    };
    let address = |index, net: &str| Address {
        index,
        net: net.parse().unwrap(),
    };
    Sight {
        networks: vec![net("one", "tb-1"), net("two", "tb-2")],
        endpoints: vec![
            end("e1", "one", "web", "10.1.0.2", 11),
            end("e2", "one", "app", "10.1.0.3", 12),
            end("e3", "two", "db", "10.2.0.2", 13),
        ],
        host: Place {
            links: vec![
                link(1, "tb-1", None),
                link(2, "tb-2", None),
                link(3, "eth0", None),
                link(11, "tbh11", Some(1)),
                link(12, "tbh12", Some(1)),
                link(13, "tbh13", Some(2)),
            ],
            addresses: vec![
                address(1, "10.1.0.1/24"),
                address(2, "10.2.0.1/24"),
                address(3, "192.0.2.2/24"),
            ],
            neighbours: Vec::new(),
        },
        forwards: [true, true],
        ..Sight::default()
    }
}

fn rules(objects: &[Value]) -> firewall::Ruleset {
    let listings = Listings {
        json: json!({ "nftables": objects }).to_string(),
        ..Listings::default()
    };
    firewall::read(&listings).unwrap()
}

fn fake() -> Fake {
    let ways = [
        ("192.0.2.1", to(3, None, RouteKind::Unicast)),
        ("198.51.100.1", to(3, Some("192.0.2.1"), RouteKind::Unicast)),
        ("10.2.0.2", to(2, None, RouteKind::Unicast)),
        ("192.0.2.2", to(3, None, RouteKind::Local)),
    ];
    Fake {
        ways: ways
            .into_iter()
            .map(|(address, way)| (ip(address), way))
            .collect(),
        silent: Vec::new(),
        listening: true,
    }
}

/// From web, whose own route leads straight to its subnet and else by the gateway.
fn walk_with(sight: &Sight, fake: &mut Fake, target: &str, change: impl FnOnce(&mut Start<'_>)) -> Story {
    let target: Target = target.parse().unwrap();
    let near = target.address.to_string().starts_with("10.1.0.");
    let mut eth0 = link(9, "eth0", None);
    eth0.mac = Some(sight.endpoints[0].mac.clone());
    let mut start = Start {
        end: &sight.endpoints[0],
        net: &sight.networks[0],
        inside: Place {
            links: vec![eth0],
            ..Place::default()
        },
        way: to(9, (!near).then_some("10.1.0.1"), RouteKind::Unicast),
    };
    change(&mut start);
    Walk::new(sight, fake, target).go_from_container(&start)
}

fn walk(sight: &Sight, target: &str) -> Story {
    walk_with(sight, &mut fake(), target, |_| ())
}

#[test]
fn without_rules_everything_gets_through() {
    let sight = sight();
    let near = walk(&sight, "10.1.0.3:80");
    assert_eq!(
        (near.end.fate, near.end.at.as_str()),
        (Fate::Arrives, "container app")
    );
    let out = walk(&sight, "198.51.100.1:80");
    assert_eq!((out.end.fate, out.end.at.as_str()), (Fate::Leaves, "link eth0"));
    assert_eq!((out.seen_as, out.path_mtu), (Some(ip("10.1.0.2")), Some(1500)));
    assert_eq!(walk(&sight, "192.0.2.2:22").end.at, "host");
    assert_eq!(walk(&sight, "10.2.0.2:80").end.at, "container db");
}

#[test]
fn what_is_wrong_on_the_way_is_where_it_dies() {
    type Damage = fn(&mut Sight);
    let cases: [(&str, Damage, &str); 9] = [
        ("10.1.0.9", |_| (), "bridge tb-1"),
        ("192.0.2.1", |s| s.host.links[3].up = false, "port tbh11"),
        ("192.0.2.1", |s| s.host.links[3].master = None, "port tbh11"),
        (
            "192.0.2.1",
            |s| s.host.links[3].port = Some(Port::default()),
            "port tbh11",
        ),
        ("192.0.2.1", |s| s.host.links[0].up = false, "bridge tb-1"),
        ("192.0.2.1", |s| s.host.addresses.clear(), "bridge tb-1"),
        ("192.0.2.1", |s| s.forwards = [false, true], "host"),
        ("192.0.2.1", |s| s.host.links[2].carrier = false, "link eth0"),
        (
            "10.1.0.3",
            |s| s.host.links.retain(|link| link.name != "tbh12"),
            "port tbh12",
        ),
    ];
    for (target, damage, at) in cases {
        let mut sight = sight();
        damage(&mut sight);
        let story = walk(&sight, target);
        assert_eq!(
            (story.end.fate, story.end.at.as_str()),
            (Fate::Dies, at),
            "{target}: {story:?}"
        );
        assert!(story.end.remedy.is_some(), "{story:?}");
        assert_eq!(story.seen_as, None);
    }
}

#[test]
fn isolated_ports_and_silent_neighbours_are_told() {
    let mut isolated = sight();
    for at in [3, 4] {
        isolated.host.links[at].port = Some(Port {
            state: 3,
            isolated: true,
        });
    }
    assert!(walk(&isolated, "10.1.0.3").end.why.contains("isolated"));
    // A port that is isolated alone speaks to all others.
    isolated.host.links[4].port = Some(Port {
        state: 3,
        isolated: false,
    });
    assert_eq!(walk(&isolated, "10.1.0.3").end.fate, Fate::Arrives);
    let mut silent = fake();
    silent.silent.push(ip("192.0.2.1"));
    let story = walk_with(&sight(), &mut silent, "198.51.100.1", |_| ());
    assert_eq!((story.end.fate, story.end.at.as_str()), (Fate::Dies, "link eth0"));
}

#[test]
fn nobody_listening_is_a_refusal() {
    let mut deaf = fake();
    deaf.listening = false;
    assert_eq!(
        walk_with(&sight(), &mut deaf, "10.1.0.3:80", |_| ()).end.fate,
        Fate::Refused
    );
    assert_eq!(
        walk_with(&sight(), &mut deaf, "10.1.0.3", |_| ()).end.fate,
        Fate::Arrives
    );
}

#[test]
fn a_container_on_several_networks_may_send_by_another_one() {
    let mut sight = sight();
    sight.endpoints[2].sandbox = sight.endpoints[0].sandbox.clone();
    let other = sight.endpoints[2].mac.clone();
    let story = walk_with(&sight, &mut fake(), "192.0.2.1", |start| {
        start.inside.links[0].mac = Some(other);
        start.way = to(9, Some("10.2.0.1"), RouteKind::Unicast);
    });
    assert_eq!(story.end.fate, Fate::Leaves);
    assert!(
        story.hops[0].what.contains("by network two, not by one"),
        "{story:?}"
    );
    let strange = walk_with(&sight, &mut fake(), "192.0.2.1", |start| {
        start.inside.links[0].mac = None
    });
    assert_eq!(strange.end.fate, Fate::Unsure);
}

#[test]
fn somebody_whom_only_the_container_knows_is_no_certain_end() {
    let story = walk_with(&sight(), &mut fake(), "10.1.0.9", |start| {
        start.inside.neighbours.push(Neighbour {
            index: 9,
            address: ip("10.1.0.9"),
            mac: Some("02:00:00:00:00:99".to_owned()),
            state: 2,
        });
    });
    assert_eq!(story.end.fate, Fate::Unsure);
}

#[test]
fn a_drop_of_ours_is_told_with_its_meaning_and_what_to_do() {
    let mut sight = sight();
    let chain = json!({ "chain": { "family": "inet", "table": "tombolo", "name": "forward", "type": "filter",
        "hook": "forward", "prio": -10, "policy": "accept" } });
    let rule = json!({ "rule": { "family": "inet", "table": "tombolo", "chain": "forward", "handle": 1, "expr": [{ "drop": null }] } });
    sight.rules = rules(&[chain, rule]);
    sight.meanings = [(("forward".to_owned(), 0), "Kept apart.".to_owned())].into();
    let other = walk(&sight, "10.2.0.2:80").end;
    assert_eq!(
        (other.fate, other.at.as_str()),
        (Fate::Dies, "forward: inet tombolo forward")
    );
    assert!(other.why.starts_with("dropped: Kept apart by `"), "{other:?}");
    assert!(other.remedy.unwrap().contains("docker network connect two"));
    sight.networks[0].internal = true;
    assert!(
        walk(&sight, "192.0.2.1")
            .end
            .remedy
            .unwrap()
            .contains("network one is internal")
    );
}

#[test]
fn somebody_elses_policy_gets_the_line_to_add_only_where_it_helps() {
    let chain = |prio: i64| json!({ "chain": { "family": "inet", "table": "adm", "name": "f", "type": "filter", "hook": "forward", "prio": prio, "policy": "drop" } });
    let ours = json!({ "chain": { "family": "inet", "table": "tombolo", "name": "forward", "type": "filter",
        "hook": "forward", "prio": -10, "policy": "accept" } });
    let value = json!({ "|": [{ "meta": { "key": "mark" } }, 0x0800_0000] });
    let mark = json!({ "rule": { "family": "inet", "table": "tombolo", "chain": "forward", "handle": 1,
        "expr": [{ "mangle": { "key": { "meta": { "key": "mark" } }, "value": value } }, { "accept": null }] } });
    let mut sight = sight();
    for (prio, helps) in [(0, true), (-20, false)] {
        sight.rules = rules(&[chain(prio), ours.clone(), mark.clone()]);
        let end = walk(&sight, "192.0.2.1").end;
        let insert = "nft insert rule inet adm f meta mark and 0x08000000 != 0 accept";
        assert_eq!(end.remedy.as_deref() == Some(insert), helps, "{end:?}");
    }
}

#[test]
fn what_comes_in_is_walked_from_its_link() {
    let sight = sight();
    let from = |address: &str, target: &str| {
        Walk::new(&sight, &mut fake(), target.parse().unwrap()).go_from_address(ip(address))
    };
    let story = from("198.51.100.1", "10.2.0.2:80");
    assert_eq!(
        (story.end.fate, story.end.at.as_str()),
        (Fate::Arrives, "container db")
    );
    assert_eq!(story.seen_as, Some(ip("198.51.100.1")));
    assert_eq!(
        from("203.0.113.1", "10.2.0.2:80").end.fate,
        Fate::Dies,
        "there is no way back"
    );
    assert!(
        from("192.0.2.2", "10.2.0.2:80").hops[0]
            .what
            .contains("made on this host")
    );
}

#[test]
fn the_last_line_says_how_it_ends() {
    let text = walk(&sight(), "10.1.0.3:80").text("container web", "10.1.0.3:80/tcp");
    let last = text.lines().last().unwrap();
    assert_eq!(last, "ARRIVES at container app: somebody listens on port 80/tcp.");
    assert!(
        text.contains("The other end sees 10.1.0.2. Packets of up to 1500 bytes get through whole."),
        "{text}"
    );
}

#[test]
fn a_rule_that_cannot_be_judged_leaves_the_end_open() {
    let chain = |policy: &str| json!({ "chain": { "family": "ip", "table": "adm", "name": "f", "type": "filter", "hook": "forward", "prio": 0, "policy": policy } });
    let rule = |act: &str| {
        json!({ "rule": { "family": "ip", "table": "adm", "chain": "f", "handle": 1,
        "expr": [{ "xt": { "type": "match", "name": "recent" } }, { act: null }] } })
    };
    let mut sight = sight();
    for (policy, act, fate) in [
        ("accept", "drop", Fate::Unsure),
        ("accept", "accept", Fate::Leaves),
        ("drop", "drop", Fate::Dies),
        ("drop", "accept", Fate::Unsure),
    ] {
        sight.rules = rules(&[chain(policy), rule(act)]);
        let story = walk(&sight, "198.51.100.1:80");
        assert_eq!(story.end.fate, fate, "{policy}, {act}: {story:?}");
    }
}
