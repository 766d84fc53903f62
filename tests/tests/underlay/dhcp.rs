//! Addresses from the LAN's own DHCP server, a real dnsmasq.

use std::time::{Duration, Instant};

use system_tests::dhcp::{Dhcp, Lease, RANGE};
use system_tests::lan::{LINK, NET, NET6, ROUTER, neighbour};
use system_tests::{Container, Sites, json, until};

use crate::scene::{hosts, look, make, must_clear_to, must_go, reaches, ways_out};

/// When the server wants leases renewed, and when they are asked for again from anybody: seconds.
const RENEW: u32 = 4;
const REBIND: u32 = 60;

/// A network whose addresses the server gives.
const ARGS: [&str; 8] = [
    "--subnet",
    NET,
    "--gateway",
    ROUTER[0],
    "--ipam-opt",
    "dhcp=on",
    "--ipam-opt",
    "parent=eth0",
];

/// An address that the LAN's administrator reserves.
const RESERVED: &str = "192.0.2.180";

/// A host, and a server on its LAN.
fn lan() -> (Sites, Dhcp) {
    let sites = hosts(1);
    let server = Dhcp::start(sites.lan(), RENEW, REBIND, &[]);
    (sites, server)
}

/// The lease of a container, which must be one of the server's, with the container's own hardware address.
#[track_caller]
fn lease(server: &Dhcp, container: &Container) -> Lease {
    let own = container.ip("lan");
    let lease = server.lease(&own);
    let lease = lease.unwrap_or_else(|| panic!("the server doesn't know of {own}: {:?}", server.leases()));
    assert_eq!(lease.mac, json::text(&container.on("lan"), "/MacAddress"));
    lease
}

#[test]
fn a_container_has_a_lease_from_its_start_to_its_end() {
    let (sites, server) = lan();
    let before = look(&sites[0]);
    make(&sites[0], "lan", &ARGS);
    let web = sites[0].container("web", "lan", &["--hostname", "www"]);
    let own = web.ip("lan");
    let last = |address: &str| address.rsplit('.').next().unwrap().parse::<u8>().unwrap();
    assert!(
        (last(RANGE[0])..=last(RANGE[1])).contains(&last(&own)),
        "{own} is not of {RANGE:?}"
    );
    assert_ne!(lease(&server, &web).client, "*", "no client identifier");
    assert_eq!(ways_out(&web), [format!("default via {} dev eth0", ROUTER[0])]);
    let router = sites.lan().router();
    must_go([
        reaches("from the router", router, &own),
        reaches("from the host", sites[0].host.spaces(), &own),
    ]);
    assert_eq!(neighbour(router, &own), Some(lease(&server, &web).mac));
    sites[0].engine.docker(&["stop", "web"]);
    until("the lease is released", || {
        server.lease(&own).is_none().then_some(())
    });
    assert!(server.messages("DHCPRELEASE", &own) >= 1);
    sites[0].engine.docker(&["start", "web"]);
    lease(&server, &web);
    let own = web.ip("lan");
    must_clear_to(&sites[0], &before);
    until("the lease is released again", || {
        server.lease(&own).is_none().then_some(())
    });
}

#[test]
fn leases_are_renewed_over_a_restart_and_a_kill() {
    let (sites, server) = lan();
    make(&sites[0], "lan", &ARGS);
    let one = sites[0].container("one", "lan", &[]);
    let own = one.ip("lan");
    let renewed = |why: &str| {
        let (count, ends) = (server.messages("DHCPACK", &own), lease(&server, &one).ends);
        until(why, || {
            let more = server.messages("DHCPACK", &own) > count;
            (more && lease(&server, &one).ends > ends).then_some(())
        });
        assert_eq!(one.ip("lan"), own);
        assert_eq!(server.leases().len(), 1, "{:?}", server.leases());
    };
    renewed("a lease is renewed");
    sites[0].tombolo.stop();
    sites[0].tombolo.start_again();
    renewed("a lease is renewed after a restart");
    sites[0].tombolo.kill();
    sites[0].tombolo.start_again();
    renewed("a lease is renewed after a kill");
    assert_eq!(
        server.messages("DHCPRELEASE", &own),
        0,
        "a lease of a running container was given back"
    );
    // A server that is away for a while misses nothing but some packets.
    server.stop();
    server.start_again();
    renewed("a lease is renewed by a server that was away");
    must_go([reaches("from the router", sites.lan().router(), &own)]);
}

#[test]
fn the_server_knows_a_container_by_its_name() {
    let (sites, server) = lan();
    make(&sites[0], "lan", &ARGS);
    let web = sites[0].container("web", "lan", &[]);
    // Engines before 29 tell the name in their lists only, a moment later: it is said with the next renewal.
    let own = web.ip("lan");
    until("the server knows the container's name", || {
        (server.lease(&own)?.name == "web").then_some(())
    });
}

#[test]
fn one_hardware_address_has_one_address() {
    let (sites, server) = lan();
    make(&sites[0], "lan", &ARGS);
    let run = |name: &str| {
        let container = sites[0].container(name, "lan", &[]);
        let lease = lease(&server, &container);
        (container, lease)
    };
    let (first, lease) = run("first");
    let (_other, others) = run("other");
    assert!(
        lease.mac != others.mac && lease.ip != others.ip,
        "{lease:?} {others:?}"
    );
    first.remove();
    until("the lease is released", || {
        server.lease(&lease.ip).is_none().then_some(())
    });
    let (second, again) = run("second");
    assert_eq!((&again.mac, &again.ip), (&lease.mac, &lease.ip));
    second.remove();
    // What the LAN's administrator has reserved for it is what it gets.
    server.reserve(&lease.mac, RESERVED);
    let (_third, reserved) = run("third");
    assert_eq!((reserved.mac, reserved.ip.as_str()), (lease.mac, RESERVED));
    let refused = sites[0]
        .try_container("fourth", "lan", &["--mac-address", "02:11:22:33:44:55"])
        .err();
    let refused = refused.expect("a hardware address of the user's to be refused");
    assert!(refused.contains("--mac-address"), "{refused}");
}

#[test]
fn an_address_that_somebody_has_though_the_server_gives_it_is_declined() {
    let (sites, server) = lan();
    let before = look(&sites[0]);
    make(&sites[0], "lan", &ARGS);
    let one = sites[0].container("one", "lan", &[]);
    let mac = lease(&server, &one).mac;
    sites[0].engine.docker(&["stop", "-t", "0", "one"]);
    // A machine that the server doesn't know of.
    let squatter = sites.lan().machine("squatter", [RESERVED, "2001:db8:1::180"]);
    server.reserve(&mac, RESERVED);
    sites[0].engine.docker(&["start", "one"]);
    assert_ne!(lease(&server, &one).ip, RESERVED);
    assert!(server.messages("DHCPDECLINE", RESERVED) >= 1, "{}", server.log());
    let told = sites[0].tombolo.log();
    let why = format!("an address is not given address={RESERVED}");
    assert!(told.contains(&why), "{told}");
    let named = sites[0].try_container("named", "lan", &["--ip", RESERVED]).err();
    let named = named.expect("a container with an address that somebody has to be refused");
    assert!(named.contains(RESERVED), "{named}");
    must_go([
        reaches("from the router", sites.lan().router(), &one.ip("lan")),
        reaches("to who has it", &one.spaces(), RESERVED),
    ]);
    drop(squatter);
    must_clear_to(&sites[0], &before);
}

/// The address that a container has made itself from a router's advertisement, and by whom it has its way out from there.
fn by_advertisement(container: &Container) -> Option<(String, String)> {
    let place = container.spaces();
    let shown = json::parse(&place.run("ip", &["-6", "-j", "address", "show", "dev", LINK]));
    let all = json::rows(&shown)
        .iter()
        .filter_map(|link| link["addr_info"].as_array());
    let made = all.flatten().find(|address| {
        address["dynamic"] == true && address["scope"] == "global" && address["tentative"] != true
    })?;
    let ways = ways_out(container);
    let way = ways
        .iter()
        .find(|way| way.starts_with("default via fe80::") && way.contains("proto ra"))?;
    // How long it is good for isn't compared.
    let way = way.split(" expires ").next().unwrap_or(way);
    Some((json::text(made, "/local").to_owned(), way.to_owned()))
}

#[test]
fn addresses_of_ipv6_come_by_the_routers_advertisements() {
    let sites = hosts(1);
    // The host is not to take anything from it, so that it looks the same before and after.
    sites[0]
        .host
        .run("sysctl", &["-qw", "net.ipv6.conf.eth0.accept_ra=0"]);
    let before = look(&sites[0]);
    let server = Dhcp::start_advertising(sites.lan(), RENEW, REBIND);
    let own = ["--ipv6", "--subnet", NET6, "--ip-range", "2001:db8:1::1:0/112"];
    make(&sites[0], "lan", &[&ARGS[..], &own].concat());
    let one = sites[0].container("one", "lan", &[]);
    lease(&server, &one);
    let seen = || until("an address by advertisement", || by_advertisement(&one));
    let (made, way) = seen();
    assert!(made.starts_with("2001:db8:1:0:"), "{made} is not of {NET6}");
    // Beside the one that Docker has told.
    let told = json::text(&one.on("lan"), "/GlobalIPv6Address").to_owned();
    assert!(told.starts_with("2001:db8:1::1:"), "{told}");
    let router = sites.lan().router();
    must_go([
        reaches("the address it made", router, &made),
        reaches("the address it was told", router, &told),
    ]);
    // It follows from the hardware address, and that from who the container is.
    sites[0].engine.docker(&["restart", "-t", "0", "one"]);
    assert_eq!(seen(), (made.clone(), way));
    must_go([reaches("the address it made again", router, &made)]);
    must_clear_to(&sites[0], &before);
}

#[test]
fn a_container_may_ask_a_server_of_ipv6_itself() {
    let sites = hosts(1);
    let server = Dhcp::start_of_ipv6(sites.lan(), RENEW, REBIND);
    let own = ["--ipv6", "--subnet", NET6, "--ip-range", "2001:db8:1::1:0/112"];
    make(&sites[0], "lan", &[&ARGS[..], &own].concat());
    let one = sites[0].container("one", "lan", &[]);
    lease(&server, &one);
    // A client of the container's, which sets nothing: what it was given stands in its file. It is ended each time, and tried again
    // as its own address on the link takes a moment to be good.
    let files = tempfile::tempdir().expect("a directory");
    let file = |name: &str| files.path().join(name).to_str().expect("a plain path").to_owned();
    let (leases, pid) = (file("leases"), file("pid"));
    let client = [
        "3",
        "dhclient",
        "-6",
        "-d",
        "-sf",
        "/bin/true",
        "-lf",
        &leases,
        "-pf",
        &pid,
        LINK,
    ];
    until("the client has an address", || {
        one.spaces().try_run("timeout", &client);
        let given = std::fs::read_to_string(&leases).ok()?;
        given.contains("iaaddr 2001:db8:1::10").then_some(())
    });
    assert!(
        server.log().contains("DHCPREPLY(eth0) 2001:db8:1::10"),
        "{}",
        server.log()
    );
}

#[test]
fn without_a_server_a_container_is_refused_soon_and_told_why() {
    let sites = hosts(1);
    make(&sites[0], "lan", &ARGS);
    let begun = Instant::now();
    let refused = sites[0].try_container("one", "lan", &[]).err();
    let refused = refused.expect("a container without an address to be refused");
    assert!(refused.contains("DHCP") && refused.contains(LINK), "{refused}");
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "refused after {:?}",
        begun.elapsed()
    );
    let server = Dhcp::start(sites.lan(), RENEW, REBIND, &[]);
    let one = sites[0].container("one", "lan", &[]);
    lease(&server, &one);
}

#[test]
fn options_of_dhcp_that_cant_be_are_refused() {
    let sites = hosts(1);
    let before = look(&sites[0]);
    for (options, says) in [
        (
            &["dhcp=maybe", "parent=eth0"][..],
            &["dhcp", "maybe", "on", "off"][..],
        ),
        (&["dhcp=on"], &["dhcp", "parent"]),
        (&["dhcp=on", "parent=nosuch0"], &["parent", "nosuch0"]),
        (&["dhcp=on", "parent=lo"], &["parent", "lo"]),
    ] {
        let options: Vec<&str> = options.iter().flat_map(|option| ["--ipam-opt", option]).collect();
        let args = [&["-o", "parent=eth0", "--subnet", NET], &options[..]].concat();
        crate::scene::try_make(&sites[0], "bad", "macvlan", &args).must_fail_with(says);
        before.must_come_back(&sites[0].host, Some(&sites[0].tombolo));
    }
}
