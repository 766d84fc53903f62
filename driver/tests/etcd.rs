//! The store that decides, on a real etcd (Debian's `etcd-server`).

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tombolo::cluster::etcd::{Etcd, Txn};
use tombolo::cluster::store::{Error, Store};
use tombolo::config;
use tombolo_cluster::HostId;
use tombolo_cluster::charter::{Charter, Decree, Definition, Void};
use tombolo_cluster::store::{Answer, Ask, Claim, Known, What};
use tombolo_ipam::share::{Gift, Piece, Share};

struct Server {
    process: Child,
    port: u16,
    _data: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let data = tempfile::tempdir().expect("a directory");
        // Ports that were free a moment ago.
        let free = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (one, other) = (free(), free());
        let (port, peers) = (
            one.local_addr().expect("its address").port(),
            other.local_addr().expect("its address").port(),
        );
        drop((one, other));
        let (clients, peers) = (
            format!("http://127.0.0.1:{port}"),
            format!("http://127.0.0.1:{peers}"),
        );
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(data.path())
            .args([
                "--listen-client-urls",
                &clients,
                "--advertise-client-urls",
                &clients,
            ])
            .args([
                "--listen-peer-urls",
                &peers,
                "--initial-advertise-peer-urls",
                &peers,
            ])
            .args(["--initial-cluster", &format!("default={peers}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting etcd: apt-get install etcd-server");
        let server = Self {
            process,
            port,
            _data: data,
        };
        let etcd = Etcd::new(vec![("127.0.0.1".to_owned(), port)]);
        let began = Instant::now();
        while let Err(error) = etcd.carry_out(&Txn::default(), soon()).await {
            assert!(began.elapsed() < Duration::from_secs(20), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }

    fn store(&self) -> Store {
        let setting = config::Store::Etcd(vec![("127.0.0.1".to_owned(), self.port)]);
        Store::of(&setting).expect("a store")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(2)
}

fn host(n: u8) -> HostId {
    HostId::from_bytes([n; 16])
}

fn founded() -> Charter {
    Charter::founded([7; 16], host(1), "h1".to_owned(), [1; 32], [0; 32]).with_store()
}

fn join(n: u8) -> Decree {
    Decree::Join {
        host: host(n),
        name: format!("h{n}"),
        key: [n; 32],
    }
}

fn pool(n: u8) -> IpNet {
    format!("10.{n}.0.0/24").parse().expect("a prefix")
}

fn found(n: u8, founder: u8) -> Decree {
    Decree::Found {
        pool: pool(n),
        founder: host(founder),
        definition: Definition {
            net: None,
            kind: "bridge".to_owned(),
            gateway: None,
            aux: Default::default(),
            vni: None,
            mtu: None,
        },
    }
}

async fn ask(store: &Store, ask: Ask) -> Answer {
    let answer = store.ask([7; 16], Known::of(&founded()), &ask).await;
    answer.expect("an answer")
}

async fn decide(store: &Store, decree: Decree) -> Answer {
    let mine = BTreeMap::new();
    ask(store, Ask::Decide { decree, mine }).await
}

/// The first host gives the upper half of a pool to another one.
fn claim(of: u8, by: u8, applied: u64) -> Claim {
    let (upper, lower) = (format!("10.{of}.0.128/25"), format!("10.{of}.0.0/25"));
    let (upper, lower): (IpNet, IpNet) = (upper.parse().expect("a prefix"), lower.parse().expect("a prefix"));
    let settled = Piece {
        seq: 1,
        settled: true,
    };
    let claimed = Piece {
        seq: 2,
        settled: false,
    };
    Claim {
        pool: pool(of),
        net: upper,
        seq: 2,
        giver: host(1),
        gave: Share {
            pieces: BTreeMap::from([(lower, settled)]),
            gifts: BTreeMap::from([(upper, Gift { seq: 2, to: host(by) })]),
            applied,
            revision: 2,
        },
        claimer: host(by),
        mine: Share {
            pieces: BTreeMap::from([(upper, claimed)]),
            gifts: BTreeMap::new(),
            applied,
            revision: 2,
        },
    }
}

#[tokio::test]
async fn of_decrees_that_come_at_once_each_is_decided_once_and_overlapping_ones_are_told() {
    let server = Server::start().await;
    let first = server.store();
    first.begin(&founded()).await.unwrap();
    let many = (0..12_u8).map(|n| {
        let store = server.store();
        // Two want each pool.
        tokio::spawn(async move {
            decide(&store, join(n + 2)).await;
            decide(&store, found(n / 2, n + 2)).await.what
        })
    });
    let (mut decided, mut void) = (0, 0);
    for one in futures_util::future::join_all(many).await {
        match one.unwrap() {
            What::Decided(None) => decided += 1,
            What::Decided(Some(Void::Overlap { .. })) => void += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((decided, void), (6, 6));
    let charter = ask(&first, Ask::Look).await.charter;
    assert_eq!(
        (charter.index, charter.hosts.len(), charter.pools.len()),
        (18, 13, 6)
    );
}

#[tokio::test]
async fn a_kept_claim_stands_in_the_decree_that_forgets_the_giver_with_few_pools_and_with_many() {
    for pools in [2, 120_u8] {
        let server = Server::start().await;
        let store = server.store();
        store.begin(&founded()).await.unwrap();
        for n in [2, 3] {
            decide(&store, join(n)).await;
        }
        let mut charter = founded();
        for n in 0..pools {
            charter = decide(&store, found(n, 1)).await.charter;
        }
        for n in [0, 1] {
            let claim = claim(n, 2, charter.pools[&pool(n)].at);
            for _ in 0..2 {
                let kept = ask(&store, Ask::Witness(Box::new(claim.clone()))).await;
                assert_eq!(kept.what, What::Kept);
            }
        }
        let forget = Decree::Forget {
            hosts: vec![host(1)],
            heir: host(3),
            shares: BTreeMap::new(),
        };
        let after = decide(&store, forget).await;
        assert_eq!(after.what, What::Decided(None), "{pools} pools");
        let gifts: Vec<_> = after
            .charter
            .grants
            .iter()
            .flat_map(|grant| &grant.gifts)
            .collect();
        assert_eq!(gifts.len(), 2, "{gifts:?}");
        let What::Read(left) = ask(&store, Ask::Read).await.what else {
            panic!("no shares");
        };
        let left: Vec<_> = left.keys().map(|(pool, host)| (*pool, *host)).collect();
        assert_eq!(left, [(pool(0), host(2)), (pool(1), host(2))]);
        let confirm = Ask::Confirm {
            me: host(2),
            mine: BTreeMap::from([(pool(0), None), (pool(1), Some(claim(1, 2, 4).mine))]),
        };
        let What::Stale(later) = ask(&store, confirm).await.what else {
            panic!("confirmed");
        };
        assert_eq!(later.keys().copied().collect::<Vec<_>>(), [(pool(0), host(2))]);
    }
}

#[tokio::test]
async fn a_pool_that_ends_takes_its_shares_along_and_no_others() {
    let server = Server::start().await;
    let store = server.store();
    store.begin(&founded()).await.unwrap();
    decide(&store, join(2)).await;
    for n in [0, 1] {
        let at = decide(&store, found(n, 1)).await.charter.index;
        ask(&store, Ask::Witness(Box::new(claim(n, 2, at)))).await;
    }
    let whole = Piece {
        seq: 4,
        settled: true,
    };
    let own = Share {
        pieces: BTreeMap::from([(pool(0), whole)]),
        applied: 2,
        revision: 9,
        ..Share::default()
    };
    let dissolve = Ask::Decide {
        decree: Decree::Dissolve {
            pool: pool(0),
            by: host(1),
        },
        mine: BTreeMap::from([(pool(0), own)]),
    };
    let answer = ask(&store, dissolve).await;
    assert_eq!(answer.what, What::Decided(None));
    let mut txn = Txn::default();
    txn.read_all("/tombolo/");
    let etcd = Etcd::new(vec![("127.0.0.1".to_owned(), server.port)]);
    let done = etcd.carry_out(&txn, soon()).await.unwrap();
    let keys: Vec<String> = done.found.into_iter().flatten().map(|entry| entry.key).collect();
    let cluster = "07".repeat(16);
    assert_eq!(
        keys,
        [
            format!("/tombolo/{cluster}/charter"),
            format!("/tombolo/{cluster}/share/10.1.0.0/24/{}", host(1)),
            format!("/tombolo/{cluster}/share/10.1.0.0/24/{}", host(2)),
        ]
    );
}

#[tokio::test]
async fn a_store_that_is_empty_or_set_back_or_away_says_so() {
    let server = Server::start().await;
    let store = server.store();
    let known = Known::of(&founded());
    let error = store.ask([7; 16], known, &Ask::Look).await.unwrap_err();
    assert!(matches!(error, Error::Nothing { .. }), "{error}");
    store.begin(&founded()).await.unwrap();
    let mut later = founded();
    later.apply(&join(2)).unwrap();
    let error = store
        .ask([7; 16], Known::of(&later), &Ask::Look)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("it was set back"), "{error}");
    drop(server);
    let began = Instant::now();
    let error = store.ask([7; 16], known, &Ask::Look).await.unwrap_err();
    assert!(error.to_string().contains("can't be reached"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(2));
}
