//! What can't be: refused with the field, what came and what is allowed, and nothing is changed.

use system_tests::lan::kernel_lacks;
use system_tests::{Site, say};

use crate::scene::{GATEWAYS, OTHERS, SUBNETS, hosts, look, make, must_clear_to, try_make};

/// Options of a network that can't be, and what the refusal must hold.
struct Refusal {
    kind: &'static str,
    options: &'static [&'static str],
    says: &'static [&'static str],
}

const fn refusal(
    kind: &'static str,
    options: &'static [&'static str],
    says: &'static [&'static str],
) -> Refusal {
    Refusal { kind, options, says }
}

const MACVLAN: &str = "macvlan";

/// Refused by any kernel.
const ALWAYS: [Refusal; 22] = [
    refusal(
        MACVLAN,
        &["parent=eth0", "macvlan_mode=bogus"],
        &["macvlan_mode", "bogus", "bridge", "private", "vepa", "passthru"],
    ),
    refusal(
        MACVLAN,
        &["parent=eth0", "macvlanmode=bridge"],
        &["unknown option macvlanmode", "did you mean macvlan_mode?"],
    ),
    refusal(
        MACVLAN,
        &["parent=eth0", "ipvlan_mode=l2"],
        &["unknown option ipvlan_mode"],
    ),
    refusal(MACVLAN, &["parent=nosuch0"], &["parent", "nosuch0"]),
    refusal(MACVLAN, &["parent=lo"], &["parent", "lo"]),
    refusal(
        MACVLAN,
        &["parent=eth0", "host_address=203.0.113.9"],
        &["host_address", "203.0.113.9", "subnet"],
    ),
    refusal(
        MACVLAN,
        &["parent=eth0", "host_address=bogus"],
        &["host_address", "bogus"],
    ),
    refusal(
        MACVLAN,
        &["parent=eth0", "host_address=198.51.100.9", "host_access=off"],
        &["host_access", "host_address"],
    ),
    refusal(MACVLAN, &["parent=et/h0"], &["parent", "et/h0"]),
    refusal(
        MACVLAN,
        &["parent=a-name-that-is-too-long"],
        &["parent", "a-name-that-is-too-long"],
    ),
    refusal(MACVLAN, &["parent=eth0.0"], &["parent", "eth0.0", "4094"]),
    refusal(MACVLAN, &["parent=eth0.4095"], &["parent", "eth0.4095", "4094"]),
    refusal(MACVLAN, &["parent=eth0.99999"], &["parent", "eth0.99999", "4094"]),
    refusal(MACVLAN, &["parent=eth0.x"], &["parent", "eth0.x"]),
    refusal(MACVLAN, &["parent=eth0.-1"], &["parent", "eth0.-1"]),
    refusal(MACVLAN, &["parent=nosuch0.30"], &["parent", "nosuch0"]),
    refusal(MACVLAN, &["parent=lo.30"], &["parent", "lo"]),
    refusal(
        MACVLAN,
        &["parent=eth0", "host_access=maybe"],
        &["host_access", "maybe", "on", "off"],
    ),
    refusal(
        MACVLAN,
        &["parent=eth0", "probe=maybe"],
        &["probe", "maybe", "on", "off"],
    ),
    refusal(
        MACVLAN,
        &["parent=eth0", "macvlan_mode=private", "host_access=on"],
        &["host_access", "private"],
    ),
    refusal(MACVLAN, &["parent=eth0", "mtu=9000"], &["mtu", "9000", "1500"]),
    refusal("bridge", &["parent=eth0"], &["unknown option parent"]),
];

/// Refused before the kernel is asked for a link of the kind.
const OF_IPVLAN: [Refusal; 6] = [
    refusal(
        "ipvlan",
        &["parent=eth0", "ipvlan_mode=l4"],
        &["ipvlan_mode", "l4", "l2", "l3", "l3s"],
    ),
    refusal(
        "ipvlan",
        &["parent=eth0", "ipvlan_flag=bogus"],
        &["ipvlan_flag", "bogus", "bridge", "private", "vepa"],
    ),
    refusal(
        "ipvlan",
        &["parent=eth0", "macvlan_mode=bridge"],
        &["unknown option macvlan_mode"],
    ),
    refusal("ipvlan", &["parent=lo"], &["parent", "lo"]),
    refusal("ipvlan", &["parent=nosuch0"], &["parent", "nosuch0"]),
    refusal(
        "ipvlan",
        &["parent=eth0", "ipvlan_mode=l3", "host_access=on"],
        &["host_access", "l3"],
    ),
];

/// Tries to make a network, which must be refused and leave the host as it was; what was otherwise.
fn wrong(site: &Site, refusal: &Refusal) -> Option<String> {
    let before = look(site);
    let options: Vec<&str> = refusal.options.iter().flat_map(|option| ["-o", option]).collect();
    let refused = try_make(site, "bad", refusal.kind, &[&OTHERS[..], &options].concat());
    say(&format!("{:?}: {}", refusal.options, refused.stderr));
    before.must_come_back(&site.host, Some(&site.tombolo));
    let left = site
        .engine
        .docker(&["network", "ls", "-q", "--filter", "type=custom"]);
    assert_eq!(left, "", "{:?}: the engine has a network", refusal.options);
    let told = refusal.says.iter().all(|text| refused.stderr.contains(text));
    (refused.ok || !told).then(|| {
        format!(
            "{} {:?}: not {:?} in '{}'",
            refusal.kind, refusal.options, refusal.says, refused.stderr
        )
    })
}

#[test]
fn every_option_that_cant_be_is_refused_by_its_name() {
    let sites = hosts(1);
    // What an option of ipvlan may be doesn't depend on the kernel either.
    let all = ALWAYS.iter().chain(&OF_IPVLAN);
    let wrong: Vec<String> = all.filter_map(|refusal| wrong(&sites[0], refusal)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_parent_bears_macvlan_or_ipvlan_and_not_both() {
    let sites = hosts(1);
    let before = look(&sites[0]);
    make(&sites[0], "lan", &[&SUBNETS[..], &GATEWAYS].concat());
    let other = try_make(
        &sites[0],
        "other",
        "ipvlan",
        &[&OTHERS[..], &["-o", "parent=eth0"]].concat(),
    );
    other.must_fail_with(&["parent", "eth0", "macvlan"]);
    if !kernel_lacks("ipvlan") {
        sites[0].engine.docker(&["network", "rm", "lan"]);
        try_make(
            &sites[0],
            "lan",
            "ipvlan",
            &[&OTHERS[..], &["-o", "parent=eth0"]].concat(),
        )
        .must();
        try_make(
            &sites[0],
            "other",
            "macvlan",
            &[&SUBNETS[..], &["-o", "parent=eth0"]].concat(),
        )
        .must_fail_with(&["parent", "eth0", "ipvlan"]);
    }
    must_clear_to(&sites[0], &before);
}
