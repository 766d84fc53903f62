//! A LAN as an office has it: hosts and others on one switch, and a router to an outside.
//!
//! ```text
//!     a  192.0.2.11 ── eth0 ──┐                      ┌── eth0 ── 192.0.2.1  router  203.0.113.1 ── 203.0.113.2  outside
//!     b  192.0.2.12 ── eth0 ──┤ switch (a bridge in  ├── eth0 ── 192.0.2.50  stranger
//!     c  192.0.2.13 ── eth0 ──┘ a namespace)         └── eth0 ── 192.0.2.2  a DHCP server, if wanted
//! ```
//!
//! Each has an address of [`NET6`] that ends alike: the router has `2001:db8:1::1`. The stranger is a machine that tombolo knows nothing of, with
//! an address that a container might be given.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::json;
use crate::spaces::Spaces;

/// The LAN's prefixes.
pub const NET: &str = "192.0.2.0/24";
/// The LAN's prefix of IPv6.
pub const NET6: &str = "2001:db8:1::/64";
/// The router's addresses on the LAN.
pub const ROUTER: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
/// The DHCP server's addresses.
pub const DHCP: &str = "192.0.2.2";
/// That of IPv6.
pub const DHCP6: &str = "2001:db8:1::2";
/// The stranger's addresses.
pub const STRANGER: [&str; 2] = ["192.0.2.50", "2001:db8:1::50"];
/// The stranger's hardware address.
pub const STRANGER_MAC: &str = "02:99:00:00:00:50";
/// The outside's addresses.
pub const OUTSIDE: [&str; 2] = ["203.0.113.2", "2001:db8:2::2"];

/// The router's addresses on the outside.
const ROUTER_OUT: [&str; 2] = ["203.0.113.1", "2001:db8:2::1"];

/// What everybody calls their link to the LAN.
pub const LINK: &str = "eth0";

/// The switch's bridge.
const BRIDGE: &str = "br0";

/// A LAN.
#[derive(Debug)]
pub struct Lan {
    switch: Spaces,
    router: Spaces,
    outside: Spaces,
    stranger: Spaces,
}

impl Default for Lan {
    fn default() -> Self {
        Self::new()
    }
}

impl Lan {
    /// A LAN without hosts.
    pub fn new() -> Self {
        let lan = Self {
            switch: Spaces::new_network(),
            router: Spaces::new_network(),
            outside: Spaces::new_network(),
            stranger: Spaces::new_network(),
        };
        lan.switch
            .run("ip", &["link", "add", BRIDGE, "up", "type", "bridge"]);
        lan.lay("router", &lan.router);
        address(&lan.router, LINK, ROUTER);
        for forwarding in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            lan.router.run("sysctl", &["-qw", &format!("{forwarding}=1")]);
        }
        lan.router.run(
            "ip",
            &["link", "add", "out0", "type", "veth", "peer", "name", "back0"],
        );
        give(&lan.router, "back0", &lan.outside, LINK);
        for (place, link, own) in [(&lan.router, "out0", ROUTER_OUT), (&lan.outside, LINK, OUTSIDE)] {
            address(place, link, own);
            place.run("ip", &["link", "set", link, "up"]);
        }
        way_out(&lan.outside, ROUTER_OUT);
        lan.lay("stranger", &lan.stranger);
        lan.stranger
            .run("ip", &["link", "set", LINK, "address", STRANGER_MAC]);
        address(&lan.stranger, LINK, STRANGER);
        way_out(&lan.stranger, ROUTER);
        lan
    }

    /// The switch, whose ports are `host0` and so on, `router` and `stranger`.
    pub fn switch(&self) -> &Spaces {
        &self.switch
    }

    /// The router.
    pub fn router(&self) -> &Spaces {
        &self.router
    }

    /// The outside, behind the router.
    pub fn outside(&self) -> &Spaces {
        &self.outside
    }

    /// The machine that tombolo knows nothing of.
    pub fn stranger(&self) -> &Spaces {
        &self.stranger
    }

    /// A host's addresses, by its place among all.
    pub fn host(at: usize) -> [String; 2] {
        let last = 11 + at;
        [format!("192.0.2.{last}"), format!("2001:db8:1::{last}")]
    }

    /// Lays a cable to a host that has none, and gives it its addresses and its way out.
    pub fn plug(&self, host: &Host, at: usize) {
        self.lay(&port(at), host.spaces());
        self.set_up(host, at);
    }

    /// Gives a host whose `eth0` is new its addresses and its way out.
    pub fn set_up(&self, host: &Host, at: usize) {
        let own = Self::host(at);
        host.run("ip", &["link", "set", LINK, "up"]);
        address(host.spaces(), LINK, [&own[0], &own[1]]);
        way_out(host.spaces(), ROUTER);
    }

    /// Takes a host's cable away together with its link, and all that stood on it.
    pub fn unplug(&self, at: usize) {
        self.switch.run("ip", &["link", "delete", &port(at)]);
    }

    /// Cuts a host's cable: its link stays, without a carrier.
    pub fn cut(&self, at: usize) {
        self.switch.run("ip", &["link", "set", &port(at), "down"]);
    }

    /// Mends a host's cable.
    pub fn mend(&self, at: usize) {
        self.switch.run("ip", &["link", "set", &port(at), "up"]);
    }

    /// Has the switch send back to a host what came from there and belongs there, as one does that knows VEPA.
    pub fn reflect(&self, at: usize) {
        self.switch
            .run("bridge", &["link", "set", "dev", &port(at), "hairpin", "on"]);
    }

    /// Puts one more machine on the LAN, with these addresses of both families.
    pub fn machine(&self, port: &str, own: [&str; 2]) -> Spaces {
        let machine = Spaces::new_network();
        self.lay(port, &machine);
        address(&machine, LINK, own);
        machine
    }

    /// Lays a cable from the switch to a place, and has both ends up.
    pub fn lay(&self, port: &str, place: &Spaces) {
        self.switch.run(
            "ip",
            &["link", "add", port, "type", "veth", "peer", "name", "new0"],
        );
        give(&self.switch, "new0", place, LINK);
        self.switch
            .run("ip", &["link", "set", port, "master", BRIDGE, "up"]);
        place.run("ip", &["link", "set", LINK, "up"]);
    }
}

/// The switch's end of a host's cable.
fn port(at: usize) -> String {
    format!("host{at}")
}

/// Moves a link of one place to another and names it there.
fn give(from: &Spaces, link: &str, to: &Spaces, name: &str) {
    // The program gets the namespace by its number here; a number that it inherits would be closed on the way.
    let namespace = format!("/proc/{}/fd/{}", std::process::id(), to.network().as_raw_fd());
    from.run("ip", &["link", "set", link, "netns", &namespace, "name", name]);
}

/// Gives a link its addresses, without duplicate address detection, which would take a second.
fn address(place: &Spaces, link: &str, own: [&str; 2]) {
    for (address, length) in own.iter().zip([24, 64]) {
        let address = format!("{address}/{length}");
        place.run("ip", &["address", "add", &address, "dev", link, "nodad"]);
    }
}

fn way_out(place: &Spaces, by: [&str; 2]) {
    for by in by {
        place.run("ip", &["route", "add", "default", "via", by]);
    }
}

/// Whether an address answers a ping from a place within so many seconds.
#[track_caller]
pub fn pings(place: &Spaces, address: &str, seconds: u32) -> bool {
    let family = if address.contains(':') { "-6" } else { "-4" };
    let limit = seconds.to_string();
    place
        .try_run("busybox", &["ping", family, "-c", "1", "-W", &limit, address])
        .ok
}

/// The hardware addresses of all who say within two seconds that an IPv4 address on the LAN is theirs, in order.
#[track_caller]
pub fn who_has(place: &Spaces, address: &str) -> Vec<String> {
    let asked = place.try_run(
        "busybox",
        &["arping", "-b", "-c", "2", "-w", "2", "-I", LINK, address],
    );
    let mut all: Vec<String> = asked
        .stdout
        .lines()
        .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_lowercase()))
        .collect();
    all.sort();
    all.dedup();
    all
}

/// The hardware address that a place has noted for a neighbour; none if it knows none.
#[track_caller]
pub fn neighbour(place: &Spaces, address: &str) -> Option<String> {
    let shown = place.run("ip", &["-j", "neigh", "show", address]);
    // A list without elements may be printed as nothing.
    let rows = (!shown.is_empty()).then(|| json::parse(&shown))?;
    let found = json::rows(&rows).iter().find_map(|row| row["lladdr"].as_str());
    found.map(str::to_owned)
}

/// Whether this kernel lacks a kind of link, as `ip link add … type` names it: found by making one, in a namespace of its own.
///
/// # Panics
/// When the kernel refuses for another reason than that it doesn't know the kind.
#[track_caller]
pub fn kernel_lacks(kind: &str) -> bool {
    let scratch = Spaces::new_network();
    scratch.run(
        "ip",
        &["link", "add", "one", "type", "veth", "peer", "name", "two"],
    );
    let more: &[&str] = match kind {
        "dummy" => &[],
        _ => &["link", "one"],
    };
    let sort: &[&str] = match kind {
        "vlan" => &["type", "vlan", "id", "5"],
        kind => &["type", kind],
    };
    let made = scratch.try_run("ip", &[&["link", "add"], more, &["name", "try"], sort].concat());
    let unknown = ["Unknown device type", "Operation not supported"];
    assert!(
        made.ok || unknown.iter().any(|text| made.stderr.contains(text)),
        "{}: {}",
        made.line,
        made.stderr
    );
    !made.ok
}

/// What became of numbered datagrams that were sent until the first one came back.
#[derive(Debug, Clone, Copy)]
pub struct Reached {
    /// How long it took.
    pub after: Duration,
    /// How many had been sent before that one.
    pub lost: u32,
}

/// Sends datagrams from one place to an address in another, which sends them back, until the first one is there again.
/// None if that takes longer than `limit`.
#[track_caller]
pub fn reached(from: &Spaces, to: &Spaces, address: &str, limit: Duration) -> Option<Reached> {
    /// Where they go, and how long each is waited for.
    const PORT: u16 = 7777;
    const EACH: Duration = Duration::from_millis(10);
    let address: IpAddr = address.parse().unwrap_or_else(|e| panic!("{address}: {e}"));
    let any = if address.is_ipv6() { "::" } else { "0.0.0.0" };
    let server = to
        .enter(|| UdpSocket::bind((any, PORT)))
        .expect("the server's socket");
    let client = from
        .enter(|| UdpSocket::bind((any, 0)))
        .expect("the client's socket");
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(EACH)).expect("a time limit");
    }
    let begun = Instant::now();
    let mut number = 0_u32;
    while begun.elapsed() < limit {
        // Not all are sent: without a way there, or with a neighbour that is waited for, the kernel may refuse.
        client
            .send_to(&number.to_be_bytes(), SocketAddr::new(address, PORT))
            .ok();
        let mut buffer = [0; 4];
        if let Ok((length, whom)) = server.recv_from(&mut buffer) {
            server.send_to(&buffer[..length], whom).ok();
            if client.recv(&mut buffer).is_ok() {
                return Some(Reached {
                    after: begun.elapsed(),
                    lost: u32::from_be_bytes(buffer),
                });
            }
        }
        number += 1;
    }
    None
}
