//! The process that the demo's hosts hang on: it makes them, shows what they can, and stays until it is told to end.

use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use system_tests::Plan;

use crate::state::State;
use crate::tour::Tour;
use crate::{print, refuse};

/// How many hosts there are.
const HOSTS: usize = 3;

/// Makes the demo and stays. What goes wrong ends the process, and with it all that it has made.
pub fn keep(state: &State) -> ExitCode {
    // Out of reach of the terminal that started it: neither its end nor its Ctrl-C is for us.
    nix::unistd::setsid().ok();
    let lock = match state.take() {
        Ok(Some(lock)) => lock,
        Ok(None) => return refuse("Another demo is just being started."),
        Err(e) => return refuse(&format!("Cannot note where the demo is: {e}")),
    };
    let tour = Tour::begin();
    let cabled = Plan::of(HOSTS).replicated().cabled();
    state
        .write_hosts(cabled.hosts())
        .expect("noting the demo's hosts");
    tour.step("hosts a, b and c: namespaces, and a wire with 10.200.0.1, .2 and .3");
    let sites = cabled.start(|site| {
        tour.step(&format!(
            "host {}: Docker {} and tombolo run",
            site.name(),
            site.engine.version()
        ));
    });
    sites.join();
    tour.step("one cluster: a began it, b and c joined it by the line that it printed");
    tour.show(&sites);

    // Until here a signal ends the process as it ends any: the kernel takes the rest.
    let mut end = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        end.add(signal);
    }
    end.thread_block().expect("keeping signals for later");
    print(crate::tour::WHAT_NEXT);
    state.set_ready().expect("noting that the demo is up");
    end.wait().expect("waiting for a signal");
    drop(sites);
    drop(lock);
    ExitCode::SUCCESS
}
