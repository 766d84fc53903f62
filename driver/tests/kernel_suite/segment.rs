//! Strangers on the wire of a parent link.
//!
//! ```text
//!   this host          LAN                           stranger
//!   eth0 ──── veth ─── port ─ bridge ─ port ─ veth ─ eth0    192.0.2.10, 2001:db8::10, and what a test gives it
//! ```

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::time::timeout;
use tombolo::kernel::{Announcement, Kernel, Real};
use tombolo::segment::{Holder, Segments, Verdict, Why};
use tombolo_core::model::{IfName, Mac};

use crate::lab::{Namespace, in_namespace, name, run};

/// More than a check may take, and how long to wait at most for what comes by itself.
const LIMIT: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(10);

const STRANGER: &str = "02:00:00:00:00:99";

struct Lan {
    parent: IfName,
    lan: Namespace,
    stranger: Arc<Namespace>,
    segments: Segments,
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn stranger() -> Verdict {
    Verdict::Taken(Holder::Stranger(STRANGER.parse().unwrap()))
}

impl Lan {
    fn new() -> Self {
        let (lan, stranger) = (Namespace::new(), Arc::new(Namespace::new()));
        lan.run("ip link add lan type bridge mcast_snooping 0 && ip link set lan up");
        run(&format!(
            "ip link add eth0 type veth peer name here netns {}",
            lan.path()
        ));
        stranger.run(&format!(
            "ip link add eth0 address {STRANGER} type veth peer name there netns {}",
            lan.path()
        ));
        lan.run("for port in here there; do ip link set $port master lan up || exit 1; done");
        run("ip link set eth0 up");
        stranger.run(
            "ip link set eth0 up && ip address add 192.0.2.10/24 dev eth0 && ip address add 2001:db8::10/64 dev eth0 nodad",
        );
        let (parent, segments) = (name("eth0"), Segments::new(|_| false).unwrap());
        segments.watch(&parent).unwrap();
        Self {
            parent,
            lan,
            stranger,
            segments,
        }
    }

    async fn check(&self, text: &str) -> Verdict {
        self.segments.check(&self.parent, address(text), LIMIT).await
    }

    fn probes(&self) -> u64 {
        self.segments.probes(&self.parent).unwrap()
    }

    /// Waits until a check says this, for what comes by itself.
    async fn comes(&self, text: &str, verdict: &Verdict) {
        let until = async {
            while self.check(text).await != *verdict {
                tokio::task::yield_now().await;
            }
        };
        let came = timeout(PATIENCE, until).await;
        assert!(came.is_ok(), "{text}: {:?}", self.check(text).await);
    }

    /// Waits until nobody can be asked, for this reason.
    async fn falls_silent(&self, why: Why) {
        self.comes("192.0.2.250", &Verdict::Unasked(why)).await;
    }

    /// Waits until somebody can be asked: a link has no carrier at once.
    async fn ready(&self) {
        self.comes("192.0.2.10", &stranger()).await;
    }

    /// Waits until as many probes were sent.
    async fn probed(&self, count: u64) {
        let until = async {
            while self.probes() < count {
                tokio::task::yield_now().await;
            }
        };
        let came = timeout(PATIENCE, until).await;
        assert!(came.is_ok(), "{} probes", self.probes());
    }
}

/// A test with a LAN.
fn on_a_lan(test: impl AsyncFnOnce(Lan) + Send + 'static) {
    in_namespace(async move || {
        let lan = Lan::new();
        lan.ready().await;
        test(lan).await;
    });
}

#[test]
fn who_has_an_address_is_found_and_an_address_that_nobody_has_is_free_in_time() {
    on_a_lan(async |lan| {
        assert_eq!(lan.check("2001:db8::10").await, stranger());
        for text in ["192.0.2.20", "2001:db8::20"] {
            let (start, before) = (Instant::now(), lan.probes());
            assert_eq!(lan.check(text).await, Verdict::Free);
            assert_eq!(lan.probes(), before + 3, "{text}");
            // The bound is 300 ms; the rest is for a machine that has other things to do.
            assert!(
                start.elapsed() < Duration::from_secs(1),
                "{text}: {:?}",
                start.elapsed()
            );
            // Then it is known.
            assert_eq!(lan.check(text).await, Verdict::Free);
            assert_eq!(lan.probes(), before + 3, "{text}");
        }
    });
}

#[test]
fn too_little_time_is_told_and_not_taken_for_silence() {
    on_a_lan(async |lan| {
        let check = lan
            .segments
            .check(&lan.parent, address("192.0.2.20"), Duration::from_millis(20));
        assert_eq!(check.await, Verdict::Unasked(Why::Late));
        // The round goes on, and the next one who asks waits for its end.
        assert_eq!(lan.check("192.0.2.20").await, Verdict::Free);
    });
}

#[test]
fn what_is_kept_ahead_is_known_without_a_frame() {
    on_a_lan(async |lan| {
        lan.stranger.run("ip address add 192.0.2.33/24 dev eth0");
        let ahead: Vec<IpAddr> = (31..=38).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        let six: Vec<IpAddr> = (31..=38)
            .map(|last| address(&format!("2001:db8::{last}")))
            .collect();
        let before = lan.probes();
        lan.segments
            .keep_ahead(&lan.parent, [ahead.clone(), six.clone()].concat());
        // One that is taken is answered at the first.
        lan.probed(before + 15 * 3 + 1).await;
        // The last rounds end; who asks meanwhile waits for that.
        for last in &six {
            assert_eq!(lan.segments.check(&lan.parent, *last, LIMIT).await, Verdict::Free);
        }
        let before = lan.probes();
        for at in ahead.iter().chain(&six) {
            let verdict = match at.to_string() == "192.0.2.33" {
                true => stranger(),
                false => Verdict::Free,
            };
            assert_eq!(lan.segments.check(&lan.parent, *at, LIMIT).await, verdict, "{at}");
        }
        assert_eq!(lan.probes(), before);
    });
}

#[test]
fn a_stranger_that_comes_later_is_noticed_by_what_it_says() {
    on_a_lan(async |lan| {
        for text in ["192.0.2.40", "2001:db8::40"] {
            assert_eq!(lan.check(text).await, Verdict::Free);
        }
        let before = lan.probes();
        // It looks whether somebody has the address of IPv6, as Linux does; that of IPv4 it uses.
        lan.stranger
            .run("ip address add 2001:db8::40/64 dev eth0 && ip address add 192.0.2.40/24 dev eth0");
        lan.stranger.within(|| {
            let socket = UdpSocket::bind("192.0.2.40:0").unwrap();
            socket.send_to(b"?", "192.0.2.77:9").unwrap();
        });
        for text in ["192.0.2.40", "2001:db8::40"] {
            lan.comes(text, &stranger()).await;
        }
        assert_eq!(lan.probes(), before, "it was heard");
    });
}

#[test]
fn an_address_of_this_host_is_taken_by_it() {
    on_a_lan(async |lan| {
        run("ip link add other type veth peer name end && ip link set other up");
        run("ip address add 192.0.2.50/24 dev eth0 && ip address add 2001:db8::50/64 dev other");
        for text in ["192.0.2.50", "2001:db8::50"] {
            lan.comes(text, &Verdict::Taken(Holder::ThisHost)).await;
        }
        run("ip address delete 192.0.2.50/24 dev eth0");
        lan.comes("192.0.2.50", &Verdict::Free).await;
        // One that was there before.
        let again = Segments::new(|_| false).unwrap();
        let verdict = again.check(&lan.parent, address("2001:db8::50"), LIMIT).await;
        assert_eq!(verdict, Verdict::Taken(Holder::ThisHost));
    });
}

#[test]
fn our_own_hardware_addresses_are_no_strangers() {
    on_a_lan(async |lan| {
        let ours: Mac = STRANGER.parse().unwrap();
        let again = Segments::new(move |mac| mac == ours).unwrap();
        again.watch(&lan.parent).unwrap();
        // The other one hears the same, and calls it a stranger's.
        assert_eq!(lan.check("192.0.2.10").await, stranger());
        let verdict = again.check(&lan.parent, address("192.0.2.10"), LIMIT).await;
        assert_eq!(verdict, Verdict::Free);
    });
}

#[test]
fn a_parent_that_is_down_cut_off_or_gone_is_told_and_comes_back_by_itself() {
    on_a_lan(async |lan| {
        lan.segments
            .keep_ahead(&lan.parent, vec![address("192.0.2.60"), address("2001:db8::60")]);
        assert_eq!(lan.check("192.0.2.60").await, Verdict::Free);
        run("ip link set eth0 down");
        lan.falls_silent(Why::Down).await;
        // Whoever has come meanwhile was not heard.
        lan.stranger.run("ip address add 192.0.2.60/24 dev eth0");
        run("ip link set eth0 up");
        lan.comes("192.0.2.60", &stranger()).await;
        lan.lan.run("ip link set here down");
        lan.falls_silent(Why::NoCarrier).await;
        lan.lan.run("ip link set here up");
        lan.ready().await;
        run("ip link set eth0 down && ip link set eth0 name eth9 && ip link set eth9 up");
        lan.falls_silent(Why::Missing).await;
        run("ip link set eth9 down && ip link set eth9 name eth0 && ip link set eth0 up");
        lan.ready().await;
        run("ip link delete eth0");
        lan.falls_silent(Why::Missing).await;
        run(&format!(
            "ip link add eth0 type veth peer name here netns {} && ip link set eth0 up",
            lan.lan.path()
        ));
        lan.lan.run("ip link set here master lan up");
        lan.ready().await;
        lan.segments.unwatch(&lan.parent);
        assert_eq!(lan.check("192.0.2.10").await, Verdict::Unasked(Why::Unwatched));
    });
}

#[test]
fn a_link_that_is_not_one_of_ethernet_and_one_that_is_not_there_are_told() {
    on_a_lan(async |lan| {
        for (link, why) in [("lo", Why::Strange), ("eth5", Why::Missing)] {
            lan.segments.watch(&name(link)).unwrap();
            let verdict = lan
                .segments
                .check(&name(link), address("192.0.2.10"), LIMIT)
                .await;
            assert_eq!(verdict, Verdict::Unasked(why));
        }
    });
}

#[test]
fn many_are_asked_for_at_once() {
    on_a_lan(async |lan| {
        for last in 101..=110 {
            lan.stranger
                .run(&format!("ip address add 192.0.2.{last}/24 dev eth0"));
        }
        let start = Instant::now();
        let checks = (101..=150).map(|last| {
            let at = IpAddr::from([192, 0, 2, last]);
            lan.segments.check(&lan.parent, at, LIMIT)
        });
        let verdicts = futures_util::future::join_all(checks).await;
        let taken = verdicts.iter().filter(|verdict| **verdict == stranger());
        let free = verdicts.iter().filter(|verdict| **verdict == Verdict::Free);
        assert_eq!((taken.count(), free.count()), (10, 40), "{verdicts:?}");
        // One after the other they would take 10 s.
        assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    });
}

#[test]
fn one_that_answers_for_all_is_told_and_hides_nobody() {
    on_a_lan(async |lan| {
        // Linux never answers a probe for others: so the stranger has all of the addresses, and another one has two of them.
        let (other, mac) = (Namespace::new(), "02:00:00:00:00:55");
        other.run(&format!(
            "ip link add eth0 address {mac} type veth peer name other netns {} && ip link set eth0 up &&
             ip address add 192.0.2.120/24 dev eth0 && ip address add 192.0.2.121/24 dev eth0",
            lan.lan.path()
        ));
        lan.lan.run("ip link set other master lan up");
        let other = Verdict::Taken(Holder::Stranger(mac.parse().unwrap()));
        lan.comes("192.0.2.120", &other).await;
        lan.stranger.run("ip route add local 192.0.2.0/24 dev lo");
        let ahead = (61..=76).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        lan.segments.keep_ahead(&lan.parent, ahead);
        let proxy = Verdict::Proxy(STRANGER.parse().unwrap());
        for text in ["192.0.2.61", "192.0.2.76", "192.0.2.200"] {
            lan.comes(text, &proxy).await;
        }
        // Both answer.
        assert_eq!(lan.check("192.0.2.121").await, other);
    });
}

#[test]
fn a_macvlan_link_hears_its_siblings_and_their_parent_does_not() {
    on_a_lan(async |lan| {
        // Somebody else's container on this host, on the same parent.
        let (container, mac) = (Namespace::new(), "02:00:00:00:00:66");
        run(&format!(
            "ip link add shim link eth0 type macvlan mode bridge && ip link set shim up &&
             ip link add inside link eth0 address {mac} netns {} type macvlan mode bridge",
            container.path()
        ));
        container.run(
            "ip link set inside up && ip address add 192.0.2.130/24 dev inside && ip address add 2001:db8::130/64 dev inside nodad",
        );
        let shim = name("shim");
        lan.segments.watch(&shim).unwrap();
        let sibling = Verdict::Taken(Holder::Stranger(mac.parse().unwrap()));
        for text in ["192.0.2.130", "2001:db8::130"] {
            let until = async {
                while lan.segments.check(&shim, address(text), LIMIT).await != sibling {
                    tokio::task::yield_now().await;
                }
            };
            assert!(timeout(PATIENCE, until).await.is_ok(), "{text}");
            assert_eq!(
                lan.check(text).await,
                Verdict::Free,
                "what a parent sends goes out only"
            );
        }
        for text in ["192.0.2.10", "2001:db8::10"] {
            assert_eq!(lan.segments.check(&shim, address(text), LIMIT).await, stranger());
            assert_eq!(lan.check(text).await, stranger());
        }
        assert_eq!(
            lan.segments.check(&shim, address("192.0.2.131"), LIMIT).await,
            Verdict::Free
        );
    });
}

#[test]
fn words_of_another_vlan_tell_nothing() {
    on_a_lan(async |lan| {
        assert_eq!(lan.check("192.0.2.80").await, Verdict::Free);
        // The same announcement twice: in a VLAN that this host has no link for, and then, of another address, without.
        lan.stranger.within(|| {
            for (vlan, last) in [(true, 80), (false, 81)] {
                socket().send(&announcement(vlan, last)).unwrap();
            }
        });
        lan.comes("192.0.2.81", &stranger()).await;
        assert_eq!(lan.check("192.0.2.80").await, Verdict::Free);
    });
}

#[test]
fn a_flood_of_rubbish_leaves_the_answers_right() {
    on_a_lan(async |lan| {
        let (stop, stranger_space) = (Arc::new(AtomicBool::new(false)), Arc::clone(&lan.stranger));
        let flood = {
            let stop = Arc::clone(&stop);
            move || {
                let socket = socket();
                let mut sent = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    let mut frame = announcement(false, 1);
                    // Others' addresses, operations known and unknown, and some are cut short.
                    frame[28..32].copy_from_slice(&(0x0a00_0000 | sent & 0xff_ffff).to_be_bytes());
                    frame[21] = (sent % 5) as u8;
                    frame.truncate(if sent.is_multiple_of(7) {
                        14 + sent as usize % 28
                    } else {
                        42
                    });
                    // The queue of the link may be full.
                    sent += u32::from(socket.send(&frame).is_ok());
                }
                sent
            }
        };
        let flooding = std::thread::spawn(move || stranger_space.within(flood));
        for last in 90..95 {
            // Another socket hears these.
            assert_eq!(lan.check(&format!("2001:db8::{last}")).await, Verdict::Free);
            // What may have been lost is no silence.
            let verdict = lan.check("192.0.2.10").await;
            assert!(
                verdict == stranger() || verdict == Verdict::Unasked(Why::Flooded),
                "{verdict}"
            );
        }
        stop.store(true, Ordering::Relaxed);
        let sent = flooding.join().unwrap();
        assert!(sent > 10_000, "{sent} frames are no flood");
        lan.comes("192.0.2.10", &stranger()).await;
        lan.comes("192.0.2.95", &Verdict::Free).await;
    });
}

#[test]
fn silence_is_none_when_more_came_than_there_is_room_for() {
    on_a_lan(async |lan| {
        let before = lan.probes();
        let mut checks = std::pin::pin!(futures_util::future::join(
            lan.check("192.0.2.97"),
            lan.check("2001:db8::97")
        ));
        while lan.probes() < before + 2 {
            assert!(futures_util::poll!(checks.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        // The task that listens runs on this thread: it hears nothing of them until all are sent.
        lan.stranger.within(|| {
            let socket = socket();
            for last in (20..90).cycle().take(20_000) {
                socket.send(&announcement(false, last)).ok();
            }
        });
        let verdicts = checks.await;
        assert_eq!(verdicts, (Verdict::Unasked(Why::Flooded), Verdict::Free));
        // Nothing follows from it: once the rest is read, it is asked for again.
        lan.comes("192.0.2.97", &Verdict::Free).await;
        assert_eq!(lan.check("192.0.2.89").await, stranger());
    });
}

#[test]
fn a_new_place_is_told_on_a_parent() {
    on_a_lan(async |lan| {
        // It believes something else, and the switch as well.
        let mac: Mac = "02:7b:c0:00:02:5a".parse().unwrap();
        for text in ["192.0.2.90", "2001:db8::90"] {
            lan.stranger.run(&format!(
                "ip neigh replace {text} lladdr 02:00:00:00:00:01 dev eth0 nud stale"
            ));
        }
        let announcements = ["192.0.2.90", "2001:db8::90"].map(|text| Announcement {
            bridge: lan.parent.clone(),
            address: address(text),
            mac,
        });
        Real::new().announce(&announcements).unwrap();
        let until = async {
            loop {
                let neighbours = lan.stranger.run("ip neigh show dev eth0");
                if neighbours.matches(&mac.to_string()).count() == 2 {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout(PATIENCE, until).await.is_ok());
        let learnt = lan.lan.run("bridge fdb show br lan brport here");
        assert!(learnt.contains(&mac.to_string()), "{learnt}");
    });
}

/// A packet socket on the stranger's link.
fn socket() -> Socket {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).unwrap();
    let all = nix::ifaddrs::getifaddrs().unwrap();
    let mut links = all.filter(|link| link.interface_name == "eth0");
    let link = links
        .find_map(|link| link.address?.as_link_addr().copied())
        .unwrap();
    nix::sys::socket::bind(socket.as_raw_fd(), &link).unwrap();
    socket
}

/// The stranger's announcement of 192.0.2.`last`, in VLAN 5 or in none.
fn announcement(vlan: bool, last: u8) -> Vec<u8> {
    let mac = STRANGER.parse::<Mac>().unwrap().bytes();
    let tag: &[u8] = if vlan { &[0x81, 0, 0, 5] } else { &[] };
    let address = [192, 0, 2, last];
    [
        &[0xff; 6][..],
        &mac,
        tag,
        &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1],
        &mac,
        &address,
        &[0; 6],
        &address,
    ]
    .concat()
}
