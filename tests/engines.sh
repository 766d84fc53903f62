#!/bin/sh
# Makes the engine roots of the system tests: a small Debian of another release, with that release's Docker engine.
#
#   engines.sh [trixie|sid ...]     makes those that are missing (default: both) and prints where they are
#   engines.sh bookworm             one with systemd as well, for the tests of the package and the units
#   engines.sh kernel               that of trixie as a disk to boot with its own kernel: disk.img, vmlinuz, initrd.img
#
# Roots are kept outside the source tree, in $TOMBOLO_TEST_ENGINES (default /var/cache/tombolo-tests/engines). A root
# is made beside its final place and renamed when it is complete, under a lock, so a root that is there is whole and
# two runs do not make it twice. `rm -r` of a root has it made anew, with whatever that release holds by then.
set -eu

roots=${TOMBOLO_TEST_ENGINES:-/var/cache/tombolo-tests/engines}
mirror=${TOMBOLO_TEST_MIRROR:-http://deb.debian.org/debian}
packages=docker.io,docker-cli,docker-compose,iptables,nftables,iproute2,procps,ca-certificates,busybox-static

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

# Runs a script inside the root that is being made.
in_root() {
    quietly "$log" unshare --mount --pid --fork --kill-child chroot "$part" sh -ec "mount -t proc proc /proc
        $1
        umount /proc"
}

# What can't be configured while debootstrap runs, or isn't wanted in a root that others begin with.
add() {
    cp /etc/resolv.conf "$part/etc/resolv.conf"
    in_root "apt-get update
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $*"
    rm -f "$part/etc/resolv.conf"
}

# To be started by a test.
add_firewalld() {
    add firewalld
    rm -f "$part/etc/systemd/system/multi-user.target.wants/firewalld.service"
}

# What an interrupted run left behind; it can hold mounts of its own.
remove_part() {
    for inner in proc sys; do
        if mountpoint -q "$part/$inner"; then umount "$part/$inner"; fi
    done
    rm -rf --one-file-system "$part"
}

# A disk with the root of trixie and a kernel. The file system it starts from holds no more than it takes to find that disk.
make_disk() {
    [ -d "$roots/trixie" ] || make_root trixie
    part="$roots/.kernel.part"
    log="$roots/kernel.log"
    disk="$roots/.kernel.disk"
    remove_part
    rm -rf "$disk"
    : >"$log"
    echo "engines.sh: making a disk with Debian's kernel, this takes a minute (log: $log)"
    cp -a "$roots/trixie" "$part"
    mkdir -p "$part/etc/initramfs-tools/conf.d" "$disk"
    echo MODULES=list >"$part/etc/initramfs-tools/conf.d/disk"
    printf '%s\n' virtio_pci virtio_blk ext4 >"$part/etc/initramfs-tools/modules"
    add linux-image-amd64 kmod zstd dnsmasq-base
    mv "$part"/boot/vmlinuz-* "$disk/vmlinuz"
    mv "$part"/boot/initrd.img-* "$disk/initrd.img"
    # The first process: what is to be done stands on a second disk.
    printf '%s\n' '#!/bin/sh' 'mkdir -p /work && mount /dev/vdb /work && exec /work/first' >"$part/sbin/work"
    chmod 755 "$part/sbin/work"
    # A test machine has no screen, no sound and no reader.
    (cd "$part" && rm -rf boot var/lib/apt/lists var/cache/apt usr/share/doc usr/share/locale usr/share/man &&
        rm -rf lib/modules/*/kernel/drivers/gpu lib/modules/*/kernel/drivers/media lib/modules/*/kernel/sound)
    truncate -s $(($(du -sm "$part" | cut -f1) + 2048))M "$disk/disk.img"
    quietly "$log" mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$part" "$disk/disk.img"
    mkdir "$disk/etc"
    cp "$part/etc/tombolo-test-engine" "$disk/etc/"
    rm -rf --one-file-system "$part"
    mv "$disk" "$roots/kernel"
}

make_root() {
    wanted=$packages
    # A machine to boot: its systemd also runs on a kernel that has the older control groups.
    [ "$1" != bookworm ] || wanted=docker.io,iptables,nftables,iproute2,ca-certificates,systemd-sysv,dbus,procps
    part="$roots/.$1.part"
    log="$roots/$1.log"
    remove_part
    : >"$log"
    echo "engines.sh: making the $1 engine root, this takes some minutes (log: $log)"
    # No index of a suite is too old or too new for a test machine, whose clock may be anywhere.
    mkdir -p "$part/etc/apt/apt.conf.d"
    printf 'Acquire::Check-Valid-Until "false";\nAcquire::Check-Date "false";\nAPT::Sandbox::User "root";\n' \
        >"$part/etc/apt/apt.conf.d/90tombolo-tests"
    # In namespaces of its own: package scripts start nothing that outlives the making, and mounts end with it.
    quietly "$log" unshare --mount --pid --fork --kill-child \
        debootstrap --variant=minbase --include="$wanted" "$1" "$part" "$mirror"
    [ "$1" != bookworm ] || add_firewalld
    rm -rf "$part/var/cache/apt/archives" "$part/var/lib/apt/lists"
    mkdir -p "$part/var/cache/apt/archives/partial" "$part/var/lib/apt/lists/partial"
    quietly "$log" chroot "$part" dockerd --version
    quietly "$log" chroot "$part" docker --version
    chroot "$part" dockerd --version >"$part/etc/tombolo-test-engine"
    mv "$part" "$roots/$1"
}

[ "$(id -u)" = 0 ] || fail "must be run as root: it makes file systems with devices and foreign owners"
command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"
[ $# -gt 0 ] || set -- trixie sid
mkdir -p "$roots"
exec 9>"$roots/.lock"
flock 9
for suite in "$@"; do
    case $suite in
    bookworm | trixie | sid | kernel) ;;
    *) fail "no engine root is called '$suite': bookworm, trixie, sid and kernel are" ;;
    esac
    # One that was made when fewer programs were wanted is made anew.
    case $suite in
    bookworm) newest=usr/sbin/firewalld ;;
    kernel) newest=disk.img ;;
    *) newest=bin/busybox ;;
    esac
    if [ -d "$roots/$suite" ] && [ ! -e "$roots/$suite/$newest" ]; then
        rm -rf --one-file-system "${roots:?}/$suite"
    fi
    if [ ! -d "$roots/$suite" ]; then
        if [ "$suite" = kernel ]; then make_disk; else make_root "$suite"; fi
    fi
    echo "$suite: $roots/$suite: $(cat "$roots/$suite/etc/tombolo-test-engine")"
done
