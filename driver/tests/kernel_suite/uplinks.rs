//! Links on the wire of another link, with real packets; and the sorts of link that a kernel may lack.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tombolo::kernel::sandbox::{Inside, PutBack};
use tombolo::kernel::{Kernel, Placed, Real, Sandbox};
use tombolo_core::model::IfName;
use tombolo_core::modes::{IpvlanFlag, IpvlanMode};
use tombolo_core::world::{Key, Setting, Step, Value, World, diff};

use crate::lab::{Namespace, apply, assert_settled, in_namespace, look, name, run, settle, without_settings};
use crate::promises::on_wire;

/// A parent that leads to a wire with one neighbour on it, which has 192.0.2.1 and 2001:db8::1.
fn wire() -> Namespace {
    let neighbour = Namespace::new();
    run("ip link add lower type veth peer name far");
    run("ip link set lower up");
    run("ip address add 192.0.2.5/24 dev lower");
    run("ip address add 2001:db8::5/64 dev lower nodad");
    run(&format!("ip link set far netns {}", neighbour.path()));
    neighbour.run("ip link set lo up; ip link set far up");
    neighbour.run("ip address add 192.0.2.1/24 dev far; ip address add 2001:db8::1/64 dev far nodad");
    neighbour
}

/// A host's own link on the wire and a container's.
fn facts(parent: &IfName) -> World {
    let shim = name("tbs1");
    let way = |to: &str| (Key::Way(shim.clone(), to.parse().unwrap()), Value::Present);
    let address = |of: &str| (Key::Address(shim.clone(), of.parse().unwrap()), Value::Present);
    World::from([
        (Key::Link(shim.clone()), on_wire(parent, 0x30)),
        (Key::Child(name("tbc1")), on_wire(parent, 0x31)),
        (Key::Setting(Setting::AcceptRa(shim.clone())), Value::Number(0)),
        (Key::Setting(Setting::ArpFilter(shim.clone())), Value::Number(1)),
        (Key::Setting(Setting::ArpAnnounce(shim.clone())), Value::Number(2)),
        (Key::Port(shim.clone()), Value::Up),
        address("192.0.2.6/32"),
        address("2001:db8::6/128"),
        way("192.0.2.7"),
        way("2001:db8::7"),
    ])
}

/// Puts the container's link into a namespace, as Docker does.
fn contain(v4: &str, v6: &str) -> Namespace {
    let container = Namespace::new();
    run(&format!("ip link set tbc1 netns {}", container.path()));
    container.run("ip link set lo up; ip link set tbc1 name eth0; ip link set eth0 up");
    container.run(&format!(
        "ip address add {v4}/24 dev eth0; ip address add {v6}/64 dev eth0 nodad"
    ));
    container
}

/// Asserts that a datagram gets to an address, which the second namespace has, and back.
#[track_caller]
fn reaches(from: &Namespace, to: &Namespace, address: &str) {
    let address: IpAddr = address.parse().unwrap();
    let server = to.within(|| UdpSocket::bind((address, 0))).unwrap();
    let unspecified: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let client = from.within(|| UdpSocket::bind((unspecified, 0))).unwrap();
    client.connect(server.local_addr().unwrap()).unwrap();
    let answers = Duration::from_secs(5);
    client.set_read_timeout(Some(answers)).unwrap();
    server.set_read_timeout(Some(answers)).unwrap();
    client.send(b"ask").unwrap();
    let (_, asker) = server
        .recv_from(&mut [0; 16])
        .unwrap_or_else(|error| panic!("{address} hears nothing: {error}"));
    server.send_to(b"answer", asker).unwrap();
    client
        .recv(&mut [0; 16])
        .unwrap_or_else(|error| panic!("{address} is not heard: {error}"));
}

#[test]
fn the_host_and_its_container_reach_each_other_and_the_wire_hears_of_the_parent_only() {
    in_namespace(async || {
        let neighbour = wire();
        let mut kernel = Real::new();
        let world = facts(&name("lower"));
        settle(&mut kernel, &world).await;
        assert_settled(&mut kernel, &world).await;
        let container = contain("192.0.2.7", "2001:db8::7");
        let host = Namespace::current();
        // The host's own address on the wire is there twice: the shim's, and the parent's, which is the one that others know.
        for to in ["192.0.2.6", "2001:db8::6", "192.0.2.5"] {
            reaches(&container, &host, to);
        }
        for to in ["192.0.2.1", "2001:db8::1"] {
            reaches(&container, &neighbour, to);
            reaches(&host, &neighbour, to);
        }
        for to in ["192.0.2.7", "2001:db8::7"] {
            reaches(&host, &container, to);
            reaches(&neighbour, &container, to);
        }
        // Who asks on the wire for the host's address hears of the parent alone; even where the host has sent by the other link.
        neighbour.run("ip neigh flush dev far");
        reaches(&neighbour, &host, "192.0.2.5");
        let lower = run("ip -br link show lower");
        let mac = lower.split_whitespace().nth(2).unwrap().to_owned();
        let heard = neighbour.run("ip neigh show 192.0.2.5");
        assert!(heard.contains(&mac), "{heard} for {mac}");
        run("ip neigh flush dev tbs1");
        let socket = UdpSocket::bind("192.0.2.5:0").unwrap();
        socket
            .send_to(b"in the name of the parent", "192.0.2.7:9")
            .unwrap();
        reaches(&host, &container, "192.0.2.7");
        let heard = neighbour.run("ip neigh show 192.0.2.5");
        assert!(heard.contains(&mac), "{heard} for {mac}");
    });
}

#[test]
fn a_containers_link_is_not_made_again_and_one_that_nobody_wants_is_swept() {
    in_namespace(async || {
        let _neighbour = wire();
        let mut kernel = Real::new();
        let world = facts(&name("lower"));
        settle(&mut kernel, &world).await;
        let container = contain("192.0.2.7", "2001:db8::7");
        let seen = look(&mut kernel).await;
        assert!(!seen.contains_key(&Key::Child(name("tbc1"))), "{seen:?}");
        // Docker puts it back under the name that it had.
        let host = Namespace::current();
        container.run("ip link set eth0 down; ip link set eth0 name tbc1");
        container.run(&format!("ip link set tbc1 netns {}", host.path()));
        let seen = look(&mut kernel).await;
        assert!(seen.contains_key(&Key::Child(name("tbc1"))), "{seen:?}");
        settle(&mut kernel, &World::new()).await;
        assert_eq!(without_settings(look(&mut kernel).await), World::new());
        assert!(!run("ip -o link").contains("tb"));
    });
}

#[test]
fn what_is_lost_with_the_parent_comes_back_with_it() {
    in_namespace(async || {
        let neighbour = wire();
        let mut kernel = Real::new();
        let mut world = facts(&name("lower"));
        world.remove(&Key::Child(name("tbc1")));
        settle(&mut kernel, &world).await;
        run("ip link delete lower");
        let add = Step::Add(Key::Link(name("tbs1")), on_wire(&name("lower"), 0x30));
        let refused = kernel.apply(&add).await.unwrap_err().to_string();
        assert!(refused.contains("there is no link lower"), "{refused}");
        drop(neighbour);
        let _neighbour = wire();
        settle(&mut kernel, &world).await;
        assert_settled(&mut kernel, &world).await;
        for damage in [
            "ip link set tbs1 down",
            "ip link delete tbs1",
            "ip route flush proto 116",
            "ip address flush dev tbs1",
            "sysctl -qw net.ipv4.conf.tbs1.arp_filter=0",
        ] {
            run(damage);
            assert!(!diff(&world, &look(&mut kernel).await).is_empty(), "{damage}");
            // What a link takes with it is seen with the next look.
            settle(&mut kernel, &world).await;
            settle(&mut kernel, &world).await;
            assert_settled(&mut kernel, &world).await;
        }
    });
}

/// Makes a fact; what the kernel lacks must be named by its module.
async fn made_or_named(kernel: &mut Real, key: Key, value: Value, kind: &str, module: &str) -> bool {
    let there = std::process::Command::new("ip")
        .args(["link", "add", "trial0"])
        .args(kind.split(' '))
        .output()
        .unwrap()
        .status
        .success();
    run("ip link delete trial0 2>/dev/null || true");
    let step = Step::Add(key.clone(), value.clone());
    if !there {
        let refused = kernel.apply(&step).await.unwrap_err().to_string();
        assert!(
            refused.contains(&format!("modprobe {module}")),
            "the kernel has no {module}: {refused}"
        );
        return false;
    }
    apply(kernel, step.clone()).await;
    apply(kernel, step).await;
    let world = look(kernel).await;
    let found = world.get(&key);
    assert!(
        found.is_some_and(|found| value.holds_as(found)),
        "{key:?}: {found:?}"
    );
    true
}

#[test]
fn sorts_of_link_that_a_kernel_may_lack_are_made_or_named() {
    in_namespace(async || {
        let _neighbour = wire();
        let mut kernel = Real::new();
        let (vlan, dummy) = (Key::Parent(name("lower.30")), Key::Parent(name("dm-1")));
        let vlan_of = |id| Value::Vlan {
            link: name("lower"),
            id,
        };
        if made_or_named(
            &mut kernel,
            vlan.clone(),
            vlan_of(30),
            "link lower type vlan id 29",
            "8021q",
        )
        .await
        {
            // What somebody else does with it is theirs.
            run("ip address add 198.51.100.1/24 dev lower.30");
            let seen = look(&mut kernel).await;
            assert!(
                diff(&World::from([(vlan, vlan_of(30))]), &seen).is_empty(),
                "{seen:?}"
            );
        }
        made_or_named(&mut kernel, dummy, Value::Dummy, "type dummy", "dummy").await;
        for (mode, flag, end) in [
            (IpvlanMode::L2, IpvlanFlag::Bridge, "1"),
            (IpvlanMode::L2, IpvlanFlag::Private, "2"),
            (IpvlanMode::L2, IpvlanFlag::Vepa, "3"),
        ] {
            let value = Value::Ipvlan {
                parent: name("lower"),
                mode,
                flag,
                mtu: None,
            };
            let key = Key::Child(name(&format!("tbc{end}")));
            made_or_named(&mut kernel, key, value, "link lower type ipvlan", "ipvlan").await;
            settle(&mut kernel, &World::new()).await;
        }
        settle(&mut kernel, &World::new()).await;
        assert_eq!(without_settings(look(&mut kernel).await), World::new());
    });
}

/// What becomes of a container's link: on a thread of its own, as it blocks.
fn put_back(inside: &Inside) -> Result<PutBack, String> {
    let done = std::thread::scope(|scope| scope.spawn(|| inside.put_back()).join());
    done.unwrap().map_err(|error| error.to_string())
}

#[test]
fn a_containers_link_that_went_with_its_parent_is_put_back() {
    in_namespace(async || {
        let neighbour = wire();
        let mut kernel = Real::new();
        let world = facts(&name("lower"));
        settle(&mut kernel, &world).await;
        let container = contain("192.0.2.7", "2001:db8::7");
        let everywhere = |net: &str| net.parse().unwrap();
        let inside = Inside {
            sandbox: container.path().into(),
            link: name("tbc1"),
            value: on_wire(&name("lower"), 0x31),
            prefix: "eth".to_owned(),
            addresses: vec![everywhere("192.0.2.7/24"), everywhere("2001:db8::7/64")],
            ways_out: vec![
                (everywhere("0.0.0.0/0"), Some("192.0.2.1".parse().unwrap())),
                (everywhere("::/0"), Some("2001:db8::1".parse().unwrap())),
            ],
            placed: false,
        };
        assert_eq!(put_back(&inside), Ok(PutBack::There));
        run("ip link delete lower");
        assert!(!container.run("ip -o link").contains("eth0"));
        let refused = put_back(&inside).unwrap_err();
        assert!(refused.contains("there is no link lower"), "{refused}");
        drop(neighbour);
        let neighbour = wire();
        assert_eq!(put_back(&inside), Ok(PutBack::Again));
        assert_eq!(put_back(&inside), Ok(PutBack::There));
        let mut shim = world.clone();
        shim.remove(&Key::Child(name("tbc1")));
        settle(&mut kernel, &shim).await;
        let host = Namespace::current();
        for to in ["192.0.2.7", "2001:db8::7"] {
            reaches(&neighbour, &container, to);
            reaches(&host, &container, to);
        }
        let routes = container.run("ip route; ip -6 route");
        for way in [
            "default via 192.0.2.1 dev eth0",
            "default via 2001:db8::1 dev eth0",
        ] {
            assert!(routes.contains(way), "{routes}");
        }
        // One that can't be set up is taken away again.
        container.run("ip link delete eth0");
        let unfit = Inside {
            addresses: vec![everywhere("fe80::1/64")],
            ..inside
        };
        put_back(&unfit).unwrap_err();
        assert!(!container.run("ip -o link").contains("macvlan"));
        assert!(!container.run("ip -o link").contains("eth0"));
        let gone = Inside {
            sandbox: "/run/docker/netns/none".into(),
            ..unfit
        };
        let refused = put_back(&gone).unwrap_err();
        assert!(refused.contains("/run/docker/netns/none"), "{refused}");
        assert!(
            !run("ip -o link").contains("tbc"),
            "nothing is left with the host"
        );
    });
}

/// What goes into a sandbox.
fn placed(sandbox: &Namespace, v4: &str, v6: &str) -> Placed {
    Placed {
        sandbox: Arc::new(Sandbox::at(Path::new(&sandbox.path())).expect("a sandbox")),
        prefix: "eth".to_owned(),
        addresses: vec![
            format!("{v4}/24").parse().unwrap(),
            format!("{v6}/64").parse().unwrap(),
        ],
        sysctls: Vec::new(),
        routes: Vec::new(),
    }
}

/// The step that makes a container's link.
fn child(number: u8) -> Step {
    let link = name(&format!("tbc{number}"));
    Step::Add(Key::Child(link), on_wire(&name("lower"), 0x30 + number))
}

/// The step that takes it away.
fn gone(number: u8) -> Step {
    Step::Remove(Key::Child(name(&format!("tbc{number}"))), Value::Present)
}

#[test]
fn a_containers_link_is_made_within_its_sandbox_and_taken_out() {
    in_namespace(async || {
        let neighbour = wire();
        let mut kernel = Real::new();
        let container = Namespace::new();
        kernel
            .attach(&child(1), &placed(&container, "192.0.2.7", "2001:db8::7"))
            .await
            .unwrap();
        for to in ["192.0.2.1", "2001:db8::1"] {
            reaches(&container, &neighbour, to);
        }
        assert!(!run("ip -o link").contains("tbc"), "the host has no end of it");
        // Its address may be on the wire once only, so one more with it doesn't come up, and nothing is left of that.
        let other = Namespace::new();
        let twice = placed(&other, "192.0.2.8", "2001:db8::8");
        kernel.attach(&child(1), &twice).await.unwrap_err();
        assert!(!other.run("ip -o link").contains("eth0"));
        let path = container.path();
        kernel.detach(&gone(2), Path::new(&path)).await.unwrap();
        assert!(container.run("ip -o link").contains("eth0"), "it is another one");
        kernel.detach(&gone(1), Path::new(&path)).await.unwrap();
        assert!(!container.run("ip -o link").contains("eth0"));
        kernel.detach(&gone(1), Path::new(&path)).await.unwrap();
        kernel.attach(&child(1), &twice).await.unwrap();
        reaches(&other, &neighbour, "192.0.2.1");
        // One of which is not known where it is, is looked for.
        let dweller = Dweller::of(&other);
        kernel.detach(&gone(1), Path::new("")).await.unwrap();
        assert!(!other.run("ip -o link").contains("eth0"));
        drop(dweller);
        kernel
            .detach(&gone(1), Path::new("/run/docker/netns/none"))
            .await
            .unwrap();
        run("ip link delete lower");
        let own = placed(&container, "192.0.2.7", "2001:db8::7");
        let refused = kernel.attach(&child(2), &own).await.unwrap_err().to_string();
        assert!(refused.contains("there is no link lower"), "{refused}");
    });
}

/// A process in a namespace, as a container's. It ends when its input does, whatever becomes of the test.
struct Dweller(std::process::Child);

impl Dweller {
    fn of(place: &Namespace) -> Self {
        let spawned = place.within(|| Command::new("cat").stdin(Stdio::piped()).spawn());
        Self(spawned.unwrap())
    }
}

impl Drop for Dweller {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().ok();
    }
}

#[test]
fn what_nobody_wants_is_taken_out_of_sandboxes_and_nothing_of_other_hosts() {
    in_namespace(async || {
        let _neighbour = wire();
        let mut kernel = Real::new();
        let places = [(); 2].map(|()| Namespace::new());
        let _dwellers = places.each_ref().map(Dweller::of);
        for (place, number) in places.iter().zip(1..) {
            let own = placed(
                place,
                &format!("192.0.2.1{number}"),
                &format!("2001:db8::1{number}"),
            );
            kernel.attach(&child(number), &own).await.unwrap();
        }
        // Another host of this machine has one of the same name, and somebody has one that is not ours.
        let elsewhere = Namespace::new();
        let beside = Namespace::new();
        let _dweller = Dweller::of(&beside);
        elsewhere.run("ip link add lower type veth peer name far");
        elsewhere.run(&format!(
            "ip link add link lower name its netns {} group 29809 type macvlan mode bridge",
            beside.path()
        ));
        run(&format!(
            "ip link add link lower name theirs netns {} type macvlan mode bridge",
            places[0].path()
        ));
        let wanted = BTreeSet::from([name("tbc1")]);
        assert_eq!(kernel.sweep(wanted.clone()).await.unwrap(), ["tbc2"]);
        assert_eq!(kernel.sweep(wanted).await.unwrap(), [""; 0]);
        let links = |place: &Namespace| place.run("ip -br link show type macvlan | sed 's/[@ ].*//' | sort");
        assert_eq!(
            links(&places[0]).split_whitespace().collect::<Vec<_>>(),
            ["eth0", "theirs"]
        );
        assert_eq!(links(&places[1]), "");
        assert_eq!(links(&beside).trim(), "its");
    });
}
