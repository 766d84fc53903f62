//! A hook in a container's network namespace, by which questions for names come to us first.
//!
//! ```text
//!   container ──> 127.0.0.11:53 ──@alive has it──> our socket ──what isn't ours, marked──> 127.0.0.11:53
//!                       │                                                                      │
//!                       └───────────@alive is empty──────> Docker's own redirection <──────────┘
//! ```
//!
//! Docker's resolver listens in each namespace at 127.0.0.11, at a port of its choice to which nat rules lead (moby
//! `libnetwork/resolver_unix.go`). Ours does the same with a table of its own, whose chain is asked before Docker's. Its rules
//! hold only while set `alive` has the address, and that runs out by itself: it is renewed by a packet that only we can send,
//! by its mark. So when nobody is there to answer, the kernel sends all to Docker again; at once where we end in good order, by
//! another such packet that empties the set.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::look::spaces;
use super::tools;

/// Where Docker's resolver is asked.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// The mark of our packets there. Nothing with it leaves the namespace.
const MARK: u32 = 0x746d_6264;

/// The port that the packets which renew the set go to, and never reach (RFC 863).
const BEAT: u16 = 9;

/// The port of that which empties it (RFC 347).
const END: u16 = 7;

/// How long questions come to us after the last such packet, in seconds.
pub const LIFE_S: u32 = 3;

/// The table, less its rules with the ports: made anew whatever was there.
fn table(udp: u16, tcp: u16) -> String {
    format!(
        "table ip tombolo_dns\n\
         delete table ip tombolo_dns\n\
         table ip tombolo_dns {{\n\
         \tset alive {{ type ipv4_addr; flags dynamic,timeout; timeout {LIFE_S}s; size 16; }}\n\
         \tchain renew {{\n\
         \t\ttype filter hook output priority raw; policy accept;\n\
         \t\tmeta mark {MARK:#x} ip daddr {RESOLVER} udp dport {BEAT} update @alive {{ ip daddr timeout {LIFE_S}s }} drop\n\
         \t\tmeta mark {MARK:#x} ip daddr {RESOLVER} udp dport {END} delete @alive {{ ip daddr }} drop\n\
         \t}}\n\
         \tchain ask {{\n\
         \t\ttype nat hook output priority -110; policy accept;\n\
         \t\tmeta mark {MARK:#x} return\n\
         \t\tip daddr @alive udp dport 53 dnat to {RESOLVER}:{udp}\n\
         \t\tip daddr @alive tcp dport 53 dnat to {RESOLVER}:{tcp}\n\
         \t}}\n\
         }}\n"
    )
}

/// The hook in one namespace.
#[derive(Debug)]
pub struct Hook {
    namespace: Namespace,
    which: (u64, u64),
    beat: Socket,
}

/// What questions come in by.
#[derive(Debug)]
pub struct Ears {
    /// By datagrams.
    pub udp: std::net::UdpSocket,
    /// By connections.
    pub tcp: std::net::TcpListener,
}

/// A network namespace, by the file that stands for it.
#[derive(Debug, Clone)]
pub struct Namespace(PathBuf);

/// Which namespace a file stands for: its device and inode.
fn which(path: &Path) -> io::Result<(u64, u64)> {
    let file = std::fs::metadata(path)?;
    Ok((file.dev(), file.ino()))
}

impl Namespace {
    /// A socket in the namespace whose packets go past the hook.
    ///
    /// # Errors
    /// When the namespace is gone, or refuses.
    pub fn socket(&self, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        spaces::inside(&self.0, || marked(kind, protocol))?
    }
}

fn marked(kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
    socket.set_mark(MARK)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl Hook {
    /// Puts the hook into a namespace, in the place of one of an earlier process. It does nothing before it is
    /// [renewed](Self::renew).
    ///
    /// # Errors
    /// When the namespace can't be entered, or its kernel has no nat rules.
    pub fn set(namespace: &Path) -> io::Result<(Self, Ears)> {
        let which = which(namespace)?;
        spaces::inside(namespace, || {
            let listening = |kind, protocol| -> io::Result<Socket> {
                let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
                socket.set_nonblocking(true)?;
                socket.bind(&SocketAddr::from((RESOLVER, 0)).into())?;
                Ok(socket)
            };
            let udp: std::net::UdpSocket = listening(Type::DGRAM, Protocol::UDP)?.into();
            let tcp = listening(Type::STREAM, Protocol::TCP)?;
            tcp.listen(128)?;
            let tcp: std::net::TcpListener = tcp.into();
            let beat = marked(Type::DGRAM, Protocol::UDP)?;
            nft(&table(udp.local_addr()?.port(), tcp.local_addr()?.port()))?;
            let namespace = Namespace(namespace.to_owned());
            Ok((
                Self {
                    namespace,
                    which,
                    beat,
                },
                Ears { udp, tcp },
            ))
        })?
    }

    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Whether the file still stands for the namespace that the hook is in. Our sockets would keep one that has ended.
    pub fn is_in_place(&self) -> bool {
        which(&self.namespace.0).is_ok_and(|which| which == self.which)
    }

    /// Has questions come to us for another [`LIFE_S`] seconds. Answers whether the hook is still there.
    pub fn renew(&self) -> bool {
        let to = SocketAddr::from((RESOLVER, BEAT));
        // The rule that takes notice of the packet drops it, and says so.
        let sent = self.beat.send_to(b"", &to.into());
        sent.is_err_and(|error| error.raw_os_error() == Some(Errno::EPERM as i32))
    }

    /// Has questions go to Docker's resolver from now on, until the hook is renewed.
    pub fn rest(&self) {
        // Where there is no rule any more there is nothing to take notice of it.
        let to = SocketAddr::from((RESOLVER, END));
        self.beat.send_to(b"", &to.into()).ok();
    }

    /// Takes the hook out of its namespace.
    ///
    /// # Errors
    /// When that is gone, and with it the hook.
    pub fn remove(&self) -> io::Result<()> {
        spaces::inside(&self.namespace.0, || {
            nft("table ip tombolo_dns\ndelete table ip tombolo_dns\n")
        })?
    }
}

/// Has `nft` carry out a text in the namespace that this thread is in.
fn nft(text: &str) -> io::Result<()> {
    let nft = tools::find("nft").ok_or_else(|| io::Error::other("there is no program nft on this host"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let run = runtime.block_on(tools::run(&nft, &["-f", "-"], text));
    run.map(drop)
        .map_err(|failure| io::Error::other(failure.to_string()))
}
