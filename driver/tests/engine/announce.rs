//! What an engine has announced to the containers of its host, and when.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tombolo::engine::{Ask, Looked};
use tombolo_core::kinds::options::Options;
use tombolo_core::kinds::{Agreed, Reach, Spec, Underlay};
use tombolo_core::model::{Mac, Network};
use tombolo_core::state::{Command, News, Remote};
use tombolo_core::world::{Hop, Key, Value};
use tombolo_ipam::HostId;
use tombolo_ipam::share::Deal;

use crate::scene::{Scene, network};

/// The address that moves.
const ADDRESS: &str = "10.0.0.7";

fn mac(n: u8) -> Mac {
    Mac::from_bytes([2, 0x7b, 0, 0, 0, n]).unwrap()
}

fn host(n: u8) -> HostId {
    HostId::from_bytes([n; 16])
}

fn spanning(kind: &str) -> Network {
    let mut network = network(0, 0, false, false);
    let given = [("type".to_owned(), kind.to_owned())];
    network.spec = Spec::read(Options::new(given.into()), false).unwrap();
    network.spec.agree(Agreed {
        vni: Some(70_000),
        mtu: None,
    });
    network
}

/// News of the address at a host that has it with a hardware address, or not.
fn at(n: u8, has: Option<u8>) -> News {
    let via = IpAddr::from([192, 0, 2, n]);
    let remote = |n| Remote {
        pool: "10.0.0.0/24".parse().unwrap(),
        addresses: vec![ADDRESS.parse().unwrap()],
        mac: mac(n),
        via,
    };
    let hop = Hop {
        via,
        link: "eth0".parse().unwrap(),
    };
    let reach = Reach {
        v4: vec![hop],
        v6: vec![],
        ways: vec![],
    };
    News {
        endpoints: vec![(host(n), "e".into(), has.map(remote))],
        underlay: Some(Underlay {
            vtep: IpAddr::from([192, 0, 2, 1]),
            several: false,
            port: 4789,
        }),
        reach: vec![(host(n), Some(reach))],
        ..News::default()
    }
}

impl Scene {
    fn begin_spanning(kind: &str) -> Self {
        let mut scene = Self::new();
        scene
            .kernel
            .kernel
            .lock()
            .unwrap()
            .put_foreign_link("eth0".parse().unwrap());
        let pool = "10.0.0.0/24".parse().unwrap();
        let grant = Deal::Grant {
            at: 1,
            pieces: vec![(pool, 1)],
            gifts: vec![],
        };
        scene.must(&Command::Deal(pool, grant));
        scene.must(&Command::CreateNetwork(spanning(kind)));
        scene
    }

    #[track_caller]
    fn must(&mut self, command: &Command) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let looked = Looked::default();
        let done = self.engine.carry_out(command, &looked, deadline, false);
        done.now_or_never().expect("nothing waits").unwrap();
    }

    /// Starts a container of this host.
    #[track_caller]
    fn container(&mut self, id: &str, address: &str, mac: Option<Mac>) {
        let network = || "n0".parse().unwrap();
        self.must(&Command::CreateEndpoint {
            id: id.parse().unwrap(),
            network: network(),
            addresses: vec![format!("{address}/24").parse().unwrap()],
            mac,
            rate: None,
            sysctls: Vec::new(),
        });
        self.must(&Command::Join {
            network: network(),
            endpoint: id.parse().unwrap(),
            sandbox: format!("/run/netns/{id}"),
        });
    }

    #[track_caller]
    fn end(&mut self, id: &str) {
        self.must(&Command::Leave(id.parse().unwrap()));
        self.must(&Command::DeleteEndpoint(id.parse().unwrap()));
    }

    fn hear_of(&mut self, news: News) {
        self.engine.hear(news).now_or_never().expect("nothing waits");
    }

    /// The hardware addresses that the address was announced with.
    #[track_caller]
    fn announced(&mut self) -> Vec<Mac> {
        let announced = self.kernel.kernel.lock().unwrap().take_announced();
        let bridge = spanning("overlay").spec.kind().links(&"n0".parse().unwrap())[0].clone();
        for one in &announced {
            assert_eq!(
                (one.address.to_string().as_str(), &one.bridge),
                (ADDRESS, &bridge)
            );
        }
        announced.iter().map(|one| one.mac).collect()
    }
}

/// Longer than an announcement is held up after another one.
fn a_while() {
    std::thread::sleep(Duration::from_millis(400));
}

#[test]
fn an_address_with_another_hardware_address_is_announced() {
    let mut scene = Scene::begin_spanning("overlay");
    scene.container("watcher", "10.0.0.2", None);
    // What nobody can have looked up before is no news.
    scene.hear_of(at(2, Some(0xa)));
    assert_eq!(scene.announced(), []);
    // Gone for a while, and back with another one, on another host.
    scene.hear_of(at(2, None));
    scene.hear_of(at(3, Some(0xa)));
    assert_eq!(scene.announced(), []);
    scene.hear_of(at(3, None));
    scene.hear_of(at(2, Some(0xb)));
    assert_eq!(scene.announced(), [mac(0xb)]);
    a_while();
    // Two claim it for a moment: the last one heard of counts, and then the one that is left.
    scene.hear_of(at(3, Some(0xc)));
    assert_eq!(scene.announced(), [mac(0xc)]);
    a_while();
    scene.hear_of(at(3, None));
    assert_eq!(scene.announced(), [mac(0xb)]);
    a_while();
    // To this host, and away from it.
    scene.hear_of(at(2, None));
    scene.container("mover", ADDRESS, Some(mac(0xd)));
    assert_eq!(scene.announced(), [mac(0xd)]);
    a_while();
    scene.end("mover");
    assert_eq!(scene.announced(), []);
    scene.hear_of(at(2, Some(0xd)));
    assert_eq!(scene.announced(), []);
    scene.hear_of(at(2, Some(0xe)));
    assert_eq!(scene.announced(), [mac(0xe)]);
}

#[test]
fn by_routes_an_address_that_leaves_this_host_or_comes_to_it_is_announced() {
    let mut scene = Scene::begin_spanning("host-gateway");
    scene.container("watcher", "10.0.0.2", None);
    let bridge = Mac::of_net(&spanning("host-gateway"));
    scene.container("mover", ADDRESS, Some(mac(0xa)));
    scene.end("mover");
    scene.hear_of(at(2, Some(0xa)));
    assert_eq!(scene.announced(), [bridge]);
    // This host answers for whoever has it elsewhere.
    scene.hear_of(at(2, None));
    scene.hear_of(at(3, Some(0xb)));
    assert_eq!(scene.announced(), []);
    a_while();
    scene.hear_of(at(3, None));
    scene.container("mover", ADDRESS, Some(mac(0xa)));
    assert_eq!(scene.announced(), [mac(0xa)]);
}

#[test]
fn where_nobody_can_believe_otherwise_nothing_is_announced() {
    let mut scene = Scene::begin_spanning("overlay");
    scene.hear_of(at(2, Some(0xa)));
    scene.hear_of(at(2, Some(0xb)));
    // Who has it is alone here.
    scene.hear_of(at(2, None));
    scene.container("mover", ADDRESS, Some(mac(0xc)));
    assert_eq!(scene.announced(), []);
    // A network that is made anew is another.
    scene.end("mover");
    scene.must(&Command::DeleteNetwork("n0".parse().unwrap()));
    scene.must(&Command::CreateNetwork(spanning("overlay")));
    scene.container("watcher", "10.0.0.2", None);
    scene.hear_of(at(2, Some(0xd)));
    assert_eq!(scene.announced(), []);
}

#[test]
fn what_changed_while_the_daemon_was_down_is_announced() {
    let mut scene = Scene::begin_spanning("overlay");
    scene.container("watcher", "10.0.0.2", None);
    scene.hear_of(at(2, Some(0xa)));
    let (key, _) = scene
        .found()
        .into_iter()
        .find(|(key, _)| matches!(key, Key::Neighbour(..)))
        .unwrap();
    scene.restart();
    // What an earlier run has made of what it heard.
    let mut all = at(2, Some(0xb));
    all.everything = true;
    scene
        .kernel
        .kernel
        .lock()
        .unwrap()
        .plant(key, Value::Mac(mac(0xa)));
    scene.engine.settle("test").now_or_never().expect("nothing waits");
    scene.hear_of(all);
    assert_eq!(scene.announced(), [mac(0xb)]);
}

#[tokio::test]
async fn an_address_that_goes_to_and_fro_is_announced_now_and_then_and_at_last() {
    let mut scene = Scene::begin_spanning("overlay");
    scene.container("watcher", "10.0.0.2", None);
    scene.hear_of(at(2, Some(0xa)));
    for _ in 0..50 {
        scene.hear_of(at(2, Some(0xb)));
        scene.hear_of(at(2, Some(0xc)));
    }
    assert_eq!(scene.announced(), [mac(0xb)]);
    let kernel = scene.kernel.kernel.clone();
    let (asks, queue) = mpsc::channel(4);
    let engine = tokio::spawn(scene.engine.run(queue));
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let announced = kernel.lock().unwrap().take_announced();
        if let [said] = announced.as_slice() {
            assert_eq!(said.mac, mac(0xc));
            // And what comes later at once.
            asks.send(Ask::Peers(at(2, Some(0xb)))).await.unwrap();
            drop(asks);
            engine.await.unwrap();
            return;
        }
    }
    panic!("what was held up was never said");
}
