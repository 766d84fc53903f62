//! Rules as real programs wrote them, and what becomes of packets.

use serde_json::{Value, json};

use super::*;
use crate::kernel::look::rules::Listings;

/// A listing of nft with these objects.
fn ruleset(objects: &[Value], save: &str) -> Ruleset {
    let listings = Listings {
        json: json!({ "nftables": objects }).to_string(),
        saves: [save.to_owned(), String::new()],
        ..Listings::default()
    };
    read(&listings).unwrap()
}

fn base(table: &str, name: &str, hook: &str, priority: i64, policy: &str) -> Value {
    json!({ "chain": { "family": "inet", "table": table, "name": name, "type": "filter", "hook": hook, "prio": priority, "policy": policy } })
}

fn rule(table: &str, chain: &str, expressions: Value) -> Value {
    json!({ "rule": { "family": "inet", "table": table, "chain": chain, "handle": 1, "expr": expressions } })
}

fn meets(left: Value, op: &str, right: Value) -> Value {
    json!({ "match": { "op": op, "left": left, "right": right } })
}

fn meta(key: &str) -> Value {
    json!({ "meta": { "key": key } })
}

fn packet() -> Packet {
    Packet {
        from: Some("10.1.0.2".parse().unwrap()),
        to: Some("192.0.2.1".parse().unwrap()),
        layer4: Some(Layer4::Tcp),
        to_port: Some(80),
        iif: Some(Nic {
            name: "tb-1".to_owned(),
            group: 29807,
        }),
        oif: Some(Nic {
            name: "eth0".to_owned(),
            group: 0,
        }),
        ..Packet::new(false)
    }
}

fn fate(rules: &Ruleset, packet: &Packet) -> (Verdict, usize) {
    let seen = rules.pass(Hook::Forward, &mut packet.clone());
    let last = seen.last().unwrap();
    (last.verdict, seen.iter().map(|seen| seen.doubts.len()).sum())
}

#[test]
fn a_drop_by_policy_is_final_whatever_another_chain_accepts() {
    let rules = ruleset(
        &[
            base("a", "f", "forward", -10, "accept"),
            rule("a", "f", json!([{ "accept": null }])),
            base("b", "f", "forward", 0, "drop"),
        ],
        "",
    );
    let seen = rules.pass(Hook::Forward, &mut packet());
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[1].verdict, seen[1].by.clone()), (Verdict::Drop, None));
}

#[test]
fn a_mark_that_one_chain_sets_is_seen_by_the_next() {
    let set = json!({ "mangle": { "key": meta("mark"), "value": { "|": [meta("mark"), 0x0800_0000] } } });
    let marked = meets(json!({ "&": [meta("mark"), 0x0800_0000] }), "!=", json!(0));
    let rules = ruleset(
        &[
            base("a", "f", "forward", -10, "accept"),
            rule(
                "a",
                "f",
                json!([meets(meta("iifgroup"), "==", json!(29807)), set, { "accept": null }]),
            ),
            base("b", "f", "forward", 0, "drop"),
            rule("b", "f", json!([marked, { "accept": null }])),
        ],
        "",
    );
    assert_eq!(fate(&rules, &packet()), (Verdict::Accept, 0));
    let mut other = packet();
    other.iif = Some(Nic::default());
    assert_eq!(fate(&rules, &other), (Verdict::Drop, 0));
}

#[test]
fn sets_maps_prefixes_ranges_and_verdict_maps_are_looked_into() {
    let port = json!({ "payload": { "protocol": "tcp", "field": "dport" } });
    let to = json!({ "payload": { "protocol": "ip", "field": "daddr" } });
    let ports = |ports: Value| meets(port.clone(), "==", json!({ "set": ports }));
    let cases = [
        (ports(json!([22, { "range": [80, 90] }])), true),
        (ports(json!([22, 443])), false),
        (
            meets(
                to.clone(),
                "!=",
                json!({ "prefix": { "addr": "192.0.2.0", "len": 24 } }),
            ),
            false,
        ),
        (
            meets(
                json!({ "concat": [meta("iifname"), meta("iifname")] }),
                "==",
                json!("@pairs"),
            ),
            true,
        ),
        (
            meets(
                json!({ "concat": [meta("oifname"), meta("oifname")] }),
                "==",
                json!("@pairs"),
            ),
            false,
        ),
        (meets(meta("oifname"), "==", json!("eth*")), true),
        (
            meets(
                json!({ "ct": { "key": "state" } }),
                "in",
                json!(["established", "related"]),
            ),
            false,
        ),
        (
            json!({ "vmap": { "key": { "ct": { "key": "state" } }, "data": { "set": [["new", { "drop": null }]] } } }),
            true,
        ),
    ];
    for (expression, drops) in cases {
        let pairs = json!({ "set": { "family": "inet", "table": "a", "name": "pairs", "elem": [{ "concat": ["tb-1", "tb-1"] }] } });
        let rules = ruleset(
            &[
                base("a", "f", "forward", 0, "accept"),
                pairs,
                rule("a", "f", json!([expression, { "drop": null }])),
            ],
            "",
        );
        let expected = if drops { Verdict::Drop } else { Verdict::Accept };
        assert_eq!(fate(&rules, &packet()), (expected, 0), "{expression}");
    }
}

#[test]
fn a_field_of_the_other_family_or_protocol_never_matches_not_even_its_negation() {
    let drop = |left: Value| {
        let rules = ruleset(
            &[
                base("a", "f", "forward", 0, "accept"),
                rule("a", "f", json!([meets(left, "!=", json!(1)), { "drop": null }])),
            ],
            "",
        );
        fate(&rules, &packet()).0
    };
    for (protocol, field) in [("ip6", "daddr"), ("udp", "dport"), ("icmp", "type")] {
        let left = json!({ "payload": { "protocol": protocol, "field": field } });
        assert_eq!(drop(left), Verdict::Accept, "{protocol} {field}");
    }
}

#[test]
fn a_translation_by_a_map_leads_elsewhere_and_is_noted_with_its_element() {
    let key = json!({ "concat": [meta("l4proto"), { "payload": { "protocol": "th", "field": "dport" } }] });
    let chain = json!({ "chain": { "family": "inet", "table": "a", "name": "d", "type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept" } });
    let map = json!({ "map": { "family": "inet", "table": "a", "name": "ports", "elem": [[{ "concat": ["tcp", 80] }, { "concat": ["10.9.0.2", 8080] }]] } });
    let dnat = json!([{ "dnat": { "family": "ip", "addr": { "map": { "key": key, "data": "@ports" } } } }]);
    let rules = ruleset(&[chain, map, rule("a", "d", dnat)], "");
    let mut passing = packet();
    let seen = rules.pass(Hook::Prerouting, &mut passing);
    assert_eq!(
        (passing.to, passing.to_port, passing.dnat),
        (Some("10.9.0.2".parse().unwrap()), Some(8080), true)
    );
    assert_eq!(
        seen[0].by.as_ref().unwrap().elements,
        ["ports { tcp . 80 : 10.9.0.2 . 8080 }"]
    );
    let mut other = Packet {
        to_port: Some(81),
        ..packet()
    };
    assert!(rules.pass(Hook::Prerouting, &mut other)[0].nat.is_none() && !other.dnat);
    let mut answer = Packet {
        state: State::Established,
        ..packet()
    };
    assert!(
        rules.pass(Hook::Prerouting, &mut answer).is_empty(),
        "an answer is not translated anew"
    );
}

/// Docker's own rules as iptables-nft 1.8.9 saves them; nft can't read the matches.
const SAVE: &str = "*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -m mark --mark 0x8000000/0x8000000 -m comment --comment tombolo -j ACCEPT
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i docker0 ! -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A FORWARD -m recent --rcheck --name x -j ACCEPT
-A DOCKER-USER -s 10.2.0.0/16 -j DROP
-A DOCKER-USER -j RETURN
COMMIT
";

fn iptables() -> Ruleset {
    let listings = Listings {
        legacy: [SAVE.to_owned(), String::new()],
        ..Listings::default()
    };
    read(&listings).unwrap()
}

#[test]
fn iptables_rules_are_walked_with_their_jumps() {
    let rules = iptables();
    let case = |change: &dyn Fn(&mut Packet)| {
        let mut packet = packet();
        change(&mut packet);
        fate(&rules, &packet)
    };
    assert_eq!(case(&|p| p.mark = 0x0800_0000), (Verdict::Accept, 0));
    // The last rule before the policy is one that we can't judge.
    assert_eq!(case(&|_| ()), (Verdict::Drop, 1));
    let docker = || {
        Some(Nic {
            name: "docker0".to_owned(),
            group: 0,
        })
    };
    assert_eq!(case(&|p| p.iif = docker()), (Verdict::Accept, 0));
    assert_eq!(
        case(&|p| (p.iif, p.oif) = (docker(), docker())),
        (Verdict::Drop, 1)
    );
    assert_eq!(
        case(&|p| (p.oif, p.state) = (docker(), State::Established)),
        (Verdict::Accept, 0)
    );
    let marked = |p: &mut Packet| (p.mark, p.from) = (0x0800_0000, Some("10.2.0.9".parse().unwrap()));
    assert_eq!(case(&marked), (Verdict::Drop, 0));
}

#[test]
fn what_nft_cannot_read_is_taken_from_iptables() {
    let chain = json!({ "chain": { "family": "ip", "table": "filter", "name": "FORWARD", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept" } });
    let foreign = json!({ "rule": { "family": "ip", "table": "filter", "chain": "FORWARD", "handle": 4,
        "expr": [{ "xt": { "type": "match", "name": "conntrack" } }, { "drop": null }] } });
    let save = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstate NEW -j DROP\nCOMMIT\n";
    assert_eq!(
        fate(&ruleset(&[chain.clone(), foreign.clone()], save), &packet()),
        (Verdict::Drop, 0)
    );
    // Without iptables' own listing it is a doubt.
    assert_eq!(
        fate(&ruleset(&[chain, foreign], ""), &packet()),
        (Verdict::Accept, 1)
    );
}

#[test]
fn what_the_asker_leaves_open_decides_nothing() {
    let port = json!({ "payload": { "protocol": "tcp", "field": "dport" } });
    let rules = ruleset(
        &[
            base("a", "f", "forward", 0, "drop"),
            rule(
                "a",
                "f",
                json!([meets(port, "==", json!(80)), { "accept": null }]),
            ),
        ],
        "",
    );
    let open = Packet {
        to_port: None,
        ..packet()
    };
    assert_eq!(fate(&rules, &open), (Verdict::Drop, 1));
    assert_eq!(fate(&rules, &packet()), (Verdict::Accept, 0));
}

/// A forward chain of one rule, and what becomes of an ordinary packet.
fn fate_by(expressions: Value) -> (Verdict, usize) {
    let meter = json!({ "set": { "family": "inet", "table": "a", "name": "m" } });
    let chain = base("a", "f", "forward", 0, "accept");
    fate(
        &ruleset(&[meter, chain, rule("a", "f", expressions)], ""),
        &packet(),
    )
}

#[test]
fn what_drops_beyond_a_limit_lets_an_ordinary_packet_pass() {
    let beyond = json!({ "limit": { "rate": 10000, "burst": 5, "per": "second", "inv": true } });
    let noted = |statements: Value| json!({ "set": { "op": "update", "elem": { "payload": { "protocol": "ip", "field": "saddr" } }, "set": "@m", "stmt": statements } });
    let quota = |used: u64| json!({ "quota": { "val": 100, "val_unit": "mbytes", "used": used, "used_unit": "bytes", "inv": true } });
    let cases = [
        (beyond.clone(), (Verdict::Accept, 0)),
        (
            json!({ "limit": { "rate": 10, "burst": 5, "per": "second" } }),
            (Verdict::Drop, 0),
        ),
        (
            json!({ "quota": { "val": 100, "val_unit": "mbytes", "inv": true } }),
            (Verdict::Accept, 0),
        ),
        (quota(99), (Verdict::Accept, 0)),
        (quota(200 << 20), (Verdict::Drop, 0)),
        // How many connections there are is not known, nor what a limit is that has a name.
        (
            json!({ "ct count": { "val": 20, "inv": true } }),
            (Verdict::Accept, 1),
        ),
        (json!({ "limit": "named" }), (Verdict::Accept, 1)),
        (noted(json!([beyond])), (Verdict::Accept, 0)),
        (noted(json!(null)), (Verdict::Drop, 0)),
    ];
    for (limit, expected) in cases {
        assert_eq!(
            fate_by(json!([limit.clone(), { "drop": null }])),
            expected,
            "{limit}"
        );
        let limited = Rule {
            text: String::new(),
            body: Body::Nft(vec![limit, json!({ "drop": null })]),
        };
        assert!(!limited.is_bare());
    }
}

#[test]
fn a_member_of_a_set_with_a_limit_of_its_own_is_a_doubt() {
    let member = json!({ "elem": { "val": "10.1.0.2", "limit": { "rate": 1, "per": "second" } } });
    let from = json!({ "payload": { "protocol": "ip", "field": "saddr" } });
    let asked = meets(from, "==", json!({ "set": [member] }));
    assert_eq!(fate_by(json!([asked, { "drop": null }])), (Verdict::Accept, 1));
}

#[test]
fn what_is_done_that_we_cannot_follow_is_a_doubt() {
    let mangle = |key: Value, value: Value| json!({ "mangle": { "key": key, "value": value } });
    let address = json!({ "payload": { "protocol": "ip", "field": "saddr" } });
    for (statement, doubts) in [
        (json!({ "notrack": null }), 1),
        (json!({ "tproxy": { "port": 80 } }), 1),
        (json!({ "synproxy": { "mss": 1 } }), 1),
        (json!({ "queue": { "num": 3 } }), 1),
        (mangle(address, json!("10.9.9.9")), 1),
        (mangle(meta("mark"), json!({ "meta": { "key": "cpu" } })), 1),
        (
            mangle(
                json!({ "tcp option": { "name": "maxseg", "field": "size" } }),
                json!({ "rt": { "key": "mtu" } }),
            ),
            0,
        ),
        (mangle(meta("priority"), json!(1)), 0),
        (json!({ "log": { "prefix": "x" } }), 0),
        (json!({ "dup": { "addr": "10.9.9.9" } }), 0),
    ] {
        assert_eq!(
            fate_by(json!([statement.clone()])),
            (Verdict::Accept, doubts),
            "{statement}"
        );
    }
}

#[test]
fn a_mark_is_set_though_the_same_rule_goes_on_elsewhere() {
    let set = |key: Value, value: Value| json!({ "mangle": { "key": key, "value": value } });
    let connection = json!({ "ct": { "key": "mark" } });
    let bears = |key: Value, mark: u32| meets(key, "==", json!(mark));
    let rules = ruleset(
        &[
            base("a", "f", "forward", 0, "accept"),
            json!({ "chain": { "family": "inet", "table": "a", "name": "g" } }),
            rule(
                "a",
                "f",
                json!([set(connection.clone(), json!(7)), set(meta("mark"), connection.clone()), { "jump": { "target": "g" } }]),
            ),
            rule(
                "a",
                "g",
                json!([bears(meta("mark"), 7), bears(connection, 7), { "drop": null }]),
            ),
        ],
        "",
    );
    assert_eq!(fate(&rules, &packet()), (Verdict::Drop, 0));
}

#[test]
fn a_rule_that_cannot_be_judged_is_a_doubt_only_where_it_matters() {
    let unknown = json!({ "xt": { "type": "match", "name": "recent" } });
    let case = |policy: &str, rules: &[Value]| {
        let mut objects = vec![base("a", "f", "forward", 0, policy)];
        objects.push(json!({ "chain": { "family": "inet", "table": "a", "name": "g" } }));
        objects.extend(
            rules
                .iter()
                .map(|expressions| rule("a", "f", expressions.clone())),
        );
        objects.push(rule("a", "g", json!([unknown.clone(), { "drop": null }])));
        let seen = ruleset(&objects, "").pass(Hook::Forward, &mut packet());
        let could: Vec<Could> = seen[0].doubts.iter().map(|doubt| doubt.could).collect();
        (seen[0].verdict, could)
    };
    let perhaps = |act: Value| json!([unknown.clone(), act]);
    let (accept, drop) = (json!({ "accept": null }), json!({ "drop": null }));
    assert_eq!(
        case("accept", &[perhaps(accept.clone())]),
        (Verdict::Accept, vec![])
    );
    assert_eq!(case("drop", &[perhaps(drop.clone())]), (Verdict::Drop, vec![]));
    assert_eq!(
        case("accept", &[perhaps(drop.clone())]),
        (Verdict::Accept, vec![Could::Stop])
    );
    assert_eq!(
        case("drop", &[perhaps(accept.clone())]),
        (Verdict::Drop, vec![Could::Change])
    );
    // Going back before what decides anyway.
    assert_eq!(
        case("accept", &[perhaps(json!({ "return": null })), json!([accept])]),
        (Verdict::Accept, vec![])
    );
    // Two of them, one behind the other.
    assert_eq!(
        case("accept", &[perhaps(json!({ "jump": { "target": "g" } }))]),
        (Verdict::Accept, vec![Could::Stop])
    );
}

fn saved(rules: &[&str]) -> (Verdict, usize) {
    let lines: String = rules.iter().map(|rule| format!("-A FORWARD {rule}\n")).collect();
    let save = format!("*filter\n:FORWARD ACCEPT [0:0]\n{lines}COMMIT\n");
    let listings = Listings {
        legacy: [save, String::new()],
        ..Listings::default()
    };
    fate(&read(&listings).unwrap(), &packet())
}

#[test]
fn targets_of_iptables_that_are_no_chains_are_not_taken_for_chains() {
    for (rule, expected) in [
        ("-j NFQUEUE --queue-num 3", (Verdict::Accept, 1)),
        ("-j NETMAP --to 10.3.0.0/24", (Verdict::Accept, 1)),
        ("-j TTL --ttl-set 1", (Verdict::Accept, 1)),
        ("-j SOMETHINGNEW", (Verdict::Accept, 1)),
        ("-j CT --notrack", (Verdict::Accept, 1)),
        ("-j CT --helper ftp", (Verdict::Accept, 0)),
        ("-j TEE --gateway 10.3.0.1", (Verdict::Accept, 0)),
        ("-j SET --add-set x src", (Verdict::Accept, 0)),
        ("-m limit --limit 10/sec -j DROP", (Verdict::Drop, 0)),
        (
            "-m hashlimit --hashlimit-above 20/sec --hashlimit-burst 5 --hashlimit-name a -j DROP",
            (Verdict::Accept, 0),
        ),
        ("-m connlimit --connlimit-above 20 -j DROP", (Verdict::Accept, 1)),
        ("-m socket -j DROP", (Verdict::Accept, 1)),
        ("-m connmark --mark 0x1 -j DROP", (Verdict::Accept, 0)),
        (
            "-j DNAT --to-destination 10.3.0.1-10.3.0.9:80",
            (Verdict::Accept, 1),
        ),
    ] {
        assert_eq!(saved(&[rule]), expected, "{rule}");
    }
    assert_eq!(
        saved(&[
            "-j CONNMARK --set-xmark 0x1/0x1",
            "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
            "-m mark --mark 0x1 -j DROP"
        ]),
        (Verdict::Drop, 0)
    );
}

#[test]
fn simple_matches_are_judged() {
    let echo = Packet {
        layer4: Some(Layer4::Echo),
        to_port: None,
        ..packet()
    };
    let answer = Packet {
        state: State::Established,
        from_port: Some(80),
        to_port: None,
        unknown_port: (32768, 65535),
        ..packet()
    };
    let one = |packet: &Packet, rule: &str| {
        let save = format!("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD {rule} -j DROP\nCOMMIT\n");
        let listings = Listings {
            legacy: [save, String::new()],
            ..Listings::default()
        };
        fate(&read(&listings).unwrap(), packet)
    };
    let (passes, drops, perhaps) = ((Verdict::Accept, 0), (Verdict::Drop, 0), (Verdict::Accept, 1));
    for (of, rule, expected) in [
        (&echo, "-p icmp -m icmp --icmp-type 8", drops),
        (&echo, "-p icmp -m icmp ! --icmp-type 8", passes),
        (&echo, "-p icmp -m icmp --icmp-type 3/4", passes),
        (&echo, "-p icmp -m icmp --icmp-type any", drops),
        (&packet(), "-p icmp -m icmp --icmp-type 8", passes),
        (&packet(), "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN", drops),
        (
            &packet(),
            "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN",
            passes,
        ),
        (&answer, "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN", passes),
        (&packet(), "-p tcp -m multiport --ports 79:81", drops),
        (&packet(), "-p tcp -m multiport --ports 22,443", perhaps),
        (&packet(), "-p tcp -m multiport ! --dports 22,443", drops),
        (&answer, "-p tcp -m multiport --ports 22,443", passes),
        (&answer, "-p tcp -m multiport --sports 22,80", drops),
        (&answer, "-p tcp -m tcp --dport 1024:65535", drops),
        (&answer, "-p tcp -m tcp --dport 40000", perhaps),
        (&packet(), "-m iprange --src-range 10.1.0.1-10.1.0.9", drops),
        (&packet(), "-m iprange ! --src-range 10.1.0.1-10.1.0.9", passes),
        (&packet(), "-m pkttype --pkt-type multicast", passes),
        (&packet(), "-m pkttype --pkt-type unicast", drops),
        (&packet(), "-f", passes),
        (&answer, "-m conntrack --ctdir REPLY", drops),
        (&packet(), "-m conntrack --ctdir REPLY", passes),
    ] {
        assert_eq!(one(of, rule), expected, "{rule}");
    }
    let flags = json!({ "payload": { "protocol": "tcp", "field": "flags" } });
    let four = json!({ "&": [flags, ["fin", "syn", "rst", "ack"]] });
    let kind = json!({ "payload": { "protocol": "icmp", "field": "type" } });
    let port = json!({ "payload": { "protocol": "tcp", "field": "dport" } });
    for (of, expression, expected) in [
        (&packet(), meets(four.clone(), "==", json!("syn")), drops),
        (&answer, meets(four, "==", json!("syn")), passes),
        (
            &packet(),
            meets(flags.clone(), "in", json!(["ack", "rst"])),
            passes,
        ),
        (&answer, meets(flags.clone(), "in", json!(["ack", "rst"])), drops),
        (&packet(), meets(flags, "!=", json!("syn")), passes),
        (&echo, meets(kind.clone(), "==", json!("echo-request")), drops),
        (&echo, meets(kind, "==", json!("echo-reply")), passes),
        (
            &packet(),
            meets(meta("pkttype"), "==", json!("multicast")),
            passes,
        ),
        (&answer, meets(port.clone(), ">=", json!(1024)), drops),
        (&answer, meets(port, "==", json!({ "range": [1, 1023] })), passes),
    ] {
        let chain = base("a", "f", "forward", 0, "accept");
        let rules = ruleset(
            &[
                chain,
                rule("a", "f", json!([expression.clone(), { "drop": null }])),
            ],
            "",
        );
        assert_eq!(fate(&rules, of), expected, "{expression}");
    }
}

/// Listings as nft 1.0.6 writes them: its JSON tells neither that a table is dormant nor which links a chain is for.
fn listed(objects: &[Value], text: &str) -> Ruleset {
    let listings = Listings {
        json: json!({ "nftables": objects }).to_string(),
        text: text.to_owned(),
        ..Listings::default()
    };
    read(&listings).unwrap()
}

#[test]
fn a_table_that_is_switched_off_drops_nothing() {
    let chains = [
        base("off", "f", "forward", 0, "drop"),
        base("on", "f", "forward", 1, "accept"),
    ];
    let text = "table inet off { # handle 3\n\tflags dormant\n\n\tchain f { # handle 1\n\t}\n}\ntable inet on { # handle 4\n\tset s { # handle 2\n\t\tflags dynamic\n\t}\n}\n";
    let seen = listed(&chains, text).pass(Hook::Forward, &mut packet());
    assert_eq!((seen.len(), seen[0].chain.table.as_str()), (1, "on"));
}

#[test]
fn chains_at_the_hooks_of_links_are_asked_about_theirs() {
    let chain = |name: &str, hook: &str| json!({ "chain": { "family": "netdev", "table": "n", "name": name, "type": "filter", "hook": hook, "prio": 0, "policy": "accept" } });
    let drop = |chain: &str| json!({ "rule": { "family": "netdev", "table": "n", "chain": chain, "handle": 4, "expr": [{ "drop": null }] } });
    let objects = [chain("i", "ingress"), chain("e", "egress"), drop("i"), drop("e")];
    let text = "table netdev n { # handle 1\n\tchain i { # handle 1\n\t\ttype filter hook ingress devices = { \"eth0\", \"tb-1\" } priority filter; policy accept;\n\t}\n\n\tchain e { # handle 2\n\t\ttype filter hook egress device \"eth0\" priority filter; policy accept;\n\t}\n}\n";
    let rules = listed(&objects, text);
    let stops = |hook, link| {
        let seen = rules.pass_link(hook, link, &mut packet());
        seen.iter().any(Seen::stops)
    };
    for (hook, link, expected) in [
        (Hook::Ingress, "tb-1", true),
        (Hook::Ingress, "eth0", true),
        (Hook::Egress, "eth0", true),
        (Hook::Egress, "tb-1", false),
        (Hook::Ingress, "eth1", false),
    ] {
        assert_eq!(stops(hook, link), expected, "{hook} {link}");
    }
}

#[test]
fn two_chains_of_one_priority_that_both_translate_are_a_doubt() {
    let chain = |table: &str, priority: i64| json!({ "chain": { "family": "inet", "table": table, "name": "d", "type": "nat", "hook": "prerouting", "prio": priority, "policy": "accept" } });
    let dnat = |to: &str| json!([{ "dnat": { "family": "ip", "addr": to } }]);
    for (priority, doubts) in [(-100, 1), (-90, 0)] {
        let rules = ruleset(
            &[
                chain("a", -100),
                chain("b", priority),
                rule("a", "d", dnat("10.9.0.1")),
                rule("b", "d", dnat("10.9.0.2")),
            ],
            "",
        );
        let seen = rules.pass(Hook::Prerouting, &mut packet());
        let found: usize = seen.iter().map(|seen| seen.doubts.len()).sum();
        assert_eq!(found, doubts, "{priority}");
    }
}

#[test]
fn an_answer_is_turned_where_the_kernel_takes_translations_back() {
    let to = json!({ "payload": { "protocol": "ip", "field": "daddr" } });
    let asks = |address: &str| json!([meets(to.clone(), "==", json!(address)), { "drop": null }]);
    for (priority, address) in [(-300, "192.0.2.2"), (-90, "10.1.0.2")] {
        let rules = ruleset(
            &[
                base("a", "p", "prerouting", priority, "accept"),
                rule("a", "p", asks(address)),
            ],
            "",
        );
        let mut answer = Packet {
            to: Some("192.0.2.2".parse().unwrap()),
            state: State::Established,
            ..packet()
        };
        answer.turns = Some(Ends {
            to: (Some("10.1.0.2".parse().unwrap()), None),
            ..answer.ends()
        });
        assert!(
            rules.pass(Hook::Prerouting, &mut answer)[0].stops(),
            "{priority} {address}"
        );
        assert_eq!(answer.to, Some("10.1.0.2".parse().unwrap()));
    }
}

#[test]
fn what_comes_by_the_way_back_passes_filters_of_reverse_paths() {
    let missing = json!({ "match": { "op": "==", "left": { "fib": { "result": "oif", "flags": ["saddr", "mark", "iif"] } }, "right": false } });
    let nft = ruleset(
        &[
            base("a", "f", "forward", 0, "accept"),
            rule("a", "f", json!([missing, { "drop": null }])),
        ],
        "",
    );
    let save = "*raw\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m rpfilter --validmark --invert -j DROP\nCOMMIT\n";
    let listings = Listings {
        legacy: [save.to_owned(), String::new()],
        ..Listings::default()
    };
    let iptables = read(&listings).unwrap();
    for rules in [nft, iptables] {
        for (by_way_back, doubts) in [(Some(true), 0), (Some(false), 1), (None, 1)] {
            let packet = Packet {
                by_way_back,
                ..packet()
            };
            assert_eq!(fate(&rules, &packet), (Verdict::Accept, doubts));
        }
    }
}
