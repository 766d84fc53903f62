//! A container's link that is made within its sandbox: as it is to be there, or not at all.

use std::path::Path;
use std::sync::Arc;

use tombolo::kernel::{Kernel, Placed, Real, Sandbox};
use tombolo_core::world::{Key, Step, Value};

use crate::lab::{Namespace, in_namespace, look, name, run};

/// The step that makes a pair whose host end has this name.
fn pair(host: &str, last: u8) -> Step {
    let value = Value::Veth {
        peer: name(&host.replace("tbh", "tbc")),
        peer_mac: format!("02:7b:00:00:00:{last:02x}").parse().unwrap(),
        mac: format!("0a:7b:00:00:00:{last:02x}").parse().unwrap(),
        mtu: Some(1400),
    };
    Step::Add(Key::Link(name(host)), value)
}

/// What goes into a sandbox.
fn placed(sandbox: &Namespace, addresses: &[&str]) -> Placed {
    let entered = Sandbox::at(Path::new(&sandbox.path().to_string())).expect("a sandbox");
    Placed {
        sandbox: Arc::new(entered),
        prefix: "eth".to_owned(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        sysctls: Vec::new(),
        routes: vec!["198.51.100.0/24".parse().unwrap()],
    }
}

/// The names of a sandbox's links, without the loopback.
fn links(sandbox: &Namespace) -> Vec<String> {
    let text = sandbox.run("ip -br link show | grep -v '^lo ' | sed 's/[@ ].*//'");
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn it_is_there_with_all_that_belongs_to_it() {
    in_namespace(async || {
        let sandbox = Namespace::new();
        let mut kernel = Real::new();
        let mut inside = placed(&sandbox, &["192.0.2.7/24", "2001:db8::7/64"]);
        inside.sysctls = vec!["net.ipv4.conf.IFNAME.log_martians=1".to_owned()];
        kernel.attach(&pair("tbh1", 1), &inside).await.unwrap();
        let shown = sandbox.run(
            "ip -d link show eth0; ip -o address show eth0; ip route; ip -6 route; cat /proc/sys/net/ipv4/conf/eth0/log_martians",
        );
        for part in [
            "mtu 1400",
            "02:7b:00:00:00:01",
            "inet 192.0.2.7/24 brd 192.0.2.255 ",
            "inet6 2001:db8::7/64 scope global nodad",
            "192.0.2.0/24 dev eth0",
            "198.51.100.0/24 dev eth0",
            "2001:db8::/64 dev eth0",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        assert!(shown.trim().ends_with('1'), "{shown}");
        // The other end is the host's, as any pair's is, and the next one has the next name.
        let world = look(&mut kernel).await;
        assert!(world.contains_key(&Key::Link(name("tbh1"))), "{world:?}");
        let mut next = placed(&sandbox, &["203.0.113.7/24"]);
        next.routes.clear();
        kernel.attach(&pair("tbh2", 2), &next).await.unwrap();
        assert_eq!(links(&sandbox), ["eth0", "eth1"]);
        let disabled = sandbox.run("cat /proc/sys/net/ipv6/conf/eth1/disable_ipv6");
        assert_eq!(disabled.trim(), "1", "a link without an IPv6 address has no IPv6");
        let remove = Step::Remove(Key::Link(name("tbh1")), Value::Present);
        kernel.apply(&remove).await.unwrap();
        assert_eq!(links(&sandbox), ["eth1"]);
    });
}

#[test]
fn where_it_can_not_be_nothing_is_left_of_it() {
    in_namespace(async || {
        let sandbox = Namespace::new();
        let mut kernel = Real::new();
        kernel
            .attach(&pair("tbh1", 1), &placed(&sandbox, &["192.0.2.7/24"]))
            .await
            .unwrap();
        let before = look(&mut kernel).await;
        let mut forbidden = placed(&sandbox, &["203.0.113.7/24", "2001:db8::7/64"]);
        forbidden.sysctls = vec!["net.ipv6.conf.IFNAME.disable_ipv6=1".to_owned()];
        let mut unknown = placed(&sandbox, &["203.0.113.7/24"]);
        unknown.sysctls = vec!["net.ipv4.conf.IFNAME.nothing=1".to_owned()];
        let overlapping = placed(&sandbox, &["192.0.2.200/25"]);
        for (inside, said) in [
            (forbidden, "2001:db8::7/64 did not stay"),
            (unknown, "net.ipv4.conf.IFNAME.nothing=1"),
            (overlapping, "a route to 192.0.2.0/24"),
        ] {
            let refused = kernel
                .attach(&pair("tbh2", 2), &inside)
                .await
                .unwrap_err()
                .to_string();
            assert!(refused.contains(said), "{said} in {refused}");
            assert_eq!(links(&sandbox), ["eth0"], "{said}");
            assert_eq!(look(&mut kernel).await, before, "{said}");
        }
        // Beside a link of the engine's its names would collide with the engine's next.
        run(&format!(
            "ip link add other type veth peer name its netns {}",
            sandbox.path()
        ));
        sandbox.run("ip link set its up");
        let refused = kernel
            .attach(&pair("tbh2", 2), &placed(&sandbox, &["203.0.113.7/24"]))
            .await
            .unwrap_err();
        assert!(
            refused.to_string().contains("a link of the engine's, its"),
            "{refused}"
        );
        assert_eq!(links(&sandbox), ["eth0", "its"]);
    });
}

#[test]
fn room_is_made_for_the_name_that_the_engine_gives_next_and_the_name_is_given_back() {
    in_namespace(async || {
        let sandbox = Namespace::new();
        let mut kernel = Real::new();
        let inside = placed(&sandbox, &["192.0.2.7/24"]);
        kernel.attach(&pair("tbh1", 1), &inside).await.unwrap();
        let entered = inside.sandbox;
        let strangers = entered.clone().strangers().await.unwrap();
        assert!(strangers.is_empty(), "{strangers:?}");
        let (freed, index) = entered
            .clone()
            .make_room(&strangers)
            .await
            .unwrap()
            .expect("a name");
        assert_eq!(
            (freed.as_str(), links(&sandbox)),
            ("eth0", vec!["eth1".to_owned()])
        );
        // It was up, and goes on with all that it had.
        assert!(sandbox.run("ip route").contains("192.0.2.0/24 dev eth1"));
        entered.clone().give_back(freed.clone(), index).await.unwrap();
        assert_eq!(links(&sandbox), ["eth0"]);
        let (freed, index) = entered
            .clone()
            .make_room(&strangers)
            .await
            .unwrap()
            .expect("a name");
        run(&format!(
            "ip link add other type veth peer name eth0 netns {}",
            sandbox.path()
        ));
        sandbox.run("ip link set eth0 up");
        entered.clone().give_back(freed, index).await.unwrap();
        assert_eq!(links(&sandbox).len(), 2, "who has it keeps it");
        let strangers = entered.clone().strangers().await.unwrap();
        assert_eq!(strangers.into_iter().collect::<Vec<_>>(), ["eth0"]);
    });
}
