//! What is believed to hold, and how what a look has found is compared with it.
//!
//! A look is made beside all else (see [`beside`](super::beside)), so what it finds may be older than what was done since it was begun.
//! Of those facts, and of all that goes with their links, the belief is right and the look is not.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::ops::Deref;

use tombolo_core::model::IfName;
use tombolo_core::world::{Key, Setting, Value, World};

/// The facts that are believed to hold.
#[derive(Debug, Default)]
pub(super) struct Belief {
    facts: World,
    since: Option<Changed>,
    /// Whether it has changed since that was asked last.
    is_new: bool,
}

/// What has changed since a look was begun.
#[derive(Debug, Default)]
pub(super) struct Changed {
    keys: BTreeSet<Key>,
    links: BTreeSet<IfName>,
}

impl Deref for Belief {
    type Target = World;

    fn deref(&self) -> &World {
        &self.facts
    }
}

impl Belief {
    /// Believes something of a fact: its value, or that it doesn't hold.
    pub fn believe(&mut self, key: Key, value: Option<Value>) {
        self.is_new = true;
        if let Some(since) = &mut self.since {
            since.note(&key);
        }
        if let (Key::Link(link), None) = (&key, &value) {
            // No step removes a setting, but it goes with its link.
            for setting in Setting::of_link(link) {
                self.facts.remove(&Key::Setting(setting));
            }
        }
        match value {
            Some(value) => drop(self.facts.insert(key, value)),
            None => drop(self.facts.remove(&key)),
        }
    }

    /// All facts, for what changes the belief as a whole. A look that is under way tells nothing any more.
    pub fn anew(&mut self) -> &mut World {
        self.is_new = true;
        self.since = None;
        &mut self.facts
    }

    /// Notes from now on what changes.
    pub fn look_begins(&mut self) {
        self.since = Some(Changed::default());
    }

    /// What has changed since then; none if everything may have.
    pub fn changed(&self) -> Option<&Changed> {
        self.since.as_ref()
    }

    /// Whether something was believed anew since this was asked last.
    pub fn was_new(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
    }

    /// Corrects what a look has found by what is `ours` to know.
    pub fn correct(&self, found: &mut World, ours: impl Fn(&Key) -> bool) {
        found.retain(|key, _| !ours(key));
        let known = self.facts.iter().filter(|(key, _)| ours(key));
        found.extend(known.map(|(key, value)| (key.clone(), value.clone())));
    }

    /// Adds to what a look has found the settings that it has passed over, since they have no effect just now.
    pub fn remind(&self, found: &mut World) {
        let off = |with| found.get(&Key::Setting(with)) == Some(&Value::Number(0));
        let passed = self.facts.iter().filter(|(key, _)| match key {
            Key::Setting(setting) => setting.only_with().is_some_and(off),
            _ => false,
        });
        let passed: Vec<(Key, Value)> = passed.map(|(key, value)| (key.clone(), value.clone())).collect();
        found.extend(passed);
    }

    /// The first fact, but for those that are `ours` to know, of which a look has found something else than is believed.
    pub fn first_surprise<'a>(&'a self, found: &'a World, ours: impl Fn(&Key) -> bool) -> Option<&'a Key> {
        let mut believed = self.facts.iter().peekable();
        let mut found = found.iter().peekable();
        std::iter::from_fn(|| next_of_both(&mut believed, &mut found))
            .find(|(key, believed, found)| is_surprise(key, *believed, *found) && !ours(key))
            .map(|(key, ..)| key)
    }
}

impl Changed {
    fn note(&mut self, key: &Key) {
        if let Key::Link(link) | Key::Child(link) | Key::Parent(link) = key {
            self.links.insert(link.clone());
        }
        self.keys.insert(key.clone());
    }

    /// Whether a fact has changed, or may have with its link.
    pub fn concerns(&self, key: &Key) -> bool {
        self.keys.contains(key) || key.on().is_some_and(|link| self.links.contains(link))
    }
}

/// Whether something else was found than is believed, for all that this could lead to.
fn is_surprise(key: &Key, believed: Option<&Value>, found: Option<&Value>) -> bool {
    match (believed, found) {
        // A container's link is out of sight once it is in its sandbox, and what became of it is for Docker to say.
        (Some(_), _) if matches!(key, Key::Child(_)) => false,
        // What holds, but is somebody else's, is not to be removed as ours would be.
        (Some(believed), Some(found)) => {
            believed != found && (*found == Value::Theirs || !believed.holds_as(found))
        }
        // A setting that nobody has asked for comes with its link.
        (None, Some(_)) => !matches!(key, Key::Setting(_)),
        (believed, None) => believed.is_some(),
    }
}

/// A fact's key, with what is believed of it and what was found.
type Both<'a> = (&'a Key, Option<&'a Value>, Option<&'a Value>);

/// The next fact of two worlds that are walked together.
fn next_of_both<'a>(
    believed: &mut Peekable<impl Iterator<Item = (&'a Key, &'a Value)>>,
    found: &mut Peekable<impl Iterator<Item = (&'a Key, &'a Value)>>,
) -> Option<Both<'a>> {
    let (one, other) = (believed.peek().copied(), found.peek().copied());
    let key = one.into_iter().chain(other).map(|(key, _)| key).min()?;
    let of = |(of, value): (&'a Key, &'a Value)| (of == key).then_some(value);
    let (one, other) = (one.and_then(of), other.and_then(of));
    if one.is_some() {
        believed.next();
    }
    if other.is_some() {
        found.next();
    }
    Some((key, one, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> IfName {
        text.parse().unwrap()
    }

    fn link(text: &str) -> Key {
        Key::Link(name(text))
    }

    fn address(on: &str) -> Key {
        Key::Address(name(on), "10.0.0.1/24".parse().unwrap())
    }

    fn proxied(on: &str) -> Key {
        Key::Setting(Setting::ProxyArp(name(on)))
    }

    fn world(facts: &[Key]) -> World {
        facts.iter().map(|key| (key.clone(), Value::Present)).collect()
    }

    fn belief(facts: &[Key]) -> Belief {
        Belief {
            facts: world(facts),
            ..Belief::default()
        }
    }

    fn nothing(_: &Key) -> bool {
        false
    }

    #[test]
    fn what_differs_and_could_lead_to_something_is_a_surprise() {
        let belief = belief(&[link("tb-1"), address("tb-1"), Key::Child(name("tbc1"))]);
        let surprise = |facts: &[Key]| belief.first_surprise(&world(facts), nothing).cloned();
        let rest = [link("tb-1"), address("tb-1")];
        assert_eq!(surprise(&rest), None, "a container's link is out of sight");
        assert_eq!(surprise(&rest[..1]), Some(address("tb-1")));
        assert_eq!(surprise(&rest[1..]), Some(link("tb-1")));
        assert_eq!(
            surprise(&[rest.as_slice(), &[link("tb-0")]].concat()),
            Some(link("tb-0"))
        );
        assert_eq!(surprise(&[rest.as_slice(), &[proxied("tb-1")]].concat()), None);
        for value in [Value::Theirs, Value::Unfit("a link that is down")] {
            for key in [&rest[1], &address("tb-0")] {
                let mut theirs = world(&rest);
                theirs.insert(key.clone(), value.clone());
                assert_eq!(belief.first_surprise(&theirs, nothing), Some(key));
            }
        }
    }

    #[test]
    fn a_setting_that_was_passed_over_is_as_it_was() {
        let delay = Key::Setting(Setting::ProxyDelay(name("tb-1"), tombolo_core::world::Family::V4));
        let belief = belief(&[proxied("tb-1"), delay.clone()]);
        let mut found = World::from([(proxied("tb-1"), Value::Number(1))]);
        belief.remind(&mut found);
        assert!(!found.contains_key(&delay));
        found.insert(proxied("tb-1"), Value::Number(0));
        belief.remind(&mut found);
        assert!(found.contains_key(&delay));
    }

    #[test]
    fn what_was_done_since_a_look_was_begun_is_known_better_than_it_was_found() {
        let mut belief = belief(&[link("tb-1"), address("tb-1"), proxied("tb-1"), link("tb-2")]);
        assert!(belief.changed().is_none());
        belief.look_begins();
        let mut found = belief.clone();
        belief.believe(link("tb-1"), None);
        belief.believe(address("tb-1"), None);
        belief.believe(link("tb-3"), Some(Value::Present));
        belief.believe(address("tb-2"), Some(Value::Present));
        found.insert(address("tb-3"), Value::Present);
        let changed = belief.changed().unwrap();
        let ours = |key: &Key| changed.concerns(key);
        assert_eq!(belief.first_surprise(&found, ours), None);
        found.insert(link("tb-4"), Value::Present);
        assert_eq!(belief.first_surprise(&found, ours), Some(&link("tb-4")));
        belief.correct(&mut found, ours);
        assert_eq!(
            found,
            world(&[link("tb-2"), link("tb-3"), link("tb-4"), address("tb-2")])
        );
        assert!(belief.was_new() && !belief.was_new());
        belief.anew();
        assert!(belief.changed().is_none() && belief.was_new());
    }
}
