//! Whatever a member's bytes are, a node takes them: it counts what it can't read, and goes on. And what a later version
//! says beside what this one knows harms nobody, and is handed on.
//!
//! What is spoilt is what hosts have said, and each sort that there is; then it comes as a member's: as datagrams and
//! questions, as answers to the very questions that were asked, and as rows whose bodies the node reads.
//!
//! `HOSTILE_CASES=n` tries so many.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails panics"
)]

#[allow(dead_code, reason = "others who share this file do more")]
#[path = "simulator/world.rs"]
mod world;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ipnet::IpNet;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tombolo_cluster::council::Acceptor;
use tombolo_cluster::node::{Alone, Called, Input, Node, Wish};
use tombolo_cluster::table::{Content, Cover, Delta, Key, Version};
use tombolo_cluster::wire::{Answer, Frame, Holding, Request, decode, encode};
use tombolo_ipam::share::Share;
use world::{Heard, World, address, definition, host_id};

/// Hosts with rows, a pool and shares, and all that they have said until then.
fn talk(seed: u64) -> (World, Vec<Heard>) {
    let mut world = World::new(seed, 3, Alone::Lease);
    world.tap = Some(Vec::new());
    (0..3).for_each(|at| world.start(at));
    let pool = "10.42.0.0/24".parse().unwrap();
    for at in 0..3 {
        world.input(
            at,
            Input::Rows(vec![(
                format!("ep/{at}"),
                Some(format!("row of {at}").into_bytes()),
            )]),
        );
        world.run(Duration::from_secs(2));
        world.wish(at, Wish::Pool(pool, definition()));
        world.use_pool(at, pool);
        world.run(Duration::from_secs(2));
        world.lease(at, pool, None).unwrap();
    }
    world.crash(2);
    world.run(Duration::from_secs(20));
    world.start(2);
    world.run(Duration::from_secs(5));
    let heard = world.tap.take().unwrap();
    (world, heard)
}

/// How many cases to try: what was asked for, or so many.
fn cases(usual: u64) -> u64 {
    std::env::var("HOSTILE_CASES").map_or(usual, |text| text.parse().unwrap())
}

/// What was heard, and of each sort that was not heard there one.
fn of_all_sorts(world: &World, mut heard: Vec<Heard>) -> Vec<Heard> {
    let node = world.hosts[0].node.as_ref().unwrap();
    let charter = node.charter().clone();
    let mut words = heard.iter().filter_map(|heard| match heard {
        Heard::Datagram(bytes) => match decode(bytes) {
            Some(Frame::Council(word)) => Some(word),
            _ => None,
        },
        Heard::Question(_) | Heard::Answer(_) => None,
    });
    let word = words.next_back().unwrap();
    let shares = world.hosts[1].disk.ipam.shares().clone();
    let all = shares
        .iter()
        .map(|(pool, share)| (*pool, host_id(1), share.clone()));
    let holding = Holding {
        index: charter.index,
        sure: true,
        shares: all.collect(),
    };
    let vote = Acceptor::of(charter.slot());
    for _ in 0..4 {
        for frame in [
            Frame::Twice {
                one: address(0),
                other: address(1),
                epoch: 7,
            },
            Frame::Elsewhere { epoch: 7 },
            Frame::Behind { epoch: 7 },
        ] {
            heard.push(Heard::Datagram(encode(&frame)));
        }
        for question in [
            Request::Charter,
            Request::Council(word.clone()),
            Request::Frame(Box::new(Frame::Council(word.clone()))),
            Request::Shares,
            Request::Recall,
        ] {
            heard.push(Heard::Question(encode(&question)));
        }
        for answer in [
            Answer::Charter(Box::new(charter.clone())),
            Answer::Shares(shares.clone()),
            Answer::Recalled(holding.clone(), Box::new(vote.clone())),
            Answer::Strange,
        ] {
            heard.push(Heard::Answer(encode(&answer)));
        }
    }
    heard
}

/// Which sorts of datagrams, questions and answers are among them.
fn sorts(heard: &[Heard]) -> [u16; 3] {
    heard.iter().fold([0; 3], |mut sorts, heard| {
        let (kind, bytes) = match heard {
            Heard::Datagram(bytes) => (0, bytes),
            Heard::Question(bytes) => (1, bytes),
            Heard::Answer(bytes) => (2, bytes),
        };
        sorts[kind] |= 1 << bytes[0];
        sorts
    })
}

/// How many sorts of datagrams, questions and answers there are: a number above is read as none of them.
const SORTS: [u32; 3] = [13, 10, 9];

/// Bytes with something wrong.
fn mangle(rng: &mut StdRng, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let length = bytes.len();
        match rng.random_range(0..6) {
            0 if length > 0 => {
                let at = rng.random_range(0..length);
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
            1 if length > 0 => {
                let at = rng.random_range(0..length);
                bytes[at] = rng.random();
            }
            2 => bytes.truncate(rng.random_range(0..=length)),
            3 => bytes.push(rng.random()),
            4 if length > 1 => {
                let (a, b) = (rng.random_range(0..length), rng.random_range(0..length));
                let piece = bytes[a.min(b)..a.max(b)].to_vec();
                let at = rng.random_range(0..=length);
                bytes.splice(at..at, piece);
            }
            _ => bytes = (0..rng.random_range(0..200)).map(|_| rng.random()).collect(),
        }
    }
    bytes
}

#[test]
fn no_bytes_of_a_member_stop_a_node_or_make_it_say_much() {
    let cases = cases(60_000);
    let (world, heard) = talk(1);
    let heard = of_all_sorts(&world, heard);
    assert_eq!(sorts(&heard), SORTS.map(|count| (1 << count) - 1));
    let mut rng = StdRng::seed_from_u64(7);
    let mut tried = 0;
    while tried < cases {
        // A new node now and then: one that believes much may have become another.
        let (mut world, _) = talk(rng.next_u64());
        for _ in 0..2_000 {
            tried += 1;
            let at = rng.random_range(0..heard.len());
            let from = host_id(1);
            let input = match &heard[at] {
                Heard::Datagram(bytes) => Input::Datagram {
                    from,
                    address: address(1),
                    bytes: mangle(&mut rng, bytes),
                },
                Heard::Question(bytes) => Input::Request {
                    call: (1 << 40) | tried,
                    from,
                    bytes: mangle(&mut rng, bytes),
                },
                Heard::Answer(bytes) => Input::Answered {
                    call: rng.random_range(0..200),
                    answer: Called::Answer(mangle(&mut rng, bytes)),
                },
            };
            world.input(0, input);
            if tried % 100 == 0 {
                world.run(Duration::from_millis(50));
            }
        }
        let node = world.hosts[0].node.as_ref().unwrap();
        let faults: u64 = node.view().hosts.iter().map(|host| host.faults).sum();
        assert!(faults > 100, "what can't be read is counted: {faults}");
    }
}

#[test]
fn no_answer_to_what_was_asked_stops_a_node() {
    let cases = cases(20_000);
    let (world, heard) = talk(1);
    let heard = of_all_sorts(&world, heard);
    let answers: Vec<Vec<u8>> = heard
        .into_iter()
        .filter_map(|heard| match heard {
            Heard::Answer(bytes) => Some(bytes),
            Heard::Datagram(_) | Heard::Question(_) => None,
        })
        .collect();
    let tried = Rc::new(Cell::new(0));
    let mut seed = 11;
    while tried.get() < cases {
        seed += 1;
        let (mut world, _) = talk(seed);
        let mut rng = StdRng::seed_from_u64(seed);
        let (answers, count) = (answers.clone(), Rc::clone(&tried));
        // Of what host 0 is told half is garbled, and a part of that was the answer to another question.
        world.garble = Some(Box::new(move |to, heard| {
            let is_answer = matches!(heard, Heard::Answer(_));
            let (Heard::Datagram(bytes) | Heard::Question(bytes) | Heard::Answer(bytes)) = heard;
            if to == 0 && rng.random_bool(0.5) {
                count.set(count.get() + 1);
                if is_answer && rng.random_bool(0.5) {
                    bytes.clone_from(&answers[rng.random_range(0..answers.len())]);
                }
                if rng.random_bool(0.8) {
                    *bytes = mangle(&mut rng, bytes);
                }
            }
        }));
        for turn in 0..8 {
            // It begins anew, with everything to be asked for.
            world.crash(0);
            let row = (format!("ep/{turn}"), Some(b"another row".to_vec()));
            world.input(1, Input::Rows(vec![row]));
            world.run(Duration::from_secs(2));
            world.start(0);
            world.run(Duration::from_secs(15));
        }
        let node = world.hosts[0].node.as_ref().unwrap();
        let faults: u64 = node.view().hosts.iter().map(|host| host.faults).sum();
        assert!(faults > 0, "what can't be read is counted");
    }
}

/// All rows of a host in its `epoch`th life.
fn all_rows(of: usize, epoch: u32, rows: Vec<(Key, Vec<u8>)>) -> Delta {
    let count = rows.len() as u32;
    let rows = rows.into_iter().zip(1..);
    let rows = rows.map(|((key, body), n)| (key, Version::new(epoch, n), Content::Body(body.into())));
    Delta {
        origin: host_id(of),
        base: None,
        cover: Cover::up_to(Version::new(epoch, count)),
        whole: None,
        swept: Version::new(epoch, 0),
        rows: rows.collect(),
    }
}

/// Has host 1 bring these to host 0.
fn bring(world: &mut World, call: u32, deltas: Vec<Delta>) {
    let want = Vec::new();
    let input = Input::Request {
        call: (1 << 40) | u64::from(call),
        from: host_id(1),
        bytes: encode(&Request::Exchange { want, deltas }),
    };
    world.input(0, input);
}

/// Has host 1 say to host 0 that its rows are these, in its `epoch`th life.
fn tell(world: &mut World, epoch: u32, rows: Vec<(Key, Vec<u8>)>) {
    bring(world, epoch, vec![all_rows(1, epoch, rows)]);
}

#[test]
fn one_row_that_is_refused_keeps_no_other_hosts_rows_away_and_its_own_hosts_only_while_it_is_there() {
    let (mut world, _) = talk(4);
    let row = |name: &str, length: usize| vec![(name.parse::<Key>().unwrap(), vec![b'x'; length])];
    let has = |world: &World, of: usize, name: &str| {
        let node = world.hosts[0].node.as_ref().unwrap();
        node.table().get(host_id(of), name).is_some()
    };
    let bad = [row("later/large", 100_000), row("later/small", 1)].concat();
    let both = vec![
        all_rows(1, 1_000_000, bad),
        all_rows(2, 1_000_000, row("later/other", 1)),
    ];
    bring(&mut world, 1, both);
    assert!(has(&world, 2, "later/other"));
    assert!(has(&world, 1, "ep/1") && !has(&world, 1, "later/small"));
    tell(&mut world, 1_000_001, row("later/small", 1));
    assert!(has(&world, 1, "later/small") && !has(&world, 1, "ep/1"));
}

#[test]
fn no_body_of_a_row_stops_a_node_or_keeps_the_other_rows_from_it() {
    let cases = cases(20_000);
    let mut rng = StdRng::seed_from_u64(5);
    let mut tried = 0;
    while tried < cases {
        let (mut world, _) = talk(rng.next_u64());
        let held = |node: &Node| -> Vec<(Key, Vec<u8>)> {
            let rows = node.table().rows_of(host_id(1));
            rows.map(|(key, body)| (key.clone(), body.to_vec())).collect()
        };
        let genuine = held(world.hosts[0].node.as_ref().unwrap());
        let of = |start: &str| genuine.iter().any(|(key, _)| key.as_str().starts_with(start));
        assert!(of("share/") && of("fill/") && of("ep/"), "{genuine:?}");
        // What is at the host itself is for no other to say.
        let own = |world: &World| -> Vec<(IpNet, Vec<IpNet>)> {
            let shares = world.hosts[0].disk.ipam.shares().iter();
            let pieces = |share: &Share| share.pieces.keys().copied().collect();
            shares.map(|(pool, share)| (*pool, pieces(share))).collect()
        };
        let before = own(&world);
        for epoch in 1_000_000..1_000_500 {
            let mut rows = genuine.clone();
            for (_, body) in &mut rows {
                tried += 1;
                *body = mangle(&mut rng, body);
                // Numbers stay numbers more often this way than by a change of bytes at random.
                let digits: Vec<usize> = (0..body.len()).filter(|at| body[*at].is_ascii_digit()).collect();
                if !digits.is_empty() && rng.random_bool(0.5) {
                    let at = digits[rng.random_range(0..digits.len())];
                    body[at] = rng.random_range(b'0'..=b'9');
                }
            }
            tell(&mut world, epoch, rows.clone());
            let node = world.hosts[0].node.as_ref().unwrap();
            assert_eq!(held(node), rows, "all are kept as they came, to be handed on so");
            if epoch % 50 == 0 {
                world.run(Duration::from_millis(50));
            }
        }
        assert_eq!(before, own(&world));
        let node = world.hosts[0].node.as_ref().unwrap();
        let view = node.view();
        let told = view.hosts.iter().find(|host| host.host == host_id(1)).unwrap();
        assert!(
            told.faults > 100,
            "what can't be read is counted: {}",
            told.faults
        );
        let rows = |node: &Node| node.table().rows_of(host_id(2)).count();
        let theirs = rows(world.hosts[2].node.as_ref().unwrap());
        assert_eq!(
            (rows(node), theirs > 0),
            (theirs, true),
            "another's rows are there"
        );
    }
}

#[test]
fn what_a_later_version_adds_to_a_row_is_kept_and_the_row_is_used_as_before() {
    let (mut world, _) = talk(9);
    let pool: IpNet = "10.42.0.0/24".parse().unwrap();
    let seen = |world: &World| {
        let view = world.hosts[0].node.as_ref().unwrap().view();
        let of_pool = view.pools.into_iter().find(|view| view.pool == pool).unwrap();
        let host = view.hosts.into_iter().find(|view| view.host == host_id(1));
        let pieces = of_pool.pieces.get(&host_id(1)).cloned();
        let fill = of_pool.fills.get(&host_id(1)).map(|fill| fill.leased);
        (pieces.unwrap(), fill.unwrap(), host.unwrap().faults)
    };
    let before = seen(&world);
    assert_eq!((before.0.is_empty(), before.1, before.2), (false, 1, 0));
    let rows = |at: usize, world: &World| -> Vec<(Key, Vec<u8>)> {
        let node = world.hosts[at].node.as_ref().unwrap();
        let rows = node.table().rows_of(host_id(1));
        rows.map(|(key, body)| (key.clone(), body.to_vec())).collect()
    };
    let mut later = rows(0, &world);
    for (key, body) in &mut later {
        if let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_slice(body) {
            fields.insert("later".to_owned(), serde_json::json!({"more": [1, null]}));
            if key.as_str().starts_with("share/") {
                let revision = fields["revision"].as_u64().unwrap();
                fields["revision"] = (revision + 1).into();
            }
            if key.as_str().starts_with("fill/") {
                fields["leased"] = 7.into();
            }
            *body = serde_json::to_vec(&fields).unwrap();
        }
    }
    tell(&mut world, 1_000, later.clone());
    assert_eq!(seen(&world), (before.0, 7, 0));
    // Host 2 was told by host 0, to the byte what that one was told. Host 1 itself says it otherwise, and is off.
    world.crash(1);
    world.run(Duration::from_secs(10));
    assert_eq!(rows(2, &world), later);
}

#[test]
fn bytes_are_one_thing_or_none_and_what_was_read_is_written_so_again() {
    fn same<T>(bytes: &[u8]) -> bool
    where
        T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let Some(read) = decode::<T>(bytes) else {
            return false;
        };
        let again = encode(&read);
        assert_eq!(decode::<T>(&again), Some(read));
        let longer = [bytes, &[0]].concat();
        assert_eq!(decode::<T>(&longer), None, "nothing may follow");
        true
    }
    let (world, heard) = talk(1);
    let heard = of_all_sorts(&world, heard);
    let mut rng = StdRng::seed_from_u64(3);
    let mut read = [0_u64; 3];
    for _ in 0..cases(60_000) {
        match &heard[rng.random_range(0..heard.len())] {
            Heard::Datagram(bytes) => read[0] += u64::from(same::<Frame>(&mangle(&mut rng, bytes))),
            Heard::Question(bytes) => read[1] += u64::from(same::<Request>(&mangle(&mut rng, bytes))),
            Heard::Answer(bytes) => read[2] += u64::from(same::<Answer>(&mangle(&mut rng, bytes))),
        }
    }
    assert!(
        read.iter().all(|count| *count > 100),
        "some can be read still: {read:?}"
    );
}

#[test]
fn a_few_bytes_that_claim_to_be_many_are_none() {
    // The sort, and then a length beyond all memory wherever one could stand.
    for sort in 0..16_u8 {
        for before in 0..40 {
            let mut bytes = vec![0; before + 1];
            bytes[0] = sort;
            bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
            bytes.extend([0; 20]);
            decode::<Frame>(&bytes);
            decode::<Request>(&bytes);
            decode::<Answer>(&bytes);
        }
    }
}

#[test]
fn what_a_later_version_says_is_counted_or_handed_on_and_harms_nobody() {
    let mut world = World::new(3, 3, Alone::Lease);
    world.start(0);
    world.start(1);
    // A row of a sort that this version doesn't know, with a body that is no JSON.
    let row = ("later/thing".to_owned(), Some(b"\xff\x00 whatever".to_vec()));
    world.input(0, Input::Rows(vec![row]));
    world.run(Duration::from_secs(5));
    // Host 2 hears of it from host 1 only.
    world.crash(0);
    world.start(2);
    world.run(Duration::from_secs(20));
    let node = world.hosts[2].node.as_ref().unwrap();
    let body = node
        .table()
        .get(host_id(0), "later/thing")
        .map(|body| body.to_vec());
    assert_eq!(body.as_deref(), Some(&b"\xff\x00 whatever"[..]));

    // Sorts of frames, questions and answers beyond those that there are.
    for sort in [40_u8, 100, 127] {
        let bytes = vec![sort, 1, 2, 3];
        world.input(
            1,
            Input::Datagram {
                from: host_id(2),
                address: address(2),
                bytes: bytes.clone(),
            },
        );
        world.input(
            1,
            Input::Request {
                call: 2 << 40,
                from: host_id(2),
                bytes,
            },
        );
    }
    let node = world.hosts[1].node.as_ref().unwrap();
    let view = node.view();
    let told = view.hosts.iter().find(|host| host.host == host_id(2)).unwrap();
    assert_eq!(told.faults, 6);
    world.run(Duration::from_secs(5));
    let (a, b) = (
        world.hosts[1].node.as_ref().unwrap(),
        world.hosts[2].node.as_ref().unwrap(),
    );
    assert_eq!(a.table().digest(), b.table().digest());
}
