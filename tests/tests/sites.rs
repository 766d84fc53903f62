//! The lab of several hosts itself: engines of different releases in one cluster, cables that are cut, hosts without power.

use std::collections::BTreeSet;

use serde_json::Value;
use system_tests::json::{rows, text};
use system_tests::{Host, Kind, Plan, Rows, Site, engine, say};

#[test]
fn hosts_are_one_cluster_whatever_is_cut_or_without_power() {
    let mut plan = Plan::of(3);
    // One of each, where newer ones are asked for at all.
    if engine::of_run() != "native" {
        plan = plan.engine(0, "native").engine(1, "trixie").engine(2, "sid");
    }
    let sites = plan.ipv6().second_wire().mtu(1400).joined();
    let versions: Vec<String> = sites.iter().map(|site| site.engine.version()).collect();
    say(&format!("engines {versions:?}"));
    for (at, site) in sites.iter().enumerate() {
        assert_eq!(site.name(), ["a", "b", "c"][at]);
        let links = site.host.run("ip", &["-o", "link"]);
        assert_eq!(links.matches("mtu 1400").count(), 2, "{links}");
        for target in [
            sites.wire(0).ipv4(0),
            sites.wire(1).ipv4(0),
            sites.wire(0).ipv6(0),
            sites.wire(1).ipv6(0),
        ] {
            assert!(site.pings(&target), "{} does not reach {target}", site.name());
        }
    }

    sites.network("app", Kind::Shared, &["--subnet", "10.42.0.0/24"]);
    for (at, site) in sites.iter().enumerate() {
        site.container(&format!("c{at}"), "app", &["--restart", "always"]);
    }
    sites.know(3);

    // A cable that is cut takes the carrier, a partition is noticed by nobody but the cluster.
    sites.cut(2);
    sites.see(&[0, 1], &[0, 1]);
    assert!(
        sites[2]
            .host
            .run("ip", &["link", "show", "wire0"])
            .contains("NO-CARRIER")
    );
    sites.mend(2);
    sites.all_up();
    sites.part(&[0]);
    assert!(!sites[1].pings(&sites.wire(0).ipv4(0)));
    assert!(sites[1].pings(&sites.wire(0).ipv4(2)));
    sites.see(&[0], &[0]);
    sites.see(&[1, 2], &[1, 2]);
    sites.heal();
    sites.all_up();

    // A process that dies, an engine that is restarted, and a host that loses its power: its container comes back.
    sites[1].tombolo.kill();
    sites[1].tombolo.start_again();
    sites[1].engine.stop();
    sites[1].engine.start_again();
    sites.all_up();
    sites.power_off(0);
    sites.see(&[1, 2], &[1, 2]);
    sites.power_on(0);
    sites.all_up();
    sites.know(3);
    let found = addresses(&sites);
    let hosts: Vec<&str> = found.iter().map(|(host, _)| host.as_str()).collect();
    assert_eq!(hosts, ["a", "b", "c"]);
    let distinct: BTreeSet<&str> = found.iter().map(|(_, address)| address.as_str()).collect();
    assert_eq!(distinct.len(), 3, "{found:?}");
}

/// Which container has which address, as the first host says.
fn addresses(sites: &[Site]) -> Vec<(String, String)> {
    let peers = sites[0].tombolo.cli(&["peers"]);
    let pairs = rows(&peers).iter().map(|peer| {
        let at = |path| text(peer, path).to_owned();
        (at("/host_name"), at("/ipv4"))
    });
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort();
    pairs
}

#[test]
fn rows_of_tombolo_are_deleted_and_no_others() {
    let host = Host::with_engine_files();
    host.sh("ip link add tb-1 group 29807 up address 02:00:00:00:00:01 type bridge
             ip address add 10.42.0.1/24 dev tb-1
             ip link add other0 up address 02:00:00:00:00:02 type bridge
             ip address add 10.43.0.1/24 dev other0
             ip link add tv-1 group 29807 up master tb-1 type vxlan id 7 dstport 4789 nolearning
             ip neigh add 10.42.0.7 lladdr 02:00:00:00:00:07 dev tb-1 nud permanent
             ip neigh add 10.43.0.7 lladdr 02:00:00:00:00:07 dev other0 nud permanent
             bridge fdb append 02:00:00:00:00:07 dev tv-1 self master static dst 10.43.0.2
             bridge fdb append 00:00:00:00:00:00 dev tv-1 self permanent dst 10.43.0.2
             bridge fdb append 00:00:00:00:00:00 dev tv-1 self permanent dst 10.43.0.3
             ip route add 10.42.64.0/18 proto 116 metric 29807 via 10.43.0.2 dev other0 onlink
             ip route add 10.42.128.0/18 proto 116 metric 29807 nexthop via 10.43.0.2 dev other0 onlink nexthop via 10.43.0.3 dev other0 onlink
             ip -6 route add fd00:42::/64 proto 116 metric 29807 dev other0
             ip route add 10.44.0.0/24 via 10.43.0.9");
    for (rows, count) in [(Rows::Neighbours, 1), (Rows::Forwarding, 3), (Rows::Routes, 3)] {
        assert_eq!(rows.delete(&host), count, "{rows:?}");
        assert_eq!(rows.of(&host), Vec::<Value>::new(), "{rows:?}");
    }
    assert!(
        host.run("ip", &["neigh", "show", "dev", "other0"])
            .contains("10.43.0.7")
    );
    assert!(host.run("ip", &["route"]).contains("10.44.0.0/24"));
}
