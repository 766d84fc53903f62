//! Containers whose links are made within their sandboxes (`attach=inside`), beside those that the engine moves there.
//!
//! Engines of 28 and later have the sandbox before they ask for the link; with older ones all links come the classic way, which
//! each test checks as well: it runs on either sort of engine and knows which one it has.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use system_tests::outside::HOST;
use system_tests::{Answerer, Container, Flow, Scene, Snapshot, ask_tcp, json, until};

/// From which version on an engine has the sandbox first.
const SANDBOX_FIRST: u32 = 28;

const DUAL: [&str; 5] = ["--ipv6", "--subnet", "10.60.0.0/24", "--subnet", "fd60::/64"];
const INSIDE: [&str; 2] = ["-o", "attach=inside"];

fn scene() -> (Scene, Snapshot) {
    let scene = Scene::new();
    // What the engine makes for the first published port stays.
    scene.container("first", &["-p", "8999:80"]).remove();
    let before = scene.snapshot();
    (scene, before)
}

/// How containers come by their links on networks that say `attach=inside`.
fn inside(scene: &Scene) -> &'static str {
    match scene.engine.major() >= SANDBOX_FIRST {
        true => "inside",
        false => "classic",
    }
}

/// How a container came by its link on a network.
#[track_caller]
fn attached(scene: &Scene, container: &Container, network: &str) -> String {
    scene.names_are_known();
    let endpoints = scene.tombolo().cli(&["endpoints"]);
    let is_it = |e: &&Value| e["network_name"] == network && e["container_name"] == container.name();
    let endpoint = json::rows(&endpoints).iter().find(is_it);
    let endpoint = endpoint.unwrap_or_else(|| panic!("{} on {network}: {endpoints:#}", container.name()));
    endpoint["attach"].as_str().unwrap_or("not at all").to_owned()
}

/// What a container sees of its network, without what differs from one container to another: indices, and who it is.
fn seen(container: &Container) -> BTreeMap<String, String> {
    // busybox looks for the index of the other link in this namespace, and says what it finds.
    let script = "ip -d -s link show eth0 | sed -E 's/^[0-9]+: //; s/@(if[0-9]+|eth0)//; s/,M-DOWN//; s/link-netnsid [0-9]+//' | grep -v -A1 -E 'RX|TX' | grep -v -E '^ +[0-9]';
        echo; ip address show eth0 | sed -E 's/^[0-9]+: //; s/@(if[0-9]+|eth0)//; s/,M-DOWN//';
        echo; ip route; echo; ip -6 route; echo; cat /etc/resolv.conf; echo;
        cd /proc/sys/net; for f in ipv4/conf/eth0/* ipv6/conf/eth0/* ipv4/neigh/eth0/* ipv6/neigh/eth0/*; do
          echo $f $(cat $f 2>/dev/null); done | grep -v stable_secret";
    let text = container.exec(&["sh", "-c", script]);
    let device = container
        .spaces()
        .run("ip", &["-d", "-j", "link", "show", "eth0"]);
    let device = &json::parse(&device)[0];
    let mut parts: BTreeMap<String, String> = text
        .split("\n\n")
        .enumerate()
        .map(|(at, part)| (format!("part {at}"), part.to_owned()))
        .collect();
    for key in [
        "flags",
        "mtu",
        "qdisc",
        "operstate",
        "txqlen",
        "address",
        "min_mtu",
        "max_mtu",
        "linkinfo",
        "num_tx_queues",
        "num_rx_queues",
        "gso_max_size",
        "inet6_addr_gen_mode",
        "promiscuity",
    ] {
        parts.insert(key.to_owned(), device[key].to_string());
    }
    parts
}

/// One container after the other, alike but for how it comes by its link, sees the same.
#[track_caller]
fn must_see_the_same(scene: &Scene, network: &[&str], container: &[&str]) {
    let mut both = Vec::new();
    for attach in ["attach=classic", "attach=inside"] {
        scene.network("net", &[network, &["-o", attach]].concat());
        let one = scene.container("one", &[&["--network", "net"], container].concat());
        let expected = match attach {
            "attach=inside" => inside(scene),
            _ => "classic",
        };
        assert_eq!(attached(scene, &one, "net"), expected, "{attach} {network:?}");
        // Addresses of IPv6 that the kernel is still looking for, and such, settle within moments.
        until("the link is settled", || {
            let now = one.exec(&["ip", "address"]);
            (!now.contains("tentative")).then_some(())
        });
        both.push(seen(&one));
        one.remove();
        scene.docker(&["network", "rm", "net"]);
    }
    let (classic, inside) = (&both[0], &both[1]);
    for (what, of_classic) in classic {
        assert_eq!(
            Some(of_classic),
            inside.get(what),
            "{what} of {network:?} {container:?}"
        );
    }
}

#[test]
fn a_container_sees_the_same_whoever_made_its_link() {
    let (scene, before) = scene();
    let addresses = ["--ip", "10.60.0.9", "--mac-address", "02:00:00:00:00:09"];
    must_see_the_same(&scene, &DUAL[1..3], &addresses);
    must_see_the_same(&scene, &DUAL, &[&addresses[..], &["--ip6", "fd60::9"]].concat());
    let small = [&DUAL[..], &["-o", "mtu=1400", "--internal"]].concat();
    must_see_the_same(&scene, &small, &[&addresses[..], &["--ip6", "fd60::9"]].concat());
    let ours = ["--ip", "10.60.0.9"];
    must_see_the_same(&scene, &DUAL[1..3], &[&ours[..], &["-p", "8080:80"]].concat());
    scene.must_clear_to(&before);
}

#[test]
fn the_settings_of_a_link_are_made_as_the_engine_makes_them() {
    let (scene, before) = scene();
    if scene.engine.major() < SANDBOX_FIRST {
        // These know no settings of a link: the option is one of the engine's that says nothing.
        scene.network("net", &INSIDE);
        assert_eq!(inside(&scene), "classic");
        scene.must_clear_to(&before);
        return;
    }
    scene.network("net", &[&DUAL[..], &INSIDE].concat());
    let setting = |text: &str| format!("name=net,driver-opt=com.docker.network.endpoint.sysctls={text}");
    let one = setting("net.ipv4.conf.IFNAME.log_martians=1");
    let one = scene.container("one", &["--network", &one]);
    assert_eq!(attached(&scene, &one, "net"), "inside");
    let log = one.exec(&["cat", "/proc/sys/net/ipv4/conf/eth0/log_martians"]);
    assert_eq!(log.trim(), "1");
    // One that takes IPv6 away is left to the engine, which must know; not all engines can do that.
    scene.network("usual", &["--ipv6", "-o", "attach=classic"]);
    let off = |network: &str| {
        let option = "driver-opt=com.docker.network.endpoint.sysctls=net.ipv6.conf.IFNAME.disable_ipv6=1";
        let place = format!("name={network},{option}");
        let ran = Container::try_run(&scene.host, &scene.engine, network, &["--network", &place]);
        let ok = ran.is_ok();
        // It was created, whether it has started or not.
        scene.docker(&["rm", "-f", network]);
        ok
    };
    assert_eq!(off("net"), off("usual"));
    // One that there is not is refused, as on any network.
    let refused = Container::try_run(
        &scene.host,
        &scene.engine,
        "three",
        &["--network", &setting("net.ipv4.conf.IFNAME.nothing=1")],
    );
    let refused = refused.expect_err("a setting that there is not").stderr;
    assert!(refused.contains("is not a sysctl file"), "{refused}");
    scene.must_clear_to(&before);
}

#[test]
fn networks_come_and_go_and_the_way_out_follows() {
    let (scene, before) = scene();
    scene.network("net", &INSIDE);
    scene.network("other", &[&DUAL[..], &INSIDE].concat());
    let (web, peer) = (
        scene.container("web", &["--network", "net", "-p", "8080:80"]),
        scene.container("peer", &["--network", "other"]),
    );
    let published = |scene: &Scene| {
        let _web = Answerer::tcp(&web.spaces(), "0.0.0.0:80");
        ask_tcp(scene.outside.spaces(), &format!("{}:8080", HOST[0])).expect("a published port");
    };
    published(&scene);
    for _ in 0..3 {
        scene.docker(&["network", "connect", "other", "web"]);
        assert_eq!(attached(&scene, &web, "other"), inside(&scene));
        let first = web.ip_json(&["address", "show", "eth0"]);
        assert_eq!(
            first[0]["addr_info"][0]["local"],
            web.ip("net").as_str(),
            "its name is its own"
        );
        assert!(web.pings("peer") && peer.pings6("web"), "both are on other");
        published(&scene);
        scene.docker(&["network", "disconnect", "other", "web"]);
        assert!(!web.pings("peer"), "it has left");
        let links = web.ip_json(&["link"]);
        assert_eq!(json::rows(&links).len(), 2, "lo and one more: {links:#}");
        published(&scene);
    }
    // The only way out leaves, and another one comes.
    scene.docker(&["network", "connect", "other", "web"]);
    scene.docker(&["network", "disconnect", "net", "web"]);
    let way_out = web.ip_json(&["route", "show", "default"]);
    assert_eq!(way_out[0]["gateway"], "10.60.0.1", "{way_out:#}");
    published(&scene);
    scene.docker(&["restart", "-t", "0", "web"]);
    published(&scene);
    assert!(web.pings("peer"));
    scene.must_clear_to(&before);
}

#[test]
fn a_container_starts_on_networks_of_several_drivers_in_any_order() {
    let (scene, before) = scene();
    scene.network("ours", &INSIDE);
    scene.network("too", &[&DUAL[..], &INSIDE].concat());
    scene.docker(&["network", "create", "-d", "bridge", "theirs"]);
    let peers: Vec<Container> = ["ours", "too", "theirs"]
        .map(|network| scene.container(&format!("on-{network}"), &["--network", network]))
        .into();
    let one = scene.container("one", &["--network", "ours"]);
    for network in ["theirs", "too"] {
        scene.docker(&["network", "connect", network, "one"]);
    }
    // The engine takes a container's networks in another order each time it starts.
    for round in 0..6 {
        for peer in &peers {
            assert!(one.pings(peer.name()), "{} in round {round}", peer.name());
        }
        let links = one.ip_json(&["link"]);
        let mut names: Vec<&str> = json::rows(&links)
            .iter()
            .filter_map(|link| link["ifname"].as_str())
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["eth0", "eth1", "eth2", "lo"], "in round {round}");
        scene.docker(&["restart", "-t", "0", "one"]);
    }
    // Where nothing came of it in the end, the name is as it was.
    let two = scene.container("two", &["--network", "ours"]);
    two.spaces()
        .run("ip", &["route", "add", "10.60.0.0/24", "dev", "eth0"]);
    scene
        .try_docker(&["network", "connect", "too", "two"])
        .must_fail_with(&["10.60.0"]);
    until("the name is given back", || {
        two.try_exec(&["ip", "link", "show", "eth0"]).ok.then_some(())
    });
    scene.must_clear_to(&before);
}

#[test]
fn tombolo_and_the_engine_end_and_begin() {
    let (scene, before) = scene();
    scene.network("net", &[&DUAL[..], &INSIDE].concat());
    let always = ["--network", "net", "--restart", "always", "-p", "8080:80"];
    let one = scene.container("one", &always);
    let two = scene.container("two", &["--network", "net"]);
    let flow = Flow::start(&one.spaces(), &two.spaces(), &format!("{}:7000", two.ip("net")));
    scene.tombolo().kill();
    scene.tombolo().start_again();
    let so_far = flow.so_far();
    until("some more of the flow", || {
        (flow.so_far() > so_far + 200).then_some(())
    });
    assert!(flow.stop().lost.is_empty(), "tombolo's death costs no packet");
    let repairs = |scene: &Scene| scene.tombolo().cli(&["status"])["repairs"].clone();
    assert_eq!(repairs(&scene), json!({}), "all was as it must be");
    // An engine that dies ends its containers when it is back, and starts those again that are to run always.
    scene.engine.kill();
    scene.engine.start_again();
    until("the container runs again", || {
        (one.inspect()["State"]["Running"] == true && !one.ip("net").is_empty()).then_some(())
    });
    let _web = Answerer::tcp(&one.spaces(), "0.0.0.0:80");
    ask_tcp(scene.outside.spaces(), &format!("{}:8080", HOST[0])).expect("a published port");
    scene.must_clear_to(&before);
}

/// A network on the host's wire, with addresses that are free there.
const ON_WIRE: [&str; 10] = [
    "-o",
    "type=macvlan",
    "-o",
    "parent=wire0",
    "--subnet",
    "192.0.2.0/24",
    "--ip-range",
    "192.0.2.128/25",
    "--gateway",
    "192.0.2.1",
];

/// The links of a container on a wire, by name.
fn on_wires(container: &Container) -> Vec<String> {
    let links = container.ip_json(&["-d", "link", "show", "type", "macvlan"]);
    let names = json::rows(&links)
        .iter()
        .map(|link| json::text(link, "/ifname").to_owned());
    names.collect()
}

#[test]
fn a_link_on_a_wire_is_made_within_and_goes_when_its_container_leaves() {
    let (scene, before) = scene();
    let addresses = ["--mac-address", "02:00:00:00:00:09", "--ip", "192.0.2.200"];
    must_see_the_same(&scene, &ON_WIRE, &addresses);
    scene.network("wire", &[&ON_WIRE[..], &INSIDE].concat());
    scene.network("net", &INSIDE);
    let (web, peer) = (
        scene.container("web", &["--network", "net"]),
        scene.container("peer", &["--network", "wire"]),
    );
    assert_eq!(attached(&scene, &peer, "wire"), inside(&scene));
    for _ in 0..3 {
        scene.docker(&["network", "connect", "wire", "web"]);
        assert_eq!(attached(&scene, &web, "wire"), inside(&scene));
        assert!(web.pings("peer") && peer.pings("web"), "both are on the wire");
        scene.docker(&["network", "disconnect", "wire", "web"]);
        assert_eq!(on_wires(&web), [""; 0]);
        scene.docker(&["restart", "-t", "0", "peer"]);
    }
    scene.docker(&["network", "connect", "wire", "web"]);
    // What tombolo had made when it died, and was to note or to take out, is taken out when it is back, and nothing else.
    let pid = web.inspect()["State"]["Pid"].to_string();
    scene.tombolo().kill();
    scene.host.sh(&format!(
        "ip link add link wire0 name left netns {pid} group 29809 type macvlan mode bridge &&
         ip link add link wire0 name mine netns {pid} type macvlan mode bridge"
    ));
    let with = on_wires(&web);
    assert_eq!(with.len(), 3, "{with:?}");
    scene.tombolo().start_again();
    let left: Vec<String> = with.into_iter().filter(|link| link != "left").collect();
    until("it has heard of the engine's containers and looked", || {
        (!on_wires(&web).contains(&"left".to_owned())).then_some(())
    });
    assert_eq!(on_wires(&web), left);
    assert!(web.pings("peer"));
    // Of a record that was lost Docker tells that its container is on the wire, not how.
    scene.tombolo().kill();
    scene.host.sh("find /var/lib/tombolo -mindepth 1 -delete");
    scene.tombolo().start_again();
    until("the records are there again", || {
        let endpoints = scene.tombolo().cli(&["endpoints"]);
        let joined = |network: &str| {
            let of_network = json::rows(&endpoints)
                .iter()
                .filter(|e| e["network_name"] == network);
            of_network.filter(|e| e["joined"] == true).count()
        };
        (joined("wire") == 2 && joined("net") == 1).then_some(())
    });
    scene.tombolo().kill();
    scene.tombolo().start_again();
    scene.names_are_known();
    assert_eq!(on_wires(&web), left);
    assert!(web.pings("peer"));
    scene.docker(&["network", "disconnect", "wire", "web"]);
    assert_eq!(on_wires(&web), ["mine"]);
    scene.must_clear_to(&before);
}

#[test]
fn an_engine_whose_containers_outlive_it_has_none_inside() {
    let scene = Scene::with_flags(&["--live-restore"]);
    scene.network("net", &INSIDE);
    let one = scene.container("one", &["--network", "net"]);
    assert_eq!(attached(&scene, &one, "net"), "classic");
    scene.clear();
}

#[test]
fn where_it_cannot_be_it_is_refused_or_done_the_classic_way() {
    let (scene, before) = scene();
    let refused = |args: &[&str]| {
        let refused = scene.try_network("net", args);
        assert!(!refused.ok, "{args:?}");
        refused.stderr
    };
    let said = refused(&["-o", "attach=somehow"]);
    assert!(
        said.contains("attach: 'somehow' is not allowed: classic or inside"),
        "{said}"
    );
    let said = refused(&["-o", "attach=inside", "-o", "ports=docker"]);
    assert!(
        said.contains("attach: 'inside' is not allowed: only on macvlan networks"),
        "{said}"
    );
    let said = refused(&["-o", "attach=inside", "-o", "type=ipvlan", "-o", "parent=eth0"]);
    assert!(
        said.contains("attach: 'inside' is not allowed: only on macvlan networks"),
        "{said}"
    );
    // Beside a link of the engine's the names would collide one day.
    scene.network("net", &INSIDE);
    let one = scene.container("one", &[]);
    scene.docker(&["network", "connect", "net", "one"]);
    assert_eq!(attached(&scene, &one, "net"), "classic");
    let findings = scene.tombolo().findings();
    let finding = findings.iter().find(|finding| finding["check"] == "links.attach");
    let finding = finding.expect("a finding about links that came the classic way");
    assert_eq!(json::text(finding, "/verdict"), "warning");
    let evidence = json::text(finding, "/evidence");
    assert!(evidence.starts_with("1 of 1 containers"), "{evidence}");
    scene.must_clear_to(&before);
}
