//! One compose file, started on several hosts at once.

use system_tests::{Container, Site, at_once};

use super::lab::{all_have, comes, has, networks, plan};

const FILE: &str = "\
services:
  web:
    image: busybox
    command: sleep 3600
    networks: [front]
    stop_grace_period: 0s
  api:
    image: busybox
    command: sleep 3600
    networks: [front]
    stop_grace_period: 0s
networks:
  front:
    driver: tombolo
    driver_opts: {type: overlay}
    ipam:
      driver: tombolo
      config: [{subnet: 10.42.0.0/16}]
";

fn compose(site: &Site, args: &[&str]) {
    site.engine
        .compose(&[&["-p", "shop", "-f", "/tmp/shop.yml"], args].concat())
        .must();
}

/// A container of a service, however this compose spells it.
fn container(site: &Site, service: &str) -> Container {
    let filter = format!("label=com.docker.compose.service={service}");
    let names = site
        .engine
        .docker(&["ps", "--filter", &filter, "--format", "{{.Names}}"]);
    site.known(names.lines().next().expect("a container of the service"))
}

#[test]
fn an_application_started_on_three_hosts_at_once_has_one_network() {
    let sites = plan().joined();
    sites
        .iter()
        .for_each(|site| site.host.write("/tmp/shop.yml", FILE));
    at_once(&sites[..], |site| {
        let up = ["-p", "shop", "-f", "/tmp/shop.yml", "up", "-d"];
        let first = site.engine.compose(&up);
        // It may have looked before the network came from another host, and have made one while it came.
        let crossed = ["is used by network", "already exists"]
            .iter()
            .any(|said| first.stderr.contains(said));
        match first.ok || !crossed {
            true => first.must(),
            false => site.engine.compose(&up).must(),
        };
    });
    let id = |site: &Site| networks(site)["shop_front"].clone();
    for site in sites.iter() {
        assert_eq!(id(site).subnets, ["10.42.0.0/16"]);
        assert_eq!(networks(site).len(), 1);
    }
    let webs: Vec<Container> = sites.iter().map(|site| container(site, "web")).collect();
    let addresses = |from: &Container, name: &str| {
        let said = from.try_exec(&["nslookup", name, "127.0.0.11"]);
        said.stdout.lines().filter(|line| line.contains("10.42.")).count()
    };
    for web in &webs {
        comes("all three of the service", || addresses(web, "api") == 3);
    }
    // Down on one leaves the others at work, and up again is the same network.
    compose(&sites[0], &["down"]);
    assert!(!has(&sites[0], "shop_front"));
    comes("those of the others", || addresses(&webs[1], "api") == 2);
    assert!(webs[1].pings("api") && webs[2].pings("web"));
    compose(&sites[0], &["up", "-d", "--scale", "api=3"]);
    comes("those that were scaled", || addresses(&webs[1], "api") == 5);
    at_once(&sites[..], |site| compose(site, &["down"]));
    all_have(sites.iter(), "shop_front", false);
}
