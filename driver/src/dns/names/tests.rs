use proptest::prelude::*;

use super::*;

const ME: u8 = 1;

fn host(n: u8) -> HostId {
    HostId::from_bytes([n; 16])
}

fn net(n: u8) -> IpNet {
    format!("10.{n}.0.0/24").parse().unwrap()
}

fn entry(of: u8, at: u8, names: &[&str], sandbox: Option<&str>) -> Entry {
    Entry {
        pool: net(of),
        names: names.iter().map(|name| (*name).into()).collect(),
        addresses: [format!("10.{of}.0.{at}").parse().unwrap()].into(),
        services: [].into(),
        place: sandbox.map(|sandbox| {
            Box::new(Place {
                sandbox: sandbox.to_owned(),
                hook: true,
            })
        }),
    }
}

fn home(of: u8, label: &str) -> (IpNet, Home) {
    let home = Home {
        pools: vec![net(of)],
        labels: vec![label.to_owned()],
        gateways: vec![],
    };
    (net(of), home)
}

/// Two networks on this host, with `web` on both of them, `db` on the second, and another host's `api` on the first.
fn names() -> Names {
    let names = Names::default();
    let entries = vec![
        ((host(ME), "1".into()), Some(entry(1, 2, &["web"], Some("/a")))),
        ((host(ME), "2".into()), Some(entry(2, 2, &["web"], Some("/a")))),
        ((host(ME), "3".into()), Some(entry(2, 3, &["db"], Some("/b")))),
        (
            (host(2), "4".into()),
            Some(entry(1, 9, &["api", "backend"], None)),
        ),
    ];
    let homes = Some(BTreeMap::from([home(1, "front"), home(2, "back")]));
    names.hear(
        News {
            everything: true,
            entries,
            homes,
        },
        host(ME),
    );
    names
}

fn at(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn who_asks_is_told_of_its_own_networks_only() {
    let names = names();
    let both = names.view_at(net(1), at("10.1.0.2"));
    assert_eq!(names.find(&both, "db").len(), 1);
    assert_eq!(names.find(&both, "api").len(), 1);
    let back = names.view_at(net(2), at("10.2.0.3"));
    assert_eq!(names.find(&back, "api").len(), 0);
    assert_eq!(names.find(&back, "web").len(), 1, "of its own network");
    assert_eq!(names.find(&back, "web.front").len(), 0);
    assert_eq!(names.find(&back, "web.back").len(), 1);
    // A newcomer is on the network that it asks from, and a stranger on none.
    let newcomer = names.view_at(net(1), at("10.1.0.77"));
    assert_eq!(
        (
            names.find(&newcomer, "api").len(),
            names.find(&newcomer, "db").len()
        ),
        (1, 0)
    );
    for stranger in [
        names.view_at(net(1), at("10.2.0.3")),
        names.view_at(net(7), at("10.7.0.3")),
    ] {
        assert_eq!(stranger, View::default());
        assert_eq!(names.find(&stranger, "web").len(), 0);
    }
}

#[test]
fn what_is_not_told_again_is_gone_but_not_of_this_host() {
    let names = names();
    let view = names.view_at(net(1), at("10.1.0.2"));
    names.hear(
        News {
            everything: true,
            ..News::default()
        },
        host(ME),
    );
    assert_eq!(names.find(&view, "api").len(), 0);
    assert_eq!(names.find(&view, "web").len(), 2);
}

#[test]
fn an_address_has_who_is_there_or_nobody_and_is_not_ours_elsewhere() {
    let names = names();
    let view = names.view_at(net(1), at("10.1.0.2"));
    let found = names.at(&view, at("10.1.0.9")).unwrap();
    assert_eq!((&*found[0].0.names[0], found[0].1.as_str()), ("api", "front"));
    assert_eq!(names.at(&view, at("10.1.0.10")), Some(vec![]));
    assert_eq!(names.at(&view, at("192.0.2.1")), None);
}

#[test]
fn a_row_gives_names_that_can_be_asked_for_and_addresses_of_its_pools() {
    let text = r#"{"kind":"overlay","mac":"02:7b:0a:2a:00:02","pools":["10.1.0.0/24"],"ipv4":"10.1.0.2","ipv6":"fd00::2",
        "name":"Web","aliases":["web","a..b","","api.v2.","spaced out"],"joined":true,
        "ports":[{"proto":"tcp","port":80},{"proto":"tcp","port":80}]}"#;
    let mut row: EndpointRow = serde_json::from_str(text).unwrap();
    let entry = Entry::of(&row, None).unwrap();
    assert_eq!(*entry.names, ["web".into(), "api.v2".into()]);
    assert_eq!(*entry.addresses, [at("10.1.0.2")]);
    assert_eq!(entry.services.len(), 1);
    row.joined = false;
    assert_eq!(Entry::of(&row, None), None);
}

proptest! {
    // Whatever came and went: the table is what is there now, and nothing of what was.
    #[test]
    fn it_is_what_it_would_be_made_at_once(
        changes in prop::collection::vec((0_u8..3, 0_u8..6, 0_u8..3, 2_u8..6, 0_usize..4, any::<bool>()), 0..60),
    ) {
        const NAMES: [&[&str]; 4] = [&["web"], &["web", "api"], &["db"], &[]];
        let names = Names::default();
        let mut now: BTreeMap<Of, Entry> = BTreeMap::new();
        for (of, id, pool, at, which, gone) in changes {
            let key: Of = (host(of), id.to_string().into());
            let sandbox = (of == ME).then(|| format!("/{}", id % 2));
            let new = (!gone).then(|| entry(pool, at, NAMES[which], sandbox.as_deref()));
            match &new {
                Some(new) => drop(now.insert(key.clone(), new.clone())),
                None => drop(now.remove(&key)),
            }
            names.hear(News { entries: vec![(key, new)], ..News::default() }, host(ME));
        }
        let once = Names::default();
        once.hear(News { entries: now.into_iter().map(|(of, e)| (of, Some(e))).collect(), ..News::default() }, host(ME));
        let sorted = |names: &Names| {
            let index = names.read();
            let list = |all: &[Arc<Entry>]| {
                let mut all: Vec<String> = all.iter().map(|entry| format!("{entry:?}")).collect();
                all.sort();
                all
            };
            let mut lines: Vec<String> = Vec::new();
            for (pool, net) in &index.nets {
                lines.extend(net.names.iter().map(|(name, all)| format!("{pool} {name} {:?}", list(all))));
                lines.extend(net.addresses.iter().map(|(at, all)| format!("{pool} {at} {:?}", list(all))));
            }
            for (sandbox, pools) in &index.sandboxes {
                let mut pools = pools.clone();
                pools.sort();
                lines.push(format!("{sandbox} {pools:?}"));
            }
            lines.sort();
            lines
        };
        prop_assert_eq!(sorted(&names), sorted(&once));
    }
}
