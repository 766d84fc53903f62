//! Facts about this host, looked up at the edge and handed in to decisions: the time, what addresses it uses, which ports
//! are free.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};
use tombolo_core::model::{IfName, Proto};
use tombolo_core::state::{Ephemeral, HostPort};

use crate::dns::PORT;

/// Seconds of the wall clock, since 1970.
pub fn now_s() -> u64 {
    now_ms() / 1000
}

/// Milliseconds of the wall clock, since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Has the allocator give memory back as it is freed. By itself glibc keeps an arena for each thread, and after the first large
/// buffer it takes others of that size from its heap, where small ones that last keep their room from being given back: with
/// 10,000 endpoints of other hosts that is some 10 MiB. To be called before there are threads.
#[cfg(target_env = "gnu")]
#[expect(
    unsafe_code,
    reason = "mallopt(3) has no other form; it takes two numbers and keeps no pointer"
)]
pub fn spare_memory() {
    /// Buffers from this size on, in bytes, are mappings of their own; it is where glibc begins.
    const LARGE: libc::c_int = 128 * 1024;
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, LARGE),
        (libc::M_TRIM_THRESHOLD, LARGE),
    ] {
        // SAFETY: mallopt(3) may be called at any time, and is called here before there are threads.
        let taken = unsafe { libc::mallopt(parameter, value) };
        if taken == 0 {
            tracing::debug!(parameter, "the allocator goes on as it does by itself");
        }
    }
}

/// Gives memory that is free just now back to the kernel, wherever in the heap it is. It takes some milliseconds.
#[cfg(target_env = "gnu")]
#[expect(
    unsafe_code,
    reason = "malloc_trim(3) has no other form; it takes a number and keeps no pointer"
)]
pub fn give_back_memory() {
    // SAFETY: malloc_trim(3) may be called at any time by any thread.
    let given = unsafe { libc::malloc_trim(0) };
    tracing::debug!(given, "memory that is free was given back");
}

/// The same for other libraries, whose allocators have no such habits or can't be told.
#[cfg(not(target_env = "gnu"))]
pub fn spare_memory() {}

/// The same.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_memory() {}

/// Has this process be allowed as many open files as it may have: three sockets are open for each container that names are
/// answered in, and the usual limit of 1,024 is for programs that use select(2).
pub fn more_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "this process can't have more open files than it was started with");
    }
}

/// What keeps a link of this host from carrying packets, in words; none if nothing does, or if it can't be told.
pub fn dead_link(name: &IfName) -> Option<&'static str> {
    use nix::net::if_::InterfaceFlags;
    let links = nix::ifaddrs::getifaddrs().ok()?;
    let flags = links
        .filter(|link| link.interface_name == name.as_str())
        .map(|link| link.flags)
        .next();
    match flags {
        None => Some("is not there"),
        Some(flags) if !flags.contains(InterfaceFlags::IFF_UP) => Some("is down"),
        Some(flags) if !flags.contains(InterfaceFlags::IFF_RUNNING) => Some("has no carrier"),
        Some(_) => None,
    }
}

/// The ports that the kernel takes for outgoing connections, from which ephemeral host ports are taken as well. 32768 to
/// 60999 is the kernel's default.
pub fn ephemeral() -> Ephemeral {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok();
    let range = || {
        let text = read("ip_local_port_range")?;
        let mut numbers = text.split_whitespace().map(str::parse::<u16>);
        let (first, last) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        (first <= last && first > 0).then_some((first, last))
    };
    let (first, last) = range().unwrap_or((32768, 60999));
    let reserved = read("ip_local_reserved_ports").unwrap_or_default();
    Ephemeral {
        first,
        last,
        reserved: port_ranges(&reserved),
    }
}

/// Reads a list as the kernel writes it: `8080,9000-9010`.
fn port_ranges(text: &str) -> Vec<RangeInclusive<u16>> {
    let range = |word: &str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).collect()
}

/// How it stands with a port: found by taking it for a moment, which is the only question that the kernel answers for
/// every sort of socket. A port of IPv6 is asked for without that of IPv4, which is published by itself.
pub fn port(proto: Proto, host: IpAddr, port: u16) -> HostPort {
    let (kind, port) = match proto {
        Proto::Tcp => (SockType::Stream, port),
        Proto::Udp => (SockType::Datagram, port),
        // Few kernels have SCTP; but whether the host has the address can be told.
        Proto::Sctp => (SockType::Datagram, 0),
    };
    match take(kind, SocketAddr::new(host, port)) {
        Err(Errno::EADDRINUSE) => HostPort::Taken,
        Err(Errno::EADDRNOTAVAIL) => HostPort::Elsewhere,
        _ => HostPort::Free,
    }
}

/// Takes a port and gives it back.
fn take(kind: SockType, address: SocketAddr) -> nix::Result<()> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    if kind == SockType::Stream {
        // What is left of connections that have ended is in nobody's way.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    match kind {
        SockType::Stream => listen(&socket, Backlog::new(1)?),
        _ => Ok(()),
    }
}

/// Which process of this host has a port, as `name (pid 123)`; none if it can't be told.
pub fn port_holder(proto: Proto, host: IpAddr, port: u16) -> Option<String> {
    let table = match proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
        Proto::Sctp => return None,
    };
    // A socket of IPv6 may have the port for IPv4 as well.
    let files = match host {
        IpAddr::V4(_) => vec![table.to_owned(), format!("{table}6")],
        IpAddr::V6(_) => vec![format!("{table}6")],
    };
    let inodes: Vec<String> = files
        .iter()
        .filter_map(|file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).ok())
        .flat_map(|text| sockets(&text, port, proto == Proto::Tcp))
        .collect();
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let numbered = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let processes = std::fs::read_dir("/proc").ok()?.flatten().filter_map(numbered);
    let holder = |pid: u32| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let mut targets = files
            .flatten()
            .filter_map(|file| std::fs::read_link(file.path()).ok());
        targets.find(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))?;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(format!("{} (pid {pid})", tombolo_core::model::cut(name.trim())))
    };
    processes.filter(|_| !links.is_empty()).find_map(holder)
}

/// The inodes of the sockets that have a local port, from a table as `/proc/net/tcp`; of TCP those only that listen.
fn sockets(table: &str, port: u16, listening: bool) -> Vec<String> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, state, _, _, _, _, _, inode, ..] = words[..] else {
            return None;
        };
        (local.ends_with(&suffix) && (!listening || state == LISTEN)).then(|| inode.to_owned())
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// Routes shorter than this say where most traffic goes (a default route, or the two halves by which VPNs replace it),
/// not which addresses a network has.
const ROUTE_LEAST: u8 = 4;

/// What a pool that we choose must not overlap: the host's routes in all tables, its addresses and its name servers.
///
/// # Errors
/// When netlink can't be read.
pub async fn avoid() -> Result<Vec<IpNet>, crate::kernel::Error> {
    let mut avoid = crate::kernel::routes::destinations().await?;
    avoid.retain(|net| net.prefix_len() >= ROUTE_LEAST);
    avoid.extend(name_servers());
    avoid.sort();
    avoid.dedup();
    Ok(avoid)
}

/// The host's name servers.
pub fn name_servers() -> Vec<IpNet> {
    // systemd-resolved keeps the true servers in a file of its own and puts a loopback address into the other.
    let files = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
    let mut servers = Vec::new();
    for file in files {
        // A host without the file has none.
        let text = std::fs::read_to_string(file).unwrap_or_default();
        servers.extend(name_servers_in(&text));
    }
    servers
}

/// Who resolves names for this host, in the order in which its own resolver asks them (resolv.conf(5)).
pub fn resolvers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let server = |word: &str| match word.split_once('%') {
        None => Some(SocketAddr::new(word.parse().ok()?, PORT)),
        Some((address, link)) => {
            let scope = nix::net::if_::if_nametoindex(link).ok()?;
            Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
        }
    };
    servers_in(&text).filter_map(server).collect()
}

/// Who resolves names, word by word.
fn servers_in(resolv_conf: &str) -> impl Iterator<Item = &str> {
    let lines = resolv_conf.lines();
    lines.filter_map(|line| Some(line.trim().strip_prefix("nameserver")?.trim()))
}

fn name_servers_in(resolv_conf: &str) -> impl Iterator<Item = IpNet> + '_ {
    // A zone (fe80::1%eth0) names a link-local address, which no pool holds.
    let addresses = servers_in(resolv_conf).filter_map(|word| word.parse::<IpAddr>().ok());
    addresses.map(IpNet::from)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn name_servers_are_read() {
        let text = "# a comment\nsearch example.net\nnameserver 10.8.0.1\nnameserver fd00::53\nnameserver fe80::1%eth0\n";
        let found: Vec<String> = name_servers_in(text).map(|net| net.to_string()).collect();
        assert_eq!(found, ["10.8.0.1/32", "fd00::53/128"]);
    }

    #[test]
    fn a_port_with_a_listener_is_not_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let of = |host: &str| port(Proto::Tcp, host.parse().unwrap(), address.port());
        assert_eq!(of("127.0.0.1"), HostPort::Taken);
        assert_eq!(of("0.0.0.0"), HostPort::Taken);
        assert_eq!(
            of("::"),
            HostPort::Free,
            "a socket of IPv4 is not in the way of IPv6"
        );
        let holder = port_holder(Proto::Tcp, address.ip(), address.port()).unwrap();
        assert!(
            holder.ends_with(&format!("(pid {})", std::process::id())),
            "{holder}"
        );
        drop(listener);
        assert_eq!(of("127.0.0.1"), HostPort::Free);
    }

    #[test]
    fn a_port_of_an_address_that_is_not_the_hosts_is_none_of_its_ports() {
        for proto in [Proto::Tcp, Proto::Udp, Proto::Sctp] {
            let at = port(proto, "203.0.113.7".parse().unwrap(), 8080);
            assert_eq!(at, HostPort::Elsewhere, "{proto}");
        }
    }

    #[test]
    fn kept_ports_are_read_as_the_kernel_writes_them() {
        assert_eq!(port_ranges("\n"), []);
        assert_eq!(port_ranges("8080,9000-9010\n"), [8080..=8080, 9000..=9010]);
    }
}
