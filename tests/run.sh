#!/usr/bin/env bash
# What `make build`, `plugin`, `deb`, `check`, `test`, `test-engines`, `test-inside`, `test-vm`, `units`, `conformance`, `bench`, `soak`, `oracle`, `demo` and `clean` do: named steps, and the first that fails ends it.
set -euo pipefail
# shellcheck source=plugin-config/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../plugin-config/common.sh"

# step NAME COMMAND...: runs a command whose output stays as it is.
step() {
    local name=$1
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    "$@" </dev/null || die "$name" "The command was: $*"
}

# side_by_side NAME: runs the commands it reads, one a line, two at a time, so that a test that goes on when the others of its program
# are over leaves nobody idle. What one says is shown when it ends, and is in its log before; all run, though one fails.
side_by_side() {
    local name=$1
    printf '\n== %s, two programs at a time\n' "$name"
    rm -rf target/said
    mkdir -p target/said
    # shellcheck disable=SC2016
    xargs --delimiter '\n' --max-args 1 --max-procs 2 bash -c '
        said=target/said/$$
        printf "   begins (log: %s): %s\n" "$said" "$1"
        (eval "$1") >"$said" 2>&1 && how=0 || how=1
        [ "$how" = 0 ] || printf "%s\n" "$1" >>target/said/failed
        # What two say is not mixed.
        exec 9>>target/said/lock && flock 9
        printf "\n== %s\n" "$1" && cat "$said"
        exit "$how"' side_by_side || {
        local failed=()
        [ ! -e target/said/failed ] || mapfile -t failed <target/said/failed
        die "$name" "What failed, each shown above:" "${failed[@]}"
    }
}

# The programs that the lab's hosts need, those that tests call beside them, and Debian's packages that hold them.
LAB_PROGRAMS=(
    "${BUILD_PROGRAMS[@]}" dockerd:docker.io nft:nftables ip:iproute2 iptables:iptables busybox:busybox-static tar:tar
)
TEST_PROGRAMS=(
    "${LAB_PROGRAMS[@]}" docker-compose:docker-compose sysctl:procps unshare:util-linux setsid:util-linux
    debootstrap:debootstrap mkfs.ext4:e2fsprogs shellcheck:shellcheck etcd:etcd-server dnsmasq:dnsmasq-base
    dhclient:isc-dhcp-client dig:bind9-dnsutils
)

install_test_programs() { install_lab_programs "${TEST_PROGRAMS[@]}"; }

install_lab_programs() {
    install_missing "$@"
    # Debian 13 and later have the client in a package of its own.
    install_missing docker:docker-cli
}

format_and_lints() {
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        die "cargo fmt or cargo clippy is not there" "Get them with: rustup component add rustfmt clippy"
    fi
    step "format" cargo fmt --all --check
    step "lints" cargo clippy --locked --workspace --all-targets -- -D warnings
}

release_build() { step "release build" cargo build --locked --release -p tombolo; }

# What the tests drive, with the checks of a debug build. It comes with the tests of the command line, and so with what
# all tests are compiled with: a plain `cargo build` would compile half of the crates anew, for other features of theirs.
tested_build() { step "tested build" cargo test --locked --no-run -p tombolo --test cli; }

# with_release COMMAND...: runs something that drives the release build.
with_release() { TOMBOLO_TEST_BINARY=$PWD/target/release/tombolo "$@"; }

build() {
    need_cargo
    need_linker
    release_build
}

plugin() {
    build
    plugin-config/plugin.sh
}

deb() {
    build
    plugin-config/deb.sh
}

# The wall of ARCHITECTURE.md: what decides knows no runtime, no database and no kernel.
core_is_pure() {
    local found
    found=$(cargo tree --locked -p tombolo-core -e normal --prefix none) || return 1
    if found=$(grep -E '^(tokio|mio|hyper|axum|sled|libc|nix|rtnetlink|netlink-[a-z-]+) ' <<<"$found"); then
        printf 'tombolo-core must not depend on:\n%s\n' "$found"
        return 1
    fi
}

unit_tests() {
    step "unit and property tests, simulated clusters" \
        cargo test --locked -p tombolo-ipam -p tombolo-core -p tombolo-cluster
    step "unit tests of the daemon" cargo test --locked -p tombolo --lib
}

check() {
    need_cargo
    need_linker
    format_and_lints
    step "core is pure" core_is_pure
    unit_tests
    step "command line" cargo test --locked -p tombolo --test cli
    say "" && say "All checks passed."
}

scripts() {
    find .ci plugin-config tests \( -name '*.sh' -o -path .ci/run -o -path 'plugin-config/debian/p*' \) -print0 | sort -z | xargs -0 shellcheck -x
}

# The names of the system tests' programs, those first that take longest.
system_tests() {
    local longest=(underlay multihost cluster conformance)
    printf '%s\n' "${longest[@]}"
    find tests/tests -mindepth 1 -maxdepth 1 -printf '%f\n' | sed 's/\.rs$//' | sort |
        grep --invert-match --line-regexp --fixed-strings "$(printf '%s\n' "${longest[@]}")"
}

# all_system_tests NAME SKIPPED...: all of them but these.
all_system_tests() {
    local name=$1 options
    shift
    printf -v options ' --skip %s' "$@"
    step "build of the system tests" cargo test --locked --no-run -p system-tests --lib --bins --tests
    # The oracle's script is a short one here; `make oracle` has the long one. What begins anew again and again does so less often than
    # where it is asked for by name.
    export ORACLE_EVENTS=${ORACLE_EVENTS:-5} TOMBOLO_TEST_CYCLES=${TOMBOLO_TEST_CYCLES:-40} UNDERLAY_CYCLES=${UNDERLAY_CYCLES:-10}
    export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(nproc)}
    { say "--lib --bins" && system_tests | sed 's/^/--test /'; } |
        sed "s/.*/cargo test --locked -p system-tests & --$options/" | side_by_side "$name"
}

cluster() {
    need_root test-cluster
    need_cargo
    install_test_programs
    tested_build
    step "clusters of daemons" cargo test --locked -p system-tests --test cluster
}

# The Debians whose engines the tests run (TOMBOLO_TEST_ROOTS), made while this machine compiles: to download and unpack them takes
# minutes.
begin_roots() {
    local roots
    read -ra roots <<<"${TOMBOLO_TEST_ROOTS:-trixie sid}"
    say "Making ${roots[*]} meanwhile (log: target/roots.log)"
    mkdir -p target
    tests/engines.sh "${roots[@]}" </dev/null >target/roots.log 2>&1 &
    ROOTS_MADE=$!
}

# If an earlier step fails they go on, and are there the next time.
end_roots() {
    say "" && say "== roots of other engines"
    local made=0
    wait "$ROOTS_MADE" || made=$?
    cat target/roots.log
    [ "$made" = 0 ] || die "the roots of other engines could not be made" "The lines above say why."
}

everything() {
    need_root test
    need_cargo
    install_test_programs
    begin_roots
    format_and_lints
    step "scripts" scripts
    step "core is pure" core_is_pure
    # All at once: what they share is then compiled once for all of them.
    step "unit and property tests, simulated clusters, kernel, store and command line" \
        env "RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}" cargo test --locked
    tested_build
    end_roots
    # What `make test-engines` has is not run twice: two ways of making a link are compared where the engine knows both, hosts are cut off
    # where their engines differ, and examples are followed where most people are.
    all_system_tests "system tests" a_container_sees_the_same_whoever a_container_starts_on_networks_of_several \
        hosts_are_one_cluster_whatever_is_cut the_walk_through_
    say "" && say "All tests passed."
}

engines() {
    need_root test-engines
    need_cargo
    install_test_programs
    tested_build
    step "build of the system tests" cargo test --locked --no-run -p system-tests --tests
    # What differs little from release to release is tried with the newest; that of trixie is in the mixed clusters (sites, multihost,
    # names, replicas), and `make conformance` asks its part everywhere. What everybody does is done with links that are made within
    # their sandboxes as well.
    export TOMBOLO_TEST_ENGINE=sid RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(nproc)}
    local tests='cargo test --locked -p system-tests --test'
    side_by_side "newer engines, and hosts with Docker of three releases in one cluster" <<END
$tests names
$tests replicas -- --skip churn:: --skip taken::
$tests sites
$tests attach
$tests multihost matrix::
$tests everyday
TOMBOLO_TEST_ATTACH=inside $tests everyday
$tests examples
END
    say "" && say "All engines passed."
}

# built_test PACKAGE TEST: builds a test and copies it, without what only a debugger reads, to $VM_FILES.
built_test() {
    local file
    file=$(cargo test --locked --no-run -p "$1" --test "$2" 2>&1 | sed -nE 's/^ *Executable .*\((.*)\)$/\1/p')
    [ -x "$file" ] || die "the test $2 of $1 could not be built" "cargo test --no-run -p $1 --test $2 says why."
    strip -o "$VM_FILES/$2" "$file"
}

# What this machine's kernel may lack, on one that has it.
vm() {
    need_root test-vm
    need_cargo
    install_test_programs
    install_missing qemu-system-x86_64:qemu-system-x86 strip:binutils
    tested_build
    VM_FILES=target/vm
    mkdir -p "$VM_FILES"
    strip -o "$VM_FILES/tombolo" target/debug/tombolo
    say "Building the tests ..."
    built_test system-tests underlay
    built_test tombolo kernel_suite
    # A test on a kernel without these would only see them refused.
    local tests=${TESTS:-vlan:: isolated:: ipvlan:: refusals::a_parent}
    step "on a kernel with 802.1Q, ipvlan and dummy" tests/vm.sh "$VM_FILES"/* -- "
        set -e
        modprobe --all --dry-run 8021q ipvlan dummy
        # What the test hosts have from their machine.
        modprobe --all br_netfilter overlay
        # The second loads what our rules need, which takes this machine longer than Docker waits for a network.
        ./kernel_suite uplinks:: real::a_step_may_be_repeated
        # An engine waits 15 seconds for its containerd, and this disk is slow.
        cat /usr/sbin/dockerd /usr/bin/containerd /usr/bin/docker >/dev/null
        # One at a time, on one processor: of two engines that start, both are late.
        TOMBOLO_TEST_BINARY=/work/tombolo ./underlay --test-threads 1 $tests"
    say "" && say "All that needs a full kernel passed."
}

# Not among the tests of `make test`: the first time it makes a Debian to boot, which takes minutes.
units() {
    need_root units
    need_cargo
    install_test_programs
    install_missing systemd-nspawn:systemd-container dpkg-shlibdeps:dpkg-dev
    release_build
    local package
    package=$(plugin-config/deb.sh </dev/null) || die "the Debian package could not be built"
    step "units" tests/units.sh "$package"
    say "" && say "The package and its units work."
}

bench() {
    need_root bench
    need_cargo
    install_test_programs
    case " $* " in *" profile "*) install_missing perf:linux-perf ;; esac
    release_build
    step "bench" with_release cargo run --locked --release -p system-tests --bin bench -- "$@"
}

# What is measured goes into one document, with its pictures; with an engine new enough for both ways in which containers come by
# their links.
bench_all() {
    TOMBOLO_BENCH_WRITE=${TOMBOLO_BENCH_WRITE:-docs/benchmarks.md} TOMBOLO_TEST_ENGINE=${TOMBOLO_TEST_ENGINE:-sid} bench "$@"
}

# A few rounds of what is quick, with what the tests drive: whether it runs, not how fast.
bench_quick() {
    need_root bench-quick
    need_cargo
    install_test_programs
    tested_build
    step "bench, a round of each" \
        env TOMBOLO_TEST_BINARY="$PWD/target/debug/tombolo" TOMBOLO_BENCH_ROUNDS=1 TOMBOLO_BENCH_CALLS=2 TOMBOLO_BENCH_ACROSS_ROUNDS=1 TOMBOLO_BENCH_MOST=1000 \
        TOMBOLO_BENCH_CROWD=2 \
        cargo run --locked -p system-tests --bin bench -- attach bridge growth
}

# Whether they would tell a slower build.
bench_check() {
    need_root bench-check
    need_cargo
    install_test_programs
    step "a build that can be slowed" cargo build --locked -p tombolo --features slowed --target-dir target/slowed
    step "bench, its own check" env TOMBOLO_TEST_BINARY="$PWD/target/slowed/debug/tombolo" TOMBOLO_BENCH_ROUNDS="${TOMBOLO_BENCH_ROUNDS:-60}" \
        cargo run --locked -p system-tests --bin bench -- slowed
}

conformance() {
    need_root conformance
    need_cargo
    install_test_programs
    tested_build
    local engine
    for engine in native trixie sid; do
        step "conformance with Docker of $engine" \
            env "TOMBOLO_TEST_ENGINE=$engine" cargo test --locked -p system-tests --test conformance
    done
    # What `make test-engines` has no time for.
    step "more with Docker of sid" \
        env TOMBOLO_TEST_ENGINE=sid cargo test --locked -p system-tests --test bridge --test doctor --test plugin --test underlay \
        --test upgrade
}

# All system tests with links that are made within their sandboxes; `make test` has them with links that the engine moves.
inside() {
    need_root test-inside
    need_cargo
    install_test_programs
    tested_build
    # But what README says of them: no addresses of a user's choice on the link itself, and none of another driver's later.
    export TOMBOLO_TEST_ATTACH=inside TOMBOLO_TEST_ENGINE=sid
    all_system_tests "links that are made within their sandboxes" \
        link_local_addresses_that_were_chosen a_connection_that_fails_half_way names_to_docker_and_takes
    say "" && say "All tests passed with links that are made within their sandboxes."
}

soak() {
    need_root soak
    need_cargo
    install_test_programs
    release_build
    step "soak" with_release cargo run --locked --release -p system-tests --bin soak
}

oracle() {
    need_root oracle
    need_cargo
    install_test_programs
    tested_build
    step "oracle" env "ORACLE_MINUTES=${ORACLE_MINUTES:-30}" \
        cargo test --locked -p system-tests --test oracle -- --nocapture
}

# demo up|status|down
demo() {
    need_root "demo"
    # The one that is up is looked at and ended by the program that began it, or a newer one.
    if [ "$1" = up ] || [ ! -x target/release/demo ]; then
        need_cargo
        install_lab_programs "${LAB_PROGRAMS[@]}"
        release_build
        step "the demo's program" cargo build --locked --release -p system-tests --bin demo
        say ""
    fi
    with_release target/release/demo "$@" </dev/null
}

# demo_shell HOST [COMMAND...]
demo_shell() {
    need_root demo-shell
    [ -n "${1:-}" ] || die "which host?" "Say it like this: make demo-shell HOST=b"
    [ -x target/release/demo ] || die "No demo is up" "Start it with: make demo"
    [ $# -eq 1 ] || exec target/release/demo shell "$1" -- "${@:2}"
    # How the last command of a shell ended is nobody's failure.
    target/release/demo shell "$1" || true
}

case "${1:-}" in
build) build ;;
plugin) plugin ;;
deb) deb ;;
check) check ;;
test) everything ;;
engines) engines ;;
cluster) cluster ;;
vm) vm ;;
units) units ;;
inside) inside ;;
conformance) conformance ;;
bench) bench_all "${@:2}" ;;
bench-quick) bench_quick ;;
bench-check) bench_check ;;
soak) soak ;;
oracle) oracle ;;
demo) demo "${@:2}" ;;
demo-shell) demo_shell "${@:2}" ;;
clean) need_cargo && cargo clean ;;
*) die "usage: tests/run.sh build|plugin|deb|check|test|engines|inside|cluster|vm|units|conformance|bench|bench-quick|bench-check|soak|oracle|demo|demo-shell|clean" ;;
esac
