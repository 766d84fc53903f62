//! Findings for people: what is bad first and in full, the rest in a line each.

use serde_json::Value;

use super::{Finding, Verdict};

/// What the daemon repaired when it was asked to.
pub(super) fn repaired(compared: &Value) -> String {
    let mut text = String::new();
    for difference in compared["differences"].as_array().into_iter().flatten() {
        let step = difference["step"].as_str().unwrap_or("-");
        match difference["error"].as_str() {
            Some(error) => text.push_str(&format!("not repaired  {step}\n              {error}\n")),
            None => text.push_str(&format!("repaired      {step}\n")),
        }
    }
    if text.is_empty() {
        text.push_str("There was nothing that the daemon could repair.\n");
    }
    text + "\n"
}

pub(super) fn findings(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut bad: Vec<&Finding> = findings.iter().filter(|finding| finding.bad()).collect();
    bad.sort_by_key(|finding| finding.verdict);
    for finding in bad {
        text.push_str(&format!("{:<8} {}\n", word(finding.verdict), finding.check));
        for line in [Some(&finding.evidence), finding.remedy.as_ref()]
            .into_iter()
            .flatten()
        {
            text.push_str(&format!("         {}\n", plain(line)));
        }
        for command in finding.command.iter() {
            text.push_str(&format!("         do: {command}\n"));
        }
        text.push('\n');
    }
    for finding in findings.iter().filter(|finding| !finding.bad()) {
        text.push_str(&format!(
            "{:<8} {:<24} {}\n",
            word(finding.verdict),
            finding.check,
            plain(&finding.evidence)
        ));
    }
    let count = |verdict| {
        findings
            .iter()
            .filter(|finding| finding.verdict == verdict)
            .count()
    };
    text.push_str(&format!(
        "\n{} faults, {} warnings, {} ok, {} not applicable\n",
        count(Verdict::Fault),
        count(Verdict::Warning),
        count(Verdict::Ok),
        count(Verdict::NotApplicable)
    ));
    text
}

/// What others wrote (rules, names) on one line, without what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Fault => "FAULT",
        Verdict::Warning => "WARNING",
        Verdict::Ok => "ok",
        Verdict::NotApplicable => "n/a",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bad_comes_first_with_what_to_do() {
        let all = [
            Finding::ok("a.a", "fine"),
            Finding::warning("b.b", "slow", "wait"),
            Finding::fault("c.c", "broken", "mend it").by("mend -f"),
        ];
        let expected = "\
FAULT    c.c
         broken
         mend it
         do: mend -f

WARNING  b.b
         slow
         wait

ok       a.a                      fine

1 faults, 1 warnings, 1 ok, 0 not applicable
";
        assert_eq!(findings(&all), expected);
    }
}
