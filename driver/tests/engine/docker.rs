//! The reconciliation with Docker's lists: what is forgotten there is freed, what lives is not, and what was lost here
//! is filled again from there.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tombolo::docker::{EndpointView, NetworkView, SubnetView, View};
use tombolo::engine::reconcile::PATIENCE;
use tombolo_core::state::{Command, Reply};
use tombolo_core::world::{Key, World, diff};
use tombolo_ipam::{PoolId, PoolRequest, Space, Use, Want};

use crate::scene::{Scene, network};

fn net(n: u8, endpoints: &[(&str, &str)]) -> NetworkView {
    let endpoint = |(id, address): &(&str, &str)| EndpointView {
        container: String::new(),
        id: id.parse().unwrap(),
        name: format!("container-{id}"),
        addresses: vec![address.parse().unwrap()],
        mac: Some("02:7b:00:00:00:09".parse().unwrap()),
    };
    NetworkView {
        id: format!("n{n}").parse().unwrap(),
        name: format!("net-{n}"),
        driver: "tombolo".to_owned(),
        ipam_driver: "tombolo".to_owned(),
        internal: false,
        v6: false,
        options: Default::default(),
        lent: false,
        subnets: vec![SubnetView {
            pool: format!("10.{n}.0.0/24").parse().unwrap(),
            range: None,
            gateway: Some(IpAddr::from([10, n, 0, 1])),
            aux: vec![IpAddr::from([10, n, 0, 200])],
            way_out: None,
        }],
        endpoints: endpoints.iter().map(endpoint).collect(),
    }
}

fn view(networks: Vec<NetworkView>) -> View {
    View {
        engine: "engine-1".to_owned(),
        version: "20.10.24".to_owned(),
        live_restore: false,
        networks,
        bridges: BTreeSet::new(),
    }
}

impl Scene {
    fn hear(&mut self, view: &View, at: Instant) {
        let heard = self.engine.heard_from_docker(Ok(view.clone()), at);
        heard.now_or_never().expect("nothing waits");
    }

    /// Network `n` with our IPAM, and endpoint `e` on it at .2, joined.
    pub fn with_container(&mut self, n: u8) -> PoolId {
        let pool = self.with_network(n);
        let address = IpAddr::from([10, n, 0, 2]);
        self.lease(pool, address).unwrap();
        let (id, net) = (format!("e{n}").parse().unwrap(), format!("n{n}").parse().unwrap());
        let addresses = vec![format!("{address}/24").parse().unwrap()];
        self.ask(&Command::CreateEndpoint {
            id,
            network: net,
            addresses,
            mac: None,
            rate: None,
            sysctls: Vec::new(),
        })
        .unwrap();
        let (endpoint, network) = (format!("e{n}").parse().unwrap(), format!("n{n}").parse().unwrap());
        self.ask(&Command::Join {
            network,
            endpoint,
            sandbox: "/run/netns/x".to_owned(),
        })
        .unwrap();
        pool
    }

    fn with_network(&mut self, n: u8) -> PoolId {
        let want = Want::Exactly(format!("10.{n}.0.0/24").parse().unwrap());
        let request = PoolRequest {
            space: Space::Local,
            want,
            range: None,
            v6: false,
            repeat: true,
        };
        let Some(Reply::Pool(pool)) = self.ask(&Command::RequestPool(request)) else {
            panic!("no pool")
        };
        let gateway = Command::RequestAddress {
            pool,
            address: None,
            usage: Use::Gateway,
            repeat: false,
        };
        self.ask(&gateway).unwrap();
        self.ask(&Command::CreateNetwork(network(n, n, false, false)))
            .unwrap();
        pool
    }

    fn lease(&mut self, pool: PoolId, address: IpAddr) -> Option<Reply> {
        let usage = Use::Endpoint { name: None };
        self.ask(&Command::RequestAddress {
            pool,
            address: Some(address),
            usage,
            repeat: false,
        })
    }

    fn leases(&self, pool: &PoolId) -> Vec<String> {
        self.engine
            .state()
            .ipam()
            .leases_of(pool)
            .map(|(address, _)| address.to_string())
            .collect()
    }
}

#[test]
fn an_endpoint_that_docker_has_forgotten_is_freed_after_two_looks_and_not_before() {
    let mut scene = Scene::new();
    let pool = scene.with_container(1);
    let start = Instant::now();
    let missing = view(vec![net(1, &[])]);
    scene.hear(&missing, start);
    scene.hear(&missing, start + PATIENCE - Duration::from_secs(1));
    assert_eq!(scene.engine.state().endpoints().count(), 1);
    scene.hear(&missing, start + PATIENCE);
    assert_eq!(scene.engine.state().endpoints().count(), 0);
    // The lease was held by the endpoint until then, so its time begins now.
    assert_eq!(scene.leases(&pool), ["10.1.0.1", "10.1.0.2"]);
    scene.hear(&missing, start + PATIENCE);
    scene.hear(&missing, start + 2 * PATIENCE);
    assert_eq!(scene.leases(&pool), ["10.1.0.1"]);
    assert_eq!(scene.undone(), []);
}

#[test]
fn one_look_that_shows_it_begins_the_wait_anew() {
    let mut scene = Scene::new();
    scene.with_container(1);
    let start = Instant::now();
    scene.hear(&view(vec![net(1, &[])]), start);
    scene.hear(
        &view(vec![net(1, &[("e1", "10.1.0.2/24")])]),
        start + PATIENCE / 2,
    );
    scene.hear(&view(vec![net(1, &[])]), start + PATIENCE);
    assert_eq!(scene.engine.state().endpoints().count(), 1);
}

#[test]
fn no_answer_frees_nothing_and_begins_the_wait_anew() {
    let mut scene = Scene::new();
    scene.with_container(1);
    let start = Instant::now();
    scene.hear(&view(vec![net(1, &[])]), start);
    let silent = scene
        .engine
        .heard_from_docker(Err("gone".to_owned()), start + PATIENCE / 2);
    silent.now_or_never().expect("nothing waits");
    scene.hear(&view(vec![net(1, &[])]), start + PATIENCE);
    assert_eq!(scene.engine.state().endpoints().count(), 1);
}

#[test]
fn an_engine_that_never_had_a_network_of_ours_frees_nothing() {
    let mut scene = Scene::new();
    scene.with_container(1);
    let stranger = View {
        engine: "engine-2".to_owned(),
        ..view(vec![net(7, &[])])
    };
    let start = Instant::now();
    for look in 0..4 {
        scene.hear(&stranger, start + look * PATIENCE);
    }
    assert_eq!(scene.engine.state().networks().count(), 1);
}

#[test]
fn what_other_drivers_containers_have_of_our_addresses_is_kept() {
    let mut scene = Scene::new();
    scene.with_container(1);
    let want = Want::Exactly("10.5.0.0/24".parse().unwrap());
    let request = PoolRequest {
        space: Space::Local,
        want,
        range: None,
        v6: false,
        repeat: true,
    };
    let Some(Reply::Pool(pool)) = scene.ask(&Command::RequestPool(request)) else {
        panic!("no pool")
    };
    for last in [1, 2, 3, 200] {
        scene.lease(pool, IpAddr::from([10, 5, 0, last])).unwrap();
    }
    let bridge = NetworkView {
        driver: "bridge".to_owned(),
        ..net(5, &[("x", "10.5.0.2/24")])
    };
    let seen = view(vec![net(1, &[("e1", "10.1.0.2/24")]), bridge]);
    let start = Instant::now();
    scene.hear(&seen, start);
    scene.hear(&seen, start + PATIENCE);
    // The gateway, the kept one and the container's stay; nobody stands for .3.
    assert_eq!(scene.leases(&pool), ["10.5.0.1", "10.5.0.2", "10.5.0.200"]);

    let gone = view(vec![net(1, &[("e1", "10.1.0.2/24")])]);
    scene.hear(&gone, start + 2 * PATIENCE);
    scene.hear(&gone, start + 3 * PATIENCE);
    assert!(scene.engine.state().ipam().pool(&pool).is_none());
}

#[test]
fn a_network_whose_creation_docker_never_heard_of_is_freed_with_its_pool() {
    let mut scene = Scene::new();
    scene.with_container(1);
    scene.with_network(2);
    let seen = view(vec![net(1, &[("e1", "10.1.0.2/24")])]);
    let start = Instant::now();
    for look in 0..2 {
        scene.hear(&seen, start + look * PATIENCE);
    }
    let networks: Vec<&str> = scene.engine.state().networks().map(|n| n.id.as_str()).collect();
    assert_eq!(networks, ["n1"]);
    assert_eq!(scene.engine.state().ipam().pools().len(), 1);
    assert_eq!(scene.undone(), []);
}

#[test]
fn a_network_that_docker_has_and_we_have_not_is_noted_after_two_looks() {
    let mut scene = Scene::new();
    let seen = view(vec![
        net(1, &[]),
        NetworkView {
            driver: "bridge".to_owned(),
            ..net(2, &[("x", "10.2.0.7/24")])
        },
    ]);
    let start = Instant::now();
    scene.hear(&seen, start);
    assert_eq!(scene.engine.state().networks().count(), 0);
    scene.hear(&seen, start + PATIENCE);
    let networks: Vec<&str> = scene.engine.state().networks().map(|n| n.id.as_str()).collect();
    assert_eq!(networks, ["n1"]);
    let pool = PoolId::new(Space::Local, "10.2.0.0/24".parse().unwrap(), None).unwrap();
    assert_eq!(scene.leases(&pool), ["10.2.0.1", "10.2.0.7", "10.2.0.200"]);
    assert_eq!(scene.undone(), []);
}

#[test]
fn that_records_were_lost_is_known_after_another_restart() {
    let mut scene = Scene::new();
    scene.with_container(1);
    let before = scene.found();
    scene.disk.rows.lock().unwrap().clear();
    scene.first_start();
    scene.restart();
    assert_eq!(scene.found(), before, "nothing is swept before Docker was asked");
    scene.hear(&view(vec![net(1, &[("e1", "10.1.0.2/24")])]), Instant::now());
    assert_eq!(scene.undone(), []);
    assert_eq!(scene.engine.state().endpoints().filter(|e| e.linked).count(), 1);
    let orphan = tombolo_core::world::Key::Allow("tb-orphan".parse().unwrap());
    scene
        .kernel
        .kernel
        .lock()
        .unwrap()
        .plant(orphan.clone(), tombolo_core::world::Value::Present);
    scene.restart();
    assert!(
        !scene.found().contains_key(&orphan),
        "once Docker was asked, what nobody wants is swept again"
    );
}

#[test]
fn lost_records_are_filled_again_and_no_link_is_touched() {
    let mut scene = Scene::new();
    let pool = scene.with_container(1);
    let wish = tombolo_core::model::PortWish {
        proto: tombolo_core::model::Proto::Tcp,
        host: None,
        first: 8080,
        last: 8080,
        port: 80,
    };
    let publish = Command::Publish {
        network: "n1".parse().unwrap(),
        endpoint: "e1".parse().unwrap(),
        wishes: vec![wish],
    };
    scene.ask(&publish).unwrap();
    let before = scene.found();
    let (records, leases) = (
        tombolo::records::Records::of(scene.engine.state(), &Default::default()),
        scene.leases(&pool),
    );
    let steps = scene.kernel.kernel.lock().unwrap().steps().len();

    scene.lose_records();
    assert_eq!(scene.found(), before, "nothing is swept before Docker was asked");
    let mut seen = net(1, &[("e1", "10.1.0.2/24")]);
    seen.endpoints[0].mac = Some(records.endpoints[0].mac);
    scene.hear(&view(vec![seen]), Instant::now());

    assert_eq!(scene.undone(), []);
    let kept = |found: World| {
        diff(&before, &found)
            .into_iter()
            .filter(|step| step.removes())
            .count()
    };
    assert_eq!(kept(scene.found()), 0);
    let made = scene.kernel.kernel.lock().unwrap().steps()[steps..]
        .iter()
        .filter(|step| step.removes())
        .count();
    assert_eq!(made, 0, "running containers don't notice");
    assert_eq!(
        scene.leases(&pool),
        [leases[0].clone(), leases[1].clone(), "10.1.0.200".to_owned()]
    );
    let endpoint = scene.engine.state().endpoints().next().unwrap();
    assert_eq!(endpoint.published, records.endpoints[0].published);
    assert!(endpoint.linked && endpoint.sandbox.is_some());
    scene.assert_stored();
}

#[test]
fn a_bridge_of_dockers_own_with_another_name_is_noted_and_forgotten() {
    let mut scene = Scene::new();
    scene.with_network(1);
    let foreign = |scene: &Scene| {
        let key = Key::Foreign("odd0".parse().unwrap());
        scene.found().contains_key(&key)
    };
    let start = Instant::now();
    let mut seen = view(vec![net(1, &[])]);
    seen.bridges.insert("odd0".parse().unwrap());
    scene.hear(&seen, start);
    assert!(foreign(&scene));
    seen.bridges.clear();
    scene.hear(&seen, start);
    assert!(!foreign(&scene));
}
