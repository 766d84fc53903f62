//! The resolver at the addresses that this host has on its networks: where a container's way out is, questions are answered.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use super::answer::Zone;
use super::names::{Home, Names, View};
use super::resolver::{Asker, Resolver};
use super::served::Served;
use super::upstream::{PORT, Upstream};

/// Between two attempts at an address that can't be listened on.
const AGAIN: Duration = Duration::from_secs(5);

/// Where somebody listens: the network that it is for, and the address.
type Place = (IpNet, IpAddr);

/// Whoever asks at a gateway.
#[derive(Clone)]
struct AtGateway(IpNet);

impl Asker for AtGateway {
    fn view(&self, names: &Names, source: IpAddr) -> Option<View> {
        let view = names.view_at(self.0, source.to_canonical());
        (view != View::default()).then_some(view)
    }
}

/// Listens wherever this host has an address on a network of the cluster. It never ends.
pub async fn serve(names: Arc<Names>, zone: Zone, served: Arc<Served>) {
    let mut homes = names.homes();
    let mut servers: BTreeMap<Place, tokio::task::AbortHandle> = BTreeMap::new();
    let mut running = JoinSet::new();
    loop {
        let wanted = places(&homes.borrow_and_update());
        servers.retain(|place, server| {
            let stays = wanted.contains(place);
            if !stays {
                server.abort();
                served.no_gateway(place.1);
            }
            stays
        });
        for place in wanted {
            servers.entry(place).or_insert_with(|| {
                running.spawn(serve_at(place, names.clone(), zone.clone(), served.clone()))
            });
        }
        tokio::select! {
            changed = homes.changed() => if changed.is_err() { return },
            // They end only when they are told to.
            Some(_) = running.join_next() => {}
        }
    }
}

fn places(homes: &BTreeMap<IpNet, Home>) -> BTreeSet<Place> {
    let all = homes.iter();
    all.flat_map(|(network, home)| home.gateways.iter().map(|gateway| (*network, *gateway)))
        .collect()
}

async fn serve_at((network, address): Place, names: Arc<Names>, zone: Zone, served: Arc<Served>) {
    let answer = |udp, tcp| answer_at(network, names.clone(), zone.clone(), udp, tcp);
    listen_at(address, |why| served.gateway(address, why), answer).await;
}

/// Answers at an address, again and again where that can't be done or ends; says each time how it stands.
pub(super) async fn listen_at<A: Future<Output = String>>(
    address: IpAddr,
    stands: impl Fn(Option<String>),
    answer: impl Fn(UdpSocket, TcpListener) -> A,
) {
    let mut told = String::new();
    loop {
        let why = match sockets(SocketAddr::new(address, PORT)) {
            Ok((udp, tcp)) => {
                told.clear();
                stands(None);
                answer(udp, tcp).await
            }
            Err(error) => error.to_string(),
        };
        stands(Some(why.clone()));
        if told != why {
            tracing::warn!(%address, port = PORT, error = why, "names can't be answered there; tried again every few seconds");
            told = why;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Answers those on a network by two sockets, for as long as these work; gives why they don't any more.
pub async fn answer_at(
    network: IpNet,
    names: Arc<Names>,
    zone: Zone,
    udp: UdpSocket,
    tcp: TcpListener,
) -> String {
    let own = names.homes();
    let upstream = Upstream::of_host(move |server: &IpAddr| {
        own.borrow().values().any(|home| home.gateways.contains(server))
    });
    let asker = AtGateway(network);
    let resolver = Resolver {
        names,
        zone,
        asker,
        upstream,
    };
    resolver.serve(udp, tcp).await
}

fn sockets(place: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = socket(place, Type::DGRAM, Protocol::UDP)?;
    let tcp = socket(place, Type::STREAM, Protocol::TCP)?;
    tcp.listen(128)?;
    Ok((
        UdpSocket::from_std(udp.into())?,
        TcpListener::from_std(tcp.into())?,
    ))
}

/// A socket at an address that may come about only later, or go and come again.
fn socket(place: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(place), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    match place {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&place.into())?;
    Ok(socket)
}
