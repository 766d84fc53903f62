//! Becoming a member: by a token, by the settings, or by beginning a cluster.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tombolo_cluster::HostId;
use tombolo_cluster::charter::Charter;
use tombolo_cluster::membership::Seat;
use tombolo_cluster::wire::encode;

use super::Task;
use crate::cluster::certs::HostKey;
use crate::cluster::joining::{self, Answer, Asking};
use crate::cluster::out::{self, Because};
use crate::cluster::secret::Secret;
use crate::cluster::token::Token;
use crate::cluster::{Refused, draw};

/// How many attempts the first host of the list makes to join another one before it begins the cluster itself.
const FIRST: u32 = 3;

/// Why this host was not let in, in words.
#[derive(Debug, thiserror::Error)]
enum NotIn {
    /// The identifier that it has drawn is of a host that is gone for good.
    #[error("{0}")]
    Gone(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl From<String> for NotIn {
    fn from(why: String) -> Self {
        Self::Other(why)
    }
}

impl Task {
    /// Begins a cluster, with a secret that is given or drawn.
    pub(super) async fn begin_cluster(&mut self, secret: Option<Secret>) -> Result<(), String> {
        (self.around.advertise)(&self.around.advertised).map_err(|why| format!("advertise: {why}"))?;
        let text = |e: Refused| e.to_string();
        let secret = secret.map_or_else(|| Secret::draw(1).map_err(text), Ok)?;
        let key = HostKey::draw().map_err(|e| e.to_string())?;
        let host = HostId::from_bytes(draw().map_err(text)?);
        let cluster = draw().map_err(text)?;
        let mut charter = Charter::founded(
            cluster,
            host,
            self.around.name.clone(),
            *key.key_print().bytes(),
            secret.check(),
        );
        charter.secret.number = secret.number();
        if let Some(store) = &self.around.store {
            charter = charter.with_store();
            store.begin(&charter).await.map_err(|e| e.to_string())?;
        }
        self.become_member(host, &key, &secret, &charter, Vec::new())
            .await
    }

    /// Joins because somebody says so: under another identifier if the one that was drawn is gone.
    pub(super) async fn join_as_told(&mut self, address: SocketAddr, token: &Token) -> Result<Value, String> {
        match self.join(address, token).await {
            Err(NotIn::Gone(_)) => {
                let record = vec![("joining".to_owned(), None)];
                self.keeper.keep(record).await.map_err(|e| e.to_string())?;
                self.around
                    .files
                    .remove()
                    .map_err(|e| format!("the state directory: {e}"))?;
            }
            joined => return joined.map_err(|e| e.to_string()),
        }
        self.join(address, token).await.map_err(|e| e.to_string())
    }

    async fn join(&mut self, address: SocketAddr, token: &Token) -> Result<Value, NotIn> {
        (self.around.advertise)(&self.around.advertised).map_err(|why| format!("advertise: {why}"))?;
        let text = |e: Refused| e.to_string();
        // One who was let in without hearing of it asks again as the same.
        let files = &self.around.files;
        files.make().map_err(|e| format!("the state directory: {e}"))?;
        let key = match HostKey::read(&files.host_key()) {
            Ok(key) => key,
            Err(_) => {
                let key = HostKey::draw().map_err(|e| e.to_string())?;
                key.write(&files.host_key()).map_err(|e| crate::http::chain(&e))?;
                key
            }
        };
        let host = match self.keeper.read("joining") {
            Some(host) => host,
            None => {
                let host = HostId::from_bytes(draw().map_err(text)?);
                let record = vec![("joining".to_owned(), Some(encode(&host)))];
                self.keeper.keep(record).await.map_err(|e| e.to_string())?;
                host
            }
        };
        let asking = Asking {
            host,
            name: self.around.name.clone(),
            key: *key.key_print().bytes(),
            token: token.text(),
            by_store: self.around.store.is_some(),
        };
        match joining::ask(address, token, &asking).await? {
            Answer::Refused(why) => Err(format!("{address} does not let this host in: {why}").into()),
            Answer::Gone(why) => Err(NotIn::Gone(format!("{address} does not let this host in: {why}"))),
            Answer::Welcome {
                secret,
                charter,
                seats,
            } => {
                let secret = zeroize::Zeroizing::new(secret);
                let secret: Secret = secret
                    .trim()
                    .parse()
                    .map_err(|e| format!("{address} sent a key that can't be read: {e}"))?;
                if secret.check() != charter.secret.check || !charter.hosts.contains_key(&host) {
                    return Err(format!("{address} sent what does not fit together; try again").into());
                }
                let hosts = charter.hosts.len();
                self.become_member(host, &key, &secret, &charter, seats).await?;
                Ok(json!({ "hosts": hosts, "name": self.around.name }))
            }
        }
    }

    /// Writes down what makes this host a member; its part begins after that.
    async fn become_member(
        &mut self,
        host: HostId,
        key: &HostKey,
        secret: &Secret,
        charter: &Charter,
        seats: Vec<Seat>,
    ) -> Result<(), String> {
        let files = &self.around.files;
        let chain = |e: &dyn std::error::Error| crate::http::chain(e);
        files.make().map_err(|e| format!("the state directory: {e}"))?;
        key.write(&files.host_key()).map_err(|e| chain(&e))?;
        secret.write(&files.secret()).map_err(|e| chain(&e))?;
        files.write_seats(&seats).map_err(|e| chain(&e))?;
        let records = vec![
            ("charter".to_owned(), Some(encode(charter))),
            ("joining".to_owned(), None),
            (out::RECORD.to_owned(), None),
            // The last: with it there is a part.
            ("host".to_owned(), Some(encode(&host))),
        ];
        self.keeper.keep(records).await.map_err(|e| e.to_string())
    }

    /// Joins the hosts that the settings name, or, as the first of them, begins the cluster.
    pub(super) async fn join_by_settings(&mut self, attempt: u32) {
        let Some(file) = self.key_file.clone() else { return };
        let secret = match Secret::read(&file) {
            Ok(secret) => secret,
            Err(error) => {
                return tracing::error!(
                    error = crate::http::chain(&error),
                    "cluster_key_file can't be used"
                );
            }
        };
        let own: Vec<SocketAddr> = match (self.around.advertise)(&self.around.advertised) {
            Ok(own) => own
                .into_iter()
                .map(|ip| SocketAddr::new(ip, self.around.port))
                .collect(),
            Err(why) => return tracing::error!(%why, "advertise"),
        };
        let token = match Token::issue_now(&secret, 3600) {
            Ok(token) => token,
            Err(why) => return tracing::error!(%why, "no token could be made of cluster_key_file"),
        };
        for address in self
            .join
            .clone()
            .into_iter()
            .filter(|address| !own.contains(address))
        {
            match self.join(address, &token).await {
                Ok(_) => return tracing::info!(%address, "joined the cluster"),
                Err(NotIn::Gone(why)) => {
                    tracing::warn!(%address, %why, "this host was forgotten before it knew that it had been let in");
                    if let Err(why) = self.stay_out(Because::Forgotten).await {
                        tracing::error!(%why, "that this host stays out was not stored");
                    }
                    return;
                }
                Err(why) => tracing::info!(%address, %why, "not joined yet"),
            }
        }
        let first = self.join.first().is_some_and(|first| own.contains(first));
        if first && attempt >= FIRST {
            match self.begin_cluster(Some(secret)).await {
                Ok(()) => tracing::info!("began the cluster, as the first of the hosts in 'join'"),
                Err(why) => tracing::error!(%why, "the cluster could not be begun"),
            }
        }
    }
}
