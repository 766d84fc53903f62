//! What is shown of a cluster: how this host stands in it, its hosts, its pools and who has which pieces of them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cli::output::{cell, duration, items, name_or_id, short, table};

/// By how many milliseconds a host's clock may differ before that is pointed at.
const CLOCK_OFF_MS: f64 = 1_000.0;
/// How many pieces of a share are shown where there is more to see than these.
const PIECES_SHOWN: usize = 3;

/// The cluster: how this host stands in it, then its hosts, then its pools with their shares.
pub fn render(cluster: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<11}{value}\n"));
    if cluster["in_cluster"] == false {
        let none = match cluster["standing"].as_str() {
            Some("broken") => "this host takes no part in it",
            _ => "none: this host is in no cluster",
        };
        line("Cluster", none.to_owned());
        if !cluster["standing"].is_null() {
            line("Standing", standing(cluster));
        }
        // What to do then stands there already.
        if !cluster["standing"].is_null() {
            return text;
        }
        text.push_str(
            "\n`tombolo cluster init` begins one here; the line that it prints lets other hosts join.\n",
        );
        return text;
    }
    let hosts = items(&cluster["hosts"]);
    line("Cluster", cell(&cluster["cluster"]));
    line(
        "This host",
        host_name(hosts, &cluster["host"]).unwrap_or_else(|| cell(&cluster["host"])),
    );
    line("Standing", standing(cluster));
    line("Hosts", how_many(hosts));
    line("Decrees", cell(&cluster["decrees"]));
    if !cluster["store"].is_null() {
        line("Store", store(&cluster["store"]));
    }
    line("Key", cell(&cluster["secret"]));
    line("Waiting", none_if_zero(&cluster["waiting"]));
    line("Dropped", dropped(&cluster["counts"]));
    for pool in items(&cluster["pools"]) {
        for piece in items(&pool["disputed"]) {
            let whose = format!(
                "{} of {}, claimed by more than one host",
                cell(piece),
                cell(&pool["pool"])
            );
            line("Disputed", whose);
        }
    }
    let ways = match ways(hosts) {
        ways if ways.is_empty() => String::new(),
        ways => format!("\n{}", table(["HOST", "WAY", "STATE", "HEARD", "RTT"], ways)),
    };
    let hosts = table(
        [
            "HOST", "ID", "ADDRESS", "STATE", "HEARD", "RTT", "CLOCK", "ROWS", "FAULTS", "VERSION",
        ],
        hosts.iter().map(host),
    );
    let shares = each_share(cluster).map(|(pool, share)| {
        [
            cell(&pool["pool"]),
            cell(&pool["net"]),
            cell(&pool["kind"]),
            name_or_id(&share["name"], &share["host"]),
            pieces(&share["pieces"], PIECES_SHOWN),
            cell(&share["free"]),
            cell(&share["leased"]),
            cell(&share["used"]),
        ]
    });
    let headings = ["POOL", "NET", "KIND", "HOST", "PIECES", "FREE", "LEASED", "USED"];
    format!("{text}\n{hosts}{ways}\n{}", table(headings, shares))
}

/// The shares of the pools, one a line.
pub fn render_shares(cluster: &Value) -> String {
    let hosts = items(&cluster["hosts"]);
    let rows = each_share(cluster).map(|(pool, share)| {
        [
            cell(&pool["pool"]),
            cell(&pool["net"]),
            name_or_id(&share["name"], &share["host"]),
            pieces(&share["pieces"], usize::MAX),
            cell(&share["free"]),
            cell(&share["leased"]),
            host_name(hosts, &pool["next"]).unwrap_or_else(|| short(&pool["next"])),
        ]
    });
    table(["POOL", "NET", "HOST", "PIECES", "FREE", "LEASED", "NEXT"], rows)
}

/// Pools with their shares; one without any comes once, with nothing.
fn each_share(cluster: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    items(&cluster["pools"]).iter().flat_map(|pool| {
        let shares = items(&pool["shares"]);
        let none = shares.is_empty().then_some(&Value::Null);
        shares.iter().chain(none).map(move |share| (pool, share))
    })
}

/// How this host stands, and what is to be done where it doesn't stand well.
fn standing(cluster: &Value) -> String {
    let mut text = cell(&cluster["standing"]);
    if !cluster["standing_note"].is_null() {
        text.push_str(&format!(": {}", cell(&cluster["standing_note"])));
    }
    let advice = match cluster["standing"].as_str() {
        Some("waiting") if !cluster["store"].is_null() => {
            "It gives no addresses until the store has confirmed it: see that the store runs and can be reached."
        }
        Some("waiting") => {
            "It gives no addresses until enough of the other hosts have answered: start them, or mend the network \
             between. Hosts that are off for good: `tombolo cluster forget HOST...`."
        }
        Some("alone") => {
            "Too few of the other hosts have answered, and it gives addresses of its own share only: see that they run, and \
             that UDP and TCP get through at the cluster's port."
        }
        Some("gone") => {
            "It is out of the cluster, and its addresses are given to others: `tombolo cluster leave`, then join with a \
             new token."
        }
        Some("cloned") => {
            "Another host has the same identifier, as after copying a disk. On the copy: stop tombolo, move its state \
             directory aside, start it, and join with a new token."
        }
        Some("broken") => {
            "It is tried again each second. `tombolo cluster leave` takes this host out of the cluster, whatever is wrong."
        }
        _ => return text,
    };
    format!("{text}\n{:<11}{advice}", "")
}

/// The store that decides in the place of the hosts, and how it is.
fn store(store: &Value) -> String {
    let name = cell(&store["name"]);
    match store["fault"].as_str() {
        Some(fault) => format!("{name}: {}", cell(&Value::from(fault))),
        None => format!("{name}, answers"),
    }
}

/// The name of the host that has this identifier, where it is known.
fn host_name(hosts: &[Value], id: &Value) -> Option<String> {
    let host = hosts
        .iter()
        .find(|host| !id.is_null() && host["host"] == *id && !host["name"].is_null())?;
    Some(cell(&host["name"]))
}

/// How many hosts there are, and in which states those are that aren't well.
fn how_many(hosts: &[Value]) -> String {
    let mut ill: BTreeMap<String, usize> = BTreeMap::new();
    for host in hosts {
        match host["state"].as_str() {
            Some("here" | "up") => {}
            _ => *ill.entry(cell(&host["state"])).or_default() += 1,
        }
    }
    let ill: Vec<String> = ill
        .into_iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    match ill.is_empty() {
        true => hosts.len().to_string(),
        false => format!("{}, of which {}", hosts.len(), ill.join(", ")),
    }
}

/// The ways to hosts that have several, one a line.
fn ways(hosts: &[Value]) -> Vec<[String; 5]> {
    let of = |host: &Value| {
        let way = |way: &Value| {
            let state = match way["up"].as_bool() {
                Some(true) => "carries",
                Some(false) => "left out",
                None => "-",
            };
            let (heard, rtt) = (heard(&way["heard_ms"]), rtt(&way["rtt_ms"]));
            [
                cell(&host["name"]),
                cell(&way["address"]),
                state.to_owned(),
                heard,
                rtt,
            ]
        };
        items(&host["ways"]).iter().map(way).collect::<Vec<_>>()
    };
    hosts.iter().flat_map(of).collect()
}

fn since(ms: &Value) -> Option<String> {
    ms.as_f64().map(|ms| duration(ms / 1_000.0))
}

fn heard(ms: &Value) -> String {
    since(ms).map_or_else(|| "-".to_owned(), |since| format!("{since} ago"))
}

fn rtt(ms: &Value) -> String {
    match ms.as_f64() {
        Some(ms) if ms < 1.0 => "<1 ms".to_owned(),
        Some(ms) => format!("{ms:.0} ms"),
        None => "-".to_owned(),
    }
}

fn host(host: &Value) -> [String; 10] {
    let state = match (host["state"].as_str(), since(&host["down_ms"])) {
        (Some("down"), Some(since)) => format!("down for {since}"),
        _ => cell(&host["state"]),
    };
    [
        cell(&host["name"]),
        short(&host["host"]),
        cell(&host["address"]),
        state,
        heard(&host["heard_ms"]),
        rtt(&host["rtt_ms"]),
        host["clock_ms"]
            .as_f64()
            .map_or_else(|| "-".to_owned(), clock_difference),
        cell(&host["rows"]),
        match host["faults"].as_u64() {
            Some(0) => "-".to_owned(),
            _ => cell(&host["faults"]),
        },
        cell(&host["version"]),
    ]
}

fn clock_difference(ms: f64) -> String {
    let sign = if ms < 0.0 { '-' } else { '+' };
    let size = ms.abs();
    match () {
        () if ms == 0.0 => "0 ms".to_owned(),
        () if size < CLOCK_OFF_MS => format!("{sign}{size:.0} ms"),
        () if size == CLOCK_OFF_MS => format!("{sign}1 s"),
        () if size < 60_000.0 => format!("{sign}{:.1} s !", size / 1_000.0),
        () => format!("{sign}{} !", duration(size / 1_000.0)),
    }
}

/// Prefixes in a line, of many only the first ones.
fn pieces(pieces: &Value, shown: usize) -> String {
    let all = items(pieces);
    if all.is_empty() {
        return "-".to_owned();
    }
    let mut texts: Vec<String> = all.iter().take(shown).map(cell).collect();
    let more = all.len().saturating_sub(shown);
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
    texts.join(", ")
}

fn none_if_zero(count: &Value) -> String {
    match count.as_u64() {
        Some(0) => "none".to_owned(),
        _ => cell(count),
    }
}

/// Packets that were dropped, and why: those counts that aren't zero.
fn dropped(counts: &Value) -> String {
    let some: Vec<String> = counts
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, count)| **count != 0)
        .map(|(why, count)| match why.as_str() {
            "strangers" => format!("{} from strangers", cell(count)),
            why => format!("{} {}", cell(count), why.replace('_', " ")),
        })
        .collect();
    match some.is_empty() {
        true => "none".to_owned(),
        false => some.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document() -> Value {
        json!({
            "in_cluster": true, "cluster": "00112233445566778899aabbccddeeff", "host": "a0000000000000000000000000000001",
            "standing": "confirmed", "standing_note": null, "decrees": 12, "secret": 1,
            "hosts": [
                {"host": "a0000000000000000000000000000001", "name": "a", "address": "192.0.2.1:7947", "state": "here",
                 "down_ms": null, "heard_ms": null, "rtt_ms": null, "clock_ms": null, "version": "0.1.0", "rows": 20,
                 "faults": 0},
                {"host": "b0000000000000000000000000000002", "name": "b", "address": "[fd00::2]:7947", "state": "up",
                 "down_ms": null, "heard_ms": 640, "rtt_ms": 0, "clock_ms": -1500, "version": "0.1.0", "rows": 3,
                 "faults": 2},
                {"host": "c0000000000000000000000000000003", "name": "c", "address": null, "state": "down",
                 "down_ms": 303_000, "heard_ms": 308_000, "rtt_ms": 12, "clock_ms": 7, "version": null, "rows": 0,
                 "faults": 0},
            ],
            "pools": [
                {"pool": "10.42.0.0/24", "net": "app", "kind": "bridge", "founder": "a0000000000000000000000000000001",
                 "next": "b0000000000000000000000000000002", "disputed": ["10.42.0.0/28"], "shares": [
                    {"host": "a0000000000000000000000000000001", "name": "a", "pieces": ["10.42.0.0/25"], "free": 124,
                     "leased": 2, "used": true},
                    {"host": "c0000000000000000000000000000003", "name": null,
                     "pieces": ["10.42.0.128/27", "10.42.0.160/28", "10.42.0.176/29", "10.42.0.184/30", "10.42.0.188/31"],
                     "free": 62, "leased": 0, "used": false}]},
                {"pool": "fd00::/64", "net": null, "kind": "overlay", "founder": "d0", "next": null, "disputed": [],
                 "shares": []},
            ],
            "waiting": 0, "counts": {"garbled": 3, "wrong_key": 1, "replayed": 0, "strangers": 4},
        })
    }

    #[test]
    fn a_cluster_is_shown_with_its_hosts_and_shares() {
        let expected = "\
Cluster    00112233445566778899aabbccddeeff
This host  a
Standing   confirmed
Hosts      3, of which 1 down
Decrees    12
Key        1
Waiting    none
Dropped    3 garbled, 4 from strangers, 1 wrong key
Disputed   10.42.0.0/28 of 10.42.0.0/24, claimed by more than one host

HOST   ID             ADDRESS          STATE                HEARD           RTT     CLOCK      ROWS   FAULTS   VERSION
a      a00000000000   192.0.2.1:7947   here                 -               -       -          20     -        0.1.0
b      b00000000000   [fd00::2]:7947   up                   0 s ago         <1 ms   -1.5 s !   3      2        0.1.0
c      c00000000000   -                down for 5 min 3 s   5 min 8 s ago   12 ms   +7 ms      0      -        -

POOL           NET   KIND      HOST           PIECES                                                       FREE   LEASED   USED
10.42.0.0/24   app   bridge    a              10.42.0.0/25                                                 124    2        yes
10.42.0.0/24   app   bridge    c00000000000   10.42.0.128/27, 10.42.0.160/28, 10.42.0.176/29, and 2 more   62     0        no
fd00::/64      -     overlay   -              -                                                            -      -        -
";
        assert_eq!(render(&document()), expected);
    }

    #[test]
    fn shares_are_listed_whole_and_say_who_is_next() {
        let expected = "\
POOL           NET   HOST           PIECES                                                                           FREE   LEASED   NEXT
10.42.0.0/24   app   a              10.42.0.0/25                                                                     124    2        b
10.42.0.0/24   app   c00000000000   10.42.0.128/27, 10.42.0.160/28, 10.42.0.176/29, 10.42.0.184/30, 10.42.0.188/31   62     0        b
fd00::/64      -     -              -                                                                                -      -        -
";
        assert_eq!(render_shares(&document()), expected);
        let mut document = document();
        document["hosts"] = json!([]);
        assert!(render_shares(&document).contains("b00000000000\n"));
    }

    #[test]
    fn a_host_that_is_in_no_cluster_is_told_how_to_begin() {
        let shown = render(
            &json!({"in_cluster": false, "cluster": null, "host": null, "standing": null, "hosts": [], "pools": []}),
        );
        assert!(
            shown.starts_with("Cluster    none: this host is in no cluster\n\n"),
            "{shown}"
        );
        assert!(shown.contains("`tombolo cluster init`"), "{shown}");
        assert!(!shown.contains("Standing"), "{shown}");
        let shown =
            render(&json!({"in_cluster": false, "standing": "out", "standing_note": "told to leave"}));
        assert!(shown.contains("\nStanding   out: told to leave\n"), "{shown}");
        assert!(!shown.contains("cluster init"), "{shown}");
    }

    #[test]
    fn a_store_that_decides_is_shown_with_what_is_wrong_with_it() {
        let mut document = document();
        document["store"] = json!({"name": "etcd://192.0.2.9:2379", "fault": null});
        assert!(render(&document).contains("\nStore      etcd://192.0.2.9:2379, answers\n"));
        document["store"]["fault"] = json!("it can't be reached");
        assert!(render(&document).contains("\nStore      etcd://192.0.2.9:2379: it can't be reached\n"));
        document["standing"] = json!("waiting");
        assert!(render(&document).contains("until the store has confirmed it"));
        let shown = render(
            &json!({"in_cluster": false, "standing": "broken", "standing_note": "port 7947 is taken"}),
        );
        assert!(
            shown.contains("takes no part") && shown.contains("broken: port 7947 is taken"),
            "{shown}"
        );
        assert!(!shown.contains("cluster init"), "{shown}");
    }

    #[test]
    fn a_host_that_does_not_stand_well_is_told_what_to_do() {
        for (standing, advice) in [
            ("waiting", "enough of the other hosts have answered"),
            ("alone", "Too few of the other hosts have answered"),
            ("gone", "`tombolo cluster leave`, then join"),
            ("cloned", "Another host has the same identifier"),
        ] {
            let mut document = document();
            document["standing"] = json!(standing);
            document["standing_note"] = json!("for\na reason");
            let shown = render(&document);
            let mut lines = shown.lines().skip_while(|line| !line.starts_with("Standing"));
            assert_eq!(
                lines.next(),
                Some(format!("Standing   {standing}: for a reason").as_str())
            );
            let second = lines.next().unwrap_or_default();
            assert!(second.starts_with("           "), "{second}");
            assert!(second.contains(advice), "{second}");
        }
        for standing in [json!("confirmed"), json!("of another version"), json!(null)] {
            let mut document = document();
            document["standing"] = standing.clone();
            let shown = render(&document);
            let lines: Vec<&str> = shown.lines().skip(2).take(2).collect();
            assert_eq!(lines[0], format!("Standing   {}", cell(&standing)));
            assert!(lines[1].starts_with("Hosts "), "{shown}");
        }
    }

    #[test]
    fn a_clock_is_pointed_at_when_it_is_off_by_more_than_a_second() {
        let shown = [
            0.0,
            1.0,
            -999.0,
            1_000.0,
            -1_000.0,
            1_001.0,
            -59_900.0,
            60_000.0,
            -90_061_000.0,
        ]
        .map(clock_difference);
        assert_eq!(
            shown,
            [
                "0 ms",
                "+1 ms",
                "-999 ms",
                "+1 s",
                "-1 s",
                "+1.0 s !",
                "-59.9 s !",
                "+1 min 0 s !",
                "-1 d 1 h !"
            ]
        );
    }

    #[test]
    fn a_document_of_another_version_is_shown_as_far_as_it_goes() {
        for document in [
            json!(null),
            json!([]),
            json!({"in_cluster": true}),
            json!({"in_cluster": 1, "hosts": 7, "pools": [3, {"shares": "x"}], "counts": [1], "waiting": "soon"}),
            json!({"hosts": [{"down_ms": "x", "state": "down", "clock_ms": "late", "faults": "many"}, null]}),
        ] {
            let shown = render(&document);
            assert!(
                shown.contains("\nHOST   ") && shown.contains("\nPOOL   "),
                "{shown}"
            );
            assert!(render_shares(&document).starts_with("POOL   "));
        }
    }
}
