//! Docker: does it find the plug-in, does it answer, is its version one that this works with?

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::evidence::Evidence;
use super::{Finding, REPAIR};

/// Where Docker looks for sockets of plug-ins.
pub(super) const SOCKETS: &str = "/run/docker/plugins";
/// Where it looks for files that name an address.
pub(super) const SPECS: [&str; 2] = ["/etc/docker/plugins", "/usr/lib/docker/plugins"];

/// The name that Docker knows the plug-in by.
pub(super) fn driver(evidence: &Evidence) -> String {
    let stem = evidence.places.plugin_socket.file_stem();
    stem.map_or_else(
        || "tombolo".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    )
}

/// `/var/run` is `/run`.
fn plain(path: &Path) -> PathBuf {
    path.strip_prefix("/var/run")
        .map_or_else(|_| path.to_owned(), |rest| Path::new("/run").join(rest))
}

/// The address in a file by which Docker finds a plug-in.
fn address_of(file: &Path, text: &str) -> String {
    if file.extension().is_some_and(|e| e == "json") {
        let document: Value = serde_json::from_str(text).unwrap_or_default();
        return document["Addr"].as_str().unwrap_or_default().to_owned();
    }
    text.trim().to_owned()
}

/// Files that name an address for our name: the address, and whether it is our socket.
fn specs(evidence: &Evidence) -> Vec<(&PathBuf, String, bool)> {
    let (driver, socket) = (driver(evidence), plain(&evidence.places.plugin_socket));
    let ours = |path: &&PathBuf| {
        path.file_stem()
            .is_some_and(|stem| stem.to_string_lossy() == driver)
    };
    let spec = |path: &&PathBuf| path.extension().is_some_and(|e| e == "spec" || e == "json");
    let files = evidence.places.plugin_files.iter();
    files
        .filter(|(path, _)| ours(path) && spec(path))
        .map(|(path, text)| {
            let address = address_of(path, text);
            let same = address
                .strip_prefix("unix://")
                .is_some_and(|path| plain(Path::new(path)) == socket);
            (path, address, same)
        })
        .collect()
}

pub(super) fn plugin_socket(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "docker.plugin-socket";
    let socket = &evidence.places.plugin_socket;
    let shown = socket.display();
    let driver = driver(evidence);
    let listens = match &evidence.places.listens {
        None => return vec![Finding::none(CHECK, "not tried")],
        Some(listens) => listens,
    };
    if let Err(why) = listens {
        let by_systemd = evidence
            .systemd
            .as_ref()
            .is_some_and(|systemd| systemd.before.is_some());
        let without = "without it Docker waits 15 s for each call and then refuses; the daemon makes it";
        let fault =
            |when: &str| Finding::fault(CHECK, format!("{shown}: {why}"), format!("{without} {when}"));
        return vec![match (by_systemd, evidence.daemon_answers()) {
            (true, _) => fault("when it starts").by("systemctl restart tombolo.socket tombolo.service"),
            (false, true) => fault("anew within ten seconds, or at once").by(REPAIR),
            (false, false) => fault("when it starts"),
        }];
    }
    let plain = plain(socket);
    let direct = [
        format!("{SOCKETS}/{driver}.sock"),
        format!("{SOCKETS}/{driver}/{driver}.sock"),
    ];
    if direct.iter().any(|path| Path::new(path) == plain) {
        return vec![Finding::ok(
            CHECK,
            format!("{shown} is listened on, and is where Docker looks"),
        )];
    }
    match specs(evidence).iter().find(|(_, _, same)| *same) {
        Some((file, ..)) => vec![Finding::ok(
            CHECK,
            format!("{shown} is listened on; {} names it", file.display()),
        )],
        None => {
            let remedy = "Docker looks in /run/docker/plugins only; name the socket in a file that it reads";
            let command = format!("mkdir -p {0} && echo unix://{shown} >{0}/{driver}.spec", SPECS[0]);
            vec![
                Finding::fault(
                    CHECK,
                    format!("{shown} is listened on, but Docker does not look there"),
                    remedy,
                )
                .by(command),
            ]
        }
    }
}

pub(super) fn name_clash(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "docker.plugin-name";
    let driver = driver(evidence);
    let mut findings = Vec::new();
    for (file, address, same) in specs(evidence) {
        if !same {
            let evidence = format!("{} gives the name {driver} to {address}", file.display());
            let remedy = "Docker asks there whenever tombolo's own socket is missing; remove the file";
            findings.push(Finding::warning(CHECK, evidence, remedy).by(format!("rm {}", file.display())));
        }
    }
    let listens = matches!(evidence.places.listens, Some(Ok(())));
    for plugin in &evidence.docker.plugins {
        let name = plugin["Name"].as_str().unwrap_or_default();
        let same = name
            .strip_prefix(driver.as_str())
            .is_some_and(|tag| tag.is_empty() || tag.starts_with(':'));
        // Alone it is tombolo itself, installed as a managed plug-in.
        if same && plugin["Enabled"] == true && listens && evidence.daemon_answers() {
            let found = format!(
                "the managed plug-in {name} is enabled beside the daemon on {}",
                evidence.places.plugin_socket.display()
            );
            let remedy = "Docker prefers the managed one, so two programs look after the same networks; keep one of them";
            findings
                .push(Finding::fault(CHECK, found, remedy).by(format!("docker plugin disable -f {name}")));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("nothing else is called {driver}")));
    }
    findings
}

pub(super) fn engine(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "docker.engine";
    let socket = evidence.places.docker_socket.display();
    vec![match &evidence.docker.version {
        Some(Ok(_)) => Finding::ok(CHECK, format!("answers on {socket}")),
        Some(Err(why)) => {
            let remedy = "start it, or set docker_host if it is elsewhere; networks that are there go on";
            let fault = Finding::fault(CHECK, why.clone(), remedy);
            match evidence.systemd {
                Some(_) => fault.by("systemctl start docker.service"),
                None => fault,
            }
        }
        None => Finding::none(CHECK, "not asked"),
    }]
}

pub(super) fn version(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "docker.version";
    let Some(Ok(version)) = &evidence.docker.version else {
        return vec![Finding::none(CHECK, "the engine does not answer")];
    };
    let text = version["Version"].as_str().unwrap_or_default();
    let mut numbers = text
        .split(['.', '+', '-', '~'])
        .map_while(|part| part.parse::<u32>().ok());
    let numbers: (u32, u32, u32) = (
        numbers.next().unwrap_or(0),
        numbers.next().unwrap_or(0),
        numbers.next().unwrap_or(0),
    );
    vec![match numbers {
        (0, 0, 0) => Finding::warning(
            CHECK,
            format!("'{text}' is no version that can be read"),
            "20.10 to 29 are supported",
        ),
        older if older < (20, 10, 0) => Finding::fault(
            CHECK,
            format!("{text} is older than 20.10"),
            "use Docker 20.10 or newer",
        ),
        (29, 0, 0..=2) => Finding::fault(
            CHECK,
            format!("{text} crashes when a container on a plug-in's network stops"),
            "use Docker 29.0.3 or newer",
        ),
        (30.., _, _) => Finding::warning(
            CHECK,
            format!("{text} is newer than what this was tested with"),
            "20.10 to 29 are tested",
        ),
        _ => Finding::ok(CHECK, text),
    }]
}

pub(super) fn unit_order(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "docker.unit-order";
    let Some(systemd) = &evidence.systemd else {
        return vec![Finding::none(CHECK, "systemd does not run here")];
    };
    let Some(before) = &systemd.before else {
        let remedy =
            "whatever starts tombolo must do so before Docker: install the units, for example with `make up`";
        return vec![Finding::warning(CHECK, "there is no tombolo.service", remedy)];
    };
    if !before.split_whitespace().any(|unit| unit == "docker.service") {
        let remedy =
            "Docker may start first and then waits 15 s for each network; put the line back and reload";
        let command = "mkdir -p /etc/systemd/system/tombolo.service.d && printf '[Unit]\\nBefore=docker.service\\n' \
                       >/etc/systemd/system/tombolo.service.d/order.conf && systemctl daemon-reload";
        return vec![
            Finding::fault(CHECK, "tombolo.service has no Before=docker.service", remedy).by(command),
        ];
    }
    if systemd.enabled != "enabled" {
        let found = format!("tombolo.service is {}", systemd.enabled);
        let remedy = "after a boot nobody answers Docker for its networks";
        return vec![
            Finding::warning(CHECK, found, remedy).by("systemctl enable tombolo.socket tombolo.service"),
        ];
    }
    vec![Finding::ok(
        CHECK,
        "tombolo.service is enabled and starts before docker.service",
    )]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Verdict;
    use super::super::evidence::Systemd;
    use super::*;

    fn at(socket: &str) -> Evidence {
        let mut evidence = Evidence::default();
        evidence.places.plugin_socket = socket.into();
        evidence.places.listens = Some(Ok(()));
        evidence.daemon.status = Some(Ok(json!({})));
        evidence
    }

    #[test]
    fn a_socket_is_found_by_its_place_or_by_a_file() {
        for place in [
            "/run/docker/plugins/tombolo.sock",
            "/var/run/docker/plugins/tombolo/tombolo.sock",
        ] {
            assert_eq!(plugin_socket(&at(place))[0].verdict, Verdict::Ok, "{place}");
        }
        let mut evidence = at("/srv/tombolo.sock");
        let lost = &plugin_socket(&evidence)[0];
        assert_eq!(lost.verdict, Verdict::Fault);
        assert!(
            lost.command
                .as_ref()
                .unwrap()
                .contains("/etc/docker/plugins/tombolo.spec")
        );
        for (file, text) in [
            ("tombolo.spec", "unix:///srv/tombolo.sock\n"),
            ("tombolo.json", "{\"Addr\":\"unix:///srv/tombolo.sock\"}"),
        ] {
            evidence.places.plugin_files =
                [(Path::new("/etc/docker/plugins").join(file), text.to_owned())].into();
            assert_eq!(plugin_socket(&evidence)[0].verdict, Verdict::Ok, "{file}");
            assert_eq!(name_clash(&evidence)[0].verdict, Verdict::Ok, "{file}");
        }
    }

    #[test]
    fn a_socket_that_is_gone_is_made_anew_by_whoever_made_it() {
        let command = |daemon_answers: bool, systemd| {
            let mut evidence = at("/run/docker/plugins/tombolo.sock");
            evidence.places.listens = Some(Err("no such file".to_owned()));
            if !daemon_answers {
                evidence.daemon.status = None;
            }
            evidence.systemd = systemd;
            plugin_socket(&evidence)[0].command.clone()
        };
        let unit = || {
            let (before, enabled) = (Some(String::new()), String::new());
            Some(Systemd { before, enabled })
        };
        assert_eq!(command(true, None).as_deref(), Some("tombolo doctor --repair"));
        assert_eq!(command(false, None), None);
        assert!(command(true, unit()).unwrap().starts_with("systemctl restart"));
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_told() {
        let mut evidence = at("/run/docker/plugins/tombolo.sock");
        let file = PathBuf::from("/etc/docker/plugins/tombolo.spec");
        evidence.places.plugin_files = [(file, "tcp://localhost:9".to_owned())].into();
        let clash = &name_clash(&evidence)[0];
        assert_eq!(
            (clash.verdict, clash.command.as_deref()),
            (Verdict::Warning, Some("rm /etc/docker/plugins/tombolo.spec"))
        );
        evidence.docker.plugins = vec![
            json!({ "Name": "tombolo:latest", "Enabled": true }),
            json!({ "Name": "tombolox:1", "Enabled": true }),
        ];
        assert_eq!(name_clash(&evidence).len(), 2);
    }

    #[test]
    fn versions_are_judged() {
        let verdict = |text: &str| {
            let mut evidence = Evidence::default();
            evidence.docker.version = Some(Ok(json!({ "Version": text })));
            version(&evidence)[0].verdict
        };
        assert_eq!(verdict("20.10.24+dfsg1"), Verdict::Ok);
        assert_eq!(verdict("19.03.15"), Verdict::Fault);
        assert_eq!(verdict("29.0.2"), Verdict::Fault);
        assert_eq!(verdict("29.0.3"), Verdict::Ok);
        assert_eq!(verdict("29.1.0"), Verdict::Ok);
        assert_eq!(verdict("31.0.0"), Verdict::Warning);
        assert_eq!(verdict("dev"), Verdict::Warning);
    }

    #[test]
    fn the_units_order_is_looked_at_where_systemd_is() {
        let mut evidence = Evidence::default();
        assert_eq!(unit_order(&evidence)[0].verdict, Verdict::NotApplicable);
        let cases = [
            (None, "", Verdict::Warning),
            (Some("shutdown.target"), "enabled", Verdict::Fault),
            (
                Some("docker.service shutdown.target"),
                "disabled",
                Verdict::Warning,
            ),
            (Some("docker.service"), "enabled", Verdict::Ok),
        ];
        for (before, enabled, verdict) in cases {
            let (before, enabled) = (before.map(str::to_owned), enabled.to_owned());
            evidence.systemd = Some(Systemd { before, enabled });
            assert_eq!(unit_order(&evidence)[0].verdict, verdict);
        }
    }
}
