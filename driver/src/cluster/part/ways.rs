//! The ways to other hosts that have several: asked, answered, and chosen from.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tombolo_cluster::HostId;
use tombolo_cluster::membership::Seat;

use super::Part;
use crate::cluster::ways::{Change, Word};

impl Part {
    /// Notes by which addresses other hosts are reached, as they tell it.
    pub(super) fn know_ways(&mut self) {
        let mut all: BTreeMap<HostId, Vec<IpAddr>> = BTreeMap::new();
        for seat in self.other_seats() {
            let main = seat.address.ip();
            let row = self.host_row_of(&seat.host).unwrap_or_default();
            let like = row.ways().map(|way| way.address);
            let like = like.filter(|way| way.is_ipv6() == main.is_ipv6());
            all.insert(seat.host, std::iter::once(main).chain(like).collect());
        }
        if self.ways.know(all) {
            self.told.look_again();
        }
    }

    /// Asks each way.
    pub(super) fn ask_ways(&mut self) {
        let (words, lost) = self.ways.ask(Instant::now());
        for (host, address, word) in words {
            self.send(host, SocketAddr::new(address, self.around.port), &word.encode());
        }
        for change in lost {
            self.way_changed(change);
        }
    }

    /// What another host says of a way, by that way.
    pub(super) fn word(&mut self, host: HostId, from: SocketAddr, word: Word) {
        match word {
            Word::Ask(number) => self.send(host, from, &Word::Answer(number).encode()),
            Word::Answer(number) => {
                if let Some(change) = self.ways.answered(host, number, Instant::now()) {
                    self.way_changed(change);
                }
            }
        }
    }

    fn way_changed(&mut self, (host, address, up): Change) {
        let name = self.node.name(&host);
        match up {
            true => tracing::info!(host = name, %address, "a way to another host carries packets"),
            false if self.ways.is_answered(&host) => {
                tracing::warn!(host = name, %address, "a way to another host carries nothing, and is left out");
            }
            // Its tombolo, or the host, is off: that is told of elsewhere.
            false => tracing::debug!(host = name, %address, "no way to another host is answered"),
        }
        self.told.look_again();
    }

    /// Where others are, or were last, reached, by ways that carry packets where they have one.
    pub(super) fn seats_now(&self) -> Vec<Seat> {
        let now = |seat: &Seat| Seat {
            address: self.around(&seat.host, seat.address),
            ..seat.clone()
        };
        self.node.seats().map(now).collect()
    }

    /// Where to send what is for a host at an address, which may be at the end of a way that carries nothing now.
    pub(super) fn around(&self, host: &HostId, address: SocketAddr) -> SocketAddr {
        SocketAddr::new(self.ways.around(host, address.ip()), address.port())
    }
}
