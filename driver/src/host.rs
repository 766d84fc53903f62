//! Facts about this host, looked up at the edge and handed in to decisions: the time, what addresses it uses, which ports
//! are free.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use tombolo_core::model::Proto;

/// Seconds of the wall clock, since 1970.
pub fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The ports that the kernel takes for outgoing connections (`net.ipv4.ip_local_port_range`), from which ephemeral host
/// ports are taken as well. 32768 to 60999 is the kernel's default.
pub fn ephemeral() -> (u16, u16) {
    let read = || {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
        let mut numbers = text.split_whitespace().map(str::parse::<u16>);
        let (first, last) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        (first <= last && first > 0).then_some((first, last))
    };
    read().unwrap_or((32768, 60999))
}

/// Whether no process of this host has a port: found by taking it for a moment, which is the only question that the
/// kernel answers for every sort of socket. A port of an address that isn't this host's is free as far as we can tell.
pub fn port_free(proto: Proto, host: IpAddr, port: u16) -> bool {
    let address = SocketAddr::new(host, port);
    let taken = match proto {
        Proto::Tcp => TcpListener::bind(address).map(drop),
        Proto::Udp => UdpSocket::bind(address).map(drop),
        // The standard library has no SCTP, and few kernels have.
        Proto::Sctp => Ok(()),
    };
    !matches!(taken, Err(error) if error.kind() == std::io::ErrorKind::AddrInUse)
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
pub async fn avoid() -> Result<Vec<IpNet>, String> {
    let mut avoid = crate::kernel::routes::destinations()
        .await
        .map_err(|error| error.to_string())?;
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

fn name_servers_in(resolv_conf: &str) -> impl Iterator<Item = IpNet> + '_ {
    let words = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    // A zone (fe80::1%eth0) names a link-local address, which no pool holds.
    words
        .filter_map(|word| word.trim().parse::<IpAddr>().ok())
        .map(IpNet::from)
}

#[cfg(test)]
mod tests {
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
        assert!(!port_free(Proto::Tcp, address.ip(), address.port()));
        assert!(!port_free(Proto::Tcp, "0.0.0.0".parse().unwrap(), address.port()));
        let holder = port_holder(Proto::Tcp, address.ip(), address.port()).unwrap();
        assert!(
            holder.ends_with(&format!("(pid {})", std::process::id())),
            "{holder}"
        );
        drop(listener);
        assert!(port_free(Proto::Tcp, address.ip(), address.port()));
    }
}
