//! The daemon: does it answer, what does it complain of, and is the kernel as its records want it?

use serde_json::Value;

use super::evidence::Evidence;
use super::{Finding, REPAIR, texts};
use crate::claim;
use tombolo_core::world::{ADOPTED_GROUP, LINK_GROUP};

/// How many of one sort are named.
const NAMED: usize = 8;

pub(super) fn reachable(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "daemon.reachable";
    let socket = evidence.places.control_socket.display();
    let finding = match &evidence.daemon.status {
        Some(Ok(status)) => Finding::ok(
            CHECK,
            format!(
                "version {}, process {}, on {socket}",
                shown(&status["version"]),
                status["pid"]
            ),
        ),
        Some(Err(why)) => silent(evidence, CHECK, why),
        None => Finding::none(CHECK, "not asked"),
    };
    vec![finding]
}

/// A daemon that does not answer: it has ended, hangs, or nobody reaches it.
fn silent(evidence: &Evidence, check: &'static str, why: &str) -> Finding {
    // What stands on further lines says what to do where nothing is known of the host.
    let why = why.lines().next().unwrap_or_default();
    let by_systemd = evidence
        .systemd
        .as_ref()
        .is_some_and(|systemd| systemd.before.is_some());
    let start = "setsid tombolo serve >>/run/tombolo.log 2>&1 &";
    let Some(pid) = evidence.daemon.holder else {
        let remedy = "start it; containers go on meanwhile, but none can be started or stopped";
        return Finding::fault(check, why, remedy).by(match by_systemd {
            true => "systemctl start tombolo.service",
            false => start,
        });
    };
    let lock = claim::lock_of(&evidence.places.control_socket);
    let lock = lock.display();
    let found = format!("{why}; but process {pid} lives and holds the lock {lock}");
    let remedy = "if only its socket was removed, it makes that anew within ten seconds: look again. Else it hangs, and has to \
                  be ended before another one can start; containers go on meanwhile, but none can be started or stopped";
    Finding::fault(check, found, remedy).by(match by_systemd {
        true => "systemctl restart tombolo.socket tombolo.service".to_owned(),
        false => format!("kill -KILL {pid}; flock -w 10 {lock} true; {start}"),
    })
}

/// The daemon's status, or a finding that says that it can't be told.
fn status<'a>(evidence: &'a Evidence, check: &'static str) -> Result<&'a Value, Vec<Finding>> {
    match &evidence.daemon.status {
        Some(Ok(status)) => Ok(status),
        _ => Err(vec![Finding::none(check, "the daemon does not answer")]),
    }
}

pub(super) fn problems(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "daemon.problems";
    let status = match status(evidence, CHECK) {
        Ok(status) => status,
        Err(none) => return none,
    };
    let problems = status["problems"].as_array().map_or(&[][..], Vec::as_slice);
    if problems.is_empty() {
        return vec![Finding::ok(CHECK, "none")];
    }
    let finding = |problem: &Value| {
        let evidence = format!("{}: {}", shown(&problem["about"]), shown(&problem["problem"]));
        Finding::fault(
            CHECK,
            evidence,
            "mend what the message names, then have the daemon try again",
        )
        .by(REPAIR)
    };
    problems.iter().map(finding).collect()
}

/// The differences that are there without being wanted, or those that are wanted without being there.
fn differences<'a>(
    evidence: &'a Evidence,
    check: &'static str,
    unwanted: bool,
) -> Result<Vec<&'a str>, Vec<Finding>> {
    status(evidence, check)?;
    match &evidence.daemon.differences {
        Some(Ok(compared)) => {
            if let Some(why) = compared["unreadable"].as_str() {
                let remedy = "see the message; `journalctl -u tombolo` may say more";
                return Err(vec![Finding::fault(
                    check,
                    format!("the daemon can't read the kernel: {why}"),
                    remedy,
                )]);
            }
            let all = compared["differences"].as_array().into_iter().flatten();
            Ok(all
                .filter(|d| d["unwanted"] == unwanted)
                .filter_map(|d| d["step"].as_str())
                .collect())
        }
        Some(Err(why)) => Err(vec![Finding::none(check, why.clone())]),
        None => Err(vec![Finding::none(check, "not asked")]),
    }
}

pub(super) fn facts(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "daemon.facts";
    let missing = match differences(evidence, CHECK, false) {
        Ok(missing) => missing,
        Err(findings) => return findings,
    };
    if missing.is_empty() {
        let facts = evidence
            .daemon
            .status
            .as_ref()
            .and_then(|s| s.as_ref().ok())
            .map_or(0, |s| s["facts"].as_u64().unwrap_or(0));
        return vec![Finding::ok(CHECK, format!("all hold ({facts})"))];
    }
    let fault = |step: &&str| {
        let remedy =
            "somebody changed what is tombolo's; the daemon puts it back within ten seconds, or at once";
        Finding::fault(CHECK, format!("does not hold; it takes: {step}"), remedy).by(REPAIR)
    };
    let mut findings: Vec<Finding> = missing.iter().take(NAMED).map(fault).collect();
    if let Some(more) = missing.len().checked_sub(NAMED).filter(|more| *more > 0) {
        findings.push(Finding::fault(CHECK, format!("and {more} more do not hold"), "the same").by(REPAIR));
    }
    findings
}

pub(super) fn leaks(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "daemon.leaks";
    let unwanted = match differences(evidence, CHECK, true) {
        Ok(unwanted) => unwanted,
        Err(mut findings) => {
            let ours = evidence
                .host
                .links
                .iter()
                .filter(|link| link.group == LINK_GROUP || link.group == ADOPTED_GROUP)
                .count();
            if ours > 0 && !evidence.daemon_answers() {
                findings[0].evidence.push_str(&format!(
                    ", so nobody can tell which of the {ours} links of the groups {LINK_GROUP} and {ADOPTED_GROUP} are wanted (ip link show group {LINK_GROUP})"
                ));
            }
            return findings;
        }
    };
    let leak = |step: &&str| {
        let remedy = "no record asks for it; the daemon removes it within ten seconds, or at once";
        Finding::warning(CHECK, format!("left over; removed by: {step}"), remedy).by(REPAIR)
    };
    let mut findings: Vec<Finding> = unwanted.iter().take(NAMED).map(leak).collect();
    if let Some(more) = unwanted.len().checked_sub(NAMED).filter(|more| *more > 0) {
        findings
            .push(Finding::warning(CHECK, format!("and {more} more are left over"), "the same").by(REPAIR));
    }
    for endpoint in &evidence.daemon.endpoints {
        let gone = endpoint["sandbox"]
            .as_str()
            .filter(|path| evidence.daemon.sandboxes.get(*path) == Some(&false));
        if let Some(sandbox) = gone {
            let whose = endpoint["container_name"]
                .as_str()
                .or(endpoint["endpoint_id"].as_str())
                .unwrap_or("-");
            let remedy = "its container is gone without a word from Docker; the daemon frees it once Docker doesn't list it";
            findings.push(Finding::warning(
                CHECK,
                format!("endpoint {whose} is joined to {sandbox}, which is not there"),
                remedy,
            ));
        }
    }
    if findings.is_empty() {
        return vec![Finding::ok(
            CHECK,
            "nothing of tombolo's is there that no record asks for",
        )];
    }
    findings
}

pub(super) fn records(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "daemon.records";
    let status = match status(evidence, CHECK) {
        Ok(status) => status,
        Err(none) => return none,
    };
    match status["recovered"].as_str() {
        Some(how) => {
            let dir = evidence.places.state_dir.display();
            let remedy = format!(
                "compare `tombolo networks` and `tombolo endpoints` with what you expect; check the disk under {dir}; the \
                 damaged files are kept there. The note goes with the next start"
            );
            vec![Finding::warning(
                CHECK,
                format!("the records were damaged: {how}"),
                remedy,
            )]
        }
        None => vec![Finding::ok(CHECK, format!("whole, schema {}", status["schema"]))],
    }
}

/// Variables that look as though they were meant for a setting.
pub(super) fn settings(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "daemon.settings";
    let status = match status(evidence, CHECK) {
        Ok(status) => status,
        Err(none) => return none,
    };
    let ignored = texts(&status["ignored"]);
    let remedy = "correct its name where the daemon is started, and restart the daemon";
    let findings: Vec<Finding> = ignored
        .into_iter()
        .map(|what| Finding::warning(CHECK, what, remedy))
        .collect();
    if findings.is_empty() {
        return vec![Finding::ok(CHECK, "no variable is nearly a setting")];
    }
    findings
}

fn shown(value: &Value) -> String {
    match (value.as_str(), texts(value).as_slice()) {
        (Some(text), _) => text.to_owned(),
        (None, []) => value.to_string(),
        (None, all) => all.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Verdict;
    use super::*;

    fn answering(status: Value, differences: Value) -> Evidence {
        let mut evidence = Evidence::default();
        evidence.daemon.status = Some(Ok(status));
        evidence.daemon.differences = Some(Ok(json!({ "differences": differences, "unreadable": null })));
        evidence
    }

    #[test]
    fn a_well_daemon_gets_no_bad_finding() {
        let evidence = answering(
            json!({ "version": "1", "pid": 2, "problems": [], "facts": 3, "schema": 1 }),
            json!([]),
        );
        for check in [reachable, problems, facts, leaks, records, settings] {
            let findings = check(&evidence);
            assert!(findings.iter().all(|f| f.verdict == Verdict::Ok), "{findings:?}");
        }
    }

    #[test]
    fn a_silent_daemon_is_one_fault_and_the_rest_cannot_be_told() {
        let mut evidence = Evidence::default();
        evidence.daemon.status = Some(Err("nobody listens".to_owned()));
        assert_eq!(reachable(&evidence)[0].verdict, Verdict::Fault);
        for check in [problems, facts, leaks, records, settings] {
            assert_eq!(check(&evidence)[0].verdict, Verdict::NotApplicable);
        }
    }

    #[test]
    fn a_daemon_that_hangs_has_to_be_ended_before_another_starts() {
        let mut evidence = Evidence::default();
        evidence.places.control_socket = "/run/tombolo/control.sock".into();
        evidence.daemon.status = Some(Err("nobody listens on it\nStart it with a flag.".to_owned()));
        let gone = &reachable(&evidence)[0];
        assert_eq!(gone.evidence, "nobody listens on it");
        assert!(gone.command.as_ref().unwrap().starts_with("setsid tombolo serve"));
        evidence.daemon.holder = Some(42);
        let hangs = &reachable(&evidence)[0];
        assert!(
            hangs
                .evidence
                .contains("process 42 lives and holds the lock /run/tombolo/control.sock.lock")
        );
        let command = hangs.command.as_ref().unwrap();
        assert!(
            command.starts_with("kill -KILL 42; flock -w 10 /run/tombolo/control.sock.lock true; setsid")
        );
    }

    #[test]
    fn what_is_missing_is_a_fault_and_what_is_left_over_a_warning() {
        let differences = json!([
            { "step": "ip address add 10.1.0.1/24 dev tb-1", "unwanted": false },
            { "step": "ip link delete tb-9", "unwanted": true },
        ]);
        let evidence = answering(json!({}), differences);
        let (missing, left) = (facts(&evidence), leaks(&evidence));
        assert_eq!((missing.len(), missing[0].verdict), (1, Verdict::Fault));
        assert!(missing[0].evidence.contains("ip address add"));
        assert_eq!((left.len(), left[0].verdict), (1, Verdict::Warning));
        assert_eq!(left[0].command.as_deref(), Some(REPAIR));
    }

    #[test]
    fn an_endpoint_whose_sandbox_is_gone_is_left_over() {
        let mut evidence = answering(json!({}), json!([]));
        evidence.daemon.endpoints =
            vec![json!({ "sandbox": "/run/docker/netns/1", "container_name": "web" })];
        evidence
            .daemon
            .sandboxes
            .insert("/run/docker/netns/1".to_owned(), true);
        assert_eq!(leaks(&evidence)[0].verdict, Verdict::Ok);
        evidence
            .daemon
            .sandboxes
            .insert("/run/docker/netns/1".to_owned(), false);
        assert!(leaks(&evidence)[0].evidence.contains("web"));
    }

    #[test]
    fn a_variable_that_was_mistyped_is_told() {
        let evidence = answering(json!({ "ignored": ["the variable X is no setting"] }), json!([]));
        assert_eq!(settings(&evidence)[0].verdict, Verdict::Warning);
    }

    #[test]
    fn problems_and_damaged_records_are_told() {
        let status = json!({ "problems": [{ "about": "Link(x)", "problem": "no" }], "recovered": "the copy was used" });
        let evidence = answering(status, json!([]));
        assert_eq!(problems(&evidence)[0].evidence, "Link(x): no");
        assert_eq!(records(&evidence)[0].verdict, Verdict::Warning);
    }
}
