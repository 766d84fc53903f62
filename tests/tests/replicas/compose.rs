//! One compose file, started on several hosts at once.

use std::time::{Duration, Instant};

use system_tests::{Container, Site, at_once, say, until};

use super::lab::{all_have, comes, has, make_overlay, networks, plan, says, standing, try_make};

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
        // It may have looked just before the network came from another host.
        let crossed = first.stderr.contains("already exists");
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

/// A user's request meets the network on its way from another host, at any moment of that.
#[test]
fn a_network_that_is_made_while_it_comes_from_another_host_is_made() {
    let sites = plan().joined();
    for late in (0..5).map(|step| Duration::from_millis(1_020 + 60 * step)) {
        make_overlay(&sites[0], "app", "10.42.0.0/16");
        let made = Instant::now();
        at_once(&sites[1..], |site| {
            // Until it has been heard of.
            comes("the network's way", || {
                standing(site, "app", site.name()) == "coming"
            });
            until("the moment", || (made.elapsed() >= late).then_some(()));
            let own = try_make(site, "app", &["-o", "type=overlay", "--subnet", "10.42.0.0/16"]);
            // Where it was there before the engine looked for the name, there is nothing to make.
            if !own.ok {
                own.must_fail_with(&["already exists"]);
            }
        });
        all_have(sites.iter(), "app", true);
        for site in sites.iter() {
            let named = site
                .engine
                .docker(&["network", "ls", "-q", "--filter", "name=app"]);
            assert_eq!(named.lines().count(), 1, "{}", site.name());
            says(&sites[0], "app", site.name(), "here");
        }
        let web = sites[1].container("web", "app", &[]);
        let client = sites[2].container("client", "app", &[]);
        comes("one network", || client.pings("web"));
        web.remove();
        client.remove();
        sites[1].engine.docker(&["network", "rm", "app"]);
        all_have(sites.iter(), "app", false);
    }
    let gave_way = |site: &Site| site.tombolo.log().matches("gave way").count();
    say(&format!(
        "{} times a copy gave way",
        sites.iter().map(gave_way).sum::<usize>()
    ));
}
