//! Questions as `dig` asks them, from within a container.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use system_tests::sites::Sites;
use system_tests::{Container, Spaces};

/// Docker's resolver, as containers know it.
pub const DOCKER: &str = "127.0.0.11";

/// An answer that is waited for longer than this is told of.
const LATE: Duration = Duration::from_millis(500);

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// NOERROR, NXDOMAIN and so on; what `dig` says instead where nothing came back.
    pub status: String,
    /// Its flags, such as `qr aa rd ra`.
    pub flags: String,
    /// The data of the answer, sorted.
    pub answers: Vec<String>,
    /// The same of the other sections: authority and additional.
    pub rest: Vec<String>,
    /// All of it.
    pub text: String,
}

impl Reply {
    /// How long the answer took, without the start of `dig` itself.
    #[track_caller]
    pub fn took(&self) -> Duration {
        let after = self.text.split_once(";; Query time: ").expect("a query time").1;
        let ms = after.split(' ').next().and_then(|word| word.parse().ok());
        Duration::from_millis(ms.expect("milliseconds"))
    }
}

/// Asks once from a container, and waits for up to five seconds.
#[track_caller]
pub fn dig(from: &Container, server: &str, words: &[&str]) -> Reply {
    dig_in(&from.spaces(), server, words)
}

/// The same from anywhere.
#[track_caller]
pub fn dig_in(spaces: &Spaces, server: &str, words: &[&str]) -> Reply {
    let at = format!("@{server}");
    let always = [at.as_str(), "+tries=1", "+time=5", "+norecurse", "+recurse"];
    let output = spaces.try_run("dig", &[&always, words].concat());
    read(&output.stdout)
}

fn read(text: &str) -> Reply {
    let after = |mark: &str, end: char| {
        let rest = text.split_once(mark)?.1;
        Some(rest.split(end).next()?.trim().to_owned())
    };
    let mut section = "";
    let (mut answers, mut rest) = (Vec::new(), Vec::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(";; ") {
            section = name;
        } else if !line.starts_with(';') && !line.trim().is_empty() {
            // name, TTL, class, type, data
            let words: Vec<&str> = line.split_whitespace().collect();
            let data = words.get(4..).unwrap_or_default().join(" ");
            match section.starts_with("ANSWER") {
                true => answers.push(data),
                false => rest.push(data),
            }
        }
    }
    answers.sort();
    Reply {
        status: after("status: ", ',').unwrap_or_else(|| "nothing".to_owned()),
        flags: after("flags: ", ';').unwrap_or_default(),
        answers,
        rest,
        text: text.to_owned(),
    }
}

/// Waits until a question has this answer: the data sorted, or the status where there is none.
#[track_caller]
pub fn comes(from: &Container, server: &str, words: &[&str], expected: &[&str], limit: Duration) -> Duration {
    let begun = Instant::now();
    loop {
        let reply = dig(from, server, words);
        let got = match reply.answers.is_empty() {
            true => vec![reply.status.as_str()],
            false => reply.answers.iter().map(String::as_str).collect(),
        };
        if got == expected {
            let took = begun.elapsed();
            if took > LATE {
                system_tests::say(&format!(
                    "{words:?} of {} at {server}: after {took:?}",
                    from.name()
                ));
            }
            return took;
        }
        assert!(
            begun.elapsed() < limit,
            "{words:?} of {} at {server}: {got:?}, not {expected:?}, after {limit:?}\n{}",
            from.name(),
            reply.text
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A name server on the wire of the hosts, at the first one's address: what it has is `outside.example`, and nothing else.
pub struct Outside(Child);

impl Outside {
    /// Starts it, and has all hosts ask it.
    #[track_caller]
    pub fn of(sites: &Sites) -> Self {
        let address = sites.wire(0).ipv4(0);
        let address = address.split('/').next().unwrap_or_default().to_owned();
        for site in sites.iter() {
            site.host
                .write("/etc/resolv.conf", &format!("nameserver {address}\n"));
        }
        Self::at(
            &sites[0].network_spaces(),
            &[
                "--domain-needed",
                "--local=/#/",
                &format!("--listen-address={address}"),
                "--host-record=outside.example,192.0.2.7",
                "--txt-record=outside.example,first,second",
            ],
        )
    }

    /// Starts one anywhere, with more arguments.
    #[track_caller]
    pub fn at(place: &Spaces, args: &[&str]) -> Self {
        let mut command = Command::new("dnsmasq");
        command
            .args([
                "--conf-file=/dev/null",
                "--keep-in-foreground",
                "--bind-interfaces",
            ])
            .args(["--no-resolv", "--no-hosts", "--user=root", "--pid-file="])
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = place.enter(move || command.spawn());
        Self(child.expect("starting dnsmasq: install the package dnsmasq-base"))
    }

    /// Has it say nothing any more, or go on.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        nix::sys::signal::kill(pid, signal).expect("signalling dnsmasq");
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
