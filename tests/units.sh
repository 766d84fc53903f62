#!/usr/bin/env bash
# The Debian package and its units under a real systemd: a Debian 12 that is booted in namespaces (systemd-nspawn), with a
# Docker engine. Nothing of it reaches this machine's network, and nothing stays.
#
#   units.sh PACKAGE.deb
set -euo pipefail
# shellcheck source=plugin-config/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../plugin-config/common.sh"
# shellcheck source=plugin-config/service.sh
. plugin-config/service.sh

need_root units
PACKAGE=$(readlink -f "${1:?the package to test}")
NAME=tombolo-test-$$-1
WORK=$(mktemp -d)
NSPAWN='' LEADER=''

# The groups of a machine that nobody's service manager looks after.
groups() { find /sys/fs/cgroup -maxdepth 2 -name "$NAME" -type d; }

clean_up() {
    local status=$?
    if [ $status != 0 ] && [ -n "$LEADER" ]; then
        inside journalctl --no-pager -n 60 -u tombolo.service -u tombolo.socket >&2 || true
    fi
    [ -z "$NSPAWN" ] || kill -KILL "$LEADER" 2>/dev/null || true
    [ -z "$NSPAWN" ] || wait "$NSPAWN" 2>/dev/null || true
    local group
    for group in $(groups); do
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    rm -rf "$WORK"
    exit $status
}
trap clean_up EXIT

# Runs a command in the machine.
inside() { nsenter -t "$LEADER" -a env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/root "$@"; }

# check WHAT COMMAND...
check() {
    local what=$1
    shift
    "$@" || die "$what" "The command was: $*"
    say "ok: $what"
}

is() { [ "$1" = "$2" ] || die "$3" "It is '$1', and should be '$2'."; }

property() { inside systemctl show --property "$1" --value "${2:-tombolo.service}"; }

boots() {
    LEADER=$(cat "/proc/$NSPAWN/task/$NSPAWN/children" 2>/dev/null) || return 2
    LEADER=${LEADER%% *}
    [ -n "$LEADER" ] && [ "$(cat "/proc/$LEADER/comm" 2>/dev/null)" = systemd ] &&
        [[ $(inside systemctl is-system-running 2>/dev/null) =~ ^(running|degraded)$ ]]
}

boot() {
    local root group scope=()
    root=$(tests/engines.sh bookworm | sed -nE 's/^bookworm: (.*): Docker.*/\1/p')
    [ -d "$root" ] || die "there is no Debian 12 to boot" "tests/engines.sh bookworm makes one."
    if with_systemd; then
        scope=(systemd-run --quiet --scope -p Delegate=yes)
    else
        for group in systemd unified .; do
            [ ! -e "/sys/fs/cgroup/$group/cgroup.procs" ] || mkdir -p "/sys/fs/cgroup/$group/$NAME"
        done
    fi
    (
        for group in $(groups); do echo $BASHPID >"$group/cgroup.procs"; done
        exec "${scope[@]}" systemd-nspawn --quiet --directory "$root" --volatile=overlay --boot --register=no --keep-unit \
            --private-network --capability=all --machine "$NAME" --console=pipe --link-journal=no \
            --system-call-filter='add_key keyctl bpf' --tmpfs=/var/lib/docker --tmpfs=/var/lib/containerd
    ) </dev/null >"$WORK/console" 2>&1 &
    NSPAWN=$!
    wait_for 90 "the machine has booted" boots || die "the machine does not boot" "$(tail -n 20 "$WORK/console")"
    # The older control groups come read-only; Docker makes its own in them, all below one that is ours.
    # shellcheck disable=SC2016
    inside sh -c 'for group in /sys/fs/cgroup/*/; do mount -o remount,bind,rw "$group" 2>/dev/null || :; done'
    inside sh -c "mkdir -p /etc/docker && cat >/etc/docker/daemon.json" <<END
{ "exec-opts": ["native.cgroupdriver=cgroupfs"], "cgroup-parent": "/$NAME" }
END
    # An outside world: one more namespace, and a wire to it.
    inside sh -ec 'ip link set lo up; ip netns add outside
        ip link add wire type veth peer name wire netns outside
        ip address add 192.0.2.2/24 dev wire; ip link set wire up; ip route add default via 192.0.2.1
        ip -n outside address add 192.0.2.1/24 dev wire; ip -n outside link set wire up; ip -n outside link set lo up'
}

# All that is in the machine, but for what is Docker's, dpkg's, or in memory.
files() {
    inside find / -xdev \( -path /var/lib/docker -o -path /var/lib/containerd -o -path /var/lib/dpkg -o -path /var/log \
        -o -path /var/cache -o -path /tmp -o -path /var/tmp -o -path /etc/docker -o -path /opt \) -prune -o -print | sort
}

image() {
    mkdir -p "$WORK/image/bin" "$WORK/image/tmp" "$WORK/image/www"
    cp /bin/busybox "$WORK/image/bin/busybox"
    local applet
    for applet in sh sleep ping wget httpd true; do ln -s busybox "$WORK/image/bin/$applet"; done
    echo hello >"$WORK/image/www/index.html"
    tar -C "$WORK/image" --owner=0 --group=0 -c . | inside docker import - busybox >/dev/null
}

web_is_reached() {
    inside ip netns exec outside /usr/bin/env bash -c \
        'exec 3<>/dev/tcp/192.0.2.2/8080 && printf "GET / HTTP/1.0\r\n\r\n" >&3 && grep -q hello <&3'
}

web_is_reached_here() {
    inside bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080 && printf "GET / HTTP/1.0\r\n\r\n" >&3 && grep -q hello <&3'
}

answers() { inside tombolo status >/dev/null 2>&1; }

# Runs containers and asks for the status, over and over, until the file `stop` is there; each must succeed.
work() {
    local runs=0
    while [ ! -e "$WORK/stop" ]; do
        inside docker run --rm --network net busybox ping -q -c 1 -W 5 10.70.0.1 >"$WORK/work.log" 2>&1 || return 1
        inside tombolo status >>"$WORK/work.log" 2>&1 || return 1
        runs=$((runs + 1))
        echo $runs >"$WORK/runs"
    done
}

# while_working WHAT COMMAND...: the command, and then some, while all that asks for tombolo succeeds.
while_working() {
    local what=$1 worker before
    shift
    rm -f "$WORK/stop"
    echo 0 >"$WORK/runs"
    work &
    worker=$!
    wait_for 60 "work has begun" worked_beyond 0 "$worker" || die "$what: no work was done" "$(cat "$WORK/work.log")"
    "$@"
    before=$(cat "$WORK/runs")
    wait_for 60 "work goes on" worked_beyond "$before" "$worker" ||
        die "$what: no work was done after it" "$(cat "$WORK/work.log")"
    touch "$WORK/stop"
    wait "$worker" || die "$what: a call was lost" "$(cat "$WORK/work.log")"
    say "ok: $what ($(cat "$WORK/runs") containers and as many commands meanwhile)"
}

worked_beyond() {
    kill -0 "$2" 2>/dev/null || return 2
    [ "$(cat "$WORK/runs")" -gt "$1" ]
}

restart_five_times() {
    local n
    for n in 1 2 3 4 5; do
        inside systemctl restart tombolo.service
        wait_for 20 "restart $n is through" answers
    done
}

install_it() {
    inside sh -c 'cat >/root/tombolo.deb' <"$PACKAGE"
    check "the package installs" inside dpkg -i /root/tombolo.deb
    is "$(inside dpkg -V tombolo)" "" "dpkg finds files that are not as they were packed"
    local unit
    for unit in tombolo.socket tombolo.service; do
        is "$(inside systemctl is-active $unit)" active "$unit after the installation"
        is "$(inside systemctl is-enabled $unit)" enabled "$unit after the installation"
    done
    check "the command line is answered" answers
    check "the units are well-formed" inside systemd-analyze verify --man=no /usr/lib/systemd/system/tombolo.{socket,service}
    local place
    for place in /usr/share/man/man1/tombolo-serve.1.gz /usr/share/bash-completion/completions/tombolo \
        /usr/share/doc/tombolo/copyright /usr/share/doc/tombolo/licences-of-crates.gz; do
        check "$place is there" inside test -s "$place"
    done
    say "$(inside systemd-analyze security --no-pager tombolo.service | tail -n 1)"
}

start_together() {
    inside systemctl stop tombolo.socket tombolo.service docker.socket docker.service
    check "tombolo and Docker start together" inside systemctl start docker.service tombolo.service
    local ready started
    ready=$(property ActiveEnterTimestampMonotonic)
    started=$(property ExecMainStartTimestampMonotonic docker.service)
    [ "$ready" -lt "$started" ] || die "Docker was started before tombolo was ready" "$started, $ready"
    say "ok: tombolo was ready before Docker was started"
    image
}

serve_networks() {
    # Not running is enough: the socket starts it.
    inside systemctl stop tombolo.service
    check "a call of Docker's starts tombolo" \
        inside timeout 10 docker network create -d tombolo --ipam-driver tombolo --subnet 10.70.0.0/24 net
    is "$(inside systemctl is-active tombolo.service)" active "tombolo.service after a call"
    inside docker run -d --name web --network net -p 8080:80 busybox httpd -f -h /www >/dev/null
    inside docker run -d --name two --network net busybox sleep 3600 >/dev/null
    check "containers reach each other by name" inside docker exec two ping -q -c 1 -W 5 web
    check "containers reach the outside" inside docker exec two ping -q -c 1 -W 5 192.0.2.1
    check "a published port is reached from outside" web_is_reached
    check "a published port is reached from the host" web_is_reached_here
    is "$(inside sysctl -n net.ipv4.ip_forward)" 1 "forwarding"
    check "the accept in FORWARD is there" inside sh -c "iptables -S FORWARD | grep -q -- '--comment tombolo'"
    is "$(inside tombolo status --output json | grep -c '"problem":')" 0 "the number of problems"
}

reach_out() { inside docker exec guest ping -q -c 1 -W 5 192.0.2.1 >/dev/null 2>&1; }

# What doctor says of one of its checks, and how that stands.
doctor_says() { inside sh -c 'tombolo doctor --output json || true' | grep -A 3 "\"check\": \"$1\""; }

has_a_zone() {
    local said
    said=$(doctor_says firewall.firewalld)
    [ -n "$said" ] && ! grep -q demo0 <<<"$said"
}

# The README's line for firewalld, as printed there.
live_with_firewalld() {
    local line
    line=$(sed -n '/^firewall-cmd --permanent .*demo0/p' README.md)
    [ -n "$line" ] || die "the README has no line for firewalld any more" "It begins with 'firewall-cmd --permanent'."
    inside docker network create -d tombolo --ipam-driver tombolo --subnet 10.71.0.0/24 -o bridge_name=demo0 zoned >/dev/null
    inside docker run -d --name guest --network zoned busybox sleep 3600 >/dev/null
    check "a container reaches the outside without firewalld" reach_out
    inside systemctl start firewalld.service
    wait_for 20 "firewalld has its rules" inside firewall-cmd --state || die "firewalld does not run" "See its journal."
    check "a published port is reached with firewalld" web_is_reached
    ! reach_out || die "a bridge of no zone is let out by firewalld" "The README says that it is not."
    check "doctor names the bridge that has no zone" grep -q "in no zone: .*demo0" <<<"$(doctor_says firewall.firewalld)"
    check "the README's line is taken" inside sh -c "$line"
    check "a container reaches the outside from a zone that trusts it" reach_out
    check "a published port is reached after firewalld was loaded anew" web_is_reached
    check "doctor no longer names it" has_a_zone
    inside systemctl stop firewalld.service
    inside rm -rf /etc/firewalld
    check "a published port is reached when firewalld has gone" web_is_reached
    inside docker rm -f guest >/dev/null
    inside docker network rm zoned >/dev/null
}

survive_restarts() {
    local before
    before=$(inside tombolo state export)
    while_working "five restarts lose no call" restart_five_times
    check "the published port is still reached" web_is_reached
    inside tombolo state export >"$WORK/after"
    # Addresses that rest since a container gave them back are the one difference.
    is "$(grep -c endpoint_id <<<"$before")" "$(grep -c endpoint_id "$WORK/after")" "the number of endpoints after restarts"
}

restarted_beyond() { [ "$(property NRestarts)" -gt "$1" ] && answers; }

survive_hanging() {
    local before pid
    inside mkdir -p /run/systemd/system/tombolo.service.d
    inside sh -c 'printf "[Service]\nWatchdogSec=3\n" >/run/systemd/system/tombolo.service.d/watchdog.conf'
    inside systemctl daemon-reload
    inside systemctl restart tombolo.service
    before=$(property NRestarts)
    pid=$(property MainPID)
    # Three times as long as a silent one would be let live.
    inside sleep 10
    is "$(property MainPID)" "$pid" "the process of a daemon that works, after ten seconds"
    say "ok: the watchdog lets a daemon live that works"
    inside kill -STOP "$pid"
    inside docker run --rm --network net busybox ping -c 1 -W 5 10.70.0.1 >"$WORK/hung.log" 2>&1 &
    local call=$!
    wait_for 30 "the watchdog has ended the hanging daemon, and a new one answers" restarted_beyond "$before" ||
        die "a daemon that hangs is not ended" "$(inside systemctl status --no-pager tombolo.service)"
    wait $call || die "a call to a daemon that hung was lost" "$(cat "$WORK/hung.log")"
    say "ok: a call to the daemon that hung was answered by its successor"
    is "$(inside journalctl -u tombolo.service --no-pager | grep -c 'Watchdog timeout')" 1 "watchdog timeouts in the journal"
    inside rm -r /run/systemd/system/tombolo.service.d
    inside systemctl daemon-reload
    inside systemctl restart tombolo.service
}

upgrade() { inside dpkg -i /root/newer.deb >"$WORK/upgrade.log" 2>&1 || die "the upgrade failed" "$(cat "$WORK/upgrade.log")"; }

survive_upgrade() {
    local pid
    pid=$(property MainPID)
    dpkg-deb -R "$PACKAGE" "$WORK/newer"
    sed -i 's/^Version: .*/&+newer/' "$WORK/newer/DEBIAN/control"
    dpkg-deb --root-owner-group -Zgzip --build "$WORK/newer" "$WORK/newer.deb" >/dev/null
    inside sh -c 'cat >/root/newer.deb' <"$WORK/newer.deb"
    while_working "an upgrade of the package loses no call" upgrade
    [ "$(property MainPID)" != "$pid" ] || die "the upgrade left the old process running"
    check "networks go on after the upgrade" web_is_reached
}

remove_it() {
    inside docker rm -f web two >/dev/null
    inside docker network rm net >/dev/null
    check "the package is removed" inside dpkg -r tombolo
    is "$(inside sh -c 'pgrep -x tombolo; ls /run/docker/plugins/tombolo.sock /run/tombolo 2>/dev/null')" "" "what still runs or listens"
    files >"$WORK/removed"
    # That a unit is enabled is a setting as well; Debian keeps it until the purge.
    is "$(comm -13 "$WORK/before" "$WORK/removed" |
        grep -vE '^/(etc/tombolo|var/lib/tombolo)(/|$)|^/root/|/deb-systemd-helper-|\.wants/tombolo\.')" \
        "" "what removal leaves beside settings and state"
    check "the settings stay" inside test -e /etc/tombolo/tombolo.toml
    check "the state stays" inside test -d /var/lib/tombolo/db
    check "the package is purged" inside dpkg -P tombolo
    files >"$WORK/purged"
    is "$(comm -13 "$WORK/before" "$WORK/purged" | grep -v '^/root/')" "" "what purging leaves"
}

boot
files >"$WORK/before"
install_it
start_together
serve_networks
live_with_firewalld
survive_restarts
survive_hanging
survive_upgrade
remove_it
say "The package and its units work under systemd $(inside systemctl --version | sed -nE '1s/^systemd ([0-9]+).*/\1/p')."
