//! The steps that a random sequence is made of.

use proptest::prelude::*;

/// Small pools, so that they run out; some overlap, some are ranges of one subnet.
pub const POOLS: &[&str] = &[
    "local/10.0.0.0/29",
    "local/10.0.0.0/28",
    "local/10.0.0.0/28/10.0.0.0/30",
    "local/10.0.0.0/28/10.0.0.4/30",
    "local/10.0.0.0/28/10.0.0.12/30",
    "local/10.0.0.16/30",
    "local/10.0.0.20/31",
    "local/10.0.0.22/32",
    "global/10.0.0.0/29",
    "local/fd00::/125",
    "local/fd00::/124/fd00::/126",
    "local/fd00::/124/fd00::8/126",
    "local/fd00::10/127",
    "local/fd00::12/128",
];

/// What there is to choose from: the same addresses, so that choices and named pools meet.
pub const ENTRIES: &[&str] = &["10.0.0.0/28:30", "10.0.0.16/29:31", "fd00::/123:126"];

#[derive(Debug, Clone)]
pub enum Step {
    /// Ask for one of [`POOLS`].
    Pool { which: usize, repeat: bool },
    /// Ask for a pool of our choice while the host uses one of its addresses.
    Choose { sized: Option<u8>, v6: bool, avoid: u8 },
    /// Give back the n-th pool there is.
    DropPool { which: usize },
    /// Ask the n-th pool for an address: the n-th of its subnet (and one beyond each end), or any.
    Lease {
        pool: usize,
        place: Option<usize>,
        usage: u8,
        repeat: bool,
    },
    /// Give back the n-th lease there is.
    Free { which: usize },
    /// Give back what may not be leased at all.
    FreeAnyhow { pool: usize, place: usize },
    /// Time goes by.
    Wait { seconds: u64 },
    /// The process ends and begins again.
    Restart,
}

pub fn step() -> impl Strategy<Value = Step> {
    let sized = prop_oneof![
        Just(None),
        (28_u8..=32).prop_map(Some),
        (122_u8..=128).prop_map(Some)
    ];
    prop_oneof![
        4 => (0..POOLS.len(), any::<bool>()).prop_map(|(which, repeat)| Step::Pool { which, repeat }),
        2 => (sized, any::<bool>(), 0_u8..32).prop_map(|(sized, v6, avoid)| Step::Choose { sized, v6, avoid }),
        1 => (0_usize..8).prop_map(|which| Step::DropPool { which }),
        10 => (0_usize..8, prop::option::weighted(0.4, 0_usize..18), 0_u8..6, any::<bool>())
            .prop_map(|(pool, place, usage, repeat)| Step::Lease { pool, place, usage, repeat }),
        8 => (0_usize..40).prop_map(|which| Step::Free { which }),
        1 => (0_usize..8, 0_usize..18).prop_map(|(pool, place)| Step::FreeAnyhow { pool, place }),
        3 => prop_oneof![0..5_u64, 60..200_u64].prop_map(|seconds| Step::Wait { seconds }),
        1 => Just(Step::Restart),
    ]
}

/// Two ranges of one small subnet, and whatever happens to their addresses.
pub fn under_pressure() -> impl Strategy<Value = Vec<Step>> {
    let of_addresses = step().prop_filter("of addresses", |step| {
        !matches!(
            step,
            Step::Pool { .. } | Step::Choose { .. } | Step::DropPool { .. }
        )
    });
    prop::collection::vec(of_addresses, 1..80).prop_map(|steps| {
        let two = [2, 4].map(|which| Step::Pool { which, repeat: false });
        two.into_iter().chain(steps).collect()
    })
}
