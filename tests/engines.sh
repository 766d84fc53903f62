#!/bin/sh
# Makes the engine roots of the system tests: a small Debian of another release, with that release's Docker engine.
#
#   engines.sh [trixie|sid ...]     makes those that are missing (default: both) and prints where they are
#   engines.sh bookworm             one with systemd as well, for the tests of the package and the units
#
# Roots are kept outside the source tree, in $TOMBOLO_TEST_ENGINES (default /var/cache/tombolo-tests/engines). A root
# is made beside its final place and renamed when it is complete, under a lock, so a root that is there is whole and
# two runs do not make it twice. `rm -r` of a root has it made anew, with whatever that release holds by then.
set -eu

roots=${TOMBOLO_TEST_ENGINES:-/var/cache/tombolo-tests/engines}
mirror=${TOMBOLO_TEST_MIRROR:-http://deb.debian.org/debian}
packages=docker.io,docker-cli,docker-compose,iptables,nftables,iproute2,procps,ca-certificates

fail() {
    echo "engines.sh: $*" >&2
    exit 1
}

# Runs a command with its output in a log; shows the log's end only when it fails.
quietly() {
    log=$1
    shift
    "$@" >>"$log" 2>&1 || {
        tail -n 25 "$log" >&2
        fail "'$*' failed; the whole output is in $log"
    }
}

# To be started by a test. What it depends on can't be configured while debootstrap runs.
add_firewalld() {
    cp /etc/resolv.conf "$part/etc/resolv.conf"
    # shellcheck disable=SC2016
    quietly "$log" unshare --mount --pid --fork --kill-child chroot "$part" sh -ec 'mount -t proc proc /proc
        apt-get update
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends firewalld
        umount /proc'
    rm -f "$part/etc/resolv.conf" "$part/etc/systemd/system/multi-user.target.wants/firewalld.service"
}

make_root() {
    suite=$1
    wanted=$packages
    # A machine to boot: its systemd also runs on a kernel that has the older control groups.
    [ "$suite" != bookworm ] || wanted=docker.io,iptables,nftables,iproute2,ca-certificates,systemd-sysv,dbus,procps
    part="$roots/.$suite.part"
    log="$roots/$suite.log"
    # What an interrupted run left behind; it can hold mounts of its own.
    for inner in proc sys; do
        if mountpoint -q "$part/$inner"; then umount "$part/$inner"; fi
    done
    rm -rf --one-file-system "$part"
    : >"$log"
    echo "engines.sh: making the $suite engine root, this takes some minutes (log: $log)"
    # No index of a suite is too old or too new for a test machine, whose clock may be anywhere.
    mkdir -p "$part/etc/apt/apt.conf.d"
    printf 'Acquire::Check-Valid-Until "false";\nAcquire::Check-Date "false";\nAPT::Sandbox::User "root";\n' \
        >"$part/etc/apt/apt.conf.d/90tombolo-tests"
    # In namespaces of its own: package scripts start nothing that outlives the making, and mounts end with it.
    quietly "$log" unshare --mount --pid --fork --kill-child \
        debootstrap --variant=minbase --include="$wanted" "$suite" "$part" "$mirror"
    [ "$suite" != bookworm ] || add_firewalld
    rm -rf "$part/var/cache/apt/archives" "$part/var/lib/apt/lists"
    mkdir -p "$part/var/cache/apt/archives/partial" "$part/var/lib/apt/lists/partial"
    quietly "$log" chroot "$part" dockerd --version
    quietly "$log" chroot "$part" docker --version
    chroot "$part" dockerd --version >"$part/etc/tombolo-test-engine"
    mv "$part" "$roots/$suite"
}

[ "$(id -u)" = 0 ] || fail "must be run as root: it makes file systems with devices and foreign owners"
command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"
[ $# -gt 0 ] || set -- trixie sid
mkdir -p "$roots"
exec 9>"$roots/.lock"
flock 9
for suite in "$@"; do
    case $suite in
    bookworm | trixie | sid) ;;
    *) fail "no engine root is called '$suite': bookworm, trixie and sid are" ;;
    esac
    # One that was made when fewer programs were wanted is made anew.
    newest=usr/sbin/sysctl
    [ "$suite" != bookworm ] || newest=usr/sbin/firewalld
    if [ -d "$roots/$suite" ] && [ ! -e "$roots/$suite/$newest" ]; then
        rm -rf --one-file-system "${roots:?}/$suite"
    fi
    [ -d "$roots/$suite" ] || make_root "$suite"
    echo "$suite: $roots/$suite: $(cat "$roots/$suite/etc/tombolo-test-engine")"
done
