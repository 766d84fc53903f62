//! Network namespaces for tests, and commands in them.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use tombolo::kernel::Kernel;
use tombolo_core::model::IfName;
use tombolo_core::world::{Key, Setting, Step, Value, World, diff};

/// A place on a bridge, as most ports have it.
pub fn on(bridge: &IfName) -> Value {
    Value::On {
        bridge: bridge.clone(),
        isolated: false,
        hairpin: false,
    }
}

/// Runs a future on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Moves this thread to a network namespace of its own, with its loopback up. The namespace ends with the last thread
/// and process in it.
pub fn enter_namespace() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces: run it as root"
    );
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    run("ip link set lo up");
}

/// Runs a test in a network namespace of its own.
pub fn in_namespace(test: impl AsyncFnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        enter_namespace();
        block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A network namespace: it lasts as long as this.
pub struct Namespace(File);

impl Namespace {
    /// The namespace of this thread.
    pub fn current() -> Self {
        Self(File::open("/proc/thread-self/ns/net").unwrap())
    }

    /// A new one, with its loopback up.
    pub fn new() -> Self {
        thread::spawn(|| {
            enter_namespace();
            Self::current()
        })
        .join()
        .unwrap()
    }

    /// Its name for `ip link set … netns`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Does something in it.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        let outcome = thread::scope(|scope| scope.spawn(inside).join());
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a shell command in it.
    pub fn run(&self, command: &str) -> String {
        self.within(|| run(command))
    }
}

/// Runs a shell command in the namespace of this thread and gives what it wrote; it must succeed.
pub fn run(command: &str) -> String {
    let (fine, text) = attempt(command);
    assert!(fine, "{command}: {text}");
    text
}

/// Runs a shell command in the namespace of this thread; gives whether it succeeded, and what it wrote.
pub fn attempt(command: &str) -> (bool, String) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// Makes the chain FORWARD as Docker does, dropping what no rule accepts.
pub fn make_forward() {
    run("iptables -P FORWARD DROP && ip6tables -P FORWARD DROP");
}

pub fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

/// A world without settings that have no absence.
pub fn without_settings(mut world: World) -> World {
    world.retain(|key, _| !matches!(key, Key::Setting(_)));
    world
}

/// All facts of a kernel.
pub async fn look(kernel: &mut impl Kernel) -> World {
    kernel.observe().await.unwrap()
}

/// Makes one step, which must succeed.
pub async fn apply(kernel: &mut impl Kernel, step: Step) {
    if let Err(e) = kernel.apply(&step).await {
        panic!("{e}");
    }
}

/// Makes all facts of a world hold and no others.
pub async fn settle(kernel: &mut impl Kernel, desired: &World) {
    for step in diff(desired, &look(kernel).await) {
        apply(kernel, step).await;
    }
}

/// Asserts that a kernel needs no step to be as desired.
pub async fn assert_settled(kernel: &mut impl Kernel, desired: &World) {
    let steps: Vec<String> = diff(desired, &look(kernel).await)
        .iter()
        .map(|step| format!("{step} ({step:?})"))
        .collect();
    assert!(steps.is_empty(), "still to be done: {steps:#?}");
}

/// A kernel setting of the thread's namespace, as a fact.
pub fn setting(setting: Setting, number: u32) -> (Key, Value) {
    (Key::Setting(setting), Value::Number(number))
}
