//! The kernel: can it do what each kind of network needs, and has it room for more connections?

use super::Finding;
use super::evidence::Evidence;

/// From which share of its size on a table is nearly full, and full.
const NEARLY: u64 = 80;
const FULL: u64 = 95;

pub(super) fn features(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "kernel.features";
    if evidence.features.is_empty() {
        return vec![Finding::none(CHECK, "not tried")];
    }
    let there = evidence.features.iter().filter(|(_, result)| result.is_ok());
    let names: Vec<&str> = there.map(|(feature, _)| feature.name).collect();
    let mut findings = Vec::new();
    if !names.is_empty() {
        findings.push(Finding::ok(CHECK, format!("there: {}", names.join(", "))));
    }
    for (feature, result) in &evidence.features {
        let Err(why) = result else { continue };
        let found = format!("{} (for networks of type {}): {why}", feature.name, feature.kind);
        let needs = |network: &serde_json::Value| network["kind"] == feature.kind;
        findings.push(
            match feature.always || evidence.daemon.networks.iter().any(needs) {
                true => {
                    let remedy = "use a kernel that has it, or load its module if that is not built in";
                    Finding::fault(CHECK, found, remedy).by(format!("modprobe {}", feature.module))
                }
                false => Finding::none(CHECK, format!("{found}. No network needs it now")),
            },
        );
    }
    findings
}

pub(super) fn conntrack(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "kernel.conntrack";
    let number = |name: &str| {
        evidence
            .sysctl
            .get(name)
            .and_then(|text| text.parse::<u64>().ok())
    };
    let (count, max) = (
        number("net.netfilter.nf_conntrack_count"),
        number("net.netfilter.nf_conntrack_max"),
    );
    let (Some(count), Some(max)) = (count, max.filter(|max| *max > 0)) else {
        return vec![Finding::none(CHECK, "connections are not tracked")];
    };
    let share = count * 100 / max;
    let found = format!("{count} of {max} entries are in use ({share} %)");
    let remedy =
        "when it is full, new connections are dropped; write the setting to /etc/sysctl.d to keep it";
    let command = format!("sysctl -w net.netfilter.nf_conntrack_max={}", max * 2);
    vec![match share {
        FULL.. => Finding::fault(CHECK, found, remedy).by(command),
        NEARLY.. => Finding::warning(CHECK, found, remedy).by(command),
        _ => Finding::ok(CHECK, found),
    }]
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::evidence::Feature;
    use super::*;

    #[test]
    fn a_missing_feature_is_a_fault_only_where_a_network_needs_it() {
        let feature = |kind, always| Feature {
            name: "vxlan",
            kind,
            always,
            module: "vxlan",
        };
        let evidence = Evidence {
            features: vec![
                (feature("bridge", true), Ok(())),
                (feature("bridge", true), Err("no".to_owned())),
                (feature("overlay", false), Err("no".to_owned())),
            ],
            ..Evidence::default()
        };
        let verdicts: Vec<Verdict> = features(&evidence).iter().map(|f| f.verdict).collect();
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Fault, Verdict::NotApplicable]);
    }

    #[test]
    fn a_table_of_connections_is_told_before_it_is_full() {
        for (count, verdict) in [
            ("79", Verdict::Ok),
            ("80", Verdict::Warning),
            ("95", Verdict::Fault),
            ("100", Verdict::Fault),
        ] {
            let mut evidence = Evidence::default();
            evidence
                .sysctl
                .insert("net.netfilter.nf_conntrack_count".to_owned(), count.to_owned());
            evidence
                .sysctl
                .insert("net.netfilter.nf_conntrack_max".to_owned(), "100".to_owned());
            assert_eq!(conntrack(&evidence)[0].verdict, verdict, "{count}");
        }
        assert_eq!(conntrack(&Evidence::default())[0].verdict, Verdict::NotApplicable);
    }
}
