//! The zone as the outside sees it, where its user opens it: authority for the names of all networks that this host has, and nothing
//! else. For name servers of the LAN that pass questions on, delegate the zone, or have a copy of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::proto::rr::rdata::{NS, SRV};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tombolo_core::model::Proto;

use super::answer::{Answer, SERVER, TTL, Zone, address_records, answer, in_full, text_of};
use super::gateway::listen_at;
use super::names::{Names, View};
use super::resolver::{Asker, Resolver};
use super::served::Served;
use super::upstream::Upstream;

/// How often it is looked at which addresses others reach this host.
const LOOK: Duration = Duration::from_secs(5);

/// How long who has a copy of the zone keeps it, in seconds: until it asks anew, until it does so after a failure, and until it
/// gives up.
const KEEP: [i32; 3] = [10, 5, 300];

/// How the zone is open to the outside.
#[derive(Clone)]
pub struct Export {
    /// Who may have all of it at once.
    pub transfer: Vec<IpNet>,
    /// By which addresses others reach this host.
    pub addresses: Arc<dyn Fn() -> Option<Vec<IpAddr>> + Send + Sync>,
}

/// Whoever asks from outside, and what is said of the zone itself.
#[derive(Clone)]
pub struct Authority {
    transfer: Arc<Vec<IpNet>>,
    servers: Arc<RwLock<Vec<IpAddr>>>,
    /// A copy of the whole zone is a large answer: one at a time.
    one: Arc<Semaphore>,
}

impl Asker for Authority {
    fn view(&self, names: &Names, _: IpAddr) -> Option<View> {
        Some(names.view_of_all())
    }

    fn authority(&self) -> Option<&Authority> {
        Some(self)
    }
}

impl Authority {
    pub(super) fn new(transfer: Vec<IpNet>) -> Self {
        Self {
            transfer: Arc::new(transfer),
            servers: Arc::default(),
            one: Arc::new(Semaphore::new(1)),
        }
    }

    fn servers(&self) -> Vec<IpAddr> {
        // It is only ever replaced.
        self.servers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The start of authority as it is now.
    pub fn start(&self, zone: &Zone, names: &Names) -> Record {
        zone.start_of_authority(names.serial(), KEEP)
    }

    fn server(zone: &Zone) -> Record {
        Record::from_rdata(zone.name().clone(), TTL, RData::NS(NS(zone.server())))
    }

    /// Answers a question about the zone, or about addresses in it.
    pub fn answer(&self, names: &Names, zone: &Zone, name: &Name, asked: RecordType) -> Answer {
        let text = text_of(name);
        let any = asked == RecordType::ANY;
        match text.as_deref().and_then(|text| zone.before(text)) {
            Some("") => {
                let mut answers = Vec::new();
                if any || matches!(asked, RecordType::SOA | RecordType::IXFR) {
                    answers.push(self.start(zone, names));
                }
                if any || asked == RecordType::NS {
                    answers.push(Self::server(zone));
                }
                let additionals = match asked {
                    RecordType::NS => address_records(&zone.server(), self.servers(), RecordType::ANY),
                    _ => Vec::new(),
                };
                Answer::of(answers, additionals)
            }
            Some(SERVER) => Answer::of(address_records(name, self.servers(), asked), Vec::new()),
            None if name.parse_arpa_name().is_err() => Answer::NotOurs,
            _ => answer(names, &names.view_of_all(), zone, name, asked),
        }
    }

    /// Whether somebody may have all of the zone at once.
    pub fn may_transfer(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.transfer.iter().any(|net| net.contains(&source))
    }

    /// One who has a copy made, while nobody else has.
    pub fn turn(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.one.try_acquire().ok()
    }

    /// The whole zone, between two starts of authority (RFC 5936, section 2.2).
    pub fn whole(&self, names: &Names, zone: &Zone) -> Vec<Record> {
        let (serial, all) = names.all();
        let start = || zone.start_of_authority(serial, KEEP);
        let mut records = vec![start(), Self::server(zone)];
        records.extend(address_records(&zone.server(), self.servers(), RecordType::ANY));
        for (label, entry) in all {
            let full = |name: &str| in_full(name, &label, zone);
            // Others would take `*` for a pattern.
            let plain = |name: &&Arc<str>| {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
                name.bytes().all(plain)
            };
            let own = entry.names.iter().filter(plain).filter_map(|name| full(name));
            records.extend(
                own.flat_map(|name| address_records(&name, entry.addresses.to_vec(), RecordType::ANY)),
            );
            let Some(target) = entry.names.first().and_then(|name| full(name)) else {
                continue;
            };
            for service in &*entry.services {
                let proto = match service.proto {
                    Proto::Tcp => "_tcp",
                    Proto::Udp => "_udp",
                    Proto::Sctp => "_sctp",
                };
                let names = entry.names.iter().filter(plain);
                let named = names.filter_map(|name| full(&format!("_{}.{proto}.{name}", service.port)));
                let data = RData::SRV(SRV::new(0, 0, service.port, target.clone()));
                records.extend(named.map(|name| Record::from_rdata(name, TTL, data.clone())));
            }
        }
        records.push(start());
        records
    }
}

/// Answers the outside, if the zone is open to it. It never ends, then.
pub async fn serve(names: Arc<Names>, zone: Zone, served: Arc<Served>, export: Option<Export>) {
    let Some(export) = export else { return };
    let authority = Authority::new(export.transfer);
    let mut servers: BTreeMap<IpAddr, tokio::task::AbortHandle> = BTreeMap::new();
    let mut running = JoinSet::new();
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        // Where it can't be told they are taken for what they were.
        let Some(wanted) = (export.addresses)() else {
            continue;
        };
        wanted.clone_into(&mut authority.servers.write().unwrap_or_else(PoisonError::into_inner));
        servers.retain(|address, server| {
            let stays = wanted.contains(address);
            if !stays {
                server.abort();
                served.no_export(*address);
            }
            stays
        });
        for address in wanted {
            servers.entry(address).or_insert_with(|| {
                let (names, zone, authority) = (names.clone(), zone.clone(), authority.clone());
                let served = served.clone();
                running.spawn(async move {
                    let answer = |udp, tcp| {
                        let resolver = Resolver {
                            names: names.clone(),
                            zone: zone.clone(),
                            asker: authority.clone(),
                            // What isn't in the zone is refused.
                            upstream: Upstream::new(Vec::<SocketAddr>::new, TokioRuntimeProvider::new()),
                        };
                        resolver.serve(udp, tcp)
                    };
                    listen_at(address, |why| served.export(address, why), answer).await;
                })
            });
        }
        while running.try_join_next().is_some() {}
    }
}
