//! What people are told of the cluster: in the log, as events, and in words.

use tombolo_cluster::HostId;
use tombolo_cluster::node::{News, Standing};

use super::Part;
use crate::engine::events::What;

impl Part {
    pub(super) fn tell(&mut self, news: News) {
        let name = |host: &HostId| self.node.name(host);
        let (action, host, name, detail) = match &news {
            News::Up(host) => ("up", *host, name(host), None),
            News::Down(host) => ("down", *host, name(host), None),
            News::Joined(host) => ("joined", *host, name(host), None),
            News::Left(host, name) => ("left", *host, name.clone(), None),
            News::Forgotten(host, name) => ("forgotten", *host, name.clone(), None),
            News::Cloned { host, one, other } => {
                let why = format!(
                    "two hosts have this identifier, at {one} and {other}: on the one that is a copy run 'tombolo cluster leave' and \
                     'tombolo cluster join' anew"
                );
                ("cloned", *host, name(host), Some(why))
            }
            News::SetBack(how) => ("set-back", self.me, self.around.name.clone(), Some(how.clone())),
            News::Torn { with, slot } => {
                let why = format!(
                    "host {} knows another decree {slot}: a host was forgotten that was not gone",
                    name(with)
                );
                ("torn", self.me, self.around.name.clone(), Some(why))
            }
            News::Standing(standing) => (
                "standing",
                self.me,
                self.around.name.clone(),
                Some(words(standing, self.node.charter().by_store)),
            ),
        };
        match news {
            News::Cloned { .. } | News::SetBack(_) | News::Torn { .. } | News::Down(_) => {
                tracing::warn!(%host, name, detail, "cluster: {action}");
            }
            _ => tracing::info!(%host, name, detail, "cluster: {action}"),
        }
        let what = What::Host {
            action,
            host: host.to_string(),
            name,
            detail,
        };
        self.around.events.tell(&what);
        if matches!(news, News::Standing(_)) {
            self.stand();
        }
    }
}

/// How this host stands, in words for people.
pub fn words(standing: &Standing, by_store: bool) -> String {
    match standing {
        Standing::Confirmed if by_store => "the store has confirmed it".to_owned(),
        Standing::Waiting if by_store => "it has begun anew and waits for the store to confirm its share; see 'tombolo cluster status'".to_owned(),
        Standing::Alone if by_store => "the store does not answer; it goes on with its own share".to_owned(),
        Standing::Confirmed => "a majority has confirmed it".to_owned(),
        Standing::Waiting => "it has begun anew and waits for enough other hosts to confirm its share; see 'tombolo cluster status'".to_owned(),
        Standing::Alone => "no majority answers; it goes on with its own share".to_owned(),
        Standing::Gone(how) => format!("it is out of the cluster ({how}): 'tombolo cluster leave', then join anew"),
        Standing::Cloned(other) => format!("the host at {other} has the same identifier: 'tombolo cluster leave' on the copy, then join anew"),
    }
}
