//! Flows that are under way, and the sizes of their packets.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};
use system_tests::outside::{HOST, WIRE};
use system_tests::{Answerer, Container, until};

use crate::ways::{DUAL, scene};

/// Lets a container tell its name to whoever sends a datagram to port 53.
fn tell_name(container: &Container) -> std::thread::JoinHandle<()> {
    let socket = container.spaces().enter(|| UdpSocket::bind("[::]:53")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let name = container.name().to_owned();
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((length, asker)) = socket.recv_from(&mut buffer) {
            if &buffer[..length] == b"end" {
                return;
            }
            socket.send_to(name.as_bytes(), asker).ok();
        }
    })
}

#[test]
fn a_udp_client_that_goes_on_sending_reaches_the_new_container_at_once() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    for (host, any) in [(HOST[0], "0.0.0.0:0"), (HOST[1], "[::]:0")] {
        let client = scene.outside.spaces().enter(|| UdpSocket::bind(any)).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let to: std::net::SocketAddr = (host.parse::<std::net::IpAddr>().unwrap(), 5353).into();
        // One flow for all of the test: it never pauses for longer than a moment.
        let ask = |word: &[u8]| {
            client.send_to(word, to).unwrap();
            let mut buffer = [0; 16];
            let length = client.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        // Nobody is there yet: the kernel notes a flow that leads to the host itself.
        assert_eq!(ask(b"?"), None);
        for name in ["first", "second"] {
            let container = scene.container(name, &["--network", "net", "-p", "5353:53/udp"]);
            let teller = tell_name(&container);
            until("the new container answers", || {
                ask(b"?").filter(|told| told == name)
            });
            let own = container.ip("net");
            ask(b"end");
            teller.join().unwrap();
            container.remove();
            assert_eq!(ask(b"?"), None, "{name} is gone");
            until("no flow leads to the old container any more", || {
                let left = scene.host.run("cat", &["/proc/net/nf_conntrack"]);
                let leads = |flow: &str| flow.contains(&own) && flow.contains("5353");
                (!left.lines().any(leads)).then_some(())
            });
        }
    }
    scene.must_clear_to(&before);
}

#[test]
fn a_network_takes_the_mtu_of_the_way_out_and_segments_are_clamped_to_smaller_ones() {
    let (scene, _) = scene();
    let mtu = |of: &system_tests::Spaces, mtu: &str| of.run("ip", &["link", "set", WIRE, "mtu", mtu]);
    mtu(scene.host.spaces(), "1400");
    mtu(scene.outside.spaces(), "1400");
    let before = scene.snapshot();
    scene.network("derived", &["--subnet", "10.60.0.0/24"]);
    scene.network("chosen", &["--subnet", "10.61.0.0/24", "-o", "mtu=1500"]);
    let derived = scene.container("derived", &["--network", "derived", "-p", "8080:80"]);
    let chosen = scene.container("chosen", &["--network", "chosen", "-p", "8081:80"]);
    let of = |container: &Container| container.ip_json(&["link", "show", "dev", "eth0"])[0]["mtu"].clone();
    assert_eq!((of(&derived), of(&chosen)), (1400.into(), 1500.into()));

    // 20 bytes of IP, 20 of TCP, 12 of its timestamps.
    const LARGEST: u32 = 1400 - 40;
    let outside = scene.outside.spaces();
    let listener = outside.enter(|| TcpListener::bind("192.0.2.1:80")).unwrap();
    let out = chosen
        .spaces()
        .enter(|| TcpStream::connect("192.0.2.1:80"))
        .unwrap();
    let (seen_there, _) = listener.accept().unwrap();
    let inner = chosen.spaces().enter(|| TcpListener::bind("0.0.0.0:80")).unwrap();
    let into = outside.enter(|| TcpStream::connect("192.0.2.2:8081")).unwrap();
    let (seen_inside, _) = inner.accept().unwrap();
    for (what, stream) in [
        ("the container, out", &out),
        ("the outside, asked", &seen_there),
        ("the outside, in", &into),
        ("the container, asked", &seen_inside),
    ] {
        let largest = getsockopt(stream, sockopt::TcpMaxSeg).unwrap();
        assert!(largest <= LARGEST, "{what} sends segments of {largest} bytes");
    }
    scene.must_clear_to(&before);
}

#[test]
fn an_endpoints_rate_limits_what_it_is_sent() {
    let (scene, before) = scene();
    scene.network("net", &["--subnet", "10.60.0.0/24"]);
    let one = scene.container("one", &["--network", "none"]);
    scene.docker(&["network", "disconnect", "none", "one"]);
    scene.docker(&["network", "connect", "--driver-opt", "rate=16mbit", "net", "one"]);
    let listener = one.spaces().enter(|| TcpListener::bind("0.0.0.0:80")).unwrap();
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
    });
    const BYTES: usize = 2 << 20;
    let to = format!("{}:80", one.ip("net"));
    let start = Instant::now();
    let mut stream = scene.host.spaces().enter(|| TcpStream::connect(to)).unwrap();
    std::io::Write::write_all(&mut stream, &vec![0; BYTES]).unwrap();
    drop(stream);
    assert_eq!(reader.join().unwrap() as usize, BYTES);
    // 16 Mbit/s are 2 MB/s. What passes at once (64 KiB) comes off; slower than the limit is always possible.
    assert!(
        start.elapsed() > Duration::from_millis(900),
        "{BYTES} bytes in {:?}",
        start.elapsed()
    );
    let refused = scene.try_docker(&["network", "disconnect", "net", "one"]);
    refused.must();
    let refused = scene.try_docker(&["network", "connect", "--driver-opt", "rate=fast", "net", "one"]);
    refused.must_fail_with(&["rate", "'fast'", "mbit"]);
    scene.must_clear_to(&before);
}

#[test]
fn a_connection_goes_on_while_ports_of_others_come_and_go() {
    let (scene, before) = scene();
    scene.network("net", &["--subnet", "10.60.0.0/24"]);
    let web = scene.container("web", &["--network", "net", "-p", "8080:80"]);
    let _server = Answerer::tcp(&web.spaces(), "0.0.0.0:80");
    let echo = web.spaces().enter(|| TcpListener::bind("0.0.0.0:90")).unwrap();
    let other = scene.container("other", &["--network", "net", "-p", "8090:80"]);
    let mut out = other
        .spaces()
        .enter(|| TcpStream::connect((web.ip("net"), 90)))
        .unwrap();
    let (mut inside, _) = echo.accept().unwrap();
    for port in ["8101:80", "8102:53/udp"] {
        let short = scene.container("short", &["--network", "net", "-p", port]);
        short.remove();
        std::io::Write::write_all(&mut out, b"on").unwrap();
        let mut buffer = [0; 2];
        inside.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        std::io::Read::read_exact(&mut inside, &mut buffer).unwrap();
    }
    scene.must_clear_to(&before);
}
