//! What is told of the cluster's other hosts, brought into the kernel.
//!
//! Nothing of it is a record of ours, so nothing is committed: the cluster's part keeps what it has heard, and tells it all
//! again after a start. Until it does, what an earlier run has made of it stays as it is.

use std::collections::BTreeSet;

use ipnet::IpNet;
use tombolo_core::state::{Command, News, Owner};
use tombolo_core::world::{Key, Step};

use super::announce::seen_of;
use super::{Engine, Journal, facts_of};
use crate::kernel::Kernel;

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// Takes in what is new.
    pub async fn hear(&mut self, news: News) {
        let first = news.everything && !self.peers_known;
        let owners: BTreeSet<Owner> = self.state.concerned(&news);
        let seen = seen_of(&owners);
        self.note_sights(&seen);
        self.peers_known |= news.everything;
        if first {
            drop(owners);
            self.state.hear(news);
            self.agree().await;
            // What an earlier run has made and nobody wants goes now.
            self.settle_believed("the cluster was heard").await;
            self.announce(&seen);
            return;
        }
        let before = facts_of(&self.state, &owners);
        self.state.hear(news);
        let after = facts_of(&self.state, &owners);
        self.agree().await;
        let steps = seamless(self.steps_to(&before, &after));
        self.make_of_peers(&steps).await;
        self.announce(&seen);
    }

    /// Completes networks whose records were lost and made anew from what Docker knows.
    pub(super) async fn agree(&mut self) {
        for (network, agreed) in self.state.unagreed() {
            self.by_ourselves(&Command::Agree(network, agreed)).await;
        }
    }

    /// Makes steps that concern other hosts. What can't be made is a problem that is shown, and tried again by the next look.
    pub(super) async fn make_of_peers(&mut self, steps: &[Step]) {
        if steps.is_empty() {
            return;
        }
        let made = self.steps(steps).await;
        for (step, done) in steps.iter().zip(made) {
            match done {
                Ok(()) => drop(self.problems.remove(&super::events::about(step.key()))),
                Err(error) => self.trouble(step, &error),
            }
        }
    }
}

/// Steps in an order in which no address is without a way that has one before and after. Parts of a network that other hosts
/// have become one, or several, as they change hands: then the new route is there before the old one goes, and elements of
/// a set, which may not overlap, stand together so that they are exchanged at once. A route that nothing takes the place of
/// goes before its element, or what is on its way would get another sender's address.
fn seamless(mut steps: Vec<Step>) -> Vec<Step> {
    let routes = steps.iter().filter(|step| !step.removes());
    let new: BTreeSet<IpNet> = routes
        .filter_map(|step| match step.key() {
            Key::Route(net) => Some(*net),
            _ => None,
        })
        .collect();
    let replaced = |net: &IpNet| {
        let within = new.range(net..).next().is_some_and(|part| net.contains(part));
        let mut wider = std::iter::successors(Some(*net), IpNet::supernet);
        within || wider.any(|whole| new.contains(&whole))
    };
    steps.sort_by_key(|step| match step.key() {
        Key::Route(net) if step.removes() && replaced(net) => 4,
        Key::Route(_) if step.removes() => 0,
        Key::Remote(..) => 1,
        Key::Route(_) => 3,
        _ => 2,
    });
    steps
}

#[cfg(test)]
mod tests {
    use tombolo_core::model::IfName;
    use tombolo_core::world::{Value, World, diff};

    use super::*;

    #[test]
    fn parts_that_become_one_are_reached_all_the_while() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let link: IfName = "tb-1".parse().unwrap();
        let route = |text| (Key::Route(net(text)), Value::Hops(Vec::new()));
        let part = |text| (Key::Remote(link.clone(), net(text)), Value::Present);
        let world = |texts: &[&'static str]| -> World {
            texts.iter().flat_map(|text| [route(text), part(text)]).collect()
        };
        let before = world(&["10.0.0.0/26", "10.0.0.64/26", "10.1.0.0/24"]);
        let after = world(&["10.0.0.0/25", "10.2.0.0/24"]);
        let steps = seamless(diff(&after, &before));
        let lines: Vec<String> = steps.iter().map(Step::to_string).collect();
        let at = |line: &str| {
            let found = lines.iter().position(|l| l.contains(line));
            found.unwrap_or_else(|| panic!("no {line} in {lines:#?}"))
        };
        for old in ["10.0.0.0/26", "10.0.0.64/26"] {
            let [gone, element] = [format!("route delete {old}"), format!("\"tb-1\" . {old}")];
            assert!(at("route replace 10.0.0.0/25") < at(&gone));
            assert!(at(&element) < at("\"tb-1\" . 10.0.0.0/25"));
        }
        assert!(at("route delete 10.1.0.0/24") < at("\"tb-1\" . 10.1.0.0/24"));
        assert!(at("\"tb-1\" . 10.2.0.0/24") < at("route replace 10.2.0.0/24"));
        let elements = steps.iter().map(|step| matches!(step.key(), Key::Remote(..)));
        let runs = elements
            .collect::<Vec<_>>()
            .chunk_by(|a, b| a == b)
            .filter(|run| run[0])
            .count();
        assert_eq!(runs, 1, "{lines:#?}");
    }
}
