//! Leases from real servers, by a real link.

mod server;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tombolo::dhcp::{Error, Event, Events, Fault, Lease, Leases, Request, Until, client_id};
use tombolo_core::model::Mac;

use crate::lab::{in_namespace, name, run};
use server::{Lan, Server};

/// How long something that must come may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Has dnsmasq ask for renewals after three seconds of two minutes, and for those of all servers after five.
const SOON: [&str; 2] = ["--dhcp-option=option:T1,3", "--dhcp-option=option:T2,5"];

fn mac(last: u8) -> Mac {
    Mac::from_bytes([0x02, 0x7b, 0, 0, 0, last]).unwrap()
}

fn request(last: u8) -> Request {
    Request {
        parent: name("eth0"),
        mac: mac(last),
        client_id: client_id(mac(last)),
        host_name: Some(format!("web-{last}")),
        wanted: None,
        within: "192.0.2.0/24".parse().unwrap(),
    }
}

async fn obtain(leases: &Leases, request: Request) -> Lease {
    let lease = leases.lease(request, PATIENCE).await;
    lease.unwrap_or_else(|error| panic!("{error}"))
}

async fn next(events: &mut Events, server: Option<&Server>) -> Event {
    let event = timeout(PATIENCE, events.next()).await;
    event.unwrap_or_else(|_| {
        panic!(
            "nothing has happened; {}",
            server.map(Server::log).unwrap_or_default()
        )
    })
}

/// The next event that is not about a server that is silent.
async fn next_told(events: &mut Events) -> Event {
    loop {
        match next(events, None).await {
            Event::NoAnswer { .. } => {}
            event => return event,
        }
    }
}

fn renewed(event: Event) -> Lease {
    match event {
        Event::Renewed(lease) => lease,
        other => panic!("{other:?}"),
    }
}

/// The end of a lease, in milliseconds since 1970.
fn expiry_ms(lease: &Lease) -> u64 {
    lease.until.unwrap().expiry_ms
}

/// A lease as if it had been obtained earlier, so that it ends in `left_ms` milliseconds; negative is over.
fn aged(lease: &Lease, left_ms: i64) -> Lease {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let expiry_ms = u64::try_from(i64::try_from(since).unwrap() + left_ms).unwrap();
    let until = Until {
        t1_ms: expiry_ms - 9_000,
        t2_ms: expiry_ms - 7_000,
        expiry_ms,
    };
    Lease {
        obtained_ms: expiry_ms - 120_000,
        until: Some(until),
        ..lease.clone()
    }
}

#[test]
fn a_lease_is_obtained_renewed_by_its_server_and_given_back() {
    in_namespace(async || {
        let lan = Lan::new();
        let server = lan.dnsmasq(&SOON);
        let (leases, mut events) = Leases::new();
        let lease = obtain(&leases, request(1)).await;
        let address = lease.address;
        assert_eq!(address.trunc(), "192.0.2.0/24".parse().unwrap());
        assert!((50..=150).contains(&address.addr().octets()[3]), "{address}");
        let one = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!((lease.router, lease.server), (Some(one), one));
        let lasts = expiry_ms(&lease) - lease.obtained_ms;
        assert_eq!(lasts, 120_000);
        lan.until("the server has it with its name and identifier", |given| {
            given.contains(&format!("{} {} web-1 01:{}", mac(1), address.addr(), mac(1)))
        })
        .await;
        let held = leases.lease(request(1), PATIENCE).await;
        assert!(matches!(held, Err(Error::Held { .. })), "{held:?}");

        let container = lan.container(mac(1), &address.to_string());
        let mut last = lease.clone();
        for _ in 0..3 {
            let lease = renewed(next(&mut events, Some(&server)).await);
            assert_eq!(lease.address, address);
            assert!(expiry_ms(&lease) > expiry_ms(&last));
            last = lease;
        }
        // Each at T1, with one question to the server alone; so its answers to the container's address were seen.
        assert_eq!(server.count("DHCPDISCOVER"), 1, "{}", server.log());
        assert_eq!(server.count("DHCPREQUEST"), 4, "{}", server.log());
        assert_eq!(server.count("NAK"), 0, "{}", server.log());
        drop(container);

        leases.release(&lease.id()).await.unwrap();
        server.says("DHCPRELEASE", 1);
        lan.until("the server has nothing given", |given| {
            !given.contains(&mac(1).to_string())
        })
        .await;
        // Once more is no error.
        leases.release(&lease.id()).await.unwrap();

        // The same for the same one; another for another; and the wanted one.
        assert_eq!(obtain(&leases, request(1)).await.address, address);
        assert_ne!(obtain(&leases, request(2)).await.address, address);
        let wanted = Some(Ipv4Addr::new(192, 0, 2, 77));
        let asked = Request { wanted, ..request(3) };
        assert_eq!(Some(obtain(&leases, asked).await.address.addr()), wanted);
        // That is taken; so there is another one.
        let asked = Request { wanted, ..request(4) };
        assert_ne!(Some(obtain(&leases, asked).await.address.addr()), wanted);
    });
}

#[test]
fn a_lease_of_a_container_that_is_not_there_is_renewed_by_the_form_that_is_answered_to_all() {
    in_namespace(async || {
        let lan = Lan::new();
        let server = lan.dnsmasq(&SOON);
        let (leases, mut events) = Leases::new();
        let lease = obtain(&leases, request(1)).await;
        // Nobody says where the address is, so the server's answers to it are lost.
        let begun = Instant::now();
        let event = next(&mut events, Some(&server)).await;
        assert!(matches!(event, Event::NoAnswer { .. }), "{event:?}");
        let again = renewed(next_told(&mut events).await);
        assert_eq!(again.address, lease.address);
        assert!(begun.elapsed() < Duration::from_secs(15));
        assert_eq!(server.count("DHCPDISCOVER"), 1, "{}", server.log());
    });
}

#[test]
fn leases_outlive_their_server_and_what_it_forgets_is_lost_and_asked_for_again() {
    in_namespace(async || {
        let lan = Lan::new();
        let server = lan.dnsmasq(&SOON);
        let (leases, mut events) = Leases::new();
        let lease = obtain(&leases, request(1)).await;
        let _container = lan.container(mac(1), &lease.address.to_string());
        drop(server);
        let server = lan.dnsmasq(&SOON);
        let again = renewed(next_told(&mut events).await);
        assert_eq!(again.address, lease.address);
        assert_eq!(server.count("DHCPDISCOVER"), 0, "{}", server.log());
        drop(server);
        lan.forget();
        let server = lan.dnsmasq(&SOON);
        let event = next_told(&mut events).await;
        let Event::Lost { lease: lost, refused } = event else {
            panic!("{event:?}; {}", server.log())
        };
        assert_eq!(
            (lost.address, refused.as_deref()),
            (lease.address, Some("lease not found"))
        );
        assert_eq!(renewed(next_told(&mut events).await).address, lease.address);
        assert_eq!(server.count("DHCPDISCOVER"), 1, "{}", server.log());
    });
}

#[test]
fn without_a_server_a_lease_is_lost_at_its_end_and_had_again_later() {
    in_namespace(async || {
        let lan = Lan::new();
        let server = lan.dnsmasq(&[]);
        let (leases, _) = Leases::new();
        let lease = obtain(&leases, request(1)).await;
        drop((leases, server));
        let (leases, mut events) = Leases::new();
        let begun = Instant::now();
        leases.resume(aged(&lease, 8_000)).await.unwrap();
        let mut left_before = Duration::from_secs(9);
        let event = loop {
            match next(&mut events, None).await {
                Event::NoAnswer { left, lease: kept } => {
                    assert!(left < left_before, "{left:?}");
                    assert_eq!(kept.address, lease.address);
                    left_before = left;
                }
                event => break event,
            }
        };
        assert!(left_before < Duration::from_secs(8), "nothing was told before");
        let Event::Lost {
            lease: lost,
            refused: None,
        } = event
        else {
            panic!("{event:?}")
        };
        assert_eq!(lost.address, lease.address);
        assert!(
            (7..10).contains(&begun.elapsed().as_secs()),
            "{:?}",
            begun.elapsed()
        );
        let server = lan.dnsmasq(&[]);
        assert_eq!(
            renewed(next(&mut events, Some(&server)).await).address,
            lease.address
        );
    });
}

#[test]
fn leases_go_on_after_a_start_without_a_new_one() {
    in_namespace(async || {
        let lan = Lan::new();
        let server = lan.dnsmasq(&SOON);
        let (leases, _) = Leases::new();
        let lease = obtain(&leases, request(1)).await;
        let _container = lan.container(mac(1), &lease.address.to_string());
        drop(leases);
        let kept = serde_json::to_string(&lease).unwrap();
        // Before T1, after it, after T2, and after its end.
        for left_ms in [118_000, 8_000, 5_000, -60_000] {
            let (leases, mut events) = Leases::new();
            let resumed = aged(&serde_json::from_str(&kept).unwrap(), left_ms);
            let resumed = if left_ms > 100_000 { lease.clone() } else { resumed };
            leases.resume(resumed.clone()).await.unwrap();
            let twice = leases.resume(resumed.clone()).await;
            assert!(matches!(twice, Err(Error::Held { .. })), "{twice:?}");
            let again = renewed(next(&mut events, Some(&server)).await);
            assert_eq!(again.address, lease.address);
            assert!(expiry_ms(&again) > expiry_ms(&resumed), "{left_ms}");
        }
        assert_eq!(server.count("DHCPDISCOVER"), 1, "{}", server.log());
        // What is resumed can be given back.
        let (leases, _events) = Leases::new();
        leases.resume(lease.clone()).await.unwrap();
        leases.release(&lease.id()).await.unwrap();
        server.says("DHCPRELEASE", 1);
    });
}

#[test]
fn an_address_that_somebody_else_has_is_not_given_again() {
    in_namespace(async || {
        let lan = Lan::new();
        let server = lan.dnsmasq(&[]);
        let (leases, _events) = Leases::new();
        let lease = obtain(&leases, request(1)).await;
        leases.decline(&lease.id()).await.unwrap();
        server.says("DHCPDECLINE", 1);
        assert_ne!(obtain(&leases, request(1)).await.address, lease.address);
    });
}

#[test]
fn a_parent_that_cannot_be_used_is_named_at_once() {
    in_namespace(async || {
        let (leases, _events) = Leases::new();
        run(
            "ip link add idle type veth peer name other && ip link add loose type veth peer name end && ip link set loose up",
        );
        for (parent, fault) in [
            ("nowhere", Fault::Missing),
            ("idle", Fault::Down),
            ("lo", Fault::NotEthernet),
        ] {
            let begun = Instant::now();
            let parent = name(parent);
            let asked = Request {
                parent: parent.clone(),
                ..request(1)
            };
            let error = leases.lease(asked, PATIENCE).await.unwrap_err();
            assert_eq!(error, Error::Parent { parent, fault });
            assert!(begun.elapsed() < Duration::from_secs(1));
        }
        // A carrier may come yet.
        let asked = Request {
            parent: name("loose"),
            ..request(1)
        };
        let error = leases.lease(asked, Duration::from_millis(300)).await.unwrap_err();
        assert_eq!(error.to_string(), "DHCP on loose: it has no carrier");
    });
}

#[test]
fn what_cannot_be_said_is_refused_with_its_field() {
    in_namespace(async || {
        let (leases, _events) = Leases::new();
        let asked = Request {
            client_id: vec![1],
            ..request(1)
        };
        let error = leases.lease(asked, PATIENCE).await.unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the client identifier is 1 bytes long"),
            "{error}"
        );
        for bad in ["", "a..b", "a b", "ü", &"x".repeat(64)] {
            let asked = Request {
                host_name: Some(bad.into()),
                ..request(1)
            };
            let error = leases.lease(asked, PATIENCE).await.unwrap_err();
            assert!(
                matches!(
                    error,
                    Error::Malformed {
                        field: "the host name",
                        ..
                    }
                ),
                "{error}"
            );
        }
    });
}

#[test]
fn leases_come_back_with_their_parent() {
    in_namespace(async || {
        let lan = Lan::new();
        let server = lan.dnsmasq(&[]);
        let (leases, mut events) = Leases::new();
        let lease = obtain(&leases, request(1)).await;
        drop(server);
        run("ip link set eth0 down");
        drop(leases);
        let (leases, mut later) = Leases::new();
        leases.resume(aged(&lease, 8_000)).await.unwrap();
        let event = next(&mut later, None).await;
        assert!(matches!(event, Event::NoAnswer { .. }), "{event:?}");
        // It is down, then gone, then another link of the same name.
        run("ip link delete eth0");
        let event = next_told(&mut later).await;
        assert!(matches!(event, Event::Lost { .. }), "{event:?}");
        lan.connect();
        let _server = lan.dnsmasq(&[]);
        assert_eq!(renewed(next_told(&mut later).await).address, lease.address);
        // The first run has ended, and has told nothing.
        assert!(timeout(Duration::ZERO, events.next()).await.is_err());
        // A release that can't be sent says so, and is one all the same.
        run("ip link delete eth0");
        let error = leases.release(&lease.id()).await.unwrap_err();
        assert!(matches!(error, Error::Parent { .. }), "{error}");
        leases.release(&lease.id()).await.unwrap();
    });
}

#[test]
fn nobody_waits_longer_than_asked_for() {
    in_namespace(async || {
        let _lan = Lan::new();
        let (leases, _events) = Leases::new();
        let begun = Instant::now();
        let limit = Duration::from_millis(500);
        let error = leases.lease(request(1), limit).await.unwrap_err();
        let what = "no DHCP server on eth0 has answered 02:7b:00:00:00:01 in 500 ms";
        assert_eq!(error.to_string(), what);
        assert!(
            (450..1_500).contains(&begun.elapsed().as_millis()),
            "{:?}",
            begun.elapsed()
        );
        // And may ask again.
        let error = leases.lease(request(1), limit).await.unwrap_err();
        assert!(matches!(error, Error::NoAnswer { .. }), "{error}");
    });
}

#[test]
fn who_goes_away_while_asking_leaves_no_lease() {
    in_namespace(async || {
        let lan = Lan::new();
        let server = lan.dnsmasq(&[]);
        let (leases, _events) = Leases::new();
        let mut obtained = 0;
        for last in 1..=100 {
            // After so many turns of what goes on meanwhile: at some moment of the exchange, or before it, or behind it.
            let patience = async {
                for _ in 0..u32::from(last) * 4 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                () = patience => {}
                lease = leases.lease(request(last), PATIENCE) => {
                    obtained += 1;
                    leases.release(&lease.unwrap().id()).await.unwrap();
                }
            }
        }
        lan.until("nothing is left", |given| !given.contains("02:7b:"))
            .await;
        server.says("DHCPRELEASE", obtained + 1);
        // Whoever asks next has no trouble with them.
        for last in 1..=40 {
            obtain(&leases, request(last)).await;
        }
    });
}

#[test]
fn the_socket_is_open_only_while_something_is_asked() {
    in_namespace(async || {
        // The first line is a heading.
        let sockets = || run("cat /proc/thread-self/net/packet").lines().count() - 1;
        let until = async |number: usize| {
            let end = Instant::now() + PATIENCE;
            while sockets() != number {
                assert!(Instant::now() < end, "{} sockets, and not {number}", sockets());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let lan = Lan::new();
        // The lease is renewed after six seconds; the socket is closed after three.
        let server = lan.dnsmasq(&["--dhcp-option=option:T1,6", "--dhcp-option=option:T2,60"]);
        let (leases, mut events) = Leases::new();
        let lease = obtain(&leases, request(1)).await;
        assert_eq!(sockets(), 1);
        until(0).await;
        let _container = lan.container(mac(1), &lease.address.to_string());
        renewed(next(&mut events, Some(&server)).await);
        assert_eq!(server.count("DHCPREQUEST"), 2, "{}", server.log());
        until(0).await;
        leases.release(&lease.id()).await.unwrap();
        server.says("DHCPRELEASE", 1);
        until(0).await;
    });
}

#[test]
fn many_on_one_parent_have_an_address_each() {
    in_namespace(async || {
        let lan = Lan::new();
        let _server = lan.dnsmasq(&[]);
        let (leases, _events) = Leases::new();
        let asked = (1..=50).map(|last| obtain(&leases, request(last)));
        let all = futures_util::future::join_all(asked).await;
        let addresses: BTreeSet<_> = all.iter().map(|lease| lease.address).collect();
        assert_eq!(addresses.len(), 50);
    });
}

#[test]
fn what_strangers_send_does_no_harm() {
    in_namespace(async || {
        let lan = Lan::new();
        let stranger = lan.namespace.within(|| UdpSocket::bind("192.0.2.1:0")).unwrap();
        stranger.set_broadcast(true).unwrap();
        let server = lan.dnsmasq(&SOON);
        let (leases, mut events) = Leases::new();
        let flood = |seed: u32| {
            for number in 0..2_000u32 {
                let mut number = (seed + number).wrapping_mul(2_654_435_761);
                let mut bytes = vec![0; 243 + number as usize % 300];
                for byte in &mut bytes {
                    number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *byte = (number >> 24) as u8;
                }
                // As an answer to one who has asked.
                bytes[..3].copy_from_slice(&[2, 1, 6]);
                bytes[28..34].copy_from_slice(&mac(1).bytes());
                bytes[236..243].copy_from_slice(&[99, 130, 83, 99, 53, 1, 5]);
                // A full queue on the way is no matter.
                stranger.send_to(&bytes, "192.0.2.255:68").ok();
            }
        };
        flood(1);
        let lease = obtain(&leases, request(1)).await;
        let _container = lan.container(mac(1), &lease.address.to_string());
        flood(9_999);
        assert_eq!(renewed(next_told(&mut events).await).address, lease.address);
        assert_eq!(server.count("NAK"), 0);
    });
}

#[test]
fn the_server_of_busybox_gives_renews_and_takes_back() {
    in_namespace(async || {
        let lan = Lan::new();
        let server = lan.udhcpd();
        let (leases, mut events) = Leases::new();
        let lease = obtain(&leases, request(1)).await;
        let lasts = expiry_ms(&lease) - lease.obtained_ms;
        assert_eq!(lasts, 10_000);
        let _container = lan.container(mac(1), &lease.address.to_string());
        for _ in 0..2 {
            let again = renewed(next(&mut events, Some(&server)).await);
            assert_eq!(again.address, lease.address);
        }
        let given = |given: &str| given.contains(&format!("{} {}", mac(1), lease.address.addr()));
        lan.until_udhcpd(&server, "it is given", |text| {
            given(text) && !text.contains("expired")
        })
        .await;
        leases.release(&lease.id()).await.unwrap();
        // Had it not been told, that would come after five seconds at the earliest.
        let released = Instant::now();
        lan.until_udhcpd(&server, "it is given back", |text| {
            given(text) && text.contains("expired")
        })
        .await;
        assert!(released.elapsed() < Duration::from_secs(4));
    });
}
