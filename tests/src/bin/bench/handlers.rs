//! How long tombolo takes to answer each method, with few endpoints and with many: two hosts with a tombolo each, asked
//! in turns, a connection a request as tombolo wants it.
//!
//! No engine takes part: requests are as one sends them, and the host moves the containers' ends of links away as one
//! does. What is measured is from the connecting to the last byte of the answer.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use system_tests::measure::Way;
use system_tests::plugin::{Client, refusal};
use system_tests::{Host, Tombolo, http, json as look, say, wait};

use crate::samples::Samples;
use crate::{disk, probe};

/// A method for which tombolo has nothing to do: what it takes is the cost of asking.
pub const NOTHING: &str = "NetworkDriver.EndpointOperInfo";

/// Methods in the order of a container's life, then of a network's.
pub const METHODS: [&str; 13] = [
    "IpamDriver.RequestAddress",
    "NetworkDriver.CreateEndpoint",
    "NetworkDriver.Join",
    "NetworkDriver.ProgramExternalConnectivity",
    NOTHING,
    "NetworkDriver.RevokeExternalConnectivity",
    "NetworkDriver.Leave",
    "NetworkDriver.DeleteEndpoint",
    "IpamDriver.ReleaseAddress",
    "IpamDriver.RequestPool",
    "NetworkDriver.CreateNetwork",
    "NetworkDriver.DeleteNetwork",
    "IpamDriver.ReleasePool",
];

/// On how many networks the endpoints are at least, and how many are on one at most: a bridge of the kernel has 1,023 ports.
const NETWORKS: usize = 4;
const OF_A_NETWORK: usize = 500;

/// The network namespace that stands for the sandboxes of the endpoints that stay.
const SANDBOX: &str = "sandbox";

/// The first host port of the endpoints that stay; the one that comes and goes has the one before.
const PORT: usize = 10_000;

/// Where tombolo tells its numbers, and that of its writes of records.
const METRICS: &str = "127.0.0.1:9477";
const WRITES: &str = "tombolo_store_commit_duration_seconds_count ";

/// How far before that are the ports of those between which packets are sent.
const OF_ENDS: usize = 1_000;

/// How many links are moved by one call of `ip`.
const BATCH: usize = 100;

/// A network as a tombolo knows it.
struct Network {
    id: String,
    pool: String,
}

/// An endpoint as a tombolo knows it.
struct Endpoint {
    id: String,
    address: String,
    link: String,
}

/// Somebody who asks as an engine does, one thing after the other.
struct Caller {
    client: Client,
    next: u64,
    times: BTreeMap<&'static str, Samples>,
}

/// A host with a tombolo and its endpoints.
pub struct Place {
    host: Arc<Host>,
    tombolo: Tombolo,
    networks: Vec<Network>,
    caller: Caller,
    /// How many endpoints stay.
    pub endpoints: usize,
    /// How many stay beside them, for packets to be sent between them.
    beside: usize,
    /// The file of the host's disk.
    pub image: PathBuf,
}

/// What some containers took that came and went, each of them.
pub struct Took {
    /// How long.
    pub time: Duration,
    /// How many writes of records.
    pub writes: f64,
}

impl Caller {
    /// One of a host, whose identifiers are those after a number.
    fn new(host: &Host, after: u64) -> Self {
        Self {
            client: Client::new(host),
            next: after,
            times: BTreeMap::new(),
        }
    }

    /// Calls a method, which must not refuse, and notes how long that took.
    fn call(&mut self, method: &'static str, request: &Value) -> Value {
        let body = request.to_string();
        let bytes = [http::head("POST", &format!("/{method}"), body.len()), body].concat();
        let begin = Instant::now();
        let mut line = BufReader::new(self.client.connect());
        let answer = line
            .get_mut()
            .write_all(bytes.as_bytes())
            .and_then(|()| http::read_answer(&mut line));
        let took = begin.elapsed();
        let answer = answer.unwrap_or_else(|e| panic!("no answer to {method} {request}: {e}"));
        assert_eq!(answer.status, 200, "{method}: {}", answer.text());
        let answer = look::parse(&answer.text());
        assert_eq!(refusal(&answer), None, "{method} refused {request}");
        self.times.entry(method).or_default().add(took);
        answer
    }

    /// An identifier such as an engine draws. It follows from a count, but links are named after its first digits, so those
    /// are spread over the whole range, as drawn ones are.
    fn id(&mut self) -> String {
        self.next += 1;
        let digits = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("{digits:016x}{:048x}", self.next)
    }

    fn network(&mut self, subnet: &str) -> Network {
        let space = "tombolo-local";
        let request =
            json!({ "AddressSpace": space, "Pool": subnet, "SubPool": "", "Options": {}, "V6": false });
        let answer = self.call("IpamDriver.RequestPool", &request);
        let pool = look::text(&answer, "/PoolID").to_owned();
        let options = json!({ "RequestAddressType": "com.docker.network.gateway" });
        let request = json!({ "PoolID": pool, "Address": "", "Options": options });
        let gateway = self.call("IpamDriver.RequestAddress", &request);
        let id = self.id();
        let request = json!({
            "NetworkID": id,
            "Options": { "com.docker.network.enable_ipv6": false, "com.docker.network.generic": {} },
            "IPv4Data": [{ "AddressSpace": space, "Gateway": gateway["Address"], "Pool": subnet }],
            "IPv6Data": []
        });
        self.call("NetworkDriver.CreateNetwork", &request);
        Network { id, pool }
    }

    /// What an engine asks when a container starts.
    fn join(&mut self, network: &Network, host_port: usize) -> Endpoint {
        let network_id = &network.id;
        let request = json!({ "PoolID": network.pool, "Address": "", "Options": {} });
        let answer = self.call("IpamDriver.RequestAddress", &request);
        let address = look::text(&answer, "/Address").to_owned();
        let id = self.id();
        let ports = json!([{
            "Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": host_port, "HostPortEnd": host_port
        }]);
        let options = json!({
            "com.docker.network.endpoint.exposedports": [{ "Proto": 6, "Port": 80 }], "com.docker.network.portmap": ports
        });
        let interface = json!({ "Address": address, "AddressIPv6": "", "MacAddress": "" });
        let mut request =
            json!({ "NetworkID": network_id, "EndpointID": id, "Options": options, "Interface": interface });
        self.call("NetworkDriver.CreateEndpoint", &request);
        let fields = request.as_object_mut().expect("an object");
        fields.remove("Interface");
        fields.insert(
            "SandboxKey".to_owned(),
            json!(format!("/var/run/docker/netns/{}", &id[..12])),
        );
        let joined = self.call("NetworkDriver.Join", &request);
        self.call("NetworkDriver.ProgramExternalConnectivity", &request);
        self.call(NOTHING, &json!({ "NetworkID": network_id, "EndpointID": id }));
        Endpoint {
            id,
            address,
            link: look::text(&joined, "/InterfaceName/SrcName").to_owned(),
        }
    }

    /// What an engine asks when a container ends.
    fn leave(&mut self, network: &Network, endpoint: &Endpoint) {
        let request = json!({ "NetworkID": network.id, "EndpointID": endpoint.id });
        let address = endpoint.address.split('/').next().unwrap_or_default();
        let release = json!({ "PoolID": network.pool, "Address": address });
        self.call("NetworkDriver.RevokeExternalConnectivity", &request);
        self.call("NetworkDriver.Leave", &request);
        self.call("NetworkDriver.DeleteEndpoint", &request);
        self.call("IpamDriver.ReleaseAddress", &release);
    }

    /// One container comes and goes.
    fn life(&mut self, network: &Network, host_port: usize) {
        let endpoint = self.join(network, host_port);
        self.leave(network, &endpoint);
    }
}

impl Place {
    /// A host with this many endpoints, each joined and with a published port.
    pub fn with(endpoints: usize) -> Self {
        Self::prepare(endpoints, NETWORKS.max(endpoints.div_ceil(OF_A_NETWORK)))
    }

    /// A host with this many networks and nothing on them.
    pub fn of_networks(networks: usize) -> Self {
        Self::prepare(0, networks)
    }

    fn prepare(endpoints: usize, networks: usize) -> Self {
        let host = Arc::new(Host::new());
        let image = disk::give(&host);
        let settings = [
            ("TOMBOLO_STATE_DIR", disk::STATE),
            ("TOMBOLO_METRICS_ADDR", METRICS),
        ];
        let tombolo = Tombolo::start_with(&host, &settings);
        let mut place = Self {
            caller: Caller::new(&host, 0),
            tombolo,
            networks: Vec::new(),
            endpoints,
            beside: 0,
            image,
            host,
        };
        place.populate(networks);
        place
    }

    fn populate(&mut self, networks: usize) {
        // An engine switches IPv6 off in containers whose network has none.
        self.host.sh(&format!(
            "ip netns add {SANDBOX}; ip netns exec {SANDBOX} sh -c 'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6'"
        ));
        for number in 0..networks {
            let subnet = format!("10.{}.{}.0/22", 20 + number / 64, number % 64 * 4);
            let network = self.caller.network(&subnet);
            self.networks.push(network);
        }
        for first in (0..self.endpoints).step_by(BATCH) {
            let numbers = first..self.endpoints.min(first + BATCH);
            let join = |n| self.caller.join(&self.networks[n % networks], PORT + n);
            let made: Vec<Endpoint> = numbers.map(join).collect();
            self.move_away(&made);
            say(&format!(
                "handlers: {} of {} endpoints",
                first + made.len(),
                self.endpoints
            ));
        }
        self.warmed_up();
    }

    /// Does with the containers' ends of links what an engine does.
    fn move_away(&self, endpoints: &[Endpoint]) {
        let lines = |line: &dyn Fn(&Endpoint) -> String| endpoints.iter().map(line).collect::<String>();
        let move_all = lines(&|e| format!("link set dev {} netns {SANDBOX}\n", e.link));
        let set_up = lines(&|e| format!("link set dev {} up\n", e.link));
        self.host.write("/tmp/move", &move_all);
        self.host.write("/tmp/up", &set_up);
        self.host.run("ip", &["-batch", "/tmp/move"]);
        self.host.run("ip", &["-n", SANDBOX, "-batch", "/tmp/up"]);
    }

    /// One container comes and goes.
    pub fn life(&mut self, number: usize) {
        let network = &self.networks[number % self.networks.len()];
        self.caller.life(network, PORT - 1);
    }

    /// The way between two more endpoints, which stay, on one of the networks.
    pub fn way(&mut self) -> Way {
        let [(from, _), (to, address)] = ["asks", "answers"].map(|name| {
            self.beside += 1;
            let port = PORT - OF_ENDS - self.beside;
            let Endpoint { address, link, .. } = self.caller.join(&self.networks[0], port);
            probe::end(&self.host, name, &link, &address)
        });
        self.warmed_up();
        Way {
            name: "between two containers".to_owned(),
            from,
            to,
            address,
        }
    }

    /// Some containers come and go at once, each with a caller of its own.
    pub fn lives(&mut self, many: usize) -> Took {
        let callers = (0..many).map(|n| Caller::new(&self.host, self.caller.next + ((n as u64 + 1) << 32)));
        let mut callers: Vec<Caller> = callers.collect();
        let (writes, begun) = (self.writes(), Instant::now());
        std::thread::scope(|scope| {
            for (n, caller) in callers.iter_mut().enumerate() {
                let network = &self.networks[n % self.networks.len()];
                scope.spawn(move || caller.life(network, PORT - 1 - n));
            }
        });
        let took = begun.elapsed();
        let writes = self.writes() - writes;
        self.caller.next += 1 << 16;
        // The next ones come when their links are gone.
        self.tombolo.cli(&["networks"]);
        Took {
            time: took / u32::try_from(many).expect("a few"),
            writes: writes / many as f64,
        }
    }

    /// How many writes of records there were.
    fn writes(&self) -> f64 {
        let scraped = self.host.spaces().enter(|| TcpStream::connect(METRICS));
        let mut line = BufReader::new(scraped.expect("connecting to tombolo's metrics"));
        let asked = line
            .get_mut()
            .write_all(http::head("GET", "/metrics", 0).as_bytes());
        let answer = asked.and_then(|()| http::read_answer(&mut line));
        let text = answer.expect("tombolo's metrics").text();
        let count = text.lines().find_map(|line| line.strip_prefix(WRITES));
        let count = count.unwrap_or_else(|| panic!("no {WRITES} in {text}"));
        count.trim().parse().expect("a number of writes")
    }

    /// A network comes and goes.
    pub fn come_and_go(&mut self) {
        let network = self.caller.network("10.200.0.0/24");
        let request = json!({ "NetworkID": network.id });
        self.caller.call("NetworkDriver.DeleteNetwork", &request);
        let request = json!({ "PoolID": network.pool });
        self.caller.call("IpamDriver.ReleasePool", &request);
    }

    /// Starts tombolo anew; until it answers and all that its records ask for holds.
    pub fn start_anew(&self) -> Duration {
        self.tombolo.stop();
        let begun = Instant::now();
        self.tombolo.start_again();
        wait::until("all is as it should be", || {
            let networks = self.tombolo.cli(&["networks"]);
            look::rows(&networks)
                .iter()
                .all(|network| network["settled"] == true)
                .then(|| begun.elapsed())
        })
    }

    /// One container and one network come and go, and their links after that: all hosts are of one kernel, which lets nobody change
    /// a link while a bridge goes.
    pub fn round(&mut self, number: usize) {
        self.life(number);
        self.come_and_go();
        self.tombolo.cli(&["networks"]);
    }

    /// The times of the answers, by method.
    pub fn times(&self) -> &BTreeMap<&'static str, Samples> {
        &self.caller.times
    }

    /// Forgets the times so far: nothing is done for the first time while we measure.
    pub fn warmed_up(&mut self) {
        self.caller.times.clear();
    }

    /// The times of all methods for which there is something to do.
    pub fn all(&self) -> Samples {
        let mut all = Samples::default();
        let busy = self.caller.times.iter().filter(|(method, _)| **method != NOTHING);
        busy.for_each(|(_, times)| all.extend(times));
        all
    }

    /// The memory that tombolo holds, in MiB.
    pub fn memory(&self) -> f64 {
        let [now, ..] = crate::memory::of(&self.host, &self.tombolo);
        now
    }

    /// What it costs to make something durable on this host's disk.
    pub fn cost_of_sync(&self) -> Samples {
        disk::cost_of_sync(&self.host)
    }

    /// Panics unless tombolo has just those endpoints that stay, and nothing is wrong.
    pub fn must_be_well(&self) {
        let endpoints = self.tombolo.cli(&["endpoints"]);
        let joined = look::rows(&endpoints)
            .iter()
            .filter(|e| e["joined"] == true)
            .count();
        assert_eq!(
            joined,
            self.endpoints + self.beside,
            "joined endpoints; tombolo's log:\n{}",
            self.tombolo.log()
        );
        let networks = self.tombolo.cli(&["networks"]);
        assert_eq!(look::rows(&networks).len(), self.networks.len(), "{networks:#}");
    }
}
