//! Tunnels, tried now and then without being asked: what doctor would say of them is told in the log and as events, and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tombolo_cluster::HostId;

use super::ask::{Asker, Tried};
use super::schedule::{Change, Outcome, Schedule};
use crate::cluster::draw;
use crate::cluster::handle::Cluster;
use crate::engine::events::{Events, Place, What};
use crate::engine::tunnels::Tunnel;

/// How often it is looked which hosts there are to try.
const LOOK: Duration = Duration::from_secs(5);

/// Watches the tunnels of this host's networks for as long as it runs.
pub async fn watch(cluster: Cluster, events: Events) {
    let mut schedule = Schedule::default();
    let mut names = BTreeMap::new();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        match cluster.shown().member {
            true => turn(&cluster, &mut schedule, &mut names, &events).await,
            false => forget(&mut schedule, &mut names, &BTreeMap::new(), &events),
        }
        cluster.note_troubles(schedule.troubles());
    }
}

/// The names that tunnels in trouble were told under.
type Names = BTreeMap<HostId, String>;

/// Forgets the hosts that no tunnel leads to any more; whoever was told that one is in trouble hears that this is over.
fn forget(
    schedule: &mut Schedule,
    names: &mut Names,
    hosts: &BTreeMap<HostId, BTreeSet<u32>>,
    events: &Events,
) {
    for (host, change) in schedule.keep(hosts) {
        if let Some(name) = names.remove(&host) {
            tell(events, host, &name, change);
        }
    }
}

async fn turn(cluster: &Cluster, schedule: &mut Schedule, names: &mut Names, events: &Events) {
    // A part that has just ended, or begins, has nobody to ask; it is looked again.
    let Ok(mut asker) = cluster.asker().await else {
        return;
    };
    let (Ok(tunnels), Ok(random)) = (super::tunnels(&asker.engine).await, draw()) else {
        return;
    };
    let hosts = ends(&asker, &tunnels);
    forget(schedule, names, &hosts, events);
    let random = u64::from_be_bytes(random);
    let due = schedule.due(Instant::now(), &hosts, random);
    if due.is_empty() {
        return;
    }
    asker.others.retain(|other| due.contains(&other.host));
    let tried = asker.each(tunnels).await;
    for host in due {
        let of_host = tried.iter().filter(|tried| tried.host() == host);
        let name = of_host.clone().next().map(|tried| tried.name().to_owned());
        let change = schedule.note(Instant::now(), host, outcome(of_host), random);
        if let Some((name, change)) = name.zip(change) {
            names.insert(host, name.clone());
            tell(events, host, &name, change);
        }
    }
}

/// The hosts that are up and that tunnels lead to, with the VNIs of these.
fn ends(asker: &Asker, tunnels: &[Tunnel]) -> BTreeMap<HostId, BTreeSet<u32>> {
    let up: BTreeSet<HostId> = asker.others.iter().map(|other| other.host).collect();
    let mut hosts: BTreeMap<HostId, BTreeSet<u32>> = BTreeMap::new();
    for tunnel in tunnels {
        for host in tunnel.ends.keys().filter(|host| up.contains(host)) {
            hosts.entry(*host).or_default().insert(tunnel.vni);
        }
    }
    hosts
}

fn outcome<'a>(tried: impl Iterator<Item = &'a Tried> + Clone) -> Outcome {
    let trouble = tried.clone().find_map(Tried::trouble);
    match trouble {
        Some(text) => Outcome::Trouble(text),
        None if tried.clone().count() > 0 && tried.clone().all(Tried::fine) => Outcome::Well,
        None => Outcome::Untried,
    }
}

fn tell(events: &Events, host: HostId, name: &str, change: Change) {
    let (action, problem) = match change {
        Change::Appeared(text) => ("appeared", text),
        Change::Changed(text) => ("changed", text),
        Change::Solved(text) => ("solved", text),
        Change::Gone(text) => ("gone", text),
    };
    match action {
        "gone" => tracing::info!(%host, name, problem, "the tunnel is used no more"),
        "solved" => tracing::info!(%host, name, problem, "the tunnel passes everything again"),
        _ => tracing::warn!(%host, name, problem, "a tunnel is in trouble; see 'tombolo doctor'"),
    }
    events.tell(&What::Problem {
        action: if action == "gone" { "solved" } else { action },
        about: format!("tunnel to host {name}"),
        problem,
        place: Place::default(),
    });
}
