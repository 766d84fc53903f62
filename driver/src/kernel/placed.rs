//! A container's link that is made within its sandbox, in the place of one that the engine would move there.
//!
//! ```text
//!   sandbox                     host
//!   eth%d ────── one message ────── tbh…     then in the sandbox: addresses, settings, up, routes
//! ```
//!
//! Moving a link from one namespace to another costs the kernel some 16 ms, making one in both at once half a millisecond. What
//! the engine would do with a link that it moves (moby, `libnetwork/osl/interface_linux.go`) is done here in its order: the
//! name by its prefix with the lowest free number, addresses, `disable_ipv6` by whether it has one of IPv6, the endpoint's
//! own settings, up, and the routes by the link itself. The ways out are the engine's all the same.
//!
//! A pair is known by the host's end, with which both go. Of a link on a wire the host has none: its alias says whose it is, it
//! is taken out of the sandbox when its endpoint leaves, and a daemon that has begun anew looks into the namespaces of this machine
//! for those that nobody wants.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NetlinkDeserializable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::sys::statfs::{FsType, fstatfs};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use tombolo_core::model::IfName;
use tombolo_core::world::{LINK_GROUP, PLACED_GROUP, Setting, Value};

use super::Error;
use super::link::{Link, link_of, name_and_group};
use super::look::spaces;
use super::netlink::{Asked, Links, Veth, refused, with_mtu};
use super::sandbox::{broken, on_this_thread, route_by};
use super::socket::{Failure, Reply};
use super::uplinks::Uplink;
use super::{routes, settings};

/// The file system of namespaces' files (`NSFS_MAGIC`, linux/magic.h).
const NSFS: FsType = FsType(0x6e73_6673);

/// The namespace of the thread that asks.
const OWN: &str = "/proc/thread-self/ns/net";

/// A sandbox that can be entered. It lives as long as this does, whatever becomes of its file.
#[derive(Debug)]
pub struct Sandbox {
    file: File,
    path: PathBuf,
}

impl Sandbox {
    /// The sandbox at a path, if there is a network namespace by now that isn't this host's own. Engines before 28 make it
    /// only after the container has joined its networks, and a managed plug-in doesn't see it.
    pub fn at(path: &Path) -> Option<Self> {
        Self::of(File::open(path).ok()?, path)
    }

    /// The same of a file that is open.
    fn of(file: File, path: &Path) -> Option<Self> {
        let kind = fstatfs(&file).ok()?.filesystem_type();
        let (there, own) = (file.metadata().ok()?, fs::metadata(OWN).ok()?);
        let apart = (there.dev(), there.ino()) != (own.dev(), own.ino());
        (kind == NSFS && apart).then(|| Self {
            file,
            path: path.to_owned(),
        })
    }
}

/// What the names of the engine's own links begin with where nobody says otherwise.
const ENGINES_PREFIX: &str = "eth";

impl Sandbox {
    /// The names of the links in it that the engine has put there.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub async fn strangers(self: Arc<Self>) -> Result<BTreeSet<String>, Error> {
        let all = within(self.clone(), async |links: &mut Links| links.all().await);
        let all = self.told("looking at its links", all.await)?;
        let strangers = all.into_iter().filter(is_stranger);
        Ok(strangers.map(|link| link.name).collect())
    }

    /// Gives a link of ours another name if it has the one that the engine will give its next link. Tells that name then, and
    /// the link's index.
    ///
    /// # Errors
    /// When the kernel doesn't do it: it renames links that are up since Linux 6.2.
    pub async fn make_room(
        self: Arc<Self>,
        strangers: &BTreeSet<String>,
    ) -> Result<Option<(IfName, u32)>, Error> {
        let next = (0..u16::MAX).map(|n| format!("{ENGINES_PREFIX}{n}"));
        let next = next.into_iter().find(|name| !strangers.contains(name));
        let Some(next) = next.and_then(|name| name.parse::<IfName>().ok()) else {
            return Ok(None);
        };
        let name = next.clone();
        let renamed = within(self.clone(), async move |links: &mut Links| {
            let Some(link) = links.find(&name).await?.filter(|link| link.placed) else {
                return Ok(None);
            };
            let other = LinkUnspec::new_with_index(link.index).name(format!("{ENGINES_PREFIX}%d"));
            links.tell(RouteNetlinkMessage::SetLink(other.build()), 0).await?;
            Ok(Some(link.index))
        });
        let renamed = self.told("giving a link another name", renamed.await)?;
        Ok(renamed.map(|index| (next, index)))
    }

    /// Gives a link of ours the name back that it had, if nobody has taken that.
    ///
    /// # Errors
    /// When the kernel doesn't do it.
    pub async fn give_back(self: Arc<Self>, name: IfName, index: u32) -> Result<(), Error> {
        let given = within(self.clone(), async move |links: &mut Links| {
            let all = links.all().await?;
            let free = all.iter().all(|link| link.name != name.as_str());
            if free && all.iter().any(|link| link.index == index && link.placed) {
                let back = LinkUnspec::new_with_index(index).name(name.to_string());
                links.tell(RouteNetlinkMessage::SetLink(back.build()), 0).await?;
            }
            Ok(())
        });
        self.told("giving a link its name back", given.await)
    }

    fn told<T>(&self, doing: &str, outcome: Result<T, Failure>) -> Result<T, Error> {
        outcome.map_err(|failure| Error::Refused {
            step: format!("{doing}, in {self}"),
            why: failure.to_string(),
        })
    }
}

/// Does something with the links of a sandbox. It is entered on a thread, which is waited for.
async fn within<T: Send + 'static>(
    sandbox: Arc<Sandbox>,
    work: impl AsyncFnOnce(&mut Links) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let work = move || {
        let done = spaces::inside_of(&sandbox.file, || {
            on_this_thread(async { work(&mut Links::new()).await })
        });
        done.map_err(|error| broken(&error))?
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Failure::Broken(error.to_string())))
}

/// Whether a link was put there by the engine: not made there by us, up, and with its other end, or what it is on, elsewhere. Those
/// that came with the namespace (`lo`, `tunl0`), or that the container has made for itself, have nothing elsewhere.
fn is_stranger(link: &Link) -> bool {
    link.up && !link.placed && link.elsewhere.is_some()
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// A container's link as it is to be in its sandbox.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The sandbox.
    pub sandbox: Arc<Sandbox>,
    /// What the link's name begins with.
    pub prefix: String,
    /// Its addresses, none of them an IPv6 link-local one.
    pub addresses: Vec<IpNet>,
    /// Its settings, as `net.X.Y.IFNAME.Z=VALUE`.
    pub sysctls: Vec<String>,
    /// What is on its wire besides its own subnets.
    pub routes: Vec<IpNet>,
}

impl Placed {
    /// Makes the link of this name: a pair's, whose host end has it, or one on a wire. `host` are this host's links.
    pub(super) async fn make(self, host: &mut Links, name: IfName, link: Value) -> Result<(), Failure> {
        match Asked::of(&name, &link) {
            Some(Asked::Veth(_)) => self.make_pair(name, link).await,
            Some(Asked::Uplink(asked)) => self.make_on_wire(host, &asked).await,
            _ => Failure::ours("only a pair of links, or one on a wire, can be made within a sandbox"),
        }
    }

    async fn make_on_wire(self, host: &mut Links, asked: &Uplink<'_>) -> Result<(), Failure> {
        let sandbox = self.sandbox.clone();
        let placed = Arc::new(self);
        let looks = placed.clone();
        let there = within(sandbox.clone(), async move |links: &mut Links| {
            looks.has_room(links).await
        });
        let there = there.await?;
        host.place_uplink(asked, &placed.prefix, &sandbox.file).await?;
        let alias = asked.name.clone();
        within(sandbox, async move |links: &mut Links| {
            placed.finish(links, &there, Some(&alias)).await
        })
        .await
    }

    async fn make_pair(self, host: IfName, pair: Value) -> Result<(), Failure> {
        let own = File::open(OWN).map_err(|error| broken(&error))?;
        within(
            self.sandbox.clone(),
            async move |links: &mut Links| match Asked::of(&host, &pair) {
                Some(Asked::Veth(veth)) => self.make_within(links, &veth, &own).await,
                _ => Failure::ours("no pair of links"),
            },
        )
        .await
    }

    async fn make_within(&self, links: &mut Links, veth: &Veth<'_>, host: &File) -> Result<(), Failure> {
        let there = self.has_room(links).await?;
        self.add_pair(links, veth, host).await?;
        self.finish(links, &there, None).await
    }

    /// The indices of the links that are there, if there is room for another one of ours.
    async fn has_room(&self, links: &mut Links) -> Result<Vec<u32>, Failure> {
        let there = links.all().await?;
        // It may be connected to more networks of other drivers at any time, and the engine would give links names that ours have.
        if let Some(other) = there.iter().find(|link| is_stranger(link)) {
            return Failure::ours(format!(
                "{} has a link of the engine's, {}",
                self.sandbox, other.name
            ));
        }
        if there.iter().any(|link| link.name != "lo") {
            self.clear().await?;
        }
        Ok(there.iter().map(|link| link.index).collect())
    }

    /// Sets the link up that is there besides those that were.
    async fn finish(&self, links: &mut Links, there: &[u32], alias: Option<&IfName>) -> Result<(), Failure> {
        let made = links.all().await?.into_iter();
        let is_new = |link: &Link| link.placed && !there.contains(&link.index);
        let Some(link) = made.into_iter().find(is_new) else {
            return Failure::ours("a link that was just made is not there");
        };
        let done = self.set_up(links, &link, alias).await;
        if done.is_err() {
            // Half a link is worse than none. The other end goes with it.
            links.delete(link.index).await?;
        }
        done
    }

    /// One message makes both ends where they belong.
    async fn add_pair(&self, links: &mut Links, veth: &Veth<'_>, host: &File) -> Result<(), Failure> {
        let end = LinkUnspec::new_with_name(veth.name.as_str())
            .link_group(LINK_GROUP)
            .address(veth.mac.bytes().to_vec())
            .append_extra_attribute(LinkAttribute::NetNsFd(host.as_raw_fd()));
        // The kernel puts the lowest free number in the place of `%d`.
        let pattern = format!("{}%d", self.prefix);
        let message = LinkVeth::new(&pattern, veth.name.as_str())
            .link_group(PLACED_GROUP)
            .address(veth.peer_mac.bytes().to_vec());
        let message = with_mtu(message, veth.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(with_mtu(end, veth.mtu).build())));
        links.create(message.build()).await
    }

    async fn set_up(&self, links: &mut Links, link: &Link, alias: Option<&IfName>) -> Result<(), Failure> {
        let name: IfName = link
            .name
            .parse()
            .map_err(|error| Failure::Broken(format!("a link was made as '{}': {error}", link.name)))?;
        let v6 = self.addresses.iter().any(|address| address.addr().is_ipv6());
        settings::apply(&Setting::DisableIpv6(name.clone()), u32::from(!v6), &[])?;
        for address in &self.addresses {
            links.add_address(&name, *address).await?;
        }
        for sysctl in &self.sysctls {
            set(sysctl, &name)?;
        }
        // A setting may have taken IPv6 away again, of which the engine must know.
        let has = links.addresses().await?;
        let kept = |address: &IpNet| {
            let on_it = (link.index, *address);
            has.iter().any(|(index, net, _)| (*index, *net) == on_it)
        };
        if let Some(lost) = self.addresses.iter().find(|address| !kept(address)) {
            return Failure::ours(format!("{lost} did not stay, as a setting forbids it"));
        }
        let up = with_alias(LinkUnspec::new_with_index(link.index).up(), alias);
        links.tell(RouteNetlinkMessage::SetLink(up.build()), 0).await?;
        for net in self.routes.iter().filter(|net| net.prefix_len() > 0) {
            let route = RouteNetlinkMessage::NewRoute(route_by(*net, None, link.index));
            links.tell(route, NLM_F_CREATE | NLM_F_EXCL).await?;
        }
        Ok(())
    }

    /// Whether the sandbox has no route to anything on its wire: the engine would refuse such an address.
    async fn clear(&self) -> Result<(), Failure> {
        let routes = routes::destinations().await;
        let routes = routes.map_err(|error| Failure::Broken(error.to_string()))?;
        for route in routes.iter().filter(|route| route.prefix_len() > 0) {
            let overlaps = |own: &&IpNet| own.contains(route) || route.contains(&own.trunc());
            if let Some(own) = self.addresses.iter().find(overlaps) {
                return Err(refused(
                    libc::EEXIST,
                    format!("the sandbox has a route to {route}, which {own} overlaps"),
                ));
            }
        }
        Ok(())
    }
}

/// Says whose link on a wire it is.
pub(super) fn with_alias(
    message: LinkMessageBuilder<LinkUnspec>,
    alias: Option<&IfName>,
) -> LinkMessageBuilder<LinkUnspec> {
    match alias {
        Some(alias) => message.append_extra_attribute(LinkAttribute::IfAlias(alias.to_string())),
        None => message,
    }
}

/// Takes a link on a wire out of a sandbox, if it is there; without a path, out of whichever it is in.
pub(super) async fn take_out(sandbox: &Path, name: &IfName) -> Result<(), Failure> {
    let name = name.to_string();
    if sandbox.as_os_str().is_empty() {
        let swept = tokio::task::spawn_blocking(move || sweep(|alias| alias == Some(name.as_str()))).await;
        let swept = swept.unwrap_or_else(|error| Err(io::Error::other(error)));
        return swept.map(drop).map_err(|error| broken(&error));
    }
    let file = match File::open(sandbox) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(|error| broken(&error))?,
    };
    let Some(sandbox) = Sandbox::of(file, sandbox) else {
        return Ok(());
    };
    within(Arc::new(sandbox), async move |links: &mut Links| {
        // One without an alias was not finished, and is nobody's: whoever makes them is who asks.
        let goes = |link: &Link| link.alias.as_ref().is_none_or(|alias| *alias == name);
        for link in links.on_wires().await?.iter().filter(|link| goes(link)) {
            links.delete(link.index).await?;
        }
        Ok(())
    })
    .await
}

/// Takes links on wires of this host out of all sandboxes of this machine, by their aliases; tells which. It blocks.
///
/// # Errors
/// When the machine's processes can't be listed. A namespace that ends meanwhile is passed over.
pub(super) fn sweep(goes: impl Fn(Option<&str>) -> bool + Sync) -> io::Result<Vec<String>> {
    let own = Arc::new(File::open(OWN)?);
    let mut known = BTreeSet::from([own.metadata()?.ino()]);
    let mut taken = Vec::new();
    for process in fs::read_dir("/proc")? {
        let path = process?.path().join("ns/net");
        let Ok(file) = File::open(&path) else { continue };
        if !known.insert(file.metadata()?.ino()) {
            continue;
        }
        let own = own.clone();
        let swept = spaces::inside_of(&file, || on_this_thread(sweep_one(&goes, &own)));
        match swept.map_err(|error| broken(&error)).flatten() {
            Ok(some) => taken.extend(some),
            Err(error) => tracing::warn!(namespace = %path.display(), %error, "not looked into"),
        }
    }
    Ok(taken)
}

async fn sweep_one(goes: &impl Fn(Option<&str>) -> bool, own: &File) -> Result<Vec<String>, Failure> {
    let mut links = Links::new();
    let on_wires = links.on_wires().await?.into_iter();
    let unwanted: Vec<Link> = on_wires.filter(|link| goes(link.alias.as_deref())).collect();
    if unwanted.is_empty() {
        return Ok(Vec::new());
    }
    // Other hosts on this machine may have links of that sort, too.
    let ours = links.number_of(own).await?;
    let mut taken = Vec::new();
    for link in unwanted {
        if ours.is_some() && link.elsewhere == ours {
            links.delete(link.index).await?;
            taken.push(link.alias.unwrap_or(link.name));
        }
    }
    Ok(taken)
}

impl Links {
    /// The links on wires that were made in this namespace. What else there is need not be understood.
    async fn on_wires(&mut self) -> Result<Vec<Link>, Failure> {
        let replies = self.told_of_all().await?;
        let placed = replies
            .iter()
            .filter(|reply| name_and_group(reply).1 == Some(PLACED_GROUP));
        let links = placed.map(link_of).collect::<Result<Vec<Link>, Failure>>()?;
        Ok(links.into_iter().filter(|link| link.wire.is_some()).collect())
    }

    /// The number by which this namespace knows another one, if it does.
    async fn number_of(&mut self, other: &File) -> Result<Option<i32>, Failure> {
        let mut question = NsidMessage::default();
        let fd = u32::try_from(other.as_raw_fd()).map_err(|error| Failure::Broken(error.to_string()))?;
        question.attributes.push(NsidAttribute::Fd(fd));
        let replies = self
            .socket
            .ask(RouteNetlinkMessage::GetNsId(question).into())
            .await?;
        let number = |reply: &Reply| match RouteNetlinkMessage::deserialize(&reply.header, &reply.payload) {
            Ok(RouteNetlinkMessage::NewNsId(answer)) => {
                answer
                    .attributes
                    .into_iter()
                    .find_map(|attribute| match attribute {
                        NsidAttribute::Id(id) => Some(id).filter(|id| *id >= 0),
                        _ => None,
                    })
            }
            _ => None,
        };
        Ok(replies.iter().find_map(number))
    }
}

/// Makes a setting of a link as the user wrote it.
fn set(sysctl: &str, link: &IfName) -> Result<(), Failure> {
    let path = setting_path(sysctl, link);
    let Some((path, value)) = path else {
        return Failure::ours(format!("sysctl '{sysctl}': net.X.Y.IFNAME.Z=VALUE is allowed"));
    };
    let failed = |error: io::Error| refused(error.raw_os_error().unwrap_or(libc::EIO), sysctl.to_owned());
    let is = fs::read_to_string(&path).map_err(failed)?;
    match is.trim() == value {
        true => Ok(()),
        false => fs::write(&path, value).map_err(failed),
    }
}

/// The file of a setting of a link, and what it is to hold. Nothing but a setting of this link's can be named.
fn setting_path<'a>(sysctl: &'a str, link: &IfName) -> Option<(PathBuf, &'a str)> {
    let (key, value) = sysctl.split_once('=')?;
    let parts: Vec<&str> = key.split('.').collect();
    let [net @ "net", family, sort, _, setting] = parts[..] else {
        return None;
    };
    let plain = |part: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        !part.is_empty() && part.chars().all(fits)
    };
    let path = ["/proc/sys", net, family, sort, link.as_str(), setting];
    [family, sort, setting]
        .iter()
        .all(|part| plain(part))
        .then(|| (path.iter().collect(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_one_of_the_links_own() {
        let link = "eth0".parse().unwrap();
        let (path, value) = setting_path("net.ipv4.conf.IFNAME.log_martians=1", &link).unwrap();
        assert_eq!(
            (path.to_str(), value),
            (Some("/proc/sys/net/ipv4/conf/eth0/log_martians"), "1")
        );
        for other in [
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.IFNAME.log_martians",
            "kernel.a.b.IFNAME.c=1",
            "net.ipv4.conf.IFNAME.../../x=1",
            "net.ipv4.conf.IFNAME.=1",
        ] {
            assert!(setting_path(other, &link).is_none(), "{other}");
        }
    }

    #[test]
    fn what_is_no_network_namespace_of_another_is_no_sandbox() {
        assert!(
            Sandbox::at(Path::new("/proc/thread-self/ns/net")).is_none(),
            "our own"
        );
        assert!(Sandbox::at(Path::new("/nowhere")).is_none());
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Sandbox::at(file.path()).is_none(), "a plain file");
    }
}
