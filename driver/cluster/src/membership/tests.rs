use proptest::prelude::*;

use super::*;

fn host(n: u8) -> HostId {
    HostId::from_bytes([n; 16])
}

fn seat(n: u8) -> Seat {
    Seat::new(host(n), SocketAddr::from(([10, 0, 0, n], 7947)), 1)
}

/// Hosts on a wire without delay, from `from` to `until`; a datagram for which `lost` says so doesn't arrive.
fn run(
    hosts: &mut [Membership],
    from: Tick,
    until: Tick,
    mut lost: impl FnMut(Tick, HostId, HostId) -> bool,
) {
    let mut now = from;
    loop {
        for at in 0..hosts.len() {
            hosts[at].tick(now);
            let me = hosts[at].me().host;
            while let Some((to, message)) = hosts[at].next_send() {
                if lost(now, me, to.host) {
                    continue;
                }
                if let Some(to) = hosts.iter_mut().find(|h| h.me().host == to.host) {
                    to.hear(now, &message);
                }
            }
        }
        if now >= until {
            return;
        }
        now = now + Duration::from_millis(10);
    }
}

fn alive(host: &Membership) -> Vec<u8> {
    let mut alive: Vec<u8> = host.alive().map(|seat| seat.host.bytes()[0]).collect();
    alive.sort_unstable();
    alive
}

#[test]
fn hosts_find_each_other_though_the_first_announcements_are_lost() {
    let mut hosts: Vec<Membership> = (1..=3).map(|n| Membership::new(seat(n), u64::from(n))).collect();
    hosts[1].seed(Tick(0), vec![seat(1)]);
    hosts[2].seed(Tick(0), vec![seat(1)]);
    run(&mut hosts, Tick(0), Tick(2_500), |_, _, _| true);
    assert!(alive(&hosts[0]).is_empty());
    run(&mut hosts, Tick(2_510), Tick(5_000), |_, _, _| false);
    assert_eq!(alive(&hosts[0]), [2, 3]);
    assert_eq!(alive(&hosts[2]), [1, 2]);
}

#[test]
fn a_host_that_was_cut_off_is_back_by_itself_soon_after_the_cut_is_mended() {
    let mut hosts: Vec<Membership> = (1..=3).map(|n| Membership::new(seat(n), u64::from(n))).collect();
    for host in &mut hosts[1..] {
        host.seed(Tick(0), vec![seat(1)]);
    }
    run(&mut hosts, Tick(0), Tick(5_000), |_, _, _| false);
    let cut = |_, a: HostId, b: HostId| a == host(3) || b == host(3);
    run(&mut hosts, Tick(5_010), Tick(60_000), cut);
    assert_eq!(alive(&hosts[0]), [2]);
    assert!(alive(&hosts[2]).is_empty());
    run(&mut hosts, Tick(60_010), Tick(70_000), |_, _, _| false);
    assert_eq!(alive(&hosts[0]), [2, 3]);
    assert_eq!(alive(&hosts[2]), [1, 2]);
}

#[test]
fn two_groups_that_began_apart_find_each_other_when_the_cut_is_mended() {
    let mut hosts: Vec<Membership> = (1..=4).map(|n| Membership::new(seat(n), u64::from(n))).collect();
    for host in &mut hosts {
        host.seed(Tick(0), (1..=4).map(seat).collect());
    }
    let side = |of: HostId| of == host(1) || of == host(2);
    run(&mut hosts, Tick(0), Tick(30_000), |_, a, b| side(a) != side(b));
    assert_eq!((alive(&hosts[0]), alive(&hosts[3])), (vec![2], vec![3]));
    run(&mut hosts, Tick(30_010), Tick(45_000), |_, _, _| false);
    assert_eq!(alive(&hosts[0]), [2, 3, 4]);
    assert_eq!(alive(&hosts[3]), [1, 2, 3]);
}

#[test]
fn a_host_with_a_new_address_is_the_same_host() {
    let mut hosts: Vec<Membership> = (1..=2).map(|n| Membership::new(seat(n), u64::from(n))).collect();
    hosts[1].seed(Tick(0), vec![seat(1)]);
    run(&mut hosts, Tick(0), Tick(3_000), |_, _, _| false);
    let moved = SocketAddr::from(([10, 0, 9, 9], 7947));
    hosts[1].move_to(Tick(3_010), moved);
    run(&mut hosts, Tick(3_010), Tick(6_000), |_, _, _| false);
    assert_eq!(hosts[0].seat(&host(2)).map(|seat| seat.address), Some(moved));
    assert_eq!(hosts[0].alive_count(), 1);
}

#[test]
fn more_changes_than_may_wait_are_left_to_the_anti_entropy() {
    let mut lone = Membership::new(seat(1), 1);
    let rides = (0..1_000_u32)
        .filter(|n| lone.spread(Tick(0), n.to_be_bytes().to_vec(), b"change"))
        .count();
    assert_eq!(
        (rides, lone.left_over, lone.waiting()),
        (RIDERS, 1_000 - RIDERS as u64, RIDERS)
    );
    assert!(!lone.spread(Tick(0), vec![1], &[0; RIDER + 1]));
}

/// What three hosts say to each other in some seconds, with changes that ride on it.
fn talk() -> Vec<Vec<u8>> {
    let mut hosts: Vec<Membership> = (1..=3).map(|n| Membership::new(seat(n), u64::from(n))).collect();
    hosts[1].seed(Tick(0), vec![seat(1)]);
    hosts[2].seed(Tick(0), vec![seat(1)]);
    let mut said = Vec::new();
    for now in (0..6_000).step_by(10).map(Tick) {
        if now.0 % 500 == 0 {
            hosts[0].spread(now, vec![1], &[7; 40]);
        }
        for at in 0..hosts.len() {
            hosts[at].tick(now);
            while let Some((to, message)) = hosts[at].next_send() {
                if let Some(to) = hosts.iter_mut().find(|host| host.me().host == to.host) {
                    to.hear(now, &message);
                }
                said.push(message);
            }
        }
    }
    said
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_is_heard_no_host_says_much_of_it_or_wakes_without_end(
        which in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
        spoils in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..24),
        random in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let said = SAID.get_or_init(talk);
        let mut host = Membership::new(seat(1), 1);
        let mut now = Tick(10);
        let mut spoils = spoils.iter().cycle();
        for which in which {
            let mut message = said[which.index(said.len())].clone();
            for (at, by, how) in spoils.by_ref().take(2) {
                let place = at.index(message.len().max(1));
                match how {
                    0 => message.truncate(place),
                    1 => message.insert(place.min(message.len()), *by),
                    _ => message.iter_mut().skip(place).take(1).for_each(|byte| *byte = *by),
                }
            }
            for message in [message, random.clone()] {
                let riders = host.hear(now, &message);
                prop_assert!(riders.iter().map(Vec::len).sum::<usize>() <= message.len());
            }
            now = now + Duration::from_millis(70);
            host.tick(now);
            prop_assert!(host.due().is_none_or(|due| due > now));
            let mut sends = 0;
            while let Some((_, message)) = host.next_send() {
                prop_assert!(message.len() <= PACKET);
                sends += 1;
            }
            prop_assert!(sends <= 40, "{}", sends);
            prop_assert_eq!(host.me().host, seat(1).host);
        }
    }
}

static SAID: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();

#[test]
fn a_host_whose_end_and_new_life_are_heard_together_has_not_been_away() {
    let mut one = Membership::new(seat(1), 1);
    one.take_in(Tick(0), vec![Member::alive(seat(2))]);
    assert_eq!(one.next_event(), Some(Event::Up(seat(2))));
    let anew = seat(2).renew().unwrap();
    one.take_in(Tick(1), vec![Member::down(seat(2)), Member::alive(anew.clone())]);
    let events: Vec<Event> = std::iter::from_fn(|| one.next_event()).collect();
    assert_eq!(events, [Event::Moved(anew)]);
    assert_eq!(alive(&one), [2]);
    // Its end alone is one.
    let seat = one.seat(&host(2)).unwrap().clone();
    one.take_in(Tick(2), vec![Member::down(seat.clone())]);
    assert_eq!(one.next_event(), Some(Event::Down(seat)));
    assert_eq!(alive(&one), [0; 0]);
}
