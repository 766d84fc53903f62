//! A kernel that has taken away what was measured.

use std::process::Command;
use std::time::{Duration, Instant};

use system_tests::say;

/// How long the kernel may take to take everything away, and how soon it does something else, and how often in a row, once it has.
const LONGEST: Duration = Duration::from_secs(300);
const QUICK: Duration = Duration::from_millis(200);
const IN_A_ROW: usize = 50;

/// Waits until the kernel has taken thousands of links away, for which whoever makes one waits meanwhile, and can't even be killed.
pub fn wait() {
    let begun = Instant::now();
    let mut quick = 0;
    while quick < IN_A_ROW {
        let begin = Instant::now();
        let script = "ip link add calm type bridge; ip link delete calm";
        let done = Command::new("unshare")
            .args(["--net", "sh", "-ec", script])
            .status();
        assert!(done.is_ok_and(|status| status.success()), "{script}");
        quick = if begin.elapsed() < QUICK { quick + 1 } else { 0 };
        assert!(
            begun.elapsed() < LONGEST,
            "the kernel is busy for more than {LONGEST:?}"
        );
    }
    say(&format!(
        "all is gone after {:.0} s",
        begun.elapsed().as_secs_f64()
    ));
}
