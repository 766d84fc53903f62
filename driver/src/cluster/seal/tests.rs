use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use tombolo_cluster::time::Tick;

use super::*;

const NOW: Tick = Tick(1000);

fn host(number: u8) -> HostId {
    HostId::from_bytes([number; 16])
}

fn secret(number: u32) -> Secret {
    Secret::new(number, [number as u8 + 1; 32])
}

fn from() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 7946))
}

fn members(count: u8) -> BTreeSet<HostId> {
    (1..=count).map(host).collect()
}

/// The sealer of host 1 in an epoch and instance.
fn sealer(epoch: u32, instance: u8) -> Sealer {
    Sealer::new(&secret(7), host(1), epoch, Instance([instance; 8])).unwrap()
}

/// The ear of host 2, which has heard nobody yet.
fn opener() -> Opener {
    Opener::new(host(2), &secret(7), &members(3), &BTreeMap::new())
}

/// What a datagram carries, by a copy.
fn open(opener: &mut Opener, datagram: &[u8]) -> Result<Vec<u8>, Why> {
    opener
        .open(NOW, from(), &mut datagram.to_vec())
        .map(|opened| opened.plain.to_vec())
}

fn to_me() -> To {
    To::Host(host(2))
}

#[test]
fn a_datagram_opens_at_its_recipient_and_says_who_sealed_it() {
    let (mut sealer, mut opener) = (sealer(4, 9), opener());
    for (to, first) in [(to_me(), true), (To::All, false)] {
        for plain in [b"".as_slice(), b"text", &[7; PLAIN_MAX]] {
            let mut datagram = sealer.seal(to, plain).unwrap();
            assert_eq!(datagram.len(), plain.len() + OVERHEAD);
            assert!(datagram.len() <= DATAGRAM_MAX);
            let opened = opener.open(NOW, from(), &mut datagram).unwrap();
            assert_eq!(opened.plain, plain);
            assert_eq!(
                (opened.sender, opened.epoch, opened.instance),
                (host(1), 4, Instance([9; 8]))
            );
            assert_eq!((opened.number, opened.to_all), (7, to == To::All));
            assert_eq!(opened.first, first && plain.is_empty());
        }
    }
    assert_eq!(
        opener.counts(),
        Counts {
            opened: 6,
            ..Counts::default()
        }
    );
}

#[test]
fn the_bytes_on_the_wire_are_as_they_were_when_first_written() {
    let wire = sealer(4, 9).seal(To::All, b"text").unwrap();
    let hex: String = wire.iter().map(|byte| format!("{byte:02x}")).collect();
    let head = "746201010000000701010101010101010101010101010101000000040909090909090909\
                0000000000000001";
    assert_eq!(hex[..88], *head);
    // Computed by another program, from the description alone.
    assert_eq!(hex[88..], *"cad9ca43b98cc37e27cb80ba1c07aa3f0ae4b7e7");
}

#[test]
fn what_is_sealed_shows_nothing_of_its_content() {
    let wire = sealer(4, 9).seal(to_me(), &[b'x'; 100]).unwrap();
    assert!(!wire.windows(3).any(|three| three == b"xxx"));
}

#[test]
fn a_datagram_for_one_host_opens_at_no_other() {
    let mut other = Opener::new(host(3), &secret(7), &members(3), &BTreeMap::new());
    let mut sealer = sealer(1, 1);
    let to_one = sealer.seal(to_me(), b"text").unwrap();
    let to_all = sealer.seal(To::All, b"text").unwrap();
    assert_eq!(open(&mut other, &to_one), Err(Why::Mac));
    assert_eq!(open(&mut other, &to_all), Ok(b"text".to_vec()));
    // One for all can't be made out of one for one, nor the other way round.
    for datagram in [to_one, to_all] {
        let mut turned = datagram.clone();
        turned[3] ^= 1;
        assert_eq!(open(&mut opener(), &turned), Err(Why::Mac));
    }
}

#[test]
fn every_changed_bit_and_every_cut_is_refused_and_changes_nothing() {
    let datagram = sealer(4, 9).seal(to_me(), b"some text").unwrap();
    let mut opener = opener();
    for bit in 0..datagram.len() * 8 {
        let mut changed = datagram.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&mut opener, &changed).is_err(), "bit {bit}");
    }
    for length in 0..datagram.len() {
        assert!(open(&mut opener, &datagram[..length]).is_err(), "{length} bytes");
    }
    assert!(open(&mut opener, &[datagram.as_slice(), &[0]].concat()).is_err());
    assert!(opener.last().is_empty());
    assert_eq!(opener.held(), (0, 0));
    assert_eq!(open(&mut opener, &datagram), Ok(b"some text".to_vec()));
}

#[test]
fn each_reason_is_counted_apart() {
    let (mut sealer, mut opener) = (sealer(4, 9), opener());
    let good = sealer.seal(to_me(), b"text").unwrap();
    let with = |at: usize, byte: u8| {
        let mut changed = good.clone();
        changed[at] = byte;
        changed
    };
    let cases = [
        (good[..59].to_vec(), Why::Short),
        (vec![b't'; DATAGRAM_MAX + 1], Why::Long),
        (with(0, b'x'), Why::Magic),
        (with(2, 2), Why::Version),
        (with(3, 2), Why::Version),
        (with(7, 6), Why::OldKey),
        (with(7, 8), Why::NewKey),
        (with(8, 9), Why::Sender),
        (with(50, good[50] ^ 1), Why::Mac),
    ];
    for (datagram, why) in cases {
        assert_eq!(open(&mut opener, &datagram), Err(why));
    }
    let counts = opener.counts();
    assert_eq!(
        (counts.short, counts.long, counts.magic, counts.version),
        (1, 1, 1, 2)
    );
    assert_eq!(
        (
            counts.old_key,
            counts.new_key,
            counts.sender,
            counts.mac,
            counts.opened
        ),
        (1, 1, 1, 1, 0)
    );
}

#[test]
fn a_stranger_and_this_host_itself_are_dropped_before_any_key_is_made() {
    let mut opener = opener();
    for number in [2, 4] {
        let mut stranger = Sealer::new(&secret(7), host(number), 1, Instance([1; 8])).unwrap();
        assert_eq!(
            open(&mut opener, &stranger.seal(To::All, b"").unwrap()),
            Err(Why::Sender)
        );
    }
}

#[test]
fn a_datagram_opens_once_in_any_order_within_reach() {
    let (mut sealer, mut opener) = (sealer(1, 1), opener());
    let all: Vec<_> = (0..REACH + 10)
        .map(|_| sealer.seal(to_me(), b"").unwrap())
        .collect();
    let (early, late) = all.split_at(10);
    for datagram in late.iter().rev() {
        assert_eq!(open(&mut opener, datagram), Ok(vec![]));
    }
    for datagram in early.iter().chain(late) {
        assert_eq!(open(&mut opener, datagram), Err(Why::Replay));
    }
}

#[test]
fn two_secrets_are_valid_until_the_others_time_is_over() {
    let (mut sealer, mut opener) = (sealer(1, 1), opener());
    let old: Vec<_> = (0..4).map(|_| sealer.seal(to_me(), b"old").unwrap()).collect();
    assert!(open(&mut opener, &old[0]).is_ok());
    // The next secret is known before it is in force.
    opener.set_secrets(&secret(7), Some((&secret(8), NOW + Duration::from_secs(60))));
    sealer.rotate(&secret(8)).unwrap();
    assert_eq!(sealer.number(), 8);
    let new: Vec<_> = (0..3).map(|_| sealer.seal(to_me(), b"new").unwrap()).collect();
    assert!(open(&mut opener, &new[0]).is_ok());
    assert!(open(&mut opener, &old[1]).is_ok());
    opener.set_secrets(&secret(8), Some((&secret(7), NOW)));
    assert!(open(&mut opener, &old[2]).is_ok());
    assert!(open(&mut opener, &new[1]).is_ok());
    assert_eq!(opener.held(), (2, 1));
    // One that was taken under the one isn't taken again under it after the change.
    assert_eq!(open(&mut opener, &old[1]), Err(Why::Replay));
    let mut late = old[3].clone();
    assert_eq!(opener.open(Tick(1001), from(), &mut late), Err(Why::OldKey));
    assert_eq!(opener.held(), (1, 1));
    assert!(open(&mut opener, &new[2]).is_ok());
}

#[test]
fn a_secret_of_the_same_number_and_other_bytes_opens_nothing() {
    let (mut sealer, mut opener) = (sealer(1, 1), opener());
    assert!(open(&mut opener, &sealer.seal(to_me(), b"").unwrap()).is_ok());
    opener.set_secrets(&Secret::new(7, [99; 32]), None);
    assert_eq!(
        open(&mut opener, &sealer.seal(to_me(), b"").unwrap()),
        Err(Why::Mac)
    );
}

#[test]
fn a_later_start_is_taken_and_the_one_before_it_is_told_if_it_still_speaks() {
    let (mut old, mut new, mut opener) = (sealer(4, 9), sealer(5, 8), opener());
    let [held_back, heard, next] = [0; 3].map(|_| old.seal(to_me(), b"old").unwrap());
    assert!(open(&mut opener, &heard).is_ok());
    assert_eq!(
        open(&mut opener, &new.seal(to_me(), b"new").unwrap()),
        Ok(b"new".to_vec())
    );
    // What is not beyond all heard could have been recorded before the change.
    assert_eq!(open(&mut opener, &held_back), Err(Why::Replay));
    assert_eq!(open(&mut opener, &heard), Err(Why::Replay));
    let alive = Why::StillAlive {
        sender: host(1),
        epoch: 4,
        counter: 3,
        from: from(),
    };
    assert_eq!(open(&mut opener, &next), Err(alive));
    assert_eq!(open(&mut opener, &next), Err(Why::Replay));
    let mut forged = old.seal(to_me(), b"").unwrap();
    forged[50] ^= 1;
    assert_eq!(open(&mut opener, &forged), Err(Why::Mac));
    // Runs of which nothing is known any more prove nothing.
    assert!(open(&mut opener, &sealer(6, 7).seal(to_me(), b"").unwrap()).is_ok());
    let old_epoch = Why::OldEpoch {
        sender: host(1),
        epoch: 4,
    };
    assert_eq!(
        open(&mut opener, &old.seal(to_me(), b"").unwrap()),
        Err(old_epoch)
    );
    assert_eq!(opener.held().1, 2);
    let counts = opener.counts();
    assert_eq!((counts.still_alive, counts.old_epoch, counts.replay), (1, 1, 3));
}

#[test]
fn another_instance_of_the_same_epoch_is_a_clone_and_only_if_its_seal_is_right() {
    let (mut first, mut twin, mut opener) = (sealer(4, 9), sealer(4, 8), opener());
    assert!(open(&mut opener, &first.seal(to_me(), b"").unwrap()).is_ok());
    let datagram = twin.seal(to_me(), b"").unwrap();
    assert_eq!(
        open(&mut opener, &datagram),
        Err(Why::Clone {
            sender: host(1),
            epoch: 4,
            from: from()
        })
    );
    let mut forged = datagram;
    forged[30] ^= 1;
    assert_eq!(open(&mut opener, &forged), Err(Why::Mac));
    assert!(open(&mut opener, &first.seal(to_me(), b"").unwrap()).is_ok());
    assert_eq!(opener.counts().clones, 1);
}

#[test]
fn a_restart_goes_on_with_what_was_kept_and_takes_nothing_that_came_before() {
    let mut sealer = sealer(4, 9);
    let mut heard = opener();
    let before: Vec<_> = (0..5).map(|_| sealer.seal(to_me(), b"").unwrap()).collect();
    for datagram in &before[..4] {
        assert!(open(&mut heard, datagram).is_ok());
    }
    let last = heard.last();
    let kept = Last {
        epoch: 4,
        instance: Instance([9; 8]),
        counter: 4,
    };
    assert_eq!(last, BTreeMap::from([(host(1), kept)]));
    let json = serde_json::to_string(&kept).unwrap();
    assert_eq!(serde_json::from_str::<Last>(&json).unwrap(), kept);

    let mut opener = Opener::new(host(2), &secret(7), &members(3), &last);
    for datagram in &before[..4] {
        assert_eq!(open(&mut opener, datagram), Err(Why::Replay));
    }
    assert!(open(&mut opener, &before[4]).is_ok());
    let old = super::tests::sealer(3, 1).seal(to_me(), b"").unwrap();
    assert_eq!(
        open(&mut opener, &old),
        Err(Why::OldEpoch {
            sender: host(1),
            epoch: 3
        })
    );
}

#[test]
fn who_is_no_member_any_more_is_forgotten_and_who_stays_is_not() {
    let (mut sealer, mut opener) = (sealer(4, 9), opener());
    let datagram = sealer.seal(to_me(), b"").unwrap();
    assert!(open(&mut opener, &datagram).is_ok());
    opener.set_members(&members(9));
    assert_eq!(open(&mut opener, &datagram), Err(Why::Replay));
    opener.set_members(&BTreeSet::from([host(2), host(3)]));
    assert_eq!(
        open(&mut opener, &sealer.seal(to_me(), b"").unwrap()),
        Err(Why::Sender)
    );
    assert_eq!(opener.held(), (0, 0));
}

#[test]
fn too_much_for_a_datagram_is_refused_and_leaves_the_buffer_empty() {
    let mut sealer = sealer(1, 1);
    let mut out = vec![1, 2, 3];
    let error = sealer
        .seal_into(To::All, &[0; PLAIN_MAX + 1], &mut out)
        .unwrap_err();
    assert_eq!(error, Error::Long { got: PLAIN_MAX + 1 });
    assert!(out.is_empty());
    assert_eq!(sealer.sealed(), 0);
    sealer.counter = u64::MAX - 1;
    assert!(sealer.seal(To::All, b"").is_ok());
    assert_eq!(sealer.seal(To::All, b""), Err(Error::Spent));
}

/// What may happen to three senders and their datagrams on the way.
#[derive(Debug, Clone)]
enum Act {
    Seal { sender: usize, to: u8 },
    Restart { sender: usize },
    Clone { sender: usize },
    Rotate { sender: usize },
    Deliver { which: usize },
    Damage { which: usize, at: usize, by: u8 },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0usize..3, 0u8..3).prop_map(|(sender, to)| Act::Seal { sender, to }),
        1 => (0usize..3).prop_map(|sender| Act::Restart { sender }),
        1 => (0usize..3).prop_map(|sender| Act::Clone { sender }),
        1 => (0usize..3).prop_map(|sender| Act::Rotate { sender }),
        8 => any::<usize>().prop_map(|which| Act::Deliver { which }),
        2 => (any::<usize>(), any::<usize>(), 1u8..).prop_map(|(which, at, by)| Act::Damage { which, at, by }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is lost, doubled, turned round, damaged, restarted, cloned or rotated: what opens is what was sealed, for
    /// this host, once, and of a run that isn't before the sender's present one.
    #[test]
    fn what_opens_was_sealed_for_this_host_and_opens_once(acts in prop::collection::vec(act(), 1..120)) {
        let make = |sender: usize, secret_number: u32, epoch: u32, instance: u8| {
            Sealer::new(&secret(secret_number), host(sender as u8 + 1), epoch, Instance([instance; 8])).unwrap()
        };
        let mut opener = Opener::new(host(9), &secret(7), &members(3), &BTreeMap::new());
        opener.set_secrets(&secret(7), Some((&secret(8), Tick(u64::MAX))));
        let mut sealers: Vec<Vec<(u32, u8, Sealer)>> = (0..3).map(|sender| vec![(1, 0, make(sender, 7, 1, 0))]).collect();
        let mut instances = 1u8;
        let (mut sent, mut taken, mut epochs) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        for (step, act) in acts.into_iter().enumerate() {
            match act {
                Act::Seal { sender, to } => {
                    let plain = step.to_be_bytes();
                    let to = [To::Host(host(9)), To::All, To::Host(host(8))][to as usize];
                    for (epoch, _, sealer) in &mut sealers[sender] {
                        sent.push((sealer.seal(to, &plain).unwrap(), plain, sender, *epoch, to));
                    }
                }
                Act::Restart { sender } => {
                    // Clones are started again apart, so their epochs can be the same.
                    let first = sealers[sender].remove(0);
                    instances = instances.wrapping_add(1);
                    sealers[sender].push((first.0 + 1, instances, make(sender, 7, first.0 + 1, instances)));
                }
                Act::Clone { sender } if sealers[sender].len() < 3 => {
                    let epoch = sealers[sender][0].0;
                    instances = instances.wrapping_add(1);
                    sealers[sender].push((epoch, instances, make(sender, 7, epoch, instances)));
                }
                Act::Clone { .. } => {}
                Act::Rotate { sender } => {
                    for (_, _, sealer) in &mut sealers[sender] {
                        sealer.rotate(&secret(8)).unwrap();
                    }
                }
                Act::Deliver { which } | Act::Damage { which, .. } if sent.is_empty() => { let _ = which; }
                Act::Deliver { which } => {
                    let which = which % sent.len();
                    let (datagram, plain, sender, epoch, to) = &sent[which];
                    let mut bytes = datagram.clone();
                    match opener.open(NOW, from(), &mut bytes) {
                        Ok(opened) => {
                            prop_assert_eq!(opened.plain, plain.as_slice());
                            prop_assert_eq!((opened.sender, opened.epoch), (host(*sender as u8 + 1), *epoch));
                            prop_assert!(*to != To::Host(host(8)));
                            prop_assert!(taken.insert(which), "opened twice");
                            let highest = epochs.entry(*sender).or_insert(0);
                            prop_assert!(*epoch >= *highest);
                            *highest = *epoch;
                        }
                        Err(Why::Clone { epoch, .. }) => prop_assert_eq!(Some(&epoch), epochs.get(sender)),
                        Err(Why::StillAlive { epoch, .. }) => prop_assert!(Some(&epoch) < epochs.get(sender)),
                        Err(Why::Replay | Why::OldEpoch { .. }) => prop_assert!(epochs.contains_key(sender)),
                        Err(Why::Mac) => prop_assert!(*to == To::Host(host(8))),
                        Err(why) => prop_assert!(false, "{why}"),
                    }
                }
                Act::Damage { which, at, by } => {
                    let mut bytes = sent[which % sent.len()].0.clone();
                    let at = at % bytes.len();
                    bytes[at] ^= by;
                    prop_assert!(opener.open(NOW, from(), &mut bytes).is_err());
                }
            }
            let (keys, runs) = opener.held();
            prop_assert!(keys <= 3 * 2 * 2 && runs <= 3 * 2);
        }
    }

    #[test]
    fn random_bytes_never_open(mut bytes in prop::collection::vec(any::<u8>(), 0..1400), headed: bool) {
        let mut opener = opener();
        if headed {
            let whole = sealer(1, 1).seal(to_me(), b"").unwrap();
            for (to, from) in bytes.iter_mut().zip(&whole[..HEADER]) { *to = *from; }
        }
        prop_assert!(opener.open(NOW, from(), &mut bytes).is_err());
        prop_assert_eq!(opener.held(), (0, 0));
    }

    #[test]
    fn every_header_reads_back(to_all: bool, number: u32, sender: [u8; 16], epoch: u32, instance: [u8; 8], counter: u64) {
        let sender = HostId::from_bytes(sender);
        let header = Header { to_all, number, sender, epoch, instance: Instance(instance), counter };
        let bytes = [header.bytes().as_slice(), &[0; TAG]].concat();
        prop_assert_eq!(Header::read(&bytes), Ok(header));
    }
}
