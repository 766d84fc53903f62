//! The load: workers that start a container with published ports, ask it through them, and remove it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use system_tests::outside::HOST;
use system_tests::{Answerer, Scene, Spaces, ask_udp, json, wait};

/// The networks: a name, and the arguments for `docker network create`.
pub const NETWORKS: [(&str, &[&str]); 3] = [
    ("first", &["--subnet", "10.80.0.0/24"]),
    (
        "second",
        &["--ipv6", "--subnet", "10.81.0.0/24", "--subnet", "fd81::/64"],
    ),
    ("third", &["--subnet", "10.82.0.0/24", "-o", "mtu=1400"]),
];

/// What all addresses of the networks begin with.
pub const PREFIXES: [&str; 4] = ["10.80.0.", "10.81.0.", "10.82.0.", "fd81:"];

/// The first host port that is chosen; each worker has two, which it uses again and again.
const PORT: usize = 20_000;

/// How long one question may take, and how long a container may take until it answers: this machine is kept busy.
const QUESTION: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(20);

/// How many containers are asked by a datagram as well: one in so many.
const DATAGRAMS: usize = 5;

/// What the workers share.
pub struct Load {
    total: usize,
    next: AtomicUsize,
    done: Mutex<usize>,
    one_more: Condvar,
    errors: Mutex<Vec<String>>,
}

/// Makes [`NETWORKS`].
pub fn make_networks(scene: &Scene) {
    for (name, args) in NETWORKS {
        scene.network(name, args);
    }
}

/// Runs a container on each of [`NETWORKS`].
pub fn warm_up(scene: &Scene) {
    for (number, (name, _)) in NETWORKS.iter().enumerate() {
        let container = format!("warm-{name}");
        start(scene, &container, PORT, name)
            .and_then(|()| ask(scene, &container, PORT))
            .unwrap_or_else(|e| panic!("container {number} of the warm-up: {e}"));
        scene.docker(&["rm", "-f", &container]);
    }
}

impl Load {
    /// A load of this many containers.
    pub fn new(total: usize) -> Self {
        Self {
            total,
            next: AtomicUsize::new(0),
            done: Mutex::new(0),
            one_more: Condvar::new(),
            errors: Mutex::default(),
        }
    }

    /// What went wrong so far.
    pub fn errors(&self) -> Vec<String> {
        self.errors.lock().expect("no panic while held").clone()
    }

    /// Waits until this many containers are through, and returns how many are.
    pub fn wait_for(&self, wanted: usize) -> usize {
        let done = self.done.lock().expect("no panic while held");
        let done = self.one_more.wait_while(done, |done| *done < wanted);
        *done.expect("no panic while held")
    }

    /// Takes containers, one after the other, until there are no more.
    pub fn work(&self, scene: &Scene, worker: usize) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.total {
                return;
            }
            if let Err(error) = life(scene, worker, number) {
                let mut errors = self.errors.lock().expect("no panic while held");
                errors.push(format!("container {number}: {error}"));
            }
            *self.done.lock().expect("no panic while held") += 1;
            self.one_more.notify_all();
        }
    }
}

/// One container: started, asked, removed. It is removed as well if it was not to be reached.
fn life(scene: &Scene, worker: usize, number: usize) -> Result<(), String> {
    let name = format!("soak-{number}");
    let port = PORT + 2 * worker;
    let asked = start(scene, &name, port, NETWORKS[number % NETWORKS.len()].0)
        .and_then(|()| ask(scene, &name, port))
        .and_then(|()| {
            if number.is_multiple_of(DATAGRAMS) {
                ask_by_datagram(scene, &name, port + 1)
            } else {
                Ok(())
            }
        });
    let removed = scene.try_docker(&["rm", "-f", &name]);
    asked.and(if removed.ok { Ok(()) } else { Err(removed.stderr) })
}

/// A container with two fixed ports and two that are found for it, which serves its own name over HTTP.
fn start(scene: &Scene, name: &str, port: usize, network: &str) -> Result<(), String> {
    let (tcp, udp) = (format!("{port}:80"), format!("{}:53/udp", port + 1));
    let serve = format!("mkdir /www && echo {name} > /www/name && exec httpd -f -p 80 -h /www");
    let ran = scene.try_docker(&[
        "run",
        "-d",
        "--name",
        name,
        "--stop-signal",
        "KILL",
        "--network",
        network,
        "-p",
        &tcp,
        "-p",
        &udp,
        "-p",
        "81",
        "-p",
        "54/udp",
        "busybox",
        "sh",
        "-c",
        &serve,
    ]);
    if ran.ok { Ok(()) } else { Err(ran.stderr) }
}

/// Asks from outside whose port this is.
fn ask(scene: &Scene, name: &str, port: usize) -> Result<(), String> {
    let address: SocketAddr = format!("{}:{port}", HOST[0]).parse().expect("an address");
    let mut last = String::new();
    wait::within(ANSWER, || {
        match scene.outside.spaces().enter(|| get_name(address)) {
            // Only until the server listens: a wrong name is never going to be right.
            Ok(text) => Some(text),
            Err(e) => {
                last = e.to_string();
                None
            }
        }
    })
    .ok_or_else(|| format!("port {port} does not answer: {last}"))
    .and_then(|text| {
        if text.trim_end().ends_with(name) {
            Ok(())
        } else {
            Err(format!("port {port} led elsewhere: {text}"))
        }
    })
}

fn get_name(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, QUESTION)?;
    stream.set_read_timeout(Some(QUESTION))?;
    stream.write_all(b"GET /name HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.is_empty() {
        return Err(io::Error::other("an empty answer"));
    }
    Ok(text)
}

/// Asks from outside by a datagram; the answer comes from a server in the container's network namespace.
fn ask_by_datagram(scene: &Scene, name: &str, port: usize) -> Result<(), String> {
    let inspected = scene.try_docker(&["inspect", "--type", "container", name]);
    if !inspected.ok {
        return Err(inspected.stderr);
    }
    let pid = &json::parse(&inspected.stdout)[0]["State"]["Pid"];
    let place = Spaces::of_network(&scene.host.path(&format!("/proc/{pid}/ns/net")));
    let _server = Answerer::udp(&place, "0.0.0.0:53");
    let answer = ask_udp(scene.outside.spaces(), &format!("{}:{port}", HOST[0]));
    answer
        .map(drop)
        .map_err(|e| format!("port {port} (UDP) does not answer: {e}"))
}
