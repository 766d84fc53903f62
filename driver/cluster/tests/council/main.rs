//! The council, from outside: what it says word by word, and whether hosts agree whatever happens to their words.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod behind;
mod bytes;
mod episodes;
mod forgetting;
mod oracle;
mod seat;
mod sim;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use tombolo_cluster::HostId;
use tombolo_cluster::charter::{Charter, Decree, Definition};

/// A host by a small number; lower numbers sort lower.
fn host(n: usize) -> HostId {
    HostId::from_bytes([n as u8 + 1; 16])
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn join(n: usize) -> Decree {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&(n as u64 + 1).to_be_bytes());
    Decree::Join {
        host: host(n),
        name: format!("h{n}"),
        key,
    }
}

fn found(pool: IpNet, founder: usize, kind: String) -> Decree {
    let aux = BTreeSet::new();
    let definition = Definition {
        net: None,
        kind,
        gateway: None,
        aux,
        vni: None,
        mtu: None,
    };
    Decree::Found {
        pool,
        founder: host(founder),
        definition,
    }
}

fn forget(lost: &[HostId], heir: HostId) -> Decree {
    Decree::Forget {
        hosts: lost.to_vec(),
        heir,
        shares: BTreeMap::new(),
    }
}

/// The charter of a cluster of the hosts 0 to n - 1.
fn charter(n: usize) -> Charter {
    let Decree::Join { host, name, key } = join(0) else {
        unreachable!()
    };
    let mut charter = Charter::founded([7; 16], host, name, key, [0; 32]);
    (1..n).for_each(|n| charter.apply(&join(n)).unwrap());
    charter
}

/// A pool is founded.
fn pool(founder: usize) -> Decree {
    found(net("10.0.0.0/16"), founder, "overlay".into())
}
