//! Who has which name on which network: a table that changes row by row, and is asked by everybody at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use ipnet::IpNet;
use smallvec::SmallVec;
use tokio::sync::{mpsc, watch};
use tombolo_cluster::HostId;
use tombolo_core::kinds::bridge;
use tombolo_core::peers::{EndpointRow, PortRow};

/// The longest name that is taken in: what a question can have (RFC 1035, section 2.3.4), written out.
const NAME_MAX: usize = 253;

/// The longest part of one between two dots.
const LABEL_MAX: usize = 63;

/// An endpoint: its host and its identifier.
pub type Of = (HostId, Arc<str>);

/// What is known of an endpoint. There are many, and they last: no list has room to grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The pool that is its network's identity.
    pub pool: IpNet,
    /// Its names in small letters, the container's own one first.
    pub names: Box<[Arc<str>]>,
    /// Its addresses.
    pub addresses: Box<[IpAddr]>,
    /// The ports that are published for it.
    pub services: Box<[PortRow]>,
    /// Where its container is, on this host, if names are answered to it.
    pub place: Option<Box<Place>>,
}

/// A container of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its network namespace, as Docker names it.
    pub sandbox: String,
    /// Whether it is to be answered within that.
    pub hook: bool,
}

impl Entry {
    /// What a row tells; none while the container isn't there, or where the row doesn't tell enough.
    /// None either of a kind whose containers aren't reached from other hosts.
    pub fn of(row: &EndpointRow, place: Option<Place>) -> Option<Self> {
        let apart = row.kind == bridge::NAME;
        let pool = *row.pools.first().filter(|_| row.joined && !apart)?;
        let mut seen = BTreeSet::new();
        let told = row.name.iter().chain(&row.aliases).filter_map(|name| plain(name));
        let names = told.filter(|name| seen.insert(name.clone())).map(Arc::from);
        let within = |address: &IpAddr| row.pools.iter().any(|pool| pool.contains(address));
        let services: BTreeSet<PortRow> = row.ports.iter().filter(|port| port.port > 0).copied().collect();
        Some(Self {
            pool,
            names: names.collect(),
            addresses: row.ipv4.into_iter().chain(row.ipv6).filter(within).collect(),
            services: services.into_iter().collect(),
            place: place.map(Box::new),
        })
    }
}

/// A name as it is looked for; none if no question can ask for it.
fn plain(name: &str) -> Option<String> {
    let name = name.trim_end_matches('.');
    let fits =
        |label: &str| (1..=LABEL_MAX).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_graphic());
    let can_be = name.len() <= NAME_MAX && name.split('.').all(fits);
    can_be.then(|| name.to_ascii_lowercase())
}

/// A network of the cluster that this host has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Home {
    /// Its pools, that which is its identity first.
    pub pools: Vec<IpNet>,
    /// What it is called: Docker's name for it, and that in the cluster.
    pub labels: Vec<String>,
    /// This host's own addresses on it.
    pub gateways: Vec<IpAddr>,
}

/// What is new.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct News {
    /// Whether this is all there is of other hosts: what is not told again is gone.
    pub everything: bool,
    /// What endpoints are now, or that they are gone.
    pub entries: Vec<(Of, Option<Entry>)>,
    /// The networks that this host has, by what identifies them, where these have changed.
    pub homes: Option<BTreeMap<IpNet, Home>>,
}

/// The networks whose names somebody is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View(Vec<IpNet>);

/// Nearly always one.
type Few<T> = SmallVec<[T; 1]>;

#[derive(Debug, Default)]
struct Net {
    names: HashMap<Arc<str>, Few<Arc<Entry>>>,
    addresses: HashMap<IpAddr, Few<Arc<Entry>>>,
}

#[derive(Debug, Default)]
struct Index {
    entries: HashMap<Of, Arc<Entry>>,
    nets: HashMap<IpNet, Net>,
    /// By network namespace: the networks that its container is on, as often as it is there.
    sandboxes: HashMap<String, Few<IpNet>>,
    /// Those in which there is to be a hook, as often as networks of theirs want that.
    hooks: HashMap<String, Few<IpNet>>,
    homes: BTreeMap<IpNet, Home>,
    /// Namespaces that have come or gone since that was told last.
    moved: BTreeSet<String>,
    /// A number that rises with each change: seconds since 1970, or more (RFC 1982).
    serial: u32,
    /// Whether something has changed since that was raised.
    changed: bool,
    /// Whether all that other hosts had was heard.
    known: bool,
}

/// Who has which name.
#[derive(Debug)]
pub struct Names {
    index: RwLock<Index>,
    homes: watch::Sender<BTreeMap<IpNet, Home>>,
    sandboxes: Mutex<Option<mpsc::UnboundedSender<(String, bool)>>>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            index: RwLock::default(),
            homes: watch::Sender::new(BTreeMap::new()),
            sandboxes: Mutex::default(),
        }
    }
}

impl Index {
    fn put(&mut self, of: Of, entry: Option<Entry>) {
        if self.entries.get(&of).map(Arc::as_ref) == entry.as_ref() {
            return;
        }
        self.changed = true;
        if let Some(old) = self.entries.remove(&of) {
            self.drop_entry(&old);
        }
        let Some(entry) = entry.map(Arc::new) else { return };
        let net = self.nets.entry(entry.pool).or_default();
        for name in &entry.names {
            net.names.entry(name.clone()).or_default().push(entry.clone());
        }
        for address in &entry.addresses {
            net.addresses.entry(*address).or_default().push(entry.clone());
        }
        if let Some(Place { sandbox, hook }) = entry.place.as_deref() {
            let on = self.sandboxes.entry(sandbox.clone()).or_default();
            on.push(entry.pool);
            if *hook {
                let on = self.hooks.entry(sandbox.clone()).or_default();
                on.push(entry.pool);
                self.moved.insert(sandbox.clone());
            }
        }
        self.entries.insert(of, entry);
    }

    fn drop_entry(&mut self, old: &Arc<Entry>) {
        if let Some(net) = self.nets.get_mut(&old.pool) {
            for name in &old.names {
                take_out(&mut net.names, name, |entry| Arc::ptr_eq(entry, old));
            }
            for address in &old.addresses {
                take_out(&mut net.addresses, address, |entry| Arc::ptr_eq(entry, old));
            }
            if net.names.is_empty() && net.addresses.is_empty() {
                self.nets.remove(&old.pool);
            }
        }
        if let Some(Place { sandbox, hook }) = old.place.as_deref() {
            take_out(&mut self.sandboxes, sandbox, |pool| *pool == old.pool);
            if *hook {
                take_out(&mut self.hooks, sandbox, |pool| *pool == old.pool);
                self.moved.insert(sandbox.clone());
            }
        }
    }
}

/// Takes one out of what a key has, and the key with the last one.
fn take_out<K: Hash + Eq, V>(map: &mut HashMap<K, Few<V>>, key: &K, is_it: impl Fn(&V) -> bool) {
    if let Some(all) = map.get_mut(key) {
        if let Some(at) = all.iter().position(is_it) {
            all.swap_remove(at);
        }
        if all.is_empty() {
            map.remove(key);
        }
    }
}

impl Names {
    /// Takes in what is new.
    pub fn hear(&self, news: News, me: HostId) {
        let mut index = self.write();
        if news.everything {
            let told: BTreeSet<&Of> = news.entries.iter().map(|(of, _)| of).collect();
            let others = index.entries.keys().filter(|of| of.0 != me && !told.contains(of));
            for of in others.cloned().collect::<Vec<_>>() {
                index.put(of, None);
            }
        }
        for (of, entry) in news.entries {
            index.put(of, entry);
        }
        self.tell_moved(&mut index);
        index.known |= news.everything;
        let homes = news.homes.filter(|homes| index.homes != *homes);
        if let Some(homes) = &homes {
            index.homes.clone_from(homes);
            index.changed = true;
        }
        index.count();
        if let Some(homes) = homes {
            drop(index);
            self.homes.send_if_modified(|before| {
                let changed = *before != homes;
                *before = homes;
                changed
            });
        }
    }

    /// Forgets all: this host is in no cluster.
    pub fn clear(&self) {
        let mut index = self.write();
        let moved = index.hooks.keys().cloned().collect();
        *index = Index {
            moved,
            serial: index.serial,
            changed: true,
            ..Index::default()
        };
        index.count();
        self.tell_moved(&mut index);
        drop(index);
        self.homes.send_replace(BTreeMap::new());
    }

    /// Tells which namespaces have come or gone.
    fn tell_moved(&self, index: &mut Index) {
        let listener = self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner);
        for sandbox in std::mem::take(&mut index.moved) {
            let there = index.hooks.contains_key(&sandbox);
            if let Some(listener) = listener.as_ref() {
                // Who has ended needs no news.
                listener.send((sandbox, there)).ok();
            }
        }
    }

    /// The network namespaces in which there is to be a hook: those that are there, and from then on each that has come or gone. There is one listener at a time.
    pub fn sandboxes(&self) -> mpsc::UnboundedReceiver<(String, bool)> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let index = self.read();
        for sandbox in index.hooks.keys() {
            sender.send((sandbox.clone(), true)).ok();
        }
        *self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// What is told within a network namespace.
    pub fn view_in(&self, sandbox: &str) -> View {
        View(
            self.read()
                .sandboxes
                .get(sandbox)
                .map(|nets| nets.to_vec())
                .unwrap_or_default(),
        )
    }

    /// The networks that this host has, and each change of them.
    pub fn homes(&self) -> watch::Receiver<BTreeMap<IpNet, Home>> {
        self.homes.subscribe()
    }

    /// What is told to whoever may know of all networks that this host has.
    pub fn view_of_all(&self) -> View {
        View(self.read().homes.keys().copied().collect())
    }

    /// All endpoints on networks that this host has, with what the network is called; and the serial number of that.
    pub fn all(&self) -> (u32, Vec<(String, Arc<Entry>)>) {
        let index = self.read();
        let labelled = index.entries.values().flat_map(|entry| {
            let labels = index.labels(&entry.pool);
            labels.map(|label| (label.to_owned(), entry.clone()))
        });
        (index.serial, labelled.collect())
    }

    /// Whether all is known that there is.
    pub fn is_known(&self) -> bool {
        self.read().known
    }

    /// A number that rises with each change.
    pub fn serial(&self) -> u32 {
        self.read().serial
    }

    /// What is told to whoever asks from an address on a network: of all networks that its container is on. Who is not known
    /// yet is on that network only; none is told to who isn't on it.
    pub fn view_at(&self, network: IpNet, source: IpAddr) -> View {
        let index = self.read();
        let home = index.homes.get(&network);
        if !home.is_some_and(|home| home.pools.iter().any(|pool| pool.contains(&source))) {
            return View::default();
        }
        let asker = index
            .nets
            .get(&network)
            .and_then(|net| net.addresses.get(&source));
        let sandbox = asker.and_then(|entries| {
            entries
                .iter()
                .find_map(|entry| Some(&entry.place.as_ref()?.sandbox))
        });
        let nets = sandbox.and_then(|sandbox| index.sandboxes.get(sandbox));
        View(nets.map_or_else(|| vec![network], |nets| nets.to_vec()))
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        // Nobody panics while it is held; and if somebody does, what is there is as good as it was.
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has a name on a network of the view: a short one, or one with a network's name behind it. `name` is in small letters.
    pub fn find(&self, view: &View, name: &str) -> Vec<Arc<Entry>> {
        let index = self.read();
        let nets = || view.0.iter().filter_map(|pool| index.nets.get(pool));
        let short: Vec<Arc<Entry>> = nets()
            .filter_map(|net| net.names.get(name))
            .flatten()
            .cloned()
            .collect();
        match short.is_empty() {
            true => index.of_network(view, name),
            false => short,
        }
    }

    /// Who has a name with a network's name behind it.
    pub fn find_full(&self, view: &View, name: &str) -> Vec<Arc<Entry>> {
        self.read().of_network(view, name)
    }

    /// Whether that is the name of a network of the view.
    pub fn is_network(&self, view: &View, name: &str) -> bool {
        let index = self.read();
        let mut labels = view.0.iter().flat_map(|pool| index.labels(pool));
        labels.any(|label| label == name)
    }

    /// Who has an address of the view, with the network's name; none where no network of the view has it.
    pub fn at(&self, view: &View, address: IpAddr) -> Option<Vec<(Arc<Entry>, String)>> {
        let index = self.read();
        let pools = |net: &IpNet| index.homes.get(net).map(|home| home.pools.as_slice());
        let on = |net: &&IpNet| {
            pools(net)
                .into_iter()
                .flatten()
                .any(|pool| pool.contains(&address))
        };
        let net = view.0.iter().find(on)?;
        let label = index.labels(net).next().unwrap_or_default();
        let there = index.nets.get(net).and_then(|net| net.addresses.get(&address));
        let there = there.into_iter().flatten();
        Some(there.map(|entry| (entry.clone(), label.to_owned())).collect())
    }

    /// What the network of an endpoint is called here.
    pub fn label(&self, entry: &Entry) -> Option<String> {
        self.read().labels(&entry.pool).next().map(str::to_owned)
    }
}

impl Index {
    /// Counts what has changed since this was done last.
    fn count(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        // Until 2106; then it begins anew, as serial numbers may.
        let now = crate::host::now_s() as u32;
        self.serial = now.max(self.serial.wrapping_add(1));
    }

    fn labels(&self, network: &IpNet) -> impl Iterator<Item = &str> {
        let home = self.homes.get(network).into_iter();
        home.flat_map(|home| home.labels.iter().map(String::as_str))
    }

    fn of_network(&self, view: &View, name: &str) -> Vec<Arc<Entry>> {
        let named = |pool: &IpNet| {
            let net = self.nets.get(pool)?;
            let rest = self
                .labels(pool)
                .find_map(|label| name.strip_suffix(label)?.strip_suffix('.'))?;
            net.names.get(rest)
        };
        view.0.iter().filter_map(named).flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
