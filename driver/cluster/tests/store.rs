//! What comes of questions to a store that decides, by what it has.

use std::collections::BTreeMap;

use ipnet::IpNet;
use tombolo_cluster::charter::{Charter, Decree, Definition};
use tombolo_cluster::store::{Ask, Claim, Found, Known, Reads, Refused, Verdict, What, Whose};
use tombolo_ipam::HostId;
use tombolo_ipam::share::{Gift, Piece, Share};

fn host(n: u8) -> HostId {
    HostId::from_bytes([n; 16])
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn pool() -> IpNet {
    net("10.42.0.0/24")
}

fn join(n: u8) -> Decree {
    Decree::Join {
        host: host(n),
        name: format!("h{n}"),
        key: [n; 32],
    }
}

fn found(pool: IpNet, founder: u8) -> Decree {
    Decree::Found {
        pool,
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

/// Three hosts and a pool, which the first one founded by decree 3.
fn charter() -> Charter {
    let mut charter = Charter::founded([7; 16], host(1), "h1".to_owned(), [1; 32], [0; 32]).with_store();
    for decree in [join(2), join(3), found(pool(), 1)] {
        charter.apply(&decree).expect("a decree that makes sense");
    }
    charter
}

/// A share of the pool, as its host had it after decree 3.
fn share(revision: u64, pieces: &[(&str, u64, bool)], gifts: &[(&str, u64, u8)]) -> Share {
    let piece = |(text, seq, settled): &(&str, u64, bool)| {
        let (seq, settled) = (*seq, *settled);
        (net(text), Piece { seq, settled })
    };
    let gift = |(text, seq, to): &(&str, u64, u8)| {
        let (seq, to) = (*seq, host(*to));
        (net(text), Gift { seq, to })
    };
    Share {
        pieces: pieces.iter().map(piece).collect(),
        gifts: gifts.iter().map(gift).collect(),
        applied: 3,
        revision,
    }
}

const UPPER: &str = "10.42.0.128/25";

/// The first host has given the upper half to the second one, which claims it.
fn claim() -> Claim {
    Claim {
        pool: pool(),
        net: net(UPPER),
        seq: 2,
        giver: host(1),
        gave: share(2, &[("10.42.0.0/25", 1, true)], &[(UPPER, 2, 2)]),
        claimer: host(2),
        mine: share(2, &[(UPPER, 2, false)], &[]),
    }
}

type Shares = BTreeMap<Whose, Share>;

fn shares(of: &[(u8, Share)]) -> Shares {
    of.iter()
        .map(|(n, share)| ((pool(), host(*n)), share.clone()))
        .collect()
}

fn judge(ask: &Ask, charter: &Charter, shares: Shares) -> Result<Verdict, Refused> {
    let charter = charter.clone();
    ask.judge(
        Known::of(&charter),
        Found {
            charter,
            shares,
            life: 0,
        },
    )
}

fn witness(claim: Claim, charter: &Charter, shares: Shares) -> Verdict {
    judge(&Ask::Witness(Box::new(claim)), charter, shares).expect("a store that fits")
}

fn decide(
    decree: Decree,
    mine: &[(u8, Share)],
    charter: &Charter,
    shares: Shares,
) -> Result<Verdict, Refused> {
    let mine = mine.iter().map(|(_, share)| (pool(), share.clone())).collect();
    judge(&Ask::Decide { decree, mine }, charter, shares)
}

fn forget(lost: u8, heir: u8) -> Decree {
    Decree::Forget {
        hosts: vec![host(lost)],
        heir: host(heir),
        shares: BTreeMap::new(),
    }
}

#[test]
fn a_claim_is_kept_with_the_gift_if_neither_share_has_changed() {
    let claim = claim();
    let verdict = witness(claim.clone(), &charter(), Shares::new());
    assert_eq!(verdict.answer.what, What::Kept);
    let writes = verdict.writes.unwrap();
    let both = [(pool(), host(1)), (pool(), host(2))];
    assert_eq!(writes.unless, both);
    let settled = share(2, &[(UPPER, 2, true)], &[]);
    assert_eq!(
        writes.shares,
        [
            (both[0], Some(claim.gave.clone())),
            (both[1], Some(settled.clone()))
        ]
    );
    assert_eq!((writes.charter, writes.dissolved), (None, None));
    // Asked again, nothing is left to write.
    let again = witness(
        claim.clone(),
        &charter(),
        shares(&[(1, claim.gave.clone()), (2, settled)]),
    );
    assert_eq!((again.answer.what, again.writes), (What::Kept, None));
    let reads = Ask::Witness(Box::new(claim.clone())).reads();
    assert_eq!(reads, Reads::Pool(both[0].0));
    // Nor is anything written for a claim on what was passed on since: the giver may not have dropped its gift yet.
    let passed = shares(&[(1, claim.gave.clone()), (3, share(2, &[(UPPER, 3, true)], &[]))]);
    let void = witness(claim, &charter(), passed);
    assert!(matches!(void.answer.what, What::Stale(_)));
    assert_eq!(void.writes, None);
}

#[test]
fn a_later_share_of_the_giver_stands_if_it_has_the_gift_and_is_told_if_it_has_not() {
    let with = share(9, &[], &[(UPPER, 2, 2), ("10.42.0.0/25", 2, 3)]);
    let verdict = witness(claim(), &charter(), shares(&[(1, with)]));
    assert_eq!(verdict.answer.what, What::Kept);
    assert_eq!(
        verdict.writes.unwrap().shares.len(),
        1,
        "only the claimer's is written"
    );
    for without in [
        share(9, &[("10.42.0.0/24", 3, true)], &[]),
        share(9, &[], &[(UPPER, 2, 3)]),
        share(9, &[], &[(UPPER, 4, 2)]),
    ] {
        let there = shares(&[(1, without)]);
        let verdict = witness(claim(), &charter(), there.clone());
        assert_eq!((verdict.answer.what, verdict.writes), (What::Stale(there), None));
    }
}

#[test]
fn a_claim_of_one_whose_share_was_later_is_not_kept() {
    let there = shares(&[(2, share(3, &[], &[]))]);
    let verdict = witness(claim(), &charter(), there.clone());
    assert_eq!((verdict.answer.what, verdict.writes), (What::Stale(there), None));
}

#[test]
fn a_claim_is_not_kept_once_the_giver_or_the_claimer_is_no_member_or_the_pool_another_one() {
    for lost in [1, 2] {
        let decided = decide(forget(lost, 3), &[], &charter(), Shares::new()).unwrap();
        let verdict = witness(claim(), &decided.answer.charter, Shares::new());
        assert!(matches!(verdict.answer.what, What::Stale(_)), "{lost}");
        assert_eq!(verdict.writes, None);
    }
    let mut anew = charter();
    anew.apply(&Decree::Dissolve {
        pool: pool(),
        by: host(1),
    })
    .unwrap();
    anew.apply(&found(pool(), 3)).unwrap();
    let verdict = witness(claim(), &anew, Shares::new());
    assert!(matches!(verdict.answer.what, What::Stale(_)));
    // And what was kept of the pool before counts for nothing.
    let old = Ask::Read;
    let read = judge(&old, &anew, shares(&[(1, claim().gave)])).unwrap();
    assert_eq!(read.answer.what, What::Read(Shares::new()));
}

#[test]
fn who_forgets_the_giver_before_the_claim_is_kept_gets_the_piece_and_after_it_only_the_gift() {
    let before = decide(forget(1, 3), &[], &charter(), Shares::new()).unwrap();
    let granted = |verdict: &Verdict| {
        let grants = &verdict.answer.charter.grants;
        let of_heir: Vec<_> = grants.iter().filter(|grant| grant.to == host(3)).collect();
        assert_eq!(of_heir.len(), 1, "{grants:?}");
        (of_heir[0].pieces.clone(), of_heir[0].gifts.clone())
    };
    assert_eq!(granted(&before), (vec![(pool(), 3)], vec![]));
    let writes = before.writes.unwrap();
    assert_eq!(
        writes.unless,
        [(pool(), host(1))],
        "the share that must not come meanwhile"
    );
    assert_eq!(writes.charter.as_ref(), Some(&before.answer.charter));

    let there = shares(&[(1, claim().gave), (2, share(2, &[(UPPER, 2, true)], &[]))]);
    let after = decide(forget(1, 3), &[], &charter(), there.clone()).unwrap();
    assert_eq!(
        granted(&after),
        (vec![(net("10.42.0.0/25"), 3)], vec![(net(UPPER), 2, host(2))])
    );
    assert_eq!(after.writes.unwrap().shares, [((pool(), host(1)), None)]);
    // Of the claimer the claim is inherited.
    let claimer = decide(forget(2, 3), &[], &charter(), there).unwrap();
    assert_eq!(granted(&claimer), (vec![(net(UPPER), 4)], vec![]));
}

#[test]
fn what_holds_already_is_not_decided_again_and_what_makes_no_sense_is_told() {
    let again = decide(join(2), &[], &charter(), Shares::new()).unwrap();
    assert_eq!((again.answer.what, again.writes), (What::Decided(None), None));
    let void = decide(found(net("10.42.0.0/16"), 2), &[], &charter(), Shares::new()).unwrap();
    assert!(matches!(&void.answer.what, What::Decided(Some(why)) if why.to_string().contains("overlaps")));
    assert_eq!((void.answer.charter, void.writes), (charter(), None));
}

#[test]
fn one_leaves_only_knowing_of_all_it_has() {
    let leave = |host| Decree::Leave { host };
    let due = decide(leave(host(1)), &[], &charter(), Shares::new());
    assert_eq!(due, Err(Refused::Due(pool())));
    let there = shares(&[(2, claim().mine)]);
    let unknown = decide(
        leave(host(2)),
        &[(2, share(1, &[], &[]))],
        &charter(),
        there.clone(),
    );
    assert_eq!(unknown, Err(Refused::Later(pool())));
    let left = decide(leave(host(2)), &[(2, share(5, &[], &[]))], &charter(), there).unwrap();
    assert_eq!(left.answer.what, What::Decided(None));
    let writes = left.writes.unwrap();
    assert_eq!(writes.shares, [((pool(), host(2)), None)]);
    assert_eq!(writes.unless, [(pool(), host(2))]);
}

#[test]
fn a_pool_ends_only_if_nobody_else_has_any_of_it() {
    let end = Decree::Dissolve {
        pool: pool(),
        by: host(1),
    };
    let whole = |seq| share(9, &[("10.42.0.0/24", seq, true)], &[]);
    let there = shares(&[(2, share(4, &[(UPPER, 2, true)], &[]))]);
    let early = decide(end.clone(), &[(1, whole(1))], &charter(), there.clone());
    assert_eq!(early, Err(Refused::Later(pool())));
    let ended = decide(end, &[(1, whole(3))], &charter(), there).unwrap();
    let writes = ended.writes.unwrap();
    assert_eq!(writes.dissolved, Some(pool()));
    assert_eq!(writes.unless.len(), 3, "nobody may get any of it meanwhile");
}

#[test]
fn who_begins_anew_is_confirmed_in_another_life_or_told_what_is_later() {
    let own = share(5, &[("10.42.0.0/24", 1, true)], &[]);
    let ask = |own: Option<&Share>| Ask::Confirm {
        me: host(1),
        mine: BTreeMap::from([(pool(), own.cloned())]),
    };
    let confirm = |own: Option<&Share>, there: Shares, life| {
        let found = Found {
            charter: charter(),
            shares: there,
            life,
        };
        ask(own).judge(Known::of(&charter()), found).unwrap()
    };
    assert_eq!(ask(None).life_of(), Some(host(1)));
    let confirmed = confirm(Some(&own), shares(&[(1, own.clone())]), 6);
    let What::Confirmed(7, risen) = &confirmed.answer.what else {
        panic!("{:?}", confirmed.answer.what);
    };
    let kept = &risen[&(pool(), host(1))];
    assert_eq!((&kept.pieces, kept.revision), (&own.pieces, 7 << 32));
    let writes = confirmed.writes.unwrap();
    assert_eq!((writes.life, writes.unless), (Some(7), vec![(pool(), host(1))]));
    // Its shares are never of a later life than it.
    let What::Confirmed(life, _) = confirm(Some(kept), Shares::new(), 0).answer.what else {
        panic!("not confirmed");
    };
    assert_eq!(life, 8);

    let later = shares(&[(1, share(6, &[], &[(UPPER, 2, 2)]))]);
    for known in [Some(&own), None] {
        let told = confirm(known, later.clone(), 6);
        assert_eq!(
            (told.answer.what, told.writes),
            (What::Stale(later.clone()), None)
        );
    }
    let none = confirm(None, Shares::new(), 0);
    assert_eq!(none.answer.what, What::Confirmed(1, Shares::new()));
}

#[test]
fn a_claim_that_was_kept_is_settled_for_who_begins_anew_without_having_heard_of_it() {
    let Claim { gave, mine, .. } = claim();
    let verdict = witness(claim(), &charter(), Shares::new());
    let there: Shares = verdict
        .writes
        .unwrap()
        .shares
        .into_iter()
        .map(|(whose, share)| (whose, share.unwrap()))
        .collect();
    assert_eq!(there[&(pool(), host(1))], gave);
    let settled = share(2, &[(UPPER, 2, true)], &[]);
    assert_eq!(there[&(pool(), host(2))], settled);
    let confirm = Ask::Confirm {
        me: host(2),
        mine: BTreeMap::from([(pool(), Some(mine))]),
    };
    let What::Confirmed(1, risen) = judge(&confirm, &charter(), there).unwrap().answer.what else {
        panic!("not confirmed");
    };
    assert_eq!(risen[&(pool(), host(2))].pieces, settled.pieces);
}

#[test]
fn a_gift_of_a_life_that_the_giver_may_have_forgotten_is_void_unless_the_store_has_it() {
    let found = |there: Shares| Found {
        charter: charter(),
        shares: there,
        life: 1,
    };
    let ask = Ask::Witness(Box::new(claim()));
    let known = Known::of(&charter());
    let void = ask.judge(known, found(Shares::new())).unwrap();
    assert_eq!(
        (void.answer.what, void.writes),
        (What::Stale(Shares::new()), None)
    );
    let there = shares(&[(1, claim().gave)]);
    let kept = ask.judge(known, found(there)).unwrap();
    assert_eq!(kept.answer.what, What::Kept);
    // The same gift, told in this life.
    let mut told = claim();
    told.gave.revision = (1 << 32) + 4;
    let ask = Ask::Witness(Box::new(told));
    assert_eq!(
        ask.judge(known, found(Shares::new())).unwrap().answer.what,
        What::Kept
    );
}

#[test]
fn claims_that_are_not_good_yet_are_left_out_of_the_store_and_those_that_are_stay_settled() {
    let other = "10.42.0.64/26";
    let mut two = claim();
    two.mine = share(4, &[(UPPER, 2, false), (other, 2, false)], &[]);
    let first = witness(two.clone(), &charter(), Shares::new()).writes.unwrap();
    let there = first.shares[1].1.clone().unwrap();
    assert_eq!(there, share(4, &[(UPPER, 2, true)], &[]));
    // The other claim, with the first one's answer still on its way.
    two.net = net(other);
    two.gave = share(3, &[("10.42.0.0/26", 1, true)], &[(UPPER, 2, 2), (other, 2, 2)]);
    let second = witness(two, &charter(), shares(&[(2, there)])).writes.unwrap();
    let both = share(4, &[(UPPER, 2, true), (other, 2, true)], &[]);
    assert_eq!(second.shares[1].1.as_ref(), Some(&both));
}

#[test]
fn a_store_that_was_set_back_or_is_another_one_decides_nothing() {
    let known = charter();
    let mut behind = Charter::founded([7; 16], host(1), "h1".to_owned(), [1; 32], [0; 32]).with_store();
    let mut other = charter();
    other.secret.check = [9; 32];
    for (charter, why) in [
        (&behind, Refused::SetBack { there: 0, known: 3 }),
        (&other, Refused::Torn(3)),
    ] {
        let found = Found {
            charter: charter.clone(),
            shares: Shares::new(),
            life: 0,
        };
        for ask in [Ask::Look, Ask::Read, Ask::Witness(Box::new(claim()))] {
            assert_eq!(ask.judge(Known::of(&known), found.clone()), Err(why.clone()));
        }
    }
    for decree in [join(2), join(3), found(pool(), 1), join(4)] {
        behind.apply(&decree).unwrap();
    }
    let ahead = Found {
        charter: behind,
        shares: Shares::new(),
        life: 0,
    };
    let told = Ask::Look.judge(Known::of(&known), ahead).unwrap();
    assert_eq!(told.answer.charter.index, 4);
}
