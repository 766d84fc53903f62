//! Published ports: a container on the LAN has all of its ports there already.

use system_tests::{Answerer, Lan, ask_tcp, ask_tcp_for};

use crate::scene::{GATEWAYS, SUBNETS, hosts, look, make, must_clear_to};

#[test]
fn published_ports_are_taken_and_explained() {
    let sites = hosts(1);
    let before = look(&sites[0]);
    make(&sites[0], "lan", &[&SUBNETS[..], &GATEWAYS].concat());
    let one = sites[0].container("web", "lan", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let place = one.spaces();
    let server = Answerer::tcp(&place, "[::]:80");
    let (router, own) = (sites.lan().router(), one.ip("lan"));
    assert!(
        ask_tcp(router, &format!("{own}:80")).is_ok(),
        "at its own address"
    );
    let host = format!("{}:8080", Lan::host(0)[0]);
    let here = ask_tcp_for(std::time::Duration::from_secs(1), router, &host);
    assert!(here.is_err(), "nothing is published on the host: {here:?}");
    let listening = sites[0].host.run("ss", &["-Hlntu"]);
    assert!(
        !listening.contains(":8080") && !listening.contains(":5353"),
        "{listening}"
    );
    // By the network's name, once the engine has told it.
    system_tests::until("it is explained why none is published", || {
        let said = sites[0].tombolo.try_cli(&["ports"]).must().stdout;
        (said.contains("On lan ports are not published")).then_some(())
    });
    assert_eq!(sites[0].tombolo.cli(&["ports"]), serde_json::json!([]));
    drop((server, place));
    must_clear_to(&sites[0], &before);
}
