//! A container's link on a wire, put back into its sandbox after the parent went and came again.
//!
//! With a link go all that were on it, wherever they are, and Docker doesn't notice. So the container's link is made anew, given
//! the name that the old one had (the lowest that is free), its addresses, and the way out if the container has none.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use tombolo_core::model::IfName;
use tombolo_core::world::{PLACED_GROUP, Setting, Value};

use super::Error;
use super::link::{Link, link_of};
use super::look::spaces::inside;
use super::netlink::Links;
use super::placed::with_alias;
use super::settings;
use super::socket::{Failure, Reply, unless};
use super::uplinks::Uplink;

/// A container's link as it is to be in its sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// The sandbox: the path of its network namespace.
    pub sandbox: PathBuf,
    /// The link's name while it is with the host.
    pub link: IfName,
    /// What it is.
    pub value: Value,
    /// What its name in the sandbox begins with.
    pub prefix: String,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// The way out of each family, by a router or (none) by the link itself.
    pub ways_out: Vec<(IpNet, Option<IpAddr>)>,
    /// Whether it was made within the sandbox, and is again to be known as such.
    pub placed: bool,
}

/// What became of a link that may have gone with its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutBack {
    /// It is in its sandbox, or on its way there.
    There,
    /// It was not, and is again.
    Again,
}

impl Inside {
    /// Looks whether the link is in its sandbox, and puts it there if not. It blocks: the sandbox is entered on another thread.
    ///
    /// # Errors
    /// When the sandbox can't be entered, which nobody can who doesn't see its file, or when the kernel refuses a step; what was
    /// made is taken away again then.
    pub fn put_back(&self) -> Result<PutBack, Error> {
        let host = on_this_thread(async {
            let mut links = Links::new();
            links.find(&self.link).await
        });
        if self.failed("looking for it", host)?.is_some() {
            return Ok(PutBack::There);
        }
        let (there, free) = self.failed("looking into its sandbox", self.look())?;
        if there {
            return Ok(PutBack::There);
        }
        self.failed("making it anew", on_this_thread(self.make(&free)))?;
        let configured = within(&self.sandbox, async |links: &mut Links| {
            self.configure(links, &free).await
        });
        if configured.is_err() {
            // Half a link is worse than none.
            let removed = within(&self.sandbox, async |links: &mut Links| {
                let link = links.used(&free).await?;
                links.delete(link.index).await
            });
            self.failed("taking it away again", removed)?;
        }
        self.failed("setting it up", configured)?;
        Ok(PutBack::Again)
    }

    /// Whether the link is in the sandbox, and the lowest name that is free there.
    fn look(&self) -> Result<(bool, IfName), Failure> {
        let links = within(&self.sandbox, async |links: &mut Links| links.all().await)?;
        let mac = match &self.value {
            Value::Macvlan { mac, .. } => Some(*mac),
            _ => None,
        };
        let is_it = |link: &Link| link.wire.is_some() && (mac.is_none() || link.mac == mac);
        let there = links.iter().any(|link| is_it(link) && (link.ours || link.placed));
        let taken = |name: &IfName| links.iter().any(|link| link.name == name.as_str());
        let names = (0..u16::MAX).filter_map(|n| format!("{}{n}", self.prefix).parse::<IfName>().ok());
        match names.into_iter().find(|name| !taken(name)) {
            Some(name) => Ok((there, name)),
            None => Err(Failure::Broken("no name is free in the sandbox".into())),
        }
    }

    /// Makes the link and moves it into the sandbox.
    async fn make(&self, name: &IfName) -> Result<(), Failure> {
        let Some(asked) = Uplink::of(&self.link, &self.value) else {
            return Failure::ours("no link on a wire");
        };
        let file = std::fs::File::open(&self.sandbox).map_err(|error| broken(&error))?;
        let mut links = Links::new();
        links.add_uplink(&asked).await?;
        let made = links.ours(&self.link).await?;
        let message = LinkUnspec::new_with_index(made.index)
            .name(name.to_string())
            .setns_by_fd(file.as_raw_fd());
        let message = match self.placed {
            true => with_alias(message, Some(&self.link)).link_group(PLACED_GROUP),
            false => message,
        };
        let moved = links.tell(RouteNetlinkMessage::SetLink(message.build()), 0).await;
        if moved.is_err() {
            links.delete(made.index).await?;
        }
        moved
    }

    /// Gives the link in the sandbox what the container is to have.
    async fn configure(&self, links: &mut Links, name: &IfName) -> Result<(), Failure> {
        let link = links.used(name).await?;
        let v6 = self.addresses.iter().any(|address| address.addr().is_ipv6());
        settings::apply(&Setting::DisableIpv6(name.clone()), u32::from(!v6), &[])?;
        for address in &self.addresses {
            links.add_address(name, *address).await?;
        }
        let up = LinkUnspec::new_with_index(link.index).up().build();
        links.tell(RouteNetlinkMessage::SetLink(up), 0).await?;
        for (net, via) in &self.ways_out {
            let route = RouteNetlinkMessage::NewRoute(route_by(*net, *via, link.index));
            let made = links.tell(route, NLM_F_CREATE | NLM_F_EXCL).await;
            // A container on several networks may have its way out by another one.
            unless(made, &[libc::EEXIST])?;
        }
        Ok(())
    }

    fn failed<T>(&self, doing: &str, outcome: Result<T, Failure>) -> Result<T, Error> {
        outcome.map_err(|failure| Error::Refused {
            step: format!("{doing}: {} in {}", self.link, self.sandbox.display()),
            why: failure.to_string(),
        })
    }
}

/// A route by a link, to a router or (none) to what is on its wire.
pub(super) fn route_by(net: IpNet, via: Option<IpAddr>, link: u32) -> RouteMessage {
    use netlink_packet_route::AddressFamily;
    let mut route = RouteMessageBuilder::<IpAddr>::new()
        .table_id(u32::from(RouteHeader::RT_TABLE_MAIN))
        .kind(RouteType::Unicast)
        .scope(match via {
            Some(_) => RouteScope::Universe,
            None => RouteScope::Link,
        })
        .build();
    route.header.address_family = match net {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    route.header.destination_prefix_length = net.prefix_len();
    if net.prefix_len() > 0 {
        route
            .attributes
            .push(RouteAttribute::Destination(net.addr().into()));
    }
    route
        .attributes
        .extend(via.map(|via| RouteAttribute::Gateway(via.into())));
    route.attributes.push(RouteAttribute::Oif(link));
    route
}

impl Links {
    /// All links of this namespace.
    pub(super) async fn all(&mut self) -> Result<Vec<Link>, Failure> {
        self.told_of_all().await?.iter().map(link_of).collect()
    }

    /// What the kernel tells of them.
    pub(super) async fn told_of_all(&mut self) -> Result<Vec<Reply>, Failure> {
        let dump = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.socket.dump(dump.into()).await
    }
}

/// Does something with the links of a sandbox.
fn within<T: Send>(
    sandbox: &Path,
    work: impl AsyncFnOnce(&mut Links) -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let done = inside(sandbox, || {
        on_this_thread(async move {
            let mut links = Links::new();
            work(&mut links).await
        })
    });
    done.map_err(|error| broken(&error))?
}

pub(super) fn on_this_thread<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| broken(&error))?;
    let done = runtime.block_on(work);
    // A link that nobody sees any more takes the kernel some more time, for which nobody needs to wait.
    runtime.shutdown_background();
    done
}

pub(super) fn broken(error: &io::Error) -> Failure {
    Failure::Broken(error.to_string())
}
