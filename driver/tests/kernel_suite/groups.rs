//! Who hears which group is read from bridges, soon after it has changed.
//!
//! ```text
//!   c1 ── tbh1 ── tb-a ── tbh2 ── c2
//!                  └───── tbv1 (nobody is behind it)
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tombolo::kernel::Real;
use tombolo::kernel::groups::Membership;
use tombolo_core::model::Mac;
use tombolo_core::world::{Key, Value, World};

use crate::lab::{Namespace, in_namespace, name, run, settle};
use crate::promises::{through, vxlan};

/// How long news of a membership, or of its end, may take. The bridge asks twice, a second apart, who else hears what
/// somebody leaves.
const NEWS: Duration = Duration::from_secs(10);

/// How soon it is known that somebody hears a group.
const JOINED: Duration = Duration::from_secs(1);

fn facts() -> World {
    let bridge = name("tb-a");
    let mac = |kind, last| Mac::from_bytes([6, 0x7b, 0, 0, kind, last]).unwrap();
    let mut world = World::from([
        (
            Key::Link(bridge.clone()),
            Value::Bridge {
                mtu: None,
                mac: mac(0, 1),
            },
        ),
        (Key::Link(name("tbv1")), vxlan("192.0.2.1", 77, None)),
        (Key::Querier(bridge.clone()), Value::Present),
        (Key::Port(name("tbv1")), through("tb-a", false, true)),
        (
            Key::Address(bridge.clone(), "10.1.0.1/24".parse().unwrap()),
            Value::Present,
        ),
    ]);
    for n in [1, 2] {
        let link = name(&format!("tbh{n}"));
        let pair = Value::Veth {
            peer: name(&format!("tbc{n}")),
            peer_mac: mac(1, n),
            mac: mac(2, n),
            mtu: None,
        };
        world.extend([
            (Key::Link(link.clone()), pair),
            (Key::Port(link), crate::lab::on(&bridge)),
        ]);
    }
    world
}

/// A container's namespace, with its address.
fn container(n: u8) -> Namespace {
    let space = Namespace::new();
    run(&format!("ip link set tbc{n} netns {}", space.path()));
    space.run(&format!(
        "ip link set tbc{n} up && ip address add 10.1.0.1{n}/24 dev tbc{n}"
    ));
    space
}

/// A socket that hears a group.
fn listen(space: &Namespace, n: u8, group: IpAddr) -> UdpSocket {
    space.within(|| {
        let socket = UdpSocket::bind(if group.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
        match group {
            IpAddr::V4(v4) => socket
                .join_multicast_v4(&v4, &Ipv4Addr::new(10, 1, 0, 10 + n))
                .unwrap(),
            IpAddr::V6(v6) => {
                let index = nix::net::if_::if_nametoindex(format!("tbc{n}").as_str()).unwrap();
                socket.join_multicast_v6(&v6, index).unwrap();
            }
        }
        socket
    })
}

/// Reads until these groups are heard on the bridge, and none else.
async fn until(membership: &mut Membership, wanted: &[&str], within: Duration) {
    let wanted: BTreeSet<IpAddr> = wanted.iter().map(|text| text.parse().unwrap()).collect();
    let end = Instant::now() + within;
    loop {
        let found = membership.read().await.unwrap();
        let groups = found.get(&name("tb-a")).into_iter().flatten().copied();
        if groups.collect::<BTreeSet<_>>() == wanted {
            return;
        }
        let changed = timeout(
            end.saturating_duration_since(Instant::now()),
            membership.changed(),
        )
        .await;
        changed
            .unwrap_or_else(|_| panic!("not {wanted:?} but {found:?}\n{}", run("bridge -d mdb show")))
            .unwrap();
    }
}

#[test]
fn who_hears_a_group_is_known_until_the_last_one_leaves_or_is_gone() {
    in_namespace(async || {
        settle(&mut Real::new(), &facts()).await;
        let spaces = [container(1), container(2)];
        let mut membership = Membership::new().unwrap();
        let (v4, v6): (IpAddr, IpAddr) = ("239.1.2.3".parse().unwrap(), "ff15::1234".parse().unwrap());
        // The ports are up once the kernel has said so; a report that is sent before that is sent again.
        let first = listen(&spaces[0], 1, v4);
        until(&mut membership, &["239.1.2.3"], NEWS).await;
        let other = listen(&spaces[1], 2, v6);
        until(&mut membership, &["239.1.2.3", "ff15::1234"], NEWS).await;
        // From here on at once: of both versions of IGMP and MLD.
        for (igmp, mld) in [(3, 2), (2, 1)] {
            spaces[1].run(&format!(
                "sysctl -qw net.ipv4.conf.tbc2.force_igmp_version={igmp} net.ipv6.conf.tbc2.force_mld_version={mld}"
            ));
            let groups = ["239.9.9.9", "ff18::99"];
            let more = groups.map(|group| listen(&spaces[1], 2, group.parse().unwrap()));
            until(
                &mut membership,
                &["239.1.2.3", "239.9.9.9", "ff15::1234", "ff18::99"],
                JOINED,
            )
            .await;
            drop(more);
            until(&mut membership, &["239.1.2.3", "ff15::1234"], NEWS).await;
        }
        // Two hear it; the end of one changes nothing, and a container that dies needs no word.
        let second = listen(&spaces[1], 2, v4);
        drop(first);
        drop(spaces);
        drop((second, other));
        run("ip link delete tbh2");
        until(&mut membership, &[], NEWS).await;
    });
}

#[test]
fn what_the_host_itself_hears_and_what_is_for_neighbours_is_told_to_nobody() {
    in_namespace(async || {
        run("sysctl -qw net.ipv6.conf.default.accept_dad=0");
        settle(&mut Real::new(), &facts()).await;
        let space = container(1);
        let mut membership = Membership::new().unwrap();
        let _last = listen(&space, 1, "239.7.7.7".parse().unwrap());
        until(&mut membership, &["239.7.7.7"], NEWS).await;
        let own = UdpSocket::bind("0.0.0.0:0").unwrap();
        let (group, address) = (Ipv4Addr::new(239, 1, 2, 3), Ipv4Addr::new(10, 1, 0, 1));
        let end = Instant::now() + NEWS;
        // What a link sends whose carrier has only just come is lost, so the host says it until the bridge has heard it.
        'heard: loop {
            own.join_multicast_v4(&group, &address).unwrap();
            while timeout(JOINED, membership.changed()).await.is_ok() {
                let shown = run("bridge mdb show");
                if shown.contains("port tb-a grp 239.1.2.3") {
                    break 'heard;
                }
                assert!(Instant::now() < end, "{shown}");
            }
            assert!(Instant::now() < end, "{}", run("bridge -d mdb show"));
            own.leave_multicast_v4(&group, &address).unwrap();
        }
        until(&mut membership, &["239.7.7.7"], NEWS).await;
    });
}
