//! What endpoints of other hosts cost: clusters with a few of them on an overlay and with up to ten thousand, and in each a
//! host that has none and looks on.
//!
//! No engine takes part, so that nobody frees what no engine knows of: endpoints are made and joined as an engine asks for
//! it, and the containers' ends of their links stay where they are. A bridge of the kernel has 1,023 ports at most, so
//! many endpoints are on several hosts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use system_tests::measure::Way;
use system_tests::plugin::{self, Client};
use system_tests::samples::Samples;
use system_tests::sites::Cabled;
use system_tests::{Host, Plan, Rows, Tombolo, at_once, json as look, say, wait};

use crate::follower::Follower;
use crate::picture::{Bar, bars};
use crate::spread::{median, pairs, with_quartiles};
use crate::{memory, probe, turns};

/// How many endpoints there are.
const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

/// What we aim at: seconds until all is as it should be after a start, memory in MiB, how much longer one more may take, and a packet.
const START_S: f64 = 1.0;
const MEMORY_MIB: f64 = 40.0;
const ONE_MORE: f64 = 2.0;
const PACKET: f64 = 1.05;

/// How often is asked and answered in a round.
const EXCHANGES: usize = 100;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many endpoints a host has at most.
const OF_A_HOST: usize = 1000;

/// How often tombolo is started anew, in each way.
const STARTS: usize = 10;

const SUBNET: &str = "10.42.0.0/16";

/// A host that has endpoints.
struct Owner {
    client: Client,
    pool: String,
    network: String,
}

/// Hosts in a cluster. The last one has no endpoints and looks on.
struct Place {
    endpoints: usize,
    owners: Vec<Owner>,
    looking: Owner,
    /// What one more took: until the owner had answered, until the other one had the row.
    answered: Samples,
    told: Samples,
    monitor: Follower,
    tomboli: Vec<Tombolo>,
    hosts: Cabled,
}

impl Owner {
    /// Asks, and again where that came too late on a busy machine and was taken back.
    fn ask(&self, method: &str, asked: &Value) -> Value {
        let answer = wait::within(PATIENCE, || {
            let answer = self.client.call(method, asked);
            let refusal = plugin::refusal(&answer);
            let late = refusal
                .as_ref()
                .is_some_and(|why| why.contains("it was taken back"));
            assert!(late || refusal.is_none(), "{method}: {refusal:?}");
            (!late).then_some(answer)
        });
        answer.unwrap_or_else(|| panic!("{method}: too late for {PATIENCE:?}"))
    }

    fn address(&self) -> String {
        let asked = json!({ "PoolID": self.pool, "Address": "", "Options": {} });
        let got = self.ask("IpamDriver.RequestAddress", &asked);
        look::text(&got, "/Address").to_owned()
    }

    /// Makes an endpoint at an address; gives its identifier.
    fn endpoint(&self, address: &str) -> String {
        static NUMBER: AtomicUsize = AtomicUsize::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed) as u64;
        // Links are named after the first digits, which are spread as drawn ones are.
        let id = format!("{:016x}{number:048x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let interface = json!({ "Address": address, "AddressIPv6": "", "MacAddress": "" });
        let asked =
            json!({ "NetworkID": self.network, "EndpointID": id, "Interface": interface, "Options": {} });
        self.ask("NetworkDriver.CreateEndpoint", &asked);
        id
    }

    /// Joins an endpoint; gives the container's end of its link.
    fn join(&self, id: &str) -> String {
        let sandbox = format!("/var/run/docker/netns/{}", &id[..12]);
        let asked =
            json!({ "NetworkID": self.network, "EndpointID": id, "SandboxKey": sandbox, "Options": {} });
        let joined = self.ask("NetworkDriver.Join", &asked);
        look::text(&joined, "/InterfaceName/SrcName").to_owned()
    }

    /// Takes an endpoint away, up to its address.
    fn leave(&self, id: &str) {
        let asked = json!({ "NetworkID": self.network, "EndpointID": id });
        self.ask("NetworkDriver.Leave", &asked);
        self.ask("NetworkDriver.DeleteEndpoint", &asked);
    }

    fn release(&self, address: &str) {
        let asked = json!({ "PoolID": self.pool, "Address": address });
        self.ask("IpamDriver.ReleaseAddress", &asked);
    }
}

impl Place {
    fn with(endpoints: usize) -> Self {
        let hosts = Plan::of(endpoints.div_ceil(OF_A_HOST) + 1).cabled();
        let tomboli: Vec<Tombolo> = hosts.hosts().iter().map(Tombolo::start).collect();
        let line = tomboli[0].try_cli(&["cluster", "init"]).must().stdout;
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        at_once(&tomboli[1..], |tombolo| tombolo.try_cli(&words).must());
        let network = format!("{:016x}{:048x}", 0xabcd_ef01_2345_6789_u64, endpoints);
        let owner = |tombolo: &Tombolo| {
            let (client, network) = (tombolo.plugin(), network.clone());
            let pool = make_network(&client, &network);
            Owner {
                client,
                pool,
                network,
            }
        };
        let mut owners: Vec<Owner> = tomboli.iter().map(owner).collect();
        let looking = owners.pop().expect("a host that looks on");
        let made = AtomicUsize::new(0);
        // A few at a time: more would only make each other late.
        at_once(&[0, 1], |first| {
            for owner in owners.iter().skip(*first).step_by(2) {
                for _ in 0..OF_A_HOST.min(endpoints) {
                    let id = owner.endpoint(&owner.address());
                    owner.join(&id);
                    let made = made.fetch_add(1, Ordering::Relaxed) + 1;
                    if made.is_multiple_of(1000) {
                        say(&format!("many: {made} of {endpoints} endpoints"));
                    }
                }
            }
        });
        let place = Self {
            endpoints: made.into_inner(),
            owners,
            looking,
            answered: Samples::default(),
            told: Samples::default(),
            monitor: Follower::of_kernel(hosts.hosts().last().expect("a host"), "bridge", "fdb"),
            tomboli,
            hosts,
        };
        // On all hosts: who still learns takes the machine's time.
        let last = place.owners.len();
        for (at, host) in place.hosts.hosts().iter().enumerate() {
            let own = if at == last { 0 } else { OF_A_HOST.min(endpoints) };
            let wanted = [place.endpoints - own; 2];
            let known = wait::within(PATIENCE, || (rows(host) >= wanted).then_some(()));
            assert!(known.is_some(), "rows: {:?}, not {wanted:?}", rows(host));
        }
        place
    }

    fn looker(&self) -> &Host {
        self.hosts.hosts().last().expect("a host")
    }

    /// The looking host's.
    fn tombolo(&self) -> &Tombolo {
        self.tomboli.last().expect("a daemon")
    }

    /// Makes one more endpoint, and takes it away again.
    fn one_more(&mut self) {
        let owner = &self.owners[0];
        let address = owner.address();
        let bare = address.split('/').next().unwrap_or_default();
        let octets = bare.split('.').filter_map(|octet| octet.parse::<u8>().ok());
        let octets: String = octets.map(|octet| format!(":{octet:02x}")).collect();
        // It follows from the address.
        let mac = format!("02:7b{octets}");
        let id = owner.endpoint(&address);
        self.monitor.forget();
        let begun = Instant::now();
        owner.join(&id);
        self.answered.add(begun.elapsed());
        let row = |line: &str| (line.starts_with(&mac) && line.contains(" dst ")).then_some(());
        let told = self.monitor.until(PATIENCE, row);
        let (told, ()) = told.unwrap_or_else(|| panic!("no row for {mac} within {PATIENCE:?}"));
        self.told.add(told - begun);
        owner.leave(&id);
        let gone = |line: &str| (line.starts_with("Deleted") && line.contains(&mac)).then_some(());
        assert!(
            self.monitor.until(PATIENCE, gone).is_some(),
            "the row of {mac} stays"
        );
        owner.release(bare);
    }

    /// Starts the looking host's tombolo anew where one row was deleted meanwhile; until that is back.
    fn restart(&self) -> Duration {
        restart(self.looker(), self.tombolo(), &self.monitor)
    }

    /// Starts the looking host's tombolo where nothing of it is in the kernel, as after a boot; until all is.
    fn boot(&self) -> Duration {
        let tombolo = self.tombolo();
        tombolo.stop();
        self.looker().sh("ip link delete group 29807; nft flush ruleset");
        let begun = Instant::now();
        tombolo.launch();
        let wanted = [self.endpoints; 2];
        let all = wait::within(PATIENCE, || {
            (rows(self.looker()) >= wanted).then(|| begun.elapsed())
        });
        all.unwrap_or_else(|| {
            panic!(
                "rows after {PATIENCE:?}: {:?}, not {wanted:?}",
                rows(self.looker())
            )
        })
    }

    /// The way between two more endpoints, one of them on the host that looks on.
    fn way(&self) -> Way {
        let owner: &Host = &self.hosts.hosts()[0];
        let ends = [(&self.owners[0], owner), (&self.looking, self.looker())];
        let [(from, _), (to, address)] = ends.map(|(owner, host)| {
            let address = owner.address();
            let link = owner.join(&owner.endpoint(&address));
            probe::end(host, "end", &link, &address)
        });
        let way = Way {
            name: format!("beside {}", self.endpoints),
            from,
            to,
            address,
        };
        wait::until("both are known", || probe::udp(&way, 1).ok().map(drop));
        way
    }

    fn memory(&self) -> [f64; 3] {
        memory::of(self.looker(), self.tombolo())
    }
}

/// How many forwarding rows and how many neighbours a host has of the others.
fn rows(host: &Host) -> [usize; 2] {
    let count = "bridge fdb show | grep -c ' dst '; ip neigh show nud permanent | wc -l";
    let text = host.run("sh", &["-c", &format!("{count}; true")]);
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    [(); 2].map(|()| numbers.next().unwrap_or_default())
}

/// Starts a host's tombolo anew where one row was deleted meanwhile; until that is back.
fn restart(host: &Host, tombolo: &Tombolo, monitor: &Follower) -> Duration {
    tombolo.stop();
    let rows = Rows::Forwarding.of(host);
    let row = &rows[rows.len() / 2];
    Rows::Forwarding.delete_one(host, row);
    let mac = look::text(row, "/mac").to_owned();
    monitor.forget();
    let begun = Instant::now();
    tombolo.launch();
    let back = |line: &str| (line.starts_with(&mac) && line.contains(" dst ")).then_some(());
    let back = monitor.until(PATIENCE, back);
    back.unwrap_or_else(|| panic!("not back within {PATIENCE:?}: {row}"))
        .0
        - begun
}

/// Makes the overlay on a host as an engine does; gives the pool's identifier.
fn make_network(client: &Client, id: &str) -> String {
    let space = "tombolo-local";
    let asked = json!({ "AddressSpace": space, "Pool": SUBNET, "SubPool": "", "Options": {}, "V6": false });
    let got = client.accepted("IpamDriver.RequestPool", &asked);
    let pool = look::text(&got, "/PoolID").to_owned();
    let as_gateway = json!({ "RequestAddressType": "com.docker.network.gateway" });
    let asked = json!({ "PoolID": pool, "Address": "", "Options": as_gateway });
    let gateway = client.accepted("IpamDriver.RequestAddress", &asked);
    let data: Value = json!([{ "AddressSpace": space, "Pool": SUBNET, "Gateway": gateway["Address"] }]);
    client.accepted(
        "NetworkDriver.CreateNetwork",
        &json!({
            "NetworkID": id, "IPv4Data": data, "IPv6Data": [],
            "Options": { "com.docker.network.generic": { "type": "overlay" } },
        }),
    );
    pool
}

/// What was measured at a place beside what it has noted itself.
#[derive(Default)]
struct Measured {
    restarts: Samples,
    boots: Samples,
    /// Questions, round by round, in µs.
    packets: Vec<f64>,
    /// While it ran since before, and after a start with all there: now, of that not pages of its program's file, at most.
    memories: [[f64; 3]; 2],
}

/// What was measured on a host that has endpoints of its own beside those of others.
struct Owning {
    restarts: Samples,
    /// As in [`Measured`].
    memories: [[f64; 3]; 2],
}

impl Owning {
    /// On the first host of a place, if others have endpoints as well.
    fn of(place: &Place) -> Option<Self> {
        if place.owners.len() < 2 {
            return None;
        }
        let (host, tombolo) = (&place.hosts.hosts()[0], &place.tomboli[0]);
        let monitor = Follower::of_kernel(host, "bridge", "fdb");
        let before = memory::of(host, tombolo);
        let mut restarts = Samples::default();
        for _ in 0..STARTS {
            restarts.add(restart(host, tombolo, &monitor));
        }
        Some(Self {
            restarts,
            memories: [before, memory::of(host, tombolo)],
        })
    }
}

/// Measures with up to `most` endpoints, `count` times one more, and says what was found.
pub fn measure(most: usize, count: usize) -> Vec<String> {
    let load = crate::load();
    // More than a dozen daemons on one machine: where others take its time, some of them would count as dead.
    crate::before_others();
    let sizes = SIZES.into_iter().filter(|size| *size <= most);
    let mut places: Vec<Place> = sizes.map(Place::with).collect();
    places.iter_mut().for_each(Place::one_more);
    places.iter_mut().for_each(|place| {
        (place.answered, place.told) = Default::default();
    });
    for round in 0..count {
        for at in turns::order(round, places.len()) {
            places[at].one_more();
        }
    }
    say("many: one more");
    let mut measured: Vec<Measured> = places.iter().map(|_| Measured::default()).collect();
    for (place, measured) in places.iter().zip(&mut measured) {
        measured.memories[0] = place.memory();
    }
    for _ in 0..STARTS {
        for (place, measured) in places.iter().zip(&mut measured) {
            measured.restarts.add(place.restart());
            measured.boots.add(place.boot());
        }
    }
    let owning = places.last().and_then(Owning::of);
    say("many: starts");
    for (place, measured) in places.iter().zip(&mut measured) {
        measured.memories[1] = place.memory();
    }
    let ways: Vec<Way> = places.iter().map(Place::way).collect();
    for round in 0..count {
        for at in turns::order(round, ways.len()) {
            let asked = probe::udp(&ways[at], EXCHANGES);
            let (answers, _) = asked.unwrap_or_else(|e| panic!("{}: {e}", ways[at].name));
            measured[at].packets.push(answers.median() * 1e3);
        }
    }
    say("many: packets");
    lines(&load, &places, &measured, owning.as_ref())
}

fn lines(load: &str, places: &[Place], measured: &[Measured], owning: Option<&Owning>) -> Vec<String> {
    let [few, .., many] = places else {
        panic!("at least two sizes");
    };
    let sizes: Vec<String> = places.iter().map(|place| place.endpoints.to_string()).collect();
    let mut lines = vec![
        "## Many endpoints of other hosts".to_owned(),
        String::new(),
        format!(
            "{} Clusters of hosts made of namespaces, with a tombolo each and without engines, whose files are in memory: \
             with {} endpoints on an overlay, at most {OF_A_HOST} on a host. They are asked for on \
             tombolo's socket as an engine does it, up to `Join`. All is measured on a host that has none itself, and with the \
             most of all on one that has {OF_A_HOST} of them as well. The daemons go before the machine's other work (nice -10).",
            crate::machine("many", load),
            sizes.join(", ")
        ),
        String::new(),
        format!(
            "*One more*: {} times in each cluster in turns, from before the call `Join`. *Start*: {STARTS} times each, from the \
             starting of the process. With the kernel as it was, one forwarding row was deleted meanwhile, and all is as it \
             should be when that is back; with nothing there, as after a boot, when all forwarding rows and neighbours are \
             there, looked at several times a second. *A question*: of one byte, with its answer, in datagrams from a container of \
             another host to one more on this one, the median of {EXCHANGES}, as often and in turns.",
            few.told.len()
        ),
        String::new(),
        "| | endpoints | p50 | p99 | longest |".to_owned(),
        "|---|---|---|---|---|".to_owned(),
    ];
    for (place, measured) in places.iter().zip(measured) {
        for (what, times) in [
            ("one more, until the call is answered, ms", &place.answered),
            ("one more, until the other host has its row, ms", &place.told),
            ("start, the kernel as it was, ms", &measured.restarts),
            ("start, nothing in the kernel, ms", &measured.boots),
        ] {
            lines.push(format!("| {what} | {} | {times} |", place.endpoints));
        }
    }
    let with_own = format!("{}, {OF_A_HOST} of them its own", many.endpoints);
    if let Some(own) = owning {
        lines.push(format!(
            "| start, the kernel as it was, ms | {with_own} | {} |",
            own.restarts
        ));
    }
    lines.push(String::new());
    lines.push("| endpoints | a question, µs |".to_owned());
    lines.push("|---|---|".to_owned());
    for (place, measured) in places.iter().zip(measured) {
        let told = with_quartiles(&measured.packets, 1);
        lines.push(format!("| {} | {told} |", place.endpoints));
    }
    lines.push(String::new());
    lines.push(
        "| memory of tombolo (RSS), MiB | endpoints | now | of that not pages of its program's file | at most |".to_owned(),
    );
    lines.push("|---|---|---|---|---|".to_owned());
    for (at, when) in ["running since before", "started with all there"]
        .iter()
        .enumerate()
    {
        let on_lookers = places.iter().zip(measured);
        let on_lookers = on_lookers.map(|(place, of)| (place.endpoints.to_string(), of.memories[at]));
        let on_owner = owning.map(|own| (with_own.clone(), own.memories[at]));
        for (endpoints, [now, own, most]) in on_lookers.chain(on_owner) {
            lines.push(format!(
                "| {when} | {endpoints} | {now:.1} | {own:.1} | {most:.1} |"
            ));
        }
    }
    lines.push(String::new());
    let bar = |place: &Place, times: &Samples| Bar {
        name: format!("{} endpoints", place.endpoints),
        ours: true,
        numbers: times.all().to_vec(),
    };
    let told: Vec<Bar> = places.iter().map(|place| bar(place, &place.told)).collect();
    lines.extend(bars(
        "many-one-more",
        "one more, until the other host has its row, ms",
        &told,
    ));
    let boots = places.iter().zip(measured);
    let boots: Vec<Bar> = boots.map(|(place, of)| bar(place, &of.boots)).collect();
    lines.extend(bars(
        "many-start",
        "a start with nothing in the kernel, ms",
        &boots,
    ));
    lines.extend(aims(few, many, measured));
    if let Some(own) = owning {
        let start = own.restarts.median() / 1e3;
        let what = format!(
            "with {with_own} all is as it should be within {START_S} s of a start, the kernel as it was, p50"
        );
        lines.push(crate::aim(&what, &format!("{start:.2} s"), start < START_S));
        let [_, [now, _, most]] = own.memories;
        let what = format!("with {with_own} less than {MEMORY_MIB} MiB of memory after a start");
        let found = format!("{now:.1} MiB, at most {most:.1}");
        lines.push(crate::aim(&what, &found, most < MEMORY_MIB));
    }
    lines
}

/// The most that was held.
fn most_of(memories: &[[f64; 3]; 2]) -> f64 {
    memories.iter().map(|memory| memory[2]).fold(0.0, f64::max)
}

fn aims(few: &Place, many: &Place, measured: &[Measured]) -> Vec<String> {
    let [with_few, .., with_many] = measured else {
        panic!("at least two sizes");
    };
    let [restart, boot] = [&with_many.restarts, &with_many.boots].map(|times| times.median() / 1e3);
    let most = most_of(&with_many.memories);
    let ratio = many.told.median() / few.told.median();
    let packets = pairs(&with_many.packets, &with_few.packets, |one, other| one / other);
    let (few, many) = (few.endpoints, many.endpoints);
    let aimed = [
        (
            format!(
                "with {many} endpoints all is as it should be within {START_S} s of a start, the kernel as it was, p50"
            ),
            format!("{restart:.2} s"),
            restart < START_S,
        ),
        (
            format!(
                "with {many} endpoints all is as it should be within {START_S} s of a start, nothing in the kernel, p50"
            ),
            format!("{boot:.2} s"),
            boot < START_S,
        ),
        (
            format!("with {many} endpoints less than {MEMORY_MIB} MiB of memory"),
            format!("at most {most:.1} MiB"),
            most < MEMORY_MIB,
        ),
        (
            format!("one more with {many} takes at most {ONE_MORE} times as long as with {few}, p50"),
            format!("{ratio:.2}"),
            ratio <= ONE_MORE,
        ),
        (
            format!("a question takes at most {PACKET} times as long with {many} endpoints as with {few}"),
            with_quartiles(&packets, 2),
            median(&packets) <= PACKET,
        ),
    ];
    let aimed = aimed.iter();
    aimed
        .map(|(what, found, met)| crate::aim(what, found, *met))
        .collect()
}
