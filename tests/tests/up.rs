//! The first of the two commands: `make up` on a host where nothing runs, and `make down` after it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use system_tests::command::{Output, run};
use system_tests::{Host, json, tombolo};

const LIMIT: Duration = Duration::from_secs(120);

/// Runs `make TARGET` in the project's folder on the host.
fn make(host: &Host, target: &str) -> Output {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in the project");
    let path = std::env::var("PATH").expect("a PATH, by which cargo is found");
    let binary = tombolo::binary().canonicalize().expect("the tested binary");
    let mut command = Command::new("env");
    command
        .arg(format!("PATH={path}"))
        // What the other tests drive; to build another one would take minutes.
        .arg(format!("BUILT={}", binary.display()))
        .arg("make")
        .arg("-C")
        .arg(project)
        .arg(target);
    run(host.spaces(), command, None, LIMIT)
}

fn pids(host: &Host) -> String {
    host.sh("cat /run/tombolo/tombolo.pid /run/docker.pid")
}

#[test]
fn up_makes_docker_have_tombolo_and_down_undoes_it() {
    let host = Host::new();
    // Other tests have the binary there from the start.
    host.sh("umount /usr/local/bin/tombolo; rm -f /usr/local/bin/tombolo");
    // The root of this host is in memory, where Docker's usual way to keep images does not work.
    host.write("/etc/docker/daemon.json", "{ \"storage-driver\": \"vfs\" }");

    // What is started is not itself at once on a busy machine; so it must not be taken for gone meanwhile.
    host.write(
        "/usr/local/sbin/setsid",
        "#!/bin/sh\nsleep 2\nexec /usr/bin/setsid \"$@\"\n",
    );
    host.sh("chmod +x /usr/local/sbin/setsid");
    let up = make(&host, "up").must();
    host.sh("rm /usr/local/sbin/setsid");
    for line in [
        "docker network create -d tombolo --ipam-driver tombolo demo",
        "docker run",
        "tombolo status",
    ] {
        assert!(
            up.stdout.contains(line),
            "{line} is not among the lines to try:\n{}",
            up.stdout
        );
    }
    host.run(
        "docker",
        &[
            "network",
            "create",
            "-d",
            "tombolo",
            "--ipam-driver",
            "tombolo",
            "demo",
        ],
    );

    let before = pids(&host);
    make(&host, "up").must();
    assert_eq!(pids(&host), before, "run twice it changes nothing");

    // What runs is another binary than the one that was built, so the new one takes its place; only tombolo is new then.
    host.sh(
        "kill $(cat /run/tombolo/tombolo.pid); while [ -e /run/docker/plugins/tombolo.sock ]; do sleep 0.1; done
         cp /usr/local/bin/tombolo /tmp/older; printf older >>/tmp/older; mv /tmp/older /usr/local/bin/tombolo
         setsid /usr/local/bin/tombolo serve >>/run/tombolo/tombolo.log 2>&1 & echo $! >/run/tombolo/tombolo.pid
         until tombolo status >/dev/null 2>&1; do sleep 0.1; done",
    );
    let older = pids(&host);
    let up = make(&host, "up").must();
    assert!(up.stdout.contains("takes over"), "{}", up.stdout);
    let newer = pids(&host);
    assert_ne!(newer.lines().next(), older.lines().next());
    assert_eq!(newer.lines().nth(1), older.lines().nth(1));
    let shown = host.run("tombolo", &["status", "--output", "json"]);
    let pid = json::parse(&shown)["pid"].to_string();
    assert_eq!(newer.lines().next(), Some(pid.as_str()));
    make(&host, "up").must();
    assert_eq!(pids(&host), newer);

    host.run("docker", &["network", "rm", "demo"]);
    make(&host, "down").must();
    let left = host.try_run(
        "sh",
        &[
            "-c",
            "pgrep -x 'tombolo|dockerd'; find /run/docker/plugins /run/tombolo -type s -o -name '*.pid'",
        ],
    );
    assert_eq!(left.stdout, "", "down leaves nothing that up started");
    make(&host, "down").must();
}
