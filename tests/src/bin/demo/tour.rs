//! What the demo shows once its hosts are a cluster: networks, a web service, who is where, what a way costs.

use std::time::Instant;

use system_tests::measure::{self, Cost, Way};
use system_tests::wait::{PATIENCE, until, within};
use system_tests::{Kind, Site, Sites, Spaces};

use crate::print;

/// The networks: name, kind, subnet.
const NETWORKS: [(&str, Kind, &str); 2] = [
    ("app", Kind::Overlay, "10.42.0.0/16"),
    ("direct", Kind::HostGateway, "10.43.0.0/16"),
];

/// The port by which the web service of the first network is reached at its host.
const PORT: u16 = 8080;

/// What the web service says.
const PAGE: &str = "hello from tombolo";

/// How many turns of how many datagrams are measured.
const TURNS: usize = 5;
const EXCHANGES: usize = 400;

/// What somebody can do with a demo that is up.
pub const WHAT_NEXT: &str = "\
The demo is up and stays until it is removed.
  make demo-shell HOST=b   enter host b, where docker and tombolo are (a and c likewise)
  make demo-status         what runs on the hosts
  make demo-down           remove it, and nothing else";

/// The demo's progress.
pub struct Tour {
    begun: Instant,
}

impl Tour {
    /// Begins to count the time.
    pub fn begin() -> Self {
        Self {
            begun: Instant::now(),
        }
    }

    /// Says that a step is done.
    pub fn step(&self, what: &str) {
        print(&format!("[{:5.1} s] {what}", self.begun.elapsed().as_secs_f64()));
    }

    /// Makes networks and containers, has them speak, and measures.
    pub fn show(&self, sites: &Sites) {
        for (name, kind, subnet) in NETWORKS {
            sites[0].network(name, kind, &["--subnet", subnet]);
            for site in sites.iter() {
                until(&format!("network {name} on host {}", site.name()), || {
                    site.engine
                        .try_docker(&["network", "inspect", name])
                        .ok
                        .then_some(())
                });
            }
            self.step(&format!(
                "network {name} on all hosts, by one line on a:\n          docker network create -d tombolo --ipam-driver \
                 tombolo -o {} --subnet {subnet} {name}",
                kind.option(name)
            ));
        }
        for (name, ..) in NETWORKS {
            self.containers(sites, name);
        }
        sites.know(NETWORKS.len() * (1 + sites.len()));
        self.step("each host knows the containers of all");
        for (name, kind, _) in NETWORKS {
            self.read(sites, name, kind);
        }
        let url = format!("http://{}:{PORT}/", sites.wire(0).ipv4(0));
        let page = sites[1]
            .network_spaces()
            .run("busybox", &["wget", "-q", "-O", "-", &url]);
        assert_eq!(page, PAGE);
        self.step(&format!("host b reads {url}, the port that a publishes"));
        print("");
        for words in [&["cluster", "status"][..], &["peers"]] {
            print(&format!("a# tombolo {}", words.join(" ")));
            print(&sites[0].tombolo.try_cli(words).must().stdout);
            print("");
        }
        self.measure(sites);
    }

    /// A web service on the first host and a client on each.
    fn containers(&self, sites: &Sites, network: &str) {
        let line = format!("mkdir -p /www && echo {PAGE} > /www/index.html && exec httpd -f -p 80 -h /www");
        let published = format!("{PORT}:80");
        let web = web(network);
        let mut args = vec![
            "run",
            "-d",
            "--name",
            &web,
            "--network",
            network,
            "--stop-signal",
            "KILL",
        ];
        if network == NETWORKS[0].0 {
            args.extend(["-p", &published]);
        }
        args.extend(["busybox", "sh", "-c", &line]);
        sites[0].engine.docker(&args);
        for site in sites.iter() {
            site.engine.docker(&[
                "run",
                "-d",
                "--name",
                &client(network),
                "--network",
                network,
                "--stop-signal",
                "KILL",
                "busybox",
                "sleep",
                "infinity",
            ]);
        }
        self.step(&format!(
            "containers {web} on a and {} on each host",
            client(network)
        ));
    }

    /// Has the clients read the web service at its own address.
    fn read(&self, sites: &Sites, network: &str, kind: Kind) {
        let address = sites[0].known(&web(network)).ip(network);
        let url = format!("http://{address}/");
        for site in sites.iter().filter(|site| asks(site, kind)) {
            let client = site.known(&client(network));
            let mut said = String::new();
            let page = within(PATIENCE, || {
                let read = client.try_exec(&["wget", "-O", "-", &url]);
                said = read.stderr;
                read.ok.then_some(read.stdout)
            });
            assert_eq!(page.as_deref(), Some(PAGE), "{url} from {}: {said}", site.name());
            self.step(&format!(
                "{} on {} reads {url}: {PAGE}",
                client.name(),
                site.name()
            ));
        }
    }

    /// Measures the wire and both kinds, and shows a table.
    fn measure(&self, sites: &Sites) {
        let wire = sites.wire(0).ipv4(0).parse().expect("an address");
        let mut ways = vec![Way {
            name: "the bare wire, from b to a".to_owned(),
            from: sites[1].network_spaces(),
            to: sites[0].network_spaces(),
            address: wire,
        }];
        for (name, kind, _) in NETWORKS {
            // As far away as the kind reaches.
            let from = if kind.reaches() { &sites[1] } else { &sites[0] };
            let (asked, spaces) = place(&sites[0], &web(name), name);
            ways.push(Way {
                name: format!("{name} ({}), from {} to a", kind.name(), from.name()),
                from: place(from, &client(name), name).1,
                to: spaces,
                address: asked.parse().expect("an address"),
            });
        }
        let costs = measure::in_turns(&ways, TURNS, EXCHANGES).expect("what was measured before");
        self.step("measured: datagrams of 64 bytes with their answers, and a TCP connection, in turns\n");
        for line in table(&ways, &costs) {
            print(&line);
        }
        print("");
    }
}

fn web(network: &str) -> String {
    format!("web-{network}")
}

fn client(network: &str) -> String {
    format!("client-{network}")
}

/// Whether a host's client reaches the web service on the first host.
fn asks(site: &Site, kind: Kind) -> bool {
    kind.reaches() || site.name() == "a"
}

/// A container's address and its network namespace.
fn place(site: &Site, name: &str, network: &str) -> (String, Spaces) {
    let container = site.known(name);
    (container.ip(network), container.spaces())
}

fn table(ways: &[Way], costs: &[Cost]) -> Vec<String> {
    let width = ways.iter().map(|way| way.name.len()).max().unwrap_or_default();
    let row = |cells: [&str; 6]| {
        let [way, p50, p99, tcp, to_p50, to_tcp] = cells;
        format!("{way:width$}  {p50:>7}  {p99:>7}  {tcp:>11}  {to_p50:>8}  {to_tcp:>8}")
    };
    let head = row(["", "p50", "p99", "TCP", "p50/wire", "TCP/wire"]);
    let bare = &costs[0];
    let rows = ways.iter().zip(costs).map(|(way, cost)| {
        let [p50, p99] =
            [cost.exchanges.median(), cost.exchanges.p99()].map(|ms| format!("{:.0} µs", ms * 1e3));
        let tcp = format!("{:.1} Gbit/s", cost.gbit());
        let ratios = [
            cost.exchanges.median() / bare.exchanges.median(),
            cost.gbit() / bare.gbit(),
        ];
        let [to_p50, to_tcp] = ratios.map(|ratio| format!("{ratio:.2}"));
        row([&way.name, &p50, &p99, &tcp, &to_p50, &to_tcp])
    });
    std::iter::once(head).chain(rows).collect()
}
