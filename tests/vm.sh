#!/usr/bin/env bash
# What the kernel of many a test machine lacks (802.1Q, ipvlan, dummy), on one that has it all: Debian's own, in a virtual machine
# that qemu emulates. It has no network card, so nothing leaves it, and it begins from the same disk each time.
#
#   vm.sh FILE... -- COMMAND     copies the files to /work, runs the command there with a shell, shows what it says and ends as it does
#
# An emulated machine is several times slower than a real one: it is for what works, not for how fast. It has one processor: with
# several, qemu may run an instruction that another of them has replaced a moment ago, and a kernel that patches itself (static keys)
# dies of it: https://gitlab.com/qemu-project/qemu/-/work_items/4669.
set -euo pipefail
# shellcheck source=plugin-config/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../plugin-config/common.sh"

need_root test-vm
# However the guest ends, a run does.
LIMIT=${TOMBOLO_TEST_VM_SECONDS:-1200}
# Its own last words: how the command ended.
LAST='vm: ended with'
WORK=$(mktemp -d)
QEMU='' SHOWN=''

clean_up() {
    local status=$? pid
    for pid in $QEMU $SHOWN; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$WORK"
    exit "$status"
}
trap clean_up EXIT

FILES=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    FILES+=("$1")
    shift
done
[ $# -eq 2 ] || die "usage: tests/vm.sh FILE... -- COMMAND"
COMMAND=$2

# A disk with the files, and the guest's first process.
make_disk() {
    mkdir -p "$WORK/disk"
    cp "${FILES[@]}" "$WORK/disk/"
    printf '%s\n' "$COMMAND" >"$WORK/disk/command"
    cat >"$WORK/disk/first" <<'GUEST'
#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
mountpoint -q /proc || mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mountpoint -q /run || mount -t tmpfs tmpfs /run
mkdir -p /dev/pts /dev/shm
mountpoint -q /dev/pts || mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -sfn /proc/self/fd /dev/fd
hostname vm
ip link set lo up
mkdir -p /run/lock /usr/local/bin /var/lib/tombolo
cd /work
bash ./command </dev/null >/dev/ttyS1 2>&1
echo "vm: ended with $?" >/dev/ttyS1
sync
echo 1 >/proc/sys/kernel/sysrq
echo o >/proc/sysrq-trigger
GUEST
    chmod 755 "$WORK/disk/first"
    truncate -s "$(($(du -sm "$WORK/disk" | cut -f1) + 64))M" "$WORK/work.img"
    mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$WORK/disk" "$WORK/work.img"
}

start() {
    : >"$WORK/said"
    TMPDIR=$WORK timeout --kill-after=5 "$LIMIT" qemu-system-x86_64 \
        -machine q35 -accel tcg,thread=single -cpu Westmere -smp 1 -m 3072 \
        -nodefaults -display none -no-reboot -nic none \
        -kernel "$ROOT/vmlinuz" -initrd "$ROOT/initrd.img" \
        -append "root=/dev/vda rw init=/sbin/work console=ttyS0 quiet panic=-1 no_timer_check mitigations=off" \
        -drive "file=$ROOT/disk.img,format=raw,if=virtio,snapshot=on,cache=unsafe" \
        -drive "file=$WORK/work.img,format=raw,if=virtio,cache=unsafe" \
        -device virtio-rng-pci \
        -serial "file:$WORK/console" -serial "file:$WORK/said" </dev/null &
    QEMU=$!
}

ROOT=$(tests/engines.sh kernel | tee /dev/stderr | sed -nE 's/^kernel: (.*): Docker.*/\1/p')
[ -e "$ROOT/disk.img" ] || die "there is no disk to boot" "tests/engines.sh kernel makes one."
# An emulated kernel dies while it boots, once in some hundred times: where the command has said nothing, it is tried again.
for attempt in 1 2 3; do
    make_disk
    start
    tail -n +1 -F --pid="$QEMU" "$WORK/said" 2>/dev/null &
    SHOWN=$!
    status=0
    wait "$QEMU" || status=$?
    QEMU=''
    wait "$SHOWN" || true
    SHOWN=''
    if [ -s "$WORK/said" ] || [ "$status" = 124 ]; then break; fi
    say "The virtual machine did not boot (attempt $attempt of 3). The end of its console:" "$(tail -n 5 "$WORK/console")"
done
[ "$status" != 124 ] || die "the virtual machine was ended after $LIMIT seconds" "TOMBOLO_TEST_VM_SECONDS sets another limit."
ended=$(tr -d '\r' <"$WORK/said" | sed -n "s/^$LAST //p" | tail -n 1)
[ -n "$ended" ] || die "the virtual machine ended before its command did" "The end of its console:" "$(tail -n 20 "$WORK/console")"
(exit "$ended")
