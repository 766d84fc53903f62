//! `tombolo cluster`: begin one, join it, see how it stands, and leave it.

mod status;
mod words;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Common;
use super::failure::Failure;
use super::output::{Format, Output, cell, items};
use words::{Quiet, Secret, usage};

pub(super) use status::render_shares;

const HELP: &str = "\
Examples:
  tombolo cluster init                                    on the first host: prints the line for the others
  tombolo cluster join 192.0.2.1 --token tombolo-join-1.… on each other host: that line
  tombolo cluster status                                  who is there, and who has which addresses
  tombolo cluster token --valid 1h                        the line anew, for another host
  tombolo cluster leave                                   on a host that is to be in it no longer
  tombolo cluster forget c                                elsewhere, for a host that is off for good

`tombolo cluster COMMAND --help` says more. The hosts must reach each other at UDP and TCP port 7947 (setting cluster_port).";

const INIT: &str = "\
Examples:
  tombolo cluster init
  tombolo cluster init --output json | jq -r .token

Standard output is the one line to run as root on each other host. Its token lets whoever has it join, as often as they \
like, until it expires: after 24 h, unless the line was made by `tombolo cluster token --valid`. How long it is good is said \
on standard error, and by expires_s in JSON.";

const TOKEN: &str = "\
Examples:
  tombolo cluster token
  tombolo cluster token --valid 30m
  tombolo cluster token --output json | jq -r .token | ssh b tombolo cluster join 192.0.2.1 --token-file -

Standard output is the one line to run as root on the host that is to join. A token lets whoever has it join, as often \
as they like, until it expires or the key is rotated.";

const JOIN: &str = "\
Examples:
  tombolo cluster join 192.0.2.1 --token tombolo-join-1.…
  tombolo cluster join fd00::1 --token-file /run/token
  tombolo cluster join '[fd00::1]:7948' --token-file - < token

ADDRESS is that of any host that is in the cluster, IPv6 with or without brackets; PORT is 7947 where none is named. A word \
of the command line can be read by all of this host's users for as long as the command runs: --token-file keeps the token \
from them. Exactly one of both is needed.";

const STATUS: &str = "\
Examples:
  tombolo cluster status
  tombolo cluster status --output json | jq -r '.hosts[] | select(.state == \"down\") | .name'

STATE is here (this host), up, down or unknown. HEARD is how long ago something came from the host. CLOCK is by how much its \
clock is ahead of this host's, with a ! above one second. FAULTS counts what came from it and could not be taken.
A host owns the PIECES of a pool: it gives addresses out of these and no others. USED says whether it has a network on the \
pool; a host without one passes its pieces on to those that ask.";

const LEAVE: &str = "\
Examples:
  tombolo cluster leave

Hands this host's addresses to the other hosts, and its place with them. Networks that are the same on all hosts go from \
this one by themselves where no container has them; the daemon refuses while it has other networks on the cluster's pools. To be in a cluster again afterwards takes a new `tombolo cluster join`, also where the \
setting join names hosts: it is followed again once its value is another one.";

const FORGET: &str = "\
Examples:
  tombolo cluster forget c
  tombolo cluster forget c d                              both at once, where two of four hosts are lost
  tombolo cluster forget 9f86d081884c7d659a2feaa0c55ad015

By this command you assert that the hosts are off, for good: their addresses are given to others. One that still ran \
behind a broken cable would go on with addresses that others get, so have it switched off first. A host that comes back is \
out of the cluster; it says so, and may join anew. A host that still answers is to leave by itself: `tombolo cluster leave` \
there.";

const ROTATE: &str = "\
Examples:
  tombolo cluster rotate-key
  tombolo cluster rotate-key --key-file /etc/tombolo/cluster.key

Puts a new key in the place of the cluster's, on all hosts. Tokens that were made before it let nobody join any more. Hosts \
that can't be reached get it when they are back. Hosts with the setting cluster_key_file need the same new file there.";

const KEY: &str = "\
Examples:
  umask 077; tombolo cluster key > /etc/tombolo/cluster.key
  umask 077; tombolo cluster key --number 2 > /etc/tombolo/next.key      for rotate-key --key-file

For hosts that are set up by files instead of `tombolo cluster init` and `join`: the same file on each, named by the \
setting cluster_key_file, and the hosts' addresses in the setting join. Whoever has the key is in: mode 0600. No daemon is \
needed.";

/// The flags of `tombolo cluster`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Begin a cluster with this host, and print the line that lets others join
    #[command(after_help = INIT)]
    Init(Plain),
    /// Print the line that lets a host join, with a new token
    #[command(after_help = TOKEN)]
    Token(Token),
    /// Join the cluster of another host
    #[command(after_help = JOIN)]
    Join(Join),
    /// Show the cluster's hosts, its pools, and who has which addresses
    #[command(after_help = STATUS)]
    Status(Plain),
    /// Leave the cluster with this host
    #[command(after_help = LEAVE)]
    Leave(Plain),
    /// Give up hosts that are off for good: their addresses are given to others
    #[command(after_help = FORGET)]
    Forget(Forget),
    /// Put a new key in the place of the cluster's
    #[command(after_help = ROTATE)]
    RotateKey(Rotate),
    /// Make the text of a key file, without a daemon
    #[command(after_help = KEY)]
    Key(Key),
}

#[derive(Debug, Args)]
struct Key {
    /// Which key of the cluster it is to be: 1 to begin with, and one more for each rotation
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    number: u32,
}

#[derive(Debug, Args)]
struct Plain {
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Token {
    /// How long it is good: a number and s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = words::valid)]
    valid: u64,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Join {
    /// A host of the cluster, as ADDRESS or ADDRESS:PORT
    #[arg(value_name = "ADDRESS[:PORT]")]
    address: Quiet,
    // Only there to be refused in our own words: clap's would repeat a token that lacks its flag.
    #[arg(hide = true)]
    stray: Vec<Quiet>,
    #[command(flatten)]
    token: Given,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Given {
    /// The token, as `tombolo cluster init` or `token` printed it
    #[arg(long, value_name = "TOKEN")]
    token: Option<Quiet>,
    /// The file that holds the token and nothing else; `-` is standard input
    #[arg(long, value_name = "PATH")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Forget {
    /// Hosts that are off for good, by name or identifier
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Rotate {
    /// File with the key to take, as `tombolo cluster key` makes it, mode 0600; `-` is standard input
    /// [default: the daemon makes one]
    #[arg(long, value_name = "PATH", verbatim_doc_comment)]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

impl Flags {
    /// Does what is asked of the cluster.
    pub fn run(&self, common: &Common, out: &mut Vec<u8>) -> Result<(), Failure> {
        match &self.what {
            What::Init(flags) => {
                let path = "/v1/cluster/init";
                let document = common.client()?.post_json(path, &json!({}))?;
                invite(&flags.output, path, &document, out)
            }
            What::Token(flags) => {
                let path = "/v1/cluster/token";
                let document = common
                    .client()?
                    .post_json(path, &json!({ "ttl_s": flags.valid }))?;
                invite(&flags.output, path, &document, out)
            }
            What::Join(flags) => {
                let body = flags.body()?;
                let document = common.client()?.post_json("/v1/cluster/join", &body)?;
                flags.output.show(&document, joined, out)
            }
            What::Status(flags) => {
                let document = common.client()?.get_json("/v1/cluster")?;
                flags.output.show(&document, status::render, out)
            }
            What::Leave(flags) => {
                let document = common.client()?.post_json("/v1/cluster/leave", &json!({}))?;
                flags.output.show(&document, left, out)
            }
            What::Forget(flags) => {
                let body = flags.body()?;
                let document = common.client()?.post_json("/v1/cluster/forget", &body)?;
                flags.output.show(&document, forgotten, out)
            }
            What::RotateKey(flags) => {
                let body = flags.body()?;
                let document = common.client()?.post_json("/v1/cluster/rotate-key", &body)?;
                flags.output.show(&document, rotated, out)
            }
            What::Key(flags) => {
                out.extend_from_slice(new_key(flags.number)?.as_bytes());
                Ok(())
            }
        }
    }
}

/// Prints the line that lets others join, and nothing else to where it may be copied from.
fn invite(output: &Output, path: &'static str, document: &Value, out: &mut Vec<u8>) -> Result<(), Failure> {
    let line = match output.output {
        Format::Table => invitation(path, document)?,
        Format::Json => String::new(),
    };
    if !line.is_empty() {
        // A hint that can't be read by anybody is no failure.
        let _ = writeln!(io::stderr(), "{}", hint(document));
    }
    output.show(document, |_| line, out)
}

impl Join {
    fn body(&self) -> Result<Value, Failure> {
        if !self.stray.is_empty() {
            let message = format!(
                "more than ADDRESS came, {} words: ADDRESS and --token TOKEN, or --token-file PATH, are allowed",
                1 + self.stray.len()
            );
            return Err(usage(message));
        }
        let address = words::address(self.address.text())?;
        let token = match (&self.token.token, &self.token.token_file) {
            (Some(token), None) => Secret::Token.check("--token", token.text())?,
            (None, Some(path)) => Secret::Token.read("--token-file", path)?,
            _ => {
                return Err(usage(
                    "exactly one of --token and --token-file is allowed".to_owned(),
                ));
            }
        };
        Ok(json!({ "address": address.to_string(), "token": token.text() }))
    }
}

impl Forget {
    fn body(&self) -> Result<Value, Failure> {
        if self.hosts.iter().any(String::is_empty) {
            return Err(usage(
                "HOST: '' names no host; a host's name or identifier is allowed, as `tombolo cluster status` shows it"
                    .to_owned(),
            ));
        }
        Ok(json!({ "hosts": self.hosts }))
    }
}

impl Rotate {
    fn body(&self) -> Result<Value, Failure> {
        let key = self
            .key_file
            .as_deref()
            .map(|path| Secret::Key.read("--key-file", path));
        Ok(json!({ "key": key.transpose()?.as_ref().map(Quiet::text) }))
    }
}

/// The line that lets others join. It is pasted into shells, so what is no address and no token is not passed on.
fn invitation(path: &'static str, document: &Value) -> Result<String, Failure> {
    let text = |key| document[key].as_str().unwrap_or_default();
    let lacks = |key| Failure::Lacking { path, key };
    let address: SocketAddr = text("address").parse().map_err(|_| lacks("address"))?;
    let token = Secret::Token
        .check("token", text("token"))
        .map_err(|_| lacks("token"))?;
    let place = match words::place(address) {
        // Some shells take brackets for a pattern.
        place if place.starts_with('[') => format!("'{place}'"),
        place => place,
    };
    Ok(format!("tombolo cluster join {place} --token {}\n", token.text()))
}

fn hint(document: &Value) -> String {
    let within = match document["expires_s"].as_u64() {
        Some(seconds) => format!(" within {}", words::span(seconds)),
        None => String::new(),
    };
    format!("To be run as root on each host that is to join{within}; whoever has the token may:")
}

fn joined(document: &Value) -> String {
    let hosts = match document["hosts"].as_u64() {
        Some(1) => "1 host".to_owned(),
        _ => format!("{} hosts", cell(&document["hosts"])),
    };
    format!(
        "This host has joined as {}; the cluster has {hosts} now.\n",
        cell(&document["name"])
    )
}

fn left(document: &Value) -> String {
    let mut text = "This host has left the cluster.\n".to_owned();
    if let Some(out) = document["out"].as_str() {
        // Writing to a string doesn't fail.
        let _ = writeln!(text, "Note: {out}.");
    }
    text
}

fn forgotten(document: &Value) -> String {
    match items(&document["forgotten"]) {
        [] => "No host was forgotten.\n".to_owned(),
        hosts => format!(
            "Forgotten: {}. Their addresses are given to others.\n",
            list(hosts)
        ),
    }
}

fn rotated(document: &Value) -> String {
    let mut text = format!(
        "Key {} holds, on {} hosts. Tokens that were made before let nobody join.\n",
        cell(&document["secret"]),
        cell(&document["hosts"])
    );
    let without = items(&document["without"]);
    if !without.is_empty() {
        // Writing to a string doesn't fail.
        let _ = writeln!(
            text,
            "Not reached: {}. They get it when they are back.",
            list(without)
        );
    }
    text
}

fn list(values: &[Value]) -> String {
    values.iter().map(cell).collect::<Vec<_>>().join(", ")
}

/// The text of a key file with a new key, of 32 random bytes: one line with its end.
///
/// # Errors
/// Where the system gives no random bytes.
pub fn new_key(number: u32) -> Result<String, Failure> {
    let key = crate::cluster::secret::Secret::draw(number).map_err(|source| Failure::Process {
        doing: "make a key",
        source: source.into(),
    })?;
    Ok(key.text().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/v1/cluster/init";

    #[test]
    fn the_line_to_paste_leaves_the_usual_port_out() {
        for (address, place) in [
            ("192.0.2.1:7947", "192.0.2.1"),
            ("192.0.2.1:7948", "192.0.2.1:7948"),
            ("[fd00::1]:7947", "fd00::1"),
            ("[fd00::1]:7948", "'[fd00::1]:7948'"),
        ] {
            let document = json!({"address": address, "token": "tombolo-join-1.aB_-", "expires_s": 86400});
            assert_eq!(
                invitation(PATH, &document).unwrap(),
                format!("tombolo cluster join {place} --token tombolo-join-1.aB_-\n")
            );
        }
    }

    #[test]
    fn a_line_that_would_do_something_else_is_never_printed() {
        for (document, key) in [
            (json!({}), "address"),
            (
                json!({"address": "192.0.2.1", "token": "tombolo-join-1.a"}),
                "address",
            ),
            (
                json!({"address": "a; b:1", "token": "tombolo-join-1.a"}),
                "address",
            ),
            (json!({"address": "192.0.2.1:1", "token": null}), "token"),
            (
                json!({"address": "192.0.2.1:1", "token": "tombolo-join-1.a; b"}),
                "token",
            ),
            (
                json!({"address": "192.0.2.1:1", "token": "tombolo-join-1.$(b)"}),
                "token",
            ),
        ] {
            let failure = invitation(PATH, &document).unwrap_err();
            assert_eq!(failure.exit_code(), 1);
            assert_eq!(
                failure.chain(),
                format!("the daemon's answer to /v1/cluster/init has no {key} that can be used")
            );
        }
    }

    #[test]
    fn the_hint_says_how_long() {
        let told = hint(&json!({"expires_s": 5400}));
        assert!(told.contains(" within 90 min;"), "{told}");
        assert!(!hint(&json!({})).contains("within"));
    }

    #[test]
    fn what_was_done_is_told_in_a_line() {
        assert_eq!(
            joined(&json!({"hosts": 3, "name": "b"})),
            "This host has joined as b; the cluster has 3 hosts now.\n"
        );
        assert_eq!(
            forgotten(&json!({"forgotten": ["a", "b"]})),
            "Forgotten: a, b. Their addresses are given to others.\n"
        );
        assert_eq!(forgotten(&json!({})), "No host was forgotten.\n");
        let rotation = json!({"secret": 2, "hosts": 3, "without": []});
        assert_eq!(
            rotated(&rotation),
            "Key 2 holds, on 3 hosts. Tokens that were made before let nobody join.\n"
        );
        let rotation = json!({"secret": 2, "hosts": 2, "without": ["c", "d\n"]});
        let told = rotated(&rotation);
        assert!(
            told.ends_with("\nNot reached: c, d . They get it when they are back.\n"),
            "{told}"
        );
    }

    #[test]
    fn each_key_is_another_line_that_is_taken_again() {
        let (one, other) = (new_key(1).unwrap(), new_key(1).unwrap());
        assert_ne!(one, other);
        for text in [one, other] {
            let key = Secret::Key.check("file", &text).unwrap();
            // As the daemon reads it.
            let secret: crate::cluster::secret::Secret = key.text().parse().unwrap();
            assert_eq!(secret.number(), 1);
            assert_eq!(*secret.text(), text);
        }
    }
}
