//! What all networks on a LAN have in common: addresses, gateways, both families, and the names of options.

use system_tests::json;
use system_tests::lan::{LINK, OUTSIDE, ROUTER, STRANGER, neighbour, who_has};

use crate::scene::{
    GATEWAYS, OTHERS, SUBNETS, addresses, both, hosts, look, make, make_lan, misses, must_clear_to, must_go,
    reaches, ways_out, without_host,
};

/// The hardware address of the router's link to the LAN.
fn routers_mac(sites: &system_tests::Sites) -> String {
    let shown = json::parse(&sites.lan().router().run("ip", &["-j", "link", "show", LINK]));
    json::text(&shown[0], "/address").to_owned()
}

#[test]
fn a_gateway_is_the_lans_router_and_nobody_else_answers_for_it() {
    let sites = hosts(1);
    let before = look(&sites[0]);
    make_lan(&sites, 0, &[]);
    let one = sites[0].container("one", "lan", &[]);
    assert_eq!(
        ways_out(&one),
        [
            format!("default via {} dev eth0", ROUTER[0]),
            format!("default via {} dev eth0 metric 1024 pref medium", ROUTER[1])
        ]
    );
    let (stranger, mac) = (sites.lan().stranger(), routers_mac(&sites));
    assert_eq!(who_has(stranger, ROUTER[0]), [mac.as_str()]);
    must_go(both(reaches, "the stranger to the router", stranger, &ROUTER));
    assert_eq!(neighbour(stranger, ROUTER[1]), Some(mac));
    // Nor does anybody answer for addresses that nobody has.
    assert!(who_has(stranger, "192.0.2.90").is_empty());
    let addresses = sites[0].host.run("ip", &["-o", "address"]);
    for own in ROUTER {
        assert!(!addresses.contains(&format!(" {own}/")), "{addresses}");
    }
    must_clear_to(&sites[0], &before);
}

#[test]
fn without_a_gateway_there_is_no_way_out_and_the_first_address_is_a_containers() {
    let sites = hosts(1);
    make(&sites[0], "lan", &[&OTHERS[..], without_host()].concat());
    let pools = sites[0].tombolo.cli(&["pools"]);
    assert_eq!(pools[0]["leases"], serde_json::json!([]), "{pools:#}");
    let one = sites[0].container("one", "lan", &[]);
    assert_eq!(one.ip("lan"), "198.51.100.1");
    assert_eq!(ways_out(&one), [""; 0]);
    assert_eq!(json::text(&one.on("lan"), "/Gateway"), "");
    let two = sites[0].container("two", "lan", &[]);
    must_go([
        reaches("to a neighbour", &one.spaces(), &two.ip("lan")),
        misses("out", &one.spaces(), OUTSIDE[0]),
    ]);
    // The engine gives no way out of its own either.
    let links = one.ip_json(&["link", "show"]);
    assert_eq!(json::rows(&links).len(), 2, "{links:#}");
}

#[test]
fn an_internal_network_reaches_the_lan_and_nothing_behind_it() {
    let sites = hosts(1);
    make_lan(&sites, 0, &["--internal"]);
    let one = sites[0].container("one", "lan", &[]);
    let two = sites[0].container("two", "lan", &[]);
    assert_eq!(ways_out(&one), [""; 0]);
    let place = one.spaces();
    must_go(
        [
            both(reaches, "to a neighbour", &place, &addresses(&two, "lan")),
            both(reaches, "to the stranger", &place, &STRANGER),
            both(misses, "out", &place, &OUTSIDE),
        ]
        .into_iter()
        .flatten(),
    );
    let links = one.ip_json(&["link", "show"]);
    assert_eq!(json::rows(&links).len(), 2, "{links:#}");
}

#[test]
fn addresses_that_the_user_chose_are_seen_on_the_wire() {
    let sites = hosts(1);
    let before = look(&sites[0]);
    make(&sites[0], "lan", &[&SUBNETS[..], &GATEWAYS].concat());
    let (mac, own) = ("02:11:22:33:44:55", ["192.0.2.77", "2001:db8:1::77"]);
    let args = ["--ip", own[0], "--ip6", own[1], "--mac-address", mac];
    let one = sites[0].container("one", "lan", &args);
    assert_eq!(addresses(&one, "lan"), own);
    let router = sites.lan().router();
    must_go(both(reaches, "from the router", router, &own));
    for address in own {
        assert_eq!(neighbour(router, address).as_deref(), Some(mac), "{address}");
    }
    assert_eq!(who_has(router, own[0]), [mac]);
    let taken = sites[0].try_container("two", "lan", &["--ip", own[0]]).err();
    let taken = taken.expect("an address that a container has to be refused");
    assert!(taken.contains(own[0]), "{taken}");
    // Without a choice of the user's the hardware address follows from the address, so it is the same again.
    let mac_of = |name: &str| {
        let container = sites[0].container(name, "lan", &["--ip", "192.0.2.78"]);
        let mac = json::text(&container.on("lan"), "/MacAddress").to_owned();
        container.remove();
        mac
    };
    assert_eq!(mac_of("three"), mac_of("four"));
    must_clear_to(&sites[0], &before);
}

#[test]
fn a_net_of_two_addresses_has_two_containers() {
    let sites = hosts(1);
    let two = ["--subnet", "198.51.100.0/31"];
    make(&sites[0], "two", &[&two[..], without_host()].concat());
    let one = sites[0].container("one", "two", &[]);
    let other = sites[0].container("other", "two", &[]);
    assert_eq!([one.ip("two"), other.ip("two")], ["198.51.100.0", "198.51.100.1"]);
    must_go([
        reaches("to the other", &one.spaces(), &other.ip("two")),
        reaches("from the other", &other.spaces(), &one.ip("two")),
    ]);
    let refused = sites[0].try_container("third", "two", &[]).err();
    let refused = refused.expect("a third container to be refused");
    assert!(refused.contains("198.51.100.0/31"), "{refused}");
}

#[test]
fn a_network_of_ipv6_alone_has_its_router() {
    let sites = hosts(1);
    // The engine gives every network addresses of IPv4; these lead nowhere.
    let args = [
        "--subnet",
        "198.51.100.0/24",
        "--ipv6",
        "--subnet",
        SUBNETS[4],
        "--gateway",
        ROUTER[1],
    ];
    make(&sites[0], "six", &[&args[..], without_host()].concat());
    let one = sites[0].container("one", "six", &[]);
    let place = one.spaces();
    must_go([
        reaches("to the router", &place, ROUTER[1]),
        reaches("to the outside", &place, OUTSIDE[1]),
        reaches("from the outside", sites.lan().outside(), &one.ip6("six")),
        misses("to the outside by IPv4", &place, OUTSIDE[0]),
    ]);
    assert_eq!(ways_out(&one).len(), 1, "{:?}", ways_out(&one));
}

#[test]
fn options_have_dockers_names() {
    let sites = hosts(1);
    let options = [
        "-o",
        "parent=eth0",
        "-o",
        "macvlan_mode=private",
        "-o",
        "com.docker.network.driver.mtu=1400",
        "-o",
        "com.docker.network.container_iface_prefix=lan",
    ];
    make(&sites[0], "lan", &[&OTHERS[..], &options].concat());
    let one = sites[0].container("one", "lan", &[]);
    let link = one.ip_json(&["-d", "link", "show", "dev", "lan0"]);
    assert_eq!(link[0]["mtu"], 1400, "{link:#}");
    assert_eq!(link[0]["linkinfo"]["info_kind"], "macvlan", "{link:#}");
    assert_eq!(link[0]["linkinfo"]["info_data"]["mode"], "private", "{link:#}");
}
