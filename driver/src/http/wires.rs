//! What is asked of a wire before Docker is answered: whether somebody there has an address, or the wire's own DHCP server for one.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use tokio::sync::oneshot;
use tombolo_core::model::{IfName, Network, Subnet};
use tombolo_core::state::{Command, Reply};
use tombolo_ipam::{PoolId, Space, Use};

use super::{Failed, LAST_TRY, Plugin, ask_engine, failed, request_address};
use crate::engine::events::What;
use crate::engine::{Ask, Error};
use crate::kernel::routes;
use crate::metrics::Outcome;
use crate::segment::{Holder, Segments, Verdict};

/// How many addresses that strangers have are passed over for one request at most.
const CONFLICTS: usize = 64;

/// How many addresses that a DHCP server gives and others have are given back to it for one request at most.
const DECLINED: usize = 3;

/// Asks for an address that nobody has on the wire where it is to be.
pub(super) async fn request_unheld(
    plugin: &Plugin,
    command: Command,
    deadline: Instant,
) -> Result<Reply, Failed> {
    let (pool, named) = match &command {
        Command::RequestAddress {
            pool,
            address,
            usage: Use::Endpoint { .. },
            ..
        } => (*pool, *address),
        _ => return request_address(plugin, command, deadline).await,
    };
    if let Some(parent) = plugin.lent.parent_of(&pool) {
        return request_lent(plugin, &command, &parent, deadline).await;
    }
    let Some((segments, link, parent)) = wire_of(plugin, pool.cidr()).await? else {
        return request_address(plugin, command, deadline).await;
    };
    plugin.ahead.notify_one();
    let mut passed = BTreeSet::new();
    // One that comes again is all that is left.
    let mut comes_again = false;
    while passed.len() < CONFLICTS && !comes_again {
        let reply = request_address(plugin, command.clone(), deadline).await?;
        let Reply::Address(address) = reply else {
            return Ok(reply);
        };
        let address = address.addr();
        let Some(holder) = holder(plugin, &segments, &link, address, named.is_some(), deadline).await else {
            return Ok(reply);
        };
        let release = Command::ReleaseAddress(pool, address);
        ask_engine(plugin, release, deadline).await.map_err(failed)?;
        if named.is_some() {
            let why = format!(
                "Address: {address} is in use on the wire of {parent}: {holder} has it; choose another one, or say -o probe=off \
                 when the network is made"
            );
            return Err((Outcome::Refused, why));
        }
        comes_again = !passed.insert(address);
    }
    let why = format!(
        "Address: no address was found in {} that nobody has on the wire of {parent} ({} tried); keep the pool to a part that is \
         free there (--ip-range)",
        pool.cidr(),
        passed.len()
    );
    Err((Outcome::Refused, why))
}

/// Asks the wire's own DHCP server for an address.
async fn request_lent(
    plugin: &Plugin,
    command: &Command,
    parent: &IfName,
    deadline: Instant,
) -> Result<Reply, Failed> {
    let Command::RequestAddress {
        pool,
        address: named,
        usage: usage @ Use::Endpoint { name },
        repeat,
    } = command
    else {
        return request_address(plugin, command.clone(), deadline).await;
    };
    let wanted = match named {
        Some(IpAddr::V4(wanted)) => Some(*wanted),
        _ => None,
    };
    if let (true, Some(repeated)) = (*repeat, wanted) {
        // What the engine repeats when it starts is lent already.
        let reply = request_address(plugin, command.clone(), deadline).await?;
        let known = plugin.lent.has(repeated).await;
        if known {
            return Ok(reply);
        }
        if let Reply::Address(address) = reply {
            let release = Command::ReleaseAddress(*pool, address.addr());
            ask_engine(plugin, release, deadline).await.map_err(failed)?;
        }
    }
    let last = deadline.checked_sub(LAST_TRY).unwrap_or(deadline);
    let wire = wire_of(plugin, pool.cidr()).await?;
    for _ in 0..DECLINED {
        let obtained = plugin.lent.obtain(pool, parent, name.as_deref(), wanted, last);
        let (address, moving) = obtained.await.map_err(|why| (Outcome::Refused, why))?;
        // A server may know less than the wire does (RFC 2131, section 3.1, step 5).
        if let Some((segments, link, _)) = &wire
            && let Some(holder) = holder(plugin, segments, link, address.into(), true, deadline).await
        {
            plugin.lent.decline(moving).await;
            if wanted.is_some() {
                let why = format!(
                    "Address: {address} is in use on the wire of {parent}: {holder} has it, though the DHCP server gives it; leave \
                     --ip out, or choose another one"
                );
                return Err((Outcome::Refused, why));
            }
            continue;
        }
        let lease = Command::RequestAddress {
            pool: *pool,
            address: Some(address.into()),
            usage: usage.clone(),
            repeat: false,
        };
        let reply = request_address(plugin, lease, deadline).await;
        drop(moving);
        if reply.is_err() {
            plugin.lent.returned();
        }
        return reply;
    }
    let why = format!(
        "Address: the DHCP server on the wire of {parent} has given {DECLINED} addresses in turn that others have there; have it keep \
         to addresses that nobody has, or see 'tombolo events'"
    );
    Err((Outcome::Refused, why))
}

/// Who has an address on a wire, if somebody has.
async fn holder(
    plugin: &Plugin,
    segments: &Segments,
    parent: &IfName,
    address: IpAddr,
    named: bool,
    deadline: Instant,
) -> Option<String> {
    let left = || {
        deadline
            .saturating_duration_since(Instant::now())
            .saturating_sub(LAST_TRY)
    };
    // A network that was made a moment ago may not be listened for yet.
    if let Err(error) = segments.watch(parent) {
        tracing::debug!(%parent, %error, "who is on this wire can't be asked");
    }
    let mut verdict = segments.check(parent, address, left()).await;
    if named && matches!(verdict, Verdict::Taken(Holder::Stranger(_))) {
        // Who had it may have been a container that was there a moment ago.
        verdict = segments.check_anew(parent, address, left()).await;
    }
    let tell = |action, because: &str| {
        let (parent, because) = (parent.clone(), because.to_owned());
        plugin.events.tell(&What::Address {
            action,
            address,
            parent,
            because,
        });
    };
    match verdict {
        Verdict::Free => None,
        Verdict::Proxy(_) => {
            tracing::debug!(%address, %parent, %verdict, "given all the same");
            None
        }
        Verdict::Taken(holder) => {
            tracing::warn!(%address, %parent, because = %verdict, "an address is not given");
            tell("conflict", &verdict.to_string());
            Some(match holder {
                Holder::Stranger(mac) => mac.to_string(),
                Holder::ThisHost => "this host".to_owned(),
            })
        }
        Verdict::Unasked(_) => {
            tracing::warn!(%address, %parent, because = %verdict, "an address is given unasked");
            tell("unasked", &verdict.to_string());
            None
        }
    }
}

/// Passes over the addresses that this host would get on a network that is about to be made, if somebody on the wire has them.
pub(super) async fn clear_the_way(
    plugin: &Plugin,
    network: &Network,
    deadline: Instant,
) -> Result<(), Failed> {
    let uplink = network.spec.uplink().filter(|uplink| uplink.probe);
    let parent = uplink.and_then(|uplink| uplink.parent.as_ref());
    let (Some(segments), Some(uplink), Some(parent)) = (&plugin.segments, uplink, parent) else {
        return Ok(());
    };
    if !uplink.wants_host(network.spec.usually_has_host(), network.internal) {
        return Ok(());
    }
    if let Err(error) = segments.watch(parent) {
        tracing::warn!(%parent, %error, "who is on this wire can't be asked");
        return Ok(());
    }
    let clear = clear_host_addresses(plugin, segments, network, parent, deadline).await;
    // It is listened on from now on if a network asks by it.
    segments.unwatch(parent);
    clear
}

async fn clear_host_addresses(
    plugin: &Plugin,
    segments: &Segments,
    network: &Network,
    parent: &IfName,
    deadline: Instant,
) -> Result<(), Failed> {
    let Some(uplink) = network.spec.uplink() else {
        return Ok(());
    };
    for address in &uplink.host_addresses {
        if let Some(holder) = holder(plugin, segments, parent, *address, true, deadline).await {
            let why = format!(
                "host_address: {address} is in use on the wire of {parent}: {holder} has it; choose another one"
            );
            return Err((Outcome::Refused, why));
        }
    }
    let of_family = |subnet: &&Subnet| {
        let v6 = subnet.pool.addr().is_ipv6();
        let named = uplink
            .host_addresses
            .iter()
            .any(|address| address.is_ipv6() == v6);
        subnet.ours && !named && network.subnet(v6) == Some(*subnet)
    };
    for subnet in network.subnets.iter().filter(of_family) {
        let pool = PoolId::new(Space::Local, subnet.pool, None);
        let Ok(pool) = pool else { continue };
        for _ in 0..CONFLICTS {
            let (answer, answered) = oneshot::channel();
            let asked = plugin.asks.send(Ask::HostNext(subnet.pool, answer)).await;
            asked.map_err(|_| failed(Error::Gone))?;
            let next = answered.await.map_err(|_| failed(Error::Gone))?;
            let Some(next) = next else { break };
            if holder(plugin, segments, parent, next, false, deadline)
                .await
                .is_none()
            {
                break;
            }
            // It goes to the end of the queue.
            let lease = Command::RequestAddress {
                pool,
                address: Some(next),
                usage: Use::Host,
                repeat: false,
            };
            ask_engine(plugin, lease, deadline).await.map_err(failed)?;
            let release = Command::ReleaseAddress(pool, next);
            ask_engine(plugin, release, deadline).await.map_err(failed)?;
        }
    }
    Ok(())
}

/// The wire where addresses of a pool are, if strangers are to be looked for there: by which link, and its parent.
async fn wire_of(plugin: &Plugin, pool: IpNet) -> Result<Option<(Arc<Segments>, IfName, IfName)>, Failed> {
    let Some(segments) = &plugin.segments else {
        return Ok(None);
    };
    let (answer, answered) = oneshot::channel();
    let asked = plugin.asks.send(Ask::ProbedOn(pool, answer)).await;
    asked.map_err(|_| failed(Error::Gone))?;
    let links = answered.await.map_err(|_| failed(Error::Gone))?;
    Ok(links.map(|(link, parent)| (segments.clone(), link, parent)))
}

/// Refuses a pool on a wire of which no subnet was said. The parent's own is meant, but engines ask again, without end, for as long as
/// what they are given overlaps a route of the host, as that always does.
pub(super) async fn subnet_missing(parent: &IfName, v6: bool) -> Failed {
    let hint = match routes::subnet_of(parent, v6).await {
        Ok(Some(subnet)) => format!("that of {parent} is --subnet {subnet}"),
        Ok(None) => format!("{parent} has no address of that family that would tell it"),
        Err(error) => return failed(Error::Kernel(error)),
    };
    let why = format!("Pool: none is named, and a network on a wire needs the wire's: add --subnet; {hint}");
    (Outcome::Refused, why)
}

/// A network as it is to be made, see [`tombolo_core::state::State::as_named`].
pub(super) async fn as_named(plugin: &Plugin, network: Network) -> Result<Network, Error> {
    if network.spec.uplink().is_none() {
        return Ok(network);
    }
    let (answer, answered) = oneshot::channel();
    let ask = Ask::Named(network, answer);
    plugin.asks.send(ask).await.map_err(|_| Error::Gone)?;
    Ok(answered.await.map_err(|_| Error::Gone)??)
}
