//! Settings under `/proc/sys/net`. A setting is written only if it is not as it should be. Most of a link's are told with the link
//! (`IFLA_AF_SPEC`), so that a look at thousands of bridges doesn't open ten files of each.
//!
//! The kernel shows here the network namespace of the thread that opens the file, so all of this is done in place, by
//! plain reads and writes that never wait, and never on a pool of other threads.

use std::fs;
use std::io;
use std::path::Path;

use netlink_packet_route::link::{AfSpecInet, AfSpecInet6, AfSpecUnspec};
use tombolo_core::model::IfName;
use tombolo_core::world::{Family, Key, Setting, Value, World};

use super::socket::Failure;

/// Where the IPv6 settings of all links are; it is not there if the kernel was started without IPv6.
const IPV6: &str = "/proc/sys/net/ipv6/conf";

/// Settings of a link as they were told with it; those of IPv6 are missing where it has no IPv6.
#[derive(Debug, Default)]
pub(super) struct Told {
    v4: Option<[i32; 4]>,
    v6: Option<[i32; 4]>,
}

impl Told {
    /// Learns what one of a link's attributes says.
    pub(super) fn learn(&mut self, families: &[AfSpecUnspec]) {
        for family in families {
            match family {
                AfSpecUnspec::Inet(told) => {
                    self.v4 = self.v4.or(told.iter().find_map(|item| match item {
                        AfSpecInet::DevConf(conf) => Some([
                            conf.route_localnet,
                            conf.arpfilter,
                            conf.arp_announce,
                            conf.proxy_arp,
                        ]),
                        _ => None,
                    }));
                }
                AfSpecUnspec::Inet6(told) => {
                    self.v6 = self.v6.or(told.iter().find_map(|item| match item {
                        AfSpecInet6::DevConf(conf) => {
                            Some([conf.disable_ipv6, conf.accept_ra, conf.accept_dad, conf.proxy_ndp])
                        }
                        _ => None,
                    }));
                }
                _ => {}
            }
        }
    }

    /// What was told of a link of this name.
    pub(super) fn facts(&self, link: &IfName) -> impl Iterator<Item = (Key, Value)> {
        let v4: [fn(IfName) -> Setting; 4] = [
            Setting::RouteLocalnet,
            Setting::ArpFilter,
            Setting::ArpAnnounce,
            Setting::ProxyArp,
        ];
        let v6: [fn(IfName) -> Setting; 4] = [
            Setting::DisableIpv6,
            Setting::AcceptRa,
            Setting::AcceptDad,
            Setting::ProxyNdp,
        ];
        let of = |settings: [fn(IfName) -> Setting; 4], told: Option<[i32; 4]>| {
            settings.into_iter().zip(told.into_iter().flatten())
        };
        // A number that is less than zero is read, to be told as what it is.
        of(v4, self.v4)
            .chain(of(v6, self.v6))
            .filter_map(|(setting, told)| {
                let number = u32::try_from(told).ok()?;
                Some((Key::Setting(setting(link.clone())), Value::Number(number)))
            })
    }
}

/// Adds the settings of this host, and those of some links that are not known yet.
pub(super) fn observe(links: &[IfName], world: &mut World) -> Result<(), io::Error> {
    let host = [Setting::Forward4, Setting::Forward6, Setting::BridgeFilter6];
    for setting in host.into_iter().chain(links.iter().flat_map(Setting::of_link)) {
        let key = Key::Setting(setting);
        let Key::Setting(setting) = &key else { continue };
        let is_off = |with| world.get(&Key::Setting(with)) == Some(&Value::Number(0));
        if world.contains_key(&key) || setting.only_with().is_some_and(is_off) {
            continue;
        }
        if let Some(number) = read(setting)? {
            world.insert(key, Value::Number(number));
        }
    }
    Ok(())
}

/// What a setting is; none if its link is gone.
fn read(setting: &Setting) -> io::Result<Option<u32>> {
    match fs::read_to_string(setting.path()) {
        Ok(text) => {
            let number = text.trim().parse();
            number
                .map(Some)
                .map_err(|_| io::Error::other(format!("{setting} is '{}'", text.trim())))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound && *setting == Setting::BridgeFilter6 => Ok(Some(0)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(without_ipv6(setting)),
        Err(e) => Err(e),
    }
}

/// What an IPv6 setting amounts to in a kernel without IPv6; none for other settings and other kernels.
fn without_ipv6(setting: &Setting) -> Option<u32> {
    if Path::new(IPV6).exists() {
        return None;
    }
    match setting {
        Setting::DisableIpv6(_) => Some(1),
        Setting::Forward6 | Setting::AcceptRa(_) | Setting::AcceptDad(_) | Setting::ProxyNdp(_) => Some(0),
        // Nothing is answered, so no answer is put off.
        Setting::ProxyDelay(_, Family::V6) => Some(0),
        Setting::Forward4 | Setting::RouteLocalnet(_) | Setting::BridgeFilter6 => None,
        Setting::ProxyArp(_) | Setting::ProxyDelay(_, Family::V4) => None,
        Setting::ArpFilter(_) | Setting::ArpAnnounce(_) => None,
    }
}

/// Makes a setting a number. `ours` are the names of our links.
pub(super) fn apply(setting: &Setting, number: u32, ours: &[IfName]) -> Result<(), Failure> {
    let found = read(setting).map_err(|e| refused(&e))?;
    if found == Some(number) {
        return Ok(());
    }
    if without_ipv6(setting).is_some() {
        return Failure::ours("IPv6 is switched off on this host (its kernel runs without it)");
    }
    if *setting == Setting::Forward6 && number != 0 {
        keep_learning_routes(Path::new(IPV6), ours).map_err(|e| refused(&e))?;
    }
    fs::write(setting.path(), number.to_string()).map_err(|e| refused(&e))
}

fn refused(error: &io::Error) -> Failure {
    Failure::Refused {
        errno: error.raw_os_error().unwrap_or(libc::EIO),
        text: String::new(),
    }
}

/// Lets every link that learns its routes from router advertisements go on doing so when the host begins to forward:
/// `accept_ra` 1 means "unless forwarding", 2 means "even so". Before forwarding is on they mean the same, so dying after
/// this changes nothing.
///
/// `default` is left as it is. A 2 there would let every bridge and veth that anybody makes later, Docker's too, take
/// routes from containers; a network card that comes later is its network manager's to set up. Our own links must never
/// learn, and `all` has no effect on any link.
fn keep_learning_routes(conf: &Path, ours: &[IfName]) -> io::Result<()> {
    for entry in fs::read_dir(conf)? {
        let entry = entry?;
        let name = entry.file_name();
        let exempt =
            name == "all" || name == "default" || name == "lo" || ours.iter().any(|o| name == o.as_str());
        let accept = entry.path().join("accept_ra");
        let is = |path: &Path, wanted: &str| fs::read_to_string(path).map(|text| text.trim() == wanted);
        if exempt {
            continue;
        }
        let gone = |e: io::Error| {
            if e.kind() == io::ErrorKind::NotFound {
                Ok(())
            } else {
                Err(e)
            }
        };
        let learns = is(&accept, "1").and_then(|one| Ok(one && is(&entry.path().join("forwarding"), "0")?));
        match learns {
            Ok(true) => fs::write(&accept, "2").or_else(gone)?,
            Ok(false) => {}
            // The link went away since the folder was read.
            Err(e) => gone(e)?,
        }
    }
    Ok(())
}

/// Lets an IPv4 address outlive another one of its subnet on a link: without this, the kernel takes away with an address
/// all those of its subnet that came later.
pub(super) fn promote_secondaries(link: &IfName) -> Result<(), Failure> {
    let path = format!("/proc/sys/net/ipv4/conf/{link}/promote_secondaries");
    match fs::read_to_string(&path) {
        Ok(text) if text.trim() == "1" => Ok(()),
        Ok(_) => fs::write(&path, "1").map_err(|e| refused(&e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(refused(&e)),
    }
}

/// Takes a bridge's port out of IPv6, of which only the bridge itself has to do with it. With it the kernel would give each port an
/// address and three routes, and walk the routes of all ports whenever one comes up or goes down (`addrconf_notify`,
/// net/ipv6/addrconf.c).
pub(super) fn without_own_ipv6(port: &IfName) -> Result<(), Failure> {
    let setting = Setting::DisableIpv6(port.clone());
    match fs::read_to_string(setting.path()) {
        // A link whose packets are too small for IPv6 has none.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => apply(&setting, 1, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(conf: &Path, name: &str, accept_ra: &str, forwarding: &str) {
        fs::create_dir_all(conf.join(name)).unwrap();
        fs::write(conf.join(name).join("accept_ra"), accept_ra).unwrap();
        fs::write(conf.join(name).join("forwarding"), forwarding).unwrap();
    }

    #[test]
    fn links_that_learn_routes_go_on_doing_so_and_no_others() {
        let conf = tempfile::tempdir().unwrap();
        let cases = [
            ("eth0", "1", "0", "2"),
            ("eth1", "0", "0", "0"),
            ("eth2", "2", "0", "2"),
            ("router", "1", "1", "1"),
            ("tb-ours", "1", "0", "1"),
            ("default", "1", "0", "1"),
            ("all", "1", "0", "1"),
        ];
        for (name, before, forwarding, _) in cases {
            link(conf.path(), name, before, forwarding);
        }
        keep_learning_routes(conf.path(), &["tb-ours".parse().unwrap()]).unwrap();
        for (name, _, _, after) in cases {
            assert_eq!(
                fs::read_to_string(conf.path().join(name).join("accept_ra")).unwrap(),
                after,
                "{name}"
            );
        }
    }
}
