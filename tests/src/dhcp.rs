//! The DHCP server of a LAN: dnsmasq on a machine of its own.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::host::{Background, Host};
use crate::lan::{self, Lan};
use crate::wait::until;
use crate::{command, engine};

/// The first and the last address that it gives to whoever asks.
pub const RANGE: [&str; 2] = ["192.0.2.100", "192.0.2.149"];

/// The same of IPv6.
pub const RANGE6: [&str; 2] = ["2001:db8:1::1000", "2001:db8:1::10ff"];

/// Its log on its machine: every packet that it gets or sends.
const LOG: &str = "/var/log/dnsmasq.log";

/// Its leases on its machine.
const LEASES: &str = "/run/dnsmasq.leases";

/// How long it may take to start or to end.
const START: Duration = Duration::from_secs(10);

/// A lease, as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// When it ends, in seconds since 1970.
    pub ends: u64,
    /// The hardware address that has it.
    pub mac: String,
    /// The address.
    pub ip: String,
    /// The name that its owner said; `*` for none.
    pub name: String,
    /// The identifier that its owner said; `*` for none.
    pub client: String,
}

/// A DHCP server that runs until it is dropped.
#[derive(Debug)]
pub struct Dhcp {
    machine: Host,
    args: Mutex<Vec<String>>,
    process: Mutex<Option<Background>>,
}

impl Dhcp {
    /// A server on a LAN that gives leases of two minutes, which it wants renewed after `renew` seconds and asked for again from
    /// whoever has some after `rebind`; `reserved` are hardware addresses with the address that each gets.
    pub fn start(lan: &Lan, renew: u32, rebind: u32, reserved: &[(&str, &str)]) -> Self {
        let reserved = reserved.iter().map(|(mac, ip)| format!("--dhcp-host={mac},{ip}"));
        Self::start_with(lan, renew, rebind, reserved.collect())
    }

    /// Such a server that is a router of IPv6 as well: it advertises itself and the LAN's prefix, from which everybody makes addresses
    /// of their own (RFC 4862).
    pub fn start_advertising(lan: &Lan, renew: u32, rebind: u32) -> Self {
        let prefix = lan::NET6.trim_end_matches("/64");
        let more = ["--enable-ra".to_owned(), format!("--dhcp-range={prefix},ra-only")];
        Self::start_with(lan, renew, rebind, more.into())
    }

    /// Such a server that is a router of IPv6 and gives addresses of that as well (DHCPv6, RFC 8415).
    pub fn start_of_ipv6(lan: &Lan, renew: u32, rebind: u32) -> Self {
        let [first, last] = RANGE6;
        let more = [
            "--enable-ra".to_owned(),
            format!("--dhcp-range={first},{last},64,2m"),
        ];
        Self::start_with(lan, renew, rebind, more.into())
    }

    fn start_with(lan: &Lan, renew: u32, rebind: u32, more: Vec<String>) -> Self {
        let there = command::PATH.split(':');
        assert!(
            there
                .map(|dir| format!("{dir}/dnsmasq"))
                .any(|file| std::path::Path::new(&file).exists()),
            "dnsmasq is missing: install the package dnsmasq-base"
        );
        let machine = Host::new();
        lan.lay("dhcp", machine.spaces());
        for own in [format!("{}/24", lan::DHCP), format!("{}/64", lan::DHCP6)] {
            machine.run("ip", &["address", "add", &own, "dev", lan::LINK, "nodad"]);
        }
        let [first, last] = RANGE;
        // Two minutes are the least that it gives.
        let mut args = vec![
            format!("--dhcp-range={first},{last},255.255.255.0,2m"),
            format!("--dhcp-option=option:router,{}", lan::ROUTER[0]),
            format!("--dhcp-option=option:T1,{renew}"),
            format!("--dhcp-option=option:T2,{rebind}"),
            format!("--dhcp-leasefile={LEASES}"),
            format!("--interface={}", lan::LINK),
        ];
        // Without a ping before each offer, which would take seconds, and without an own name service.
        let rest = [
            "--conf-file=/dev/null",
            "--keep-in-foreground",
            "--port=0",
            "--bind-interfaces",
            "--dhcp-authoritative",
            "--no-ping",
            "--log-dhcp",
            "--log-facility=-",
            "--user=root",
            "--pid-file=",
        ];
        args.extend(rest.map(str::to_owned));
        args.extend(more);
        let server = Self {
            machine,
            args: Mutex::new(args),
            process: Mutex::default(),
        };
        server.start_again();
        server
    }

    /// Starts the server's process, which knows the leases that it gave before.
    pub fn start_again(&self) {
        let mut command = Command::new("dnsmasq");
        command
            .args(&*self.args.lock().expect("no panic while held"))
            .env("PATH", command::PATH);
        let process = self.machine.start(command, LOG);
        let shown = Arc::clone(&process);
        *self.process.lock().expect("no panic while held") = Some(process);
        until("the DHCP server listens", || {
            let ended = shown.lock().expect("no panic while held").try_wait();
            assert!(
                matches!(ended, Ok(None)),
                "dnsmasq has ended\n{}",
                self.machine.logs()
            );
            let sockets = self.machine.run("ss", &["-Hlnu", "sport", "=", "67"]);
            (!sockets.is_empty()).then_some(())
        });
    }

    /// Keeps an address for a hardware address from now on.
    pub fn reserve(&self, mac: &str, ip: &str) {
        let host = format!("--dhcp-host={mac},{ip}");
        self.args.lock().expect("no panic while held").push(host);
        self.stop();
        self.start_again();
    }

    /// Ends the server's process: nobody answers any more.
    pub fn stop(&self) {
        let process = self.process.lock().expect("no panic while held").take();
        engine::end(&process.expect("a server that runs"), Signal::SIGTERM, START);
    }

    /// What it has said so far: every packet, with its options.
    pub fn log(&self) -> String {
        self.machine.log(LOG)
    }

    /// Its leases of IPv4.
    #[track_caller]
    pub fn leases(&self) -> Vec<Lease> {
        let text = self.machine.log(LEASES);
        let lease = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let [ends, mac, ip, name, client] = words[..] else {
                panic!("a lease of dnsmasq's: {line}")
            };
            Lease {
                ends: ends.parse().unwrap_or_else(|e| panic!("{line}: {e}")),
                mac: mac.to_owned(),
                ip: ip.to_owned(),
                name: name.to_owned(),
                client: client.to_owned(),
            }
        };
        // Those of IPv6 follow, after a line with the server's own identifier.
        let v4 = text.lines().take_while(|line| !line.starts_with("duid "));
        v4.map(lease).collect()
    }

    /// The lease of an address.
    #[track_caller]
    pub fn lease(&self, ip: &str) -> Option<Lease> {
        self.leases().into_iter().find(|lease| lease.ip == ip)
    }

    /// How many messages of a sort, such as `DHCPREQUEST`, it has had or sent that tell of an address.
    #[track_caller]
    pub fn messages(&self, sort: &str, ip: &str) -> usize {
        let log = self.log();
        let told = |line: &&str| {
            let mut words = line.split_whitespace();
            line.contains(&format!("{sort}(")) && words.any(|word| word == ip)
        };
        log.lines().filter(told).count()
    }
}
