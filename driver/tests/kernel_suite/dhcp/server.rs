//! A LAN with a server of DHCP on it, and this thread's namespace as a host that is connected to it.
//!
//! ```text
//!   container (macvlan on eth0) ── host, eth0 ── wire ── lan0, LAN: 192.0.2.1, a server
//! ```

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tombolo_core::model::Mac;

use crate::lab::{Namespace, attempt, run};

/// How long something that must come may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The LAN.
pub struct Lan {
    pub namespace: Namespace,
    folder: tempfile::TempDir,
}

impl Lan {
    /// One that this thread's namespace is connected to by `eth0`.
    pub fn new() -> Self {
        let lan = Self {
            namespace: Namespace::new(),
            folder: tempfile::tempdir().unwrap(),
        };
        lan.connect();
        lan
    }

    /// Connects the host, by a new link.
    pub fn connect(&self) {
        let lan = &self.namespace;
        run(&format!(
            "ip link add eth0 type veth peer name lan0 netns {}",
            lan.path()
        ));
        lan.run("ip link set lan0 up && ip address add 192.0.2.1/24 dev lan0");
        run("ip link set eth0 up");
    }

    /// A container with a hardware address on the LAN, which has an address already.
    pub fn container(&self, mac: Mac, address: &str) -> Namespace {
        let container = Namespace::new();
        run(&format!(
            "ip link add link eth0 name mv0 address {mac} type macvlan mode bridge && ip link set mv0 netns {}",
            container.path()
        ));
        container.run(&format!("ip link set mv0 up && ip address add {address} dev mv0"));
        container
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts dnsmasq with two-minute leases, the least that it gives.
    pub fn dnsmasq(&self, options: &[&str]) -> Server {
        let mut command = Command::new("dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--pid-file=",
                "--user=root",
            ])
            .args(["--log-dhcp", "--log-facility=-", "--port=0", "--no-ping"])
            .args(["--interface=lan0", "--bind-interfaces", "--except-interface=lo"])
            .arg("--dhcp-range=192.0.2.50,192.0.2.150,255.255.255.0,120")
            .arg(format!("--dhcp-leasefile={}", self.file("dnsmasq").display()))
            .args(options);
        Server::start(self, command, "IP range", "dnsmasq-base")
    }

    /// Starts the server of busybox.
    pub fn udhcpd(&self) -> Server {
        let config = self.file("udhcpd.conf");
        let leases = self.file("udhcpd");
        fs::write(&leases, "").unwrap();
        let text = format!(
            "interface lan0\nstart 192.0.2.50\nend 192.0.2.150\nmin_lease 10\noption lease 10\noption subnet 255.255.255.0\n\
             option router 192.0.2.1\nlease_file {}\npidfile {}\n",
            leases.display(),
            self.file("pid").display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("busybox");
        command.args(["udhcpd", "-f"]).arg(&config);
        Server::start(self, command, "started", "busybox")
    }

    /// Dnsmasq forgets all leases. It must not run.
    pub fn forget(&self) {
        fs::remove_file(self.file("dnsmasq")).unwrap();
    }

    /// What dnsmasq has given: a line for each lease with its end, hardware address, address, host name and identifier.
    pub fn leases(&self) -> String {
        fs::read_to_string(self.file("dnsmasq")).unwrap_or_default()
    }

    /// Waits until what dnsmasq has given is as asked for.
    pub async fn until(&self, what: &str, fine: impl Fn(&str) -> bool) {
        until(what, || self.leases(), fine).await;
    }

    /// Waits until what the server of busybox has given is as asked for: a line for each lease with its hardware address,
    /// address, host name, and the time left.
    pub async fn until_udhcpd(&self, server: &Server, what: &str, fine: impl Fn(&str) -> bool) {
        let leases = || {
            // Has it write down what it has given.
            kill(Pid::from_raw(server.child.id().cast_signed()), Signal::SIGUSR1).unwrap();
            // A file that is being written may be read half; then it is read again.
            attempt(&format!(
                "busybox dumpleases -f {}",
                self.file("udhcpd").display()
            ))
            .1
        };
        until(what, leases, fine).await;
    }
}

/// Looks again and again, and lets what is tried go on meanwhile: it runs on the same thread.
async fn until(what: &str, look: impl Fn() -> String, fine: impl Fn(&str) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = look();
        if fine(&seen) {
            return;
        }
        assert!(Instant::now() < end, "{what}: {seen}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server that runs as long as this.
pub struct Server {
    child: Child,
    /// What it says. A line is in it before what it tells of is sent.
    log: fs::File,
}

impl Server {
    fn start(lan: &Lan, mut command: Command, ready: &str, package: &str) -> Self {
        let log = tempfile::tempfile().unwrap();
        command.stdout(Stdio::null()).stderr(log.try_clone().unwrap());
        let child = lan.namespace.within(|| command.spawn());
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error} (Debian's package {package})"));
        let server = Self { child, log };
        server.says(ready, 1);
        server
    }

    /// How many lines of its log have a text.
    pub fn count(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// Waits until so many lines of its log have a text.
    pub fn says(&self, text: &str, times: usize) {
        let end = Instant::now() + PATIENCE;
        while self.count(text) < times {
            assert!(Instant::now() < end, "{times} of {text:?} in {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// All that it has said.
    pub fn log(&self) -> String {
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        // From where on is told each time: the place in the file is shared with the server, which writes there.
        loop {
            let read = self.log.read_at(&mut part, bytes.len() as u64).unwrap();
            if read == 0 {
                return String::from_utf8_lossy(&bytes).into_owned();
            }
            bytes.extend_from_slice(&part[..read]);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after this.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
