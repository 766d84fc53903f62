//! The walk-throughs of `examples/`, as printed: each line at its host, each answer as it stands there.

use std::fs;
use std::path::{Path, PathBuf};

use system_tests::wait::{PATIENCE, within};
use system_tests::{Plan, Site};

/// The examples, here.
const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");

/// What is left out of a line because it differs each time.
const LEFT_OUT: char = '…';

/// A line to type, and what is answered.
struct Entry {
    host: usize,
    line: String,
    answer: Vec<String>,
}

/// What is typed and answered, in the blocks of `console` of a text.
fn entries(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(fence) = line.strip_prefix("```") {
            inside = fence == "console";
        } else if let Some((host, typed)) = inside.then(|| typed(line)).flatten() {
            entries.push(Entry {
                host,
                line: typed.to_owned(),
                answer: Vec::new(),
            });
        } else if inside {
            let last = entries.last_mut().expect("a line to type before its answer");
            last.answer.push(line.to_owned());
        }
    }
    entries
}

/// The host, by its place, and what is typed behind its name.
fn typed(line: &str) -> Option<(usize, &str)> {
    let (host, typed) = line.split_once("# ")?;
    Some((["a", "b", "c"].iter().position(|name| *name == host)?, typed))
}

/// Whether a line is as printed, where anything may stand for what was left out.
fn matches(printed: &str, line: &str) -> bool {
    let mut rest = line;
    let mut parts = printed.split(LEFT_OUT).map(str::trim);
    let begins = parts.next().is_some_and(|first| match rest.strip_prefix(first) {
        Some(after) => {
            rest = after;
            true
        }
        None => false,
    });
    begins
        && parts.all(|part| match rest.find(part) {
            Some(at) => {
                rest = &rest[at + part.len()..];
                true
            }
            None => false,
        })
        && (rest.is_empty() || printed.ends_with(LEFT_OUT))
}

/// All files of a folder and those below it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder of examples");
    let paths = entries.map(|entry| entry.expect("an entry of it").path());
    let all = paths.map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    all.collect::<Vec<_>>().concat()
}

/// Puts an example on a host.
fn lay(site: &Site, example: &str) {
    for file in files(&Path::new(HERE).join(example)) {
        let text = fs::read_to_string(&file).expect("a file of the example");
        let there = file.strip_prefix(HERE).expect("a path below the examples");
        site.host.write(&format!("/root/{}", there.display()), &text);
    }
}

/// Follows a walk-through line by line.
fn walk_through(example: &str) {
    let text = fs::read_to_string(Path::new(HERE).join(example).join("README.md")).expect("the walk-through");
    let entries = entries(&text);
    assert!(entries.len() > 10, "there is something to type");
    let sites = Plan::of(3).replicated().started();
    sites.iter().for_each(|site| lay(site, example));
    let mut token: Option<String> = None;
    for entry in &entries {
        let site = &sites[entry.host];
        let mut line = entry.line.clone();
        if !site.engine.try_docker(&["compose", "version"]).ok {
            line = line.replace("docker compose", "docker-compose");
        }
        if let (Some(printed), Some(token)) = (line.find("tombolo-join-"), &token) {
            line.replace_range(printed.., token);
        }
        let script = format!("cd /root/{example}; {line}");
        let run = || site.host.try_run("sh", &["-ec", &script]);
        let first = run();
        if entry.answer.is_empty() {
            first.must();
            continue;
        }
        if let Some(at) = first.stdout.find("tombolo-join-") {
            token = Some(first.stdout[at..].to_owned());
        }
        let holds = |said: &str| {
            let has = |printed: &String| said.lines().any(|line| matches(printed, line.trim_end()));
            entry.answer.iter().all(has)
        };
        // What a host hears of others takes a moment.
        let mut last = first;
        let come = within(PATIENCE, || {
            if last.ok && holds(&last.stdout) {
                return Some(());
            }
            last = run();
            None
        });
        assert!(
            come.is_some(),
            "{line} does not answer {:?}: {last:?}",
            entry.answer
        );
    }
}

#[test]
fn the_walk_through_for_several_hosts_works_as_printed() {
    walk_through("several-hosts");
}

#[test]
fn the_walk_through_of_the_shop_works_as_printed() {
    walk_through("shop");
}

#[test]
fn what_is_left_out_stands_for_anything() {
    for (printed, line) in [
        ("hello", "hello"),
        ("HOST …", "HOST   NETWORK"),
        ("a … 10.42.0.10 …", "a  app  10.42.0.10  -  web"),
    ] {
        assert!(matches(printed, line), "{printed} and {line}");
    }
    for (printed, line) in [
        ("hello", "hello there"),
        ("a … 10.42.0.10 …", "b  app  10.42.0.10  -  web"),
        ("a … 10.42.0.10 …", "a  app  10.42.0.11  -  web"),
    ] {
        assert!(!matches(printed, line), "{printed} and {line}");
    }
}
