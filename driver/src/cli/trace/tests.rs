//! Walks through a host that is made up. Real ones are in the system tests, beside real packets.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tombolo_core::world::{ADOPTED_GROUP, LINK_GROUP};

use super::sight::{Asker, End, Inside, Place, Sight};
use super::story::{Fate, Story};
use super::walk::Start;
use super::*;
use crate::firewall::{self, Layer4};
use crate::kernel::look::rules::Listings;
use crate::kernel::look::{Address, Link, Port, Query, Route, RouteKind, Way};

/// A kernel of a few answers.
#[derive(Default)]
struct Fake {
    ways: BTreeMap<IpAddr, Way>,
    /// Ways of containers, by what they are asked for.
    inner: BTreeMap<IpAddr, Way>,
    silent: Vec<IpAddr>,
    deaf: bool,
    settings: BTreeMap<&'static str, i64>,
    /// Containers, by their endpoints' identifiers, that are not as they should be.
    insides: BTreeMap<String, fn(&mut Inside)>,
}

impl Asker for Fake {
    fn way(&mut self, whose: Option<&End>, query: Query) -> Result<Way, String> {
        let unreachable = || Way::None("Network is unreachable".to_owned(), libc::ENETUNREACH);
        Ok(match (whose, self.inner.get(&query.to)) {
            (None, _) => self.ways.get(&query.to).cloned().unwrap_or_else(unreachable),
            (Some(_), Some(way)) => way.clone(),
            (Some(_), None) if query.iif.is_some() => to(1, None, RouteKind::Local),
            (Some(_), None) => to(9, None, RouteKind::Unicast),
        })
    }

    fn answers(&mut self, _: &Link, address: IpAddr) -> Option<bool> {
        Some(!self.silent.contains(&address))
    }

    fn mac(&mut self, _: &Link, _: IpAddr) -> Option<String> {
        Some("02:00:00:00:02:01".to_owned())
    }

    fn listens(&mut self, _: Option<&End>, _: Layer4, _: IpAddr, _: u16) -> Option<bool> {
        Some(!self.deaf)
    }

    fn setting(&mut self, path: &str) -> Option<i64> {
        Some(self.settings.get(path).copied().unwrap_or_default())
    }

    fn inside(&mut self, end: &End) -> Result<Inside, String> {
        let mut inside = inside(end);
        if let Some(change) = self.insides.get(&end.id) {
            change(&mut inside);
        }
        Ok(inside)
    }
}

/// A container as it should be.
fn inside(end: &End) -> Inside {
    let mut eth0 = link(9, "eth0", None);
    eth0.mac = Some(end.mac.clone());
    let address = |net: IpAddr| Address {
        index: 9,
        net: ipnet::IpNet::new(net, 24).unwrap(),
    };
    Inside {
        place: Place {
            links: vec![link(1, "lo", None), eth0],
            addresses: end.addresses.iter().copied().map(address).collect(),
            neighbours: Vec::new(),
        },
        rules: Ok(firewall::Ruleset::default()),
        mute: [false; 2],
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
        gateways: vec![ip(if id == "one" { "10.1.0.1" } else { "10.2.0.1" })],
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
        ("10.1.0.2", to(1, None, RouteKind::Unicast)),
        ("10.1.0.3", to(1, None, RouteKind::Unicast)),
    ];
    Fake {
        ways: ways
            .into_iter()
            .map(|(address, way)| (ip(address), way))
            .collect(),
        ..Fake::default()
    }
}

/// From web, whose own route leads straight to its subnet and else by the gateway.
fn walk_with(sight: &Sight, fake: &mut Fake, target: &str, change: impl FnOnce(&mut Start<'_>)) -> Story {
    let target: Target = target.parse().unwrap();
    let near = target.address.to_string().starts_with("10.1.0.");
    let mut start = Start {
        end: &sight.endpoints[0],
        net: &sight.networks[0],
        inside: inside(&sight.endpoints[0]),
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
        let mut fake = fake();
        fake.silent = vec![ip("10.1.0.1"), ip("10.1.0.9")];
        let story = walk_with(&sight, &mut fake, target, |_| ());
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
    deaf.deaf = true;
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
        start.inside.place.links[1].mac = Some(other);
        start.way = to(9, Some("10.2.0.1"), RouteKind::Unicast);
    });
    assert_eq!(story.end.fate, Fate::Leaves);
    assert!(
        story.hops[0].what.contains("by network two, not by one"),
        "{story:?}"
    );
    let strange = walk_with(&sight, &mut fake(), "192.0.2.1", |start| {
        start.inside.place.links[1].mac = None
    });
    assert_eq!(strange.end.fate, Fate::Unsure);
}

#[test]
fn whoever_answers_and_is_not_known_is_no_certain_end() {
    assert_eq!(walk(&sight(), "10.1.0.9").end.fate, Fate::Unsure);
    let mut silent = fake();
    silent.silent.push(ip("10.1.0.9"));
    let dead = |fake: &mut Fake| walk_with(&sight(), fake, "10.1.0.9", |_| ()).end.fate;
    assert_eq!(dead(&mut silent), Fate::Dies);
    // Unless the host answers in everybody's place.
    silent.settings.insert("ipv4/conf/tb-1/proxy_arp", 1);
    assert_eq!(dead(&mut silent), Fate::Unsure);
}

#[test]
fn behind_a_bridge_of_somebody_elses_are_others_and_they_are_asked() {
    let mut sight = sight();
    sight.networks[0].bridge = "br0".to_owned();
    let mut bridge = link(1, "br0", None);
    (bridge.kind, bridge.group) = (Some("bridge".to_owned()), ADOPTED_GROUP);
    sight.host.links[0] = bridge;
    sight.host.links.push(link(4, "eth1", Some(1)));
    let near = walk(&sight, "10.1.0.9:80");
    assert_eq!(
        (near.end.fate, near.end.at.as_str()),
        (Fate::Leaves, "bridge br0")
    );
    let mut silent = fake();
    silent.silent.push(ip("10.1.0.9"));
    assert_eq!(
        walk_with(&sight, &mut silent, "10.1.0.9:80", |_| ()).end.fate,
        Fate::Dies
    );
    // A port that a container publishes leads to it, and not out of the host.
    let published =
        Walk::new(&sight, &mut fake(), "10.1.0.3:80".parse().unwrap()).go_from_address(ip("198.51.100.1"));
    assert_eq!(
        (published.end.fate, published.end.at.as_str()),
        (Fate::Arrives, "container app")
    );
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

/// A chain of nft, with one rule.
fn chain_of(family: &str, hook: &str, prio: i64, expressions: Value) -> [Value; 2] {
    [
        json!({ "chain": { "family": family, "table": "adm", "name": hook, "type": "filter", "hook": hook, "prio": prio, "policy": "accept" } }),
        json!({ "rule": { "family": family, "table": "adm", "chain": hook, "handle": 1, "expr": expressions } }),
    ]
}

fn meets(left: Value, right: &str) -> Value {
    json!({ "match": { "op": "==", "left": left, "right": right } })
}

fn iifname(name: &str) -> Value {
    meets(json!({ "meta": { "key": "iifname" } }), name)
}

fn oifname(name: &str) -> Value {
    meets(json!({ "meta": { "key": "oifname" } }), name)
}

fn is_answer() -> Value {
    meets(json!({ "ct": { "key": "state" } }), "established")
}

#[test]
fn chains_of_bridges_are_asked_wherever_frames_pass_them() {
    let mut sight = sight();
    let drop = json!({ "drop": null });
    for (target, hook, from, port, dies) in [
        ("198.51.100.1", "prerouting", true, "tbh11", true),
        ("198.51.100.1", "input", true, "tbh11", true),
        ("198.51.100.1", "forward", true, "tbh11", false),
        ("10.2.0.2:80", "output", false, "tbh13", true),
        ("10.2.0.2:80", "postrouting", false, "tbh13", true),
        ("10.2.0.2:80", "postrouting", false, "tbh12", false),
        ("10.1.0.3:80", "forward", false, "tbh12", true),
        // The answers' way.
        ("198.51.100.1", "output", false, "tbh11", true),
        ("10.2.0.2:80", "input", true, "tbh13", true),
        ("10.1.0.3:80", "forward", false, "tbh11", true),
    ] {
        let asked = if from { iifname(port) } else { oifname(port) };
        sight.rules = rules(&chain_of("bridge", hook, 0, json!([asked, drop])));
        let story = walk(&sight, target);
        let what = format!("{target} {hook} {port}: {story:?}");
        assert_eq!(story.end.fate == Fate::Dies, dies, "{what}");
        assert!(story.end.at.starts_with(hook) || !dies, "{what}");
    }
    // Behind which port somebody outside is can't always be told.
    for number in [21, 22] {
        sight
            .host
            .links
            .push(link(number, &format!("eth{number}"), Some(3)));
    }
    sight.host.links[2].kind = Some("bridge".to_owned());
    sight.rules = rules(&chain_of("bridge", "output", 0, json!([oifname("eth21"), drop])));
    assert_eq!(walk(&sight, "198.51.100.1").end.fate, Fate::Unsure);
}

#[test]
fn chains_of_links_are_asked_as_something_comes_in_or_leaves() {
    let mut sight = sight();
    let at = |link: &str, hook: &str| {
        let listings = Listings {
            json: json!({ "nftables": chain_of("netdev", hook, 0, json!([{ "drop": null }])) }).to_string(),
            text: format!(
                "table netdev adm {{ # handle 1\n\tchain {hook} {{ # handle 1\n\t\ttype filter hook {hook} device \"{link}\" priority filter; policy accept;\n\t}}\n}}\n"
            ),
            ..Listings::default()
        };
        firewall::read(&listings).unwrap()
    };
    for (link, hook, dies) in [
        ("eth0", "egress", true),
        ("eth0", "ingress", true),
        ("tbh11", "ingress", true),
        ("tbh11", "egress", true),
        ("tb-1", "ingress", true),
        ("tbh12", "egress", false),
    ] {
        sight.rules = at(link, hook);
        let story = walk(&sight, "198.51.100.1:80");
        assert_eq!(story.end.fate == Fate::Dies, dies, "{link} {hook}: {story:?}");
    }
}

#[test]
fn answers_are_lost_wherever_something_drops_them() {
    let mut sight = sight();
    let drop = json!({ "drop": null });
    for (hook, by, answered) in [
        ("prerouting", iifname("eth0"), false),
        ("forward", iifname("eth0"), false),
        ("postrouting", oifname("tb-1"), false),
        ("postrouting", oifname("eth0"), true),
        ("input", iifname("eth0"), true),
    ] {
        sight.rules = rules(&chain_of("inet", hook, 0, json!([is_answer(), by, drop])));
        let story = walk(&sight, "198.51.100.1:80");
        assert_eq!(story.end.fate == Fate::Leaves, answered, "{hook} {story:?}");
        assert!(
            answered || story.end.why.contains("the answers are dropped"),
            "{story:?}"
        );
    }
    // What the host itself has sent is answered through the input hook.
    let from_host = |sight: &Sight| {
        let mut fake = fake();
        Walk::new(sight, &mut fake, "10.2.0.2:80".parse().unwrap()).go_from_address(ip("192.0.2.2"))
    };
    sight.rules = rules(&chain_of("inet", "input", 0, json!([is_answer(), drop])));
    assert!(from_host(&sight).end.why.contains("the answers are dropped"));
    sight.rules = firewall::Ruleset::default();
    assert_eq!(from_host(&sight).end.fate, Fate::Arrives);
}

#[test]
fn answers_without_a_way_are_lost() {
    let sight = sight();
    let home = ip("10.1.0.2");
    let unreachable = Way::None("No route to host".to_owned(), libc::EHOSTUNREACH);
    for (way, why) in [
        (
            to(3, None, RouteKind::Unicast),
            "sends the answers to 10.1.0.2 through eth0",
        ),
        (to(3, None, RouteKind::Refused), "refuses the answers"),
        (unreachable, "no route to 10.1.0.2"),
    ] {
        let mut fake = fake();
        fake.ways.insert(home, way);
        let story = walk_with(&sight, &mut fake, "198.51.100.1:80", |_| ());
        assert_eq!(story.end.fate, Fate::Dies, "{story:?}");
        assert!(story.end.why.contains(why), "{story:?}");
    }
}

#[test]
fn a_container_that_is_not_as_it_should_be_is_where_it_dies() {
    type Change = fn(&mut Inside);
    let cases: [(&str, Change, &str, &str); 4] = [
        (
            "10.1.0.3:80",
            |i| i.place.links[1].up = false,
            "eth0 is down",
            "ip link set eth0 up",
        ),
        (
            "10.1.0.3:80",
            |i| i.place.addresses.clear(),
            "address 10.1.0.3",
            "docker restart app",
        ),
        ("10.1.0.3", |i| i.mute[0] = true, "answers no pings", "port"),
        (
            "10.1.0.3:80",
            |i| i.rules = Ok(rules(&chain_of("inet", "input", 0, json!([{ "drop": null }])))),
            "dropped",
            "in the container",
        ),
    ];
    for (target, change, why, remedy) in cases {
        let mut fake = fake();
        fake.insides.insert("e2".to_owned(), change);
        let end = walk_with(&sight(), &mut fake, target, |_| ()).end;
        assert_eq!(
            (end.fate, end.at.contains("container app")),
            (Fate::Dies, true),
            "{end:?}"
        );
        assert!(
            end.why.contains(why) && end.remedy.as_ref().unwrap().contains(remedy),
            "{end:?}"
        );
    }
    let mut fake = fake();
    fake.insides
        .insert("e2".to_owned(), |i| i.rules = Err("no".to_owned()));
    let unread = walk_with(&sight(), &mut fake, "10.1.0.3:80", |_| ());
    assert_eq!(unread.end.fate, Fate::Unsure);
    let mut narrow = self::fake();
    narrow
        .insides
        .insert("e2".to_owned(), |i| i.place.links[1].mtu = 1200);
    assert_eq!(
        walk_with(&sight(), &mut narrow, "10.1.0.3:80", |_| ()).path_mtu,
        Some(1200)
    );
    // No route back.
    let mut lost = self::fake();
    let none = Way::None("Network is unreachable".to_owned(), libc::ENETUNREACH);
    lost.inner.insert(ip("10.1.0.2"), none);
    let end = walk_with(&sight(), &mut lost, "10.1.0.3:80", |_| ()).end;
    assert!(end.why.contains("no route back to 10.1.0.2"), "{end:?}");
}

#[test]
fn rules_of_the_containers_own_are_asked_and_those_of_docker_disturb_nobody() {
    // What the engine puts there for its name server, as iptables-legacy saves it.
    const DNS: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:DOCKER_OUTPUT - [0:0]\n:DOCKER_POSTROUTING - [0:0]\n-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT\n-A POSTROUTING -d 127.0.0.11/32 -j DOCKER_POSTROUTING\n-A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:37471\n-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p tcp -m tcp --sport 37471 -j SNAT --to-source :53\nCOMMIT\n";
    let dns = || {
        let listings = Listings {
            legacy: [DNS.to_owned(), String::new()],
            ..Listings::default()
        };
        firewall::read(&listings).unwrap()
    };
    let quiet = walk_with(&sight(), &mut fake(), "198.51.100.1:80", |start| {
        start.inside.rules = Ok(dns())
    });
    assert_eq!(
        (quiet.end.fate, quiet.doubts.len()),
        (Fate::Leaves, 0),
        "{quiet:?}"
    );
    for (hook, expressions, why) in [
        ("output", json!([{ "drop": null }]), "dropped"),
        (
            "input",
            json!([is_answer(), { "drop": null }]),
            "the answers are dropped",
        ),
    ] {
        let story = walk_with(&sight(), &mut fake(), "198.51.100.1:80", |start| {
            start.inside.rules = Ok(rules(&chain_of("inet", hook, 0, expressions)));
        });
        assert_eq!(story.end.fate, Fate::Dies, "{story:?}");
        assert!(
            story.end.at.contains("in container web") && story.end.why.starts_with(why),
            "{story:?}"
        );
    }
}

#[test]
fn a_neighbours_published_port_is_not_reached_between_isolated_ports_where_frames_pass_ip_rules() {
    let mut sight = sight();
    for at in [3, 4] {
        sight.host.links[at].port = Some(Port {
            state: 3,
            isolated: true,
        });
    }
    let chain = json!({ "chain": { "family": "inet", "table": "adm", "name": "d", "type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept" } });
    let dnat = json!({ "rule": { "family": "inet", "table": "adm", "chain": "d", "handle": 1, "expr": [{ "dnat": { "family": "ip", "addr": "10.1.0.3", "port": 80 } }] } });
    sight.rules = rules(&[chain, dnat]);
    for (calls, fate) in [(false, Fate::Arrives), (true, Fate::Dies)] {
        sight.bridge_calls = [calls, false];
        let story = walk(&sight, "192.0.2.2:8080");
        assert_eq!(story.end.fate, fate, "{story:?}");
    }
}

#[test]
fn what_is_no_single_hosts_address_is_no_certain_end() {
    let story = walk_with(&sight(), &mut fake(), "224.0.0.1", |start| {
        start.way = to(9, None, RouteKind::Many);
    });
    assert_eq!(story.end.fate, Fate::Unsure);
}

#[test]
fn an_address_of_another_link_of_the_host_is_answered_on_the_bridge() {
    let mut sight = sight();
    sight.host.addresses.push(Address {
        index: 3,
        net: "10.1.0.200/32".parse().unwrap(),
    });
    let mut fake = fake();
    fake.ways.insert(ip("10.1.0.200"), to(1, None, RouteKind::Local));
    let at_host = walk_with(&sight, &mut fake, "10.1.0.200:80", |_| ()).end;
    assert_eq!((at_host.fate, at_host.at.as_str()), (Fate::Arrives, "host"));
    fake.settings.insert("ipv4/conf/all/arp_ignore", 1);
    assert_eq!(
        walk_with(&sight, &mut fake, "10.1.0.200:80", |_| ()).end.fate,
        Fate::Unsure
    );
}

#[test]
fn a_mark_that_is_cleared_is_not_told_as_one_that_is_set() {
    let mark = |value: Value| json!({ "mangle": { "key": { "meta": { "key": "mark" } }, "value": value } });
    let chain = |table: &str, hook: &str, value: u32| {
        let set = mark(json!(value));
        let mut objects = chain_of("inet", hook, 0, json!([set, { "accept": null }]));
        for object in &mut objects {
            for body in object.as_object_mut().unwrap().values_mut() {
                body["table"] = json!(table);
            }
        }
        objects
    };
    let mut sight = sight();
    let objects = [chain("a", "forward", 0x0800_0000), chain("b", "postrouting", 0)];
    sight.rules = rules(&objects.concat());
    let story = walk(&sight, "198.51.100.1:80");
    let marked: Vec<&str> = story
        .hops
        .iter()
        .filter(|hop| hop.what.contains("marked"))
        .map(|hop| hop.at.as_str())
        .collect();
    assert_eq!(marked, ["forward: inet a forward"], "{story:?}");
}

#[test]
fn a_published_port_that_is_not_for_this_sender_is_told_as_such() {
    let chain = json!({ "chain": { "family": "inet", "table": "tombolo", "name": "forward", "type": "filter",
        "hook": "forward", "prio": -10, "policy": "accept" } });
    let set = json!({ "set": { "family": "inet", "table": "tombolo", "name": "publishers4",
        "elem": [{ "concat": ["tb-2", { "prefix": { "addr": "203.0.113.0", "len": 24 } }] }] } });
    let fields =
        json!([{ "meta": { "key": "oifname" } }, { "payload": { "protocol": "ip", "field": "saddr" } }]);
    let asked = json!({ "match": { "op": "!=", "left": { "concat": fields }, "right": "@publishers4" } });
    let rule = json!({ "rule": { "family": "inet", "table": "tombolo", "chain": "forward", "handle": 1, "expr": [asked, { "drop": null }] } });
    let mut sight = sight();
    let listings = Listings {
        json: json!({ "nftables": [chain, set, rule] }).to_string(),
        text: "table inet tombolo {\n\tchain forward {\n\t\toifname . ip saddr != @publishers4 drop # handle 1\n\t}\n}\n"
            .to_owned(),
        ..Listings::default()
    };
    sight.rules = firewall::read(&listings).unwrap();
    let story =
        Walk::new(&sight, &mut fake(), "10.2.0.2:80".parse().unwrap()).go_from_address(ip("198.51.100.1"));
    let remedy = story.end.remedy.unwrap();
    assert!(
        remedy.contains("not for 198.51.100.1") && remedy.contains("publish_from"),
        "{remedy}"
    );
}

#[test]
fn what_mends_a_port_is_said_as_the_command_that_does_it() {
    type Damage = fn(&mut Sight);
    let cases: [(Damage, &str); 5] = [
        (|s| s.host.links[3].up = false, "ip link set tbh11 up"),
        (|s| s.host.links[3].master = None, "ip link set tbh11 master tb-1"),
        (
            |s| s.host.links[3].port = Some(Port::default()),
            "bridge link set dev tbh11 state 3",
        ),
        (
            |s| s.host.links[3].carrier = false,
            "nsenter --net=/sandbox/e1 ip link set",
        ),
        (|s| s.host.links[0].up = false, "ip link set tb-1 up"),
    ];
    for (damage, command) in cases {
        let mut sight = sight();
        damage(&mut sight);
        let end = walk(&sight, "198.51.100.1").end;
        assert!(end.remedy.as_ref().unwrap().starts_with(command), "{end:?}");
    }
}

#[test]
fn a_silent_gateway_is_the_bridges_own_or_another_machine() {
    let mut sight = sight();
    sight.host.addresses.clear();
    let mut silent = fake();
    silent.silent = vec![ip("10.1.0.1"), ip("10.1.0.254")];
    for (gateway, remedy) in [
        ("10.1.0.1", "doctor --repair"),
        ("10.1.0.254", "is another machine"),
    ] {
        let story = walk_with(&sight, &mut silent, "198.51.100.1", |start| {
            start.way = to(9, Some(gateway), RouteKind::Unicast);
        });
        assert!(story.end.remedy.as_ref().unwrap().contains(remedy), "{story:?}");
    }
}

#[test]
fn a_route_that_is_not_taken_for_a_sender_is_no_missing_route() {
    /// A host that takes no way for what comes in by a link.
    struct Strict(Fake, i32);
    impl Asker for Strict {
        fn way(&mut self, whose: Option<&End>, query: Query) -> Result<Way, String> {
            match (whose, query.iif) {
                (None, Some(_)) => Ok(Way::None("no".to_owned(), self.1)),
                _ => self.0.way(whose, query),
            }
        }
        fn answers(&mut self, link: &Link, address: IpAddr) -> Option<bool> {
            self.0.answers(link, address)
        }
        fn mac(&mut self, link: &Link, address: IpAddr) -> Option<String> {
            self.0.mac(link, address)
        }
        fn listens(
            &mut self,
            whose: Option<&End>,
            layer4: Layer4,
            address: IpAddr,
            port: u16,
        ) -> Option<bool> {
            self.0.listens(whose, layer4, address, port)
        }
        fn setting(&mut self, path: &str) -> Option<i64> {
            self.0.setting(path)
        }
        fn inside(&mut self, end: &End) -> Result<Inside, String> {
            self.0.inside(end)
        }
    }
    let sight = sight();
    for (errno, target, remedy) in [
        (libc::EINVAL, "198.51.100.1", "rp_filter"),
        (libc::EXDEV, "198.51.100.1", "rp_filter"),
        (
            libc::EHOSTUNREACH,
            "198.51.100.1",
            "sysctl -w net.ipv4.conf.tb-1.forwarding=1",
        ),
        (libc::EHOSTUNREACH, "203.0.113.1", "ip route get 203.0.113.1"),
    ] {
        let mut strict = Strict(fake(), errno);
        let start = Start {
            end: &sight.endpoints[0],
            net: &sight.networks[0],
            inside: inside(&sight.endpoints[0]),
            way: to(9, Some("10.1.0.1"), RouteKind::Unicast),
        };
        let end = Walk::new(&sight, &mut strict, target.parse().unwrap())
            .go_from_container(&start)
            .end;
        assert!(end.remedy.as_ref().unwrap().contains(remedy), "{end:?}");
    }
}

#[test]
fn a_route_that_leads_away_from_the_container_is_blamed_and_not_the_policy() {
    let mut sight = sight();
    let mut policy = chain_of("ip", "forward", 0, json!([iifname("tb-9"), { "accept": null }]));
    policy[0]["chain"]["policy"] = json!("drop");
    sight.rules = rules(&policy);
    let mut fake = fake();
    fake.ways.insert(ip("10.2.0.2"), to(3, None, RouteKind::Unicast));
    let end = walk_with(&sight, &mut fake, "10.2.0.2:80", |_| ()).end;
    assert!(
        end.remedy
            .as_ref()
            .unwrap()
            .contains("takes 10.2.0.2 through eth0, not to bridge tb-2"),
        "{end:?}"
    );
}

#[test]
fn what_is_redirected_comes_to_the_host_itself() {
    let chain = json!({ "chain": { "family": "ip", "table": "adm", "name": "d", "type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept" } });
    let rule = json!({ "rule": { "family": "ip", "table": "adm", "chain": "d", "handle": 1, "expr": [{ "redirect": { "port": 9000 } }] } });
    let mut sight = sight();
    sight.rules = rules(&[chain, rule]);
    let mut fake = fake();
    fake.ways.insert(ip("10.1.0.1"), to(1, None, RouteKind::Local));
    let end = walk_with(&sight, &mut fake, "198.51.100.1:80", |_| ()).end;
    assert_eq!((end.fate, end.at.as_str()), (Fate::Arrives, "host"), "{end:?}");
    assert!(end.why.contains("port 9000/tcp"), "{end:?}");
}
