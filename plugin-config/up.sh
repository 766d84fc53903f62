#!/usr/bin/env bash
# Makes this host's Docker engine have tombolo: installs what is missing, builds, starts, waits until it answers.
# Run again it changes nothing, but takes over a newer binary or newer units. down.sh undoes it.
set -euo pipefail
# shellcheck source=plugin-config/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=plugin-config/service.sh
. plugin-config/service.sh

DOCKER_HOST_USED=${TOMBOLO_DOCKER_HOST:-unix:///var/run/docker.sock}
# BUILT=FILE takes a binary that is there already.
HAS_BINARY=${BUILT:-}
BUILT=${BUILT:-${CARGO_TARGET_DIR:-target}/release/tombolo}

engine_answers() { have docker && timeout 10 docker -H "$DOCKER_HOST_USED" version >/dev/null 2>&1; }

tombolo_answers() { timeout 10 "$BINARY" status >/dev/null 2>&1; }

install_packages() {
    local wanted=("${BUILD_PROGRAMS[@]}" nft:nftables ip:iproute2 iptables:iptables)
    if ! engine_answers && ! have dockerd; then
        # Debian's engine merely recommends what it cannot pull an image without, and on a kernel with AppArmor not start
        # a container without.
        wanted+=(dockerd:docker.io update-ca-certificates:ca-certificates)
        ! grep -qs Y /sys/module/apparmor/parameters/enabled || wanted+=(apparmor_parser:apparmor)
    fi
    install_missing "${wanted[@]}"
    # Debian 13 and later have the client in a package of its own.
    install_missing docker:docker-cli
}

# The build belongs to the user who called sudo, where that is whose cargo it is.
build() {
    if [ -n "$HAS_BINARY" ]; then
        [ -x "$BUILT" ] || die "$BUILT is no program" "BUILT names the binary that is to be installed; without it, one is built."
        return
    fi
    say "Building tombolo (the first time takes some minutes) ..."
    local as=()
    if [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ] && [ "$(stat -c %U .)" = "$SUDO_USER" ]; then
        as=(runuser -u "$SUDO_USER" -- env "HOME=$(getent passwd "$SUDO_USER" | cut -d: -f6)" "PATH=$PATH")
    fi
    "${as[@]}" cargo build --release --locked -p tombolo </dev/null ||
        die "tombolo could not be built; cargo's own words are above." \
            "Usual causes are an old toolchain (\`rustup update stable\` helps) and no way to crates.io."
}

# install_file MODE FROM TO: puts a file in its place at once; succeeds without a word where it is there already.
install_file() {
    ! cmp -s "$2" "$3" || return 0
    install -D -m "$1" "$2" "$3.new"
    mv -f "$3.new" "$3"
    say "Installed $3"
}

start_with_systemd() {
    local name units_old=no unit pid
    if [ -n "$(compgen -e TOMBOLO_)" ]; then
        say "Note: a service does not see TOMBOLO_... variables; put settings in /etc/tombolo/tombolo.toml."
        # This script asks the daemon that systemd runs, so it must not be led elsewhere by them either.
        for name in $(compgen -e TOMBOLO_); do unset "$name"; done
    fi
    for unit in tombolo.socket tombolo.service; do
        cmp -s "plugin-config/$unit" "$UNITS/$unit" || units_old=yes
        install_file 644 "plugin-config/$unit" "$UNITS/$unit"
    done
    [ "$units_old" = no ] || systemctl daemon-reload
    pid=$(systemctl show --property MainPID --value tombolo.service)
    if [ "$pid" != 0 ] && [ "$units_old" = yes ]; then
        say "Restarting tombolo and its sockets ..."
        # A socket cannot be changed under its service. Docker repeats its calls for 15 s, so none is lost.
        systemctl stop tombolo.service tombolo.socket
    elif [ "$pid" != 0 ] && is_old "$pid"; then
        say "Restarting tombolo ..."
        # systemd goes on holding the sockets, and calls wait in them.
        systemctl restart tombolo.service
    fi
    systemctl --quiet enable tombolo.socket tombolo.service
    systemctl start tombolo.socket tombolo.service || explain "systemd could not start tombolo"
}

# can_hand_over PID: whether the tombolo that runs is one that hands its sockets over to a newer one.
can_hand_over() { "/proc/$1/exe" serve --help 2>/dev/null | grep -e --take-over >/dev/null; }

# For wait_for: 2 where the new process has ended and the old one goes on.
replaced() {
    gone "$PID_FILE" tombolo && return
    kill -0 "$1" 2>/dev/null || return 2
    return 1
}

take_over() {
    local new
    say "A new tombolo takes over from the one that runs ..."
    setsid "$BINARY" serve --take-over </dev/null >>"$LOG_FILE" 2>&1 &
    new=$!
    wait_for 60 "it has" replaced "$new" || explain "the tombolo that runs did not hand over"
    echo "$new" >"$PID_FILE"
}

start_by_hand() {
    local pid
    if runs "$PID_FILE" tombolo && pid=$(cat "$PID_FILE") && is_old "$pid"; then
        if can_hand_over "$pid"; then
            take_over
            return
        fi
        say "Restarting tombolo ..."
        stop_process "$PID_FILE" tombolo 15
    fi
    if runs "$PID_FILE" tombolo; then
        return
    fi
    if tombolo_answers; then
        die "a tombolo that \`make up\` did not start is running already" \
            "End it, or leave it: \`tombolo status\` shows its process."
    fi
    say "Starting tombolo (log: $LOG_FILE) ..."
    setsid "$BINARY" serve </dev/null >>"$LOG_FILE" 2>&1 &
    echo $! >"$PID_FILE"
}

# For wait_for: 2 where the process that was to answer has ended.
tombolo_answers_yet() {
    tombolo_answers && return
    if ! with_systemd && dead "$PID_FILE"; then return 2; fi
    return 1
}

explain() {
    local log
    if with_systemd; then
        log=$(journalctl --no-pager -n 20 -u tombolo.service 2>&1 || true)
    else
        log=$(tail -n 20 "$LOG_FILE" 2>&1 || true)
    fi
    printf '\nThe last lines of its log:\n%s\n' "$log" >&2
    if with_systemd; then
        die "$1" "More of the log: journalctl -u tombolo"
    fi
    die "$1" "More of the log: $LOG_FILE" "To see it start: $BINARY serve --log debug"
}

start_engine() {
    if engine_answers; then
        say "Docker answers on $DOCKER_HOST_USED"
        return
    fi
    if with_systemd; then
        say "Starting the Docker engine ..."
        systemctl start docker || die "systemd could not start Docker" "Its log: journalctl -u docker"
        echo systemd >"$ENGINE_FILE"
    elif ! runs "$ENGINE_FILE" dockerd; then
        say "Starting the Docker engine (log: $ENGINE_LOG) ..."
        setsid dockerd -H "$DOCKER_HOST_USED" </dev/null >>"$ENGINE_LOG" 2>&1 &
        echo $! >"$ENGINE_FILE"
    fi
    if ! wait_for 90 "Docker answers" engine_answers_yet; then
        printf '\nThe last lines of its log:\n%s\n' "$(tail -n 20 "$ENGINE_LOG" 2>&1 || true)" >&2
        die "no Docker engine answers on $DOCKER_HOST_USED"
    fi
}

engine_answers_yet() {
    engine_answers && return
    if ! with_systemd && dead "$ENGINE_FILE"; then return 2; fi
    return 1
}

show_what_to_try() {
    say ""
    "$BINARY" version
    say "is up. Three lines to try:"
    say ""
    say "  docker network create -d tombolo --ipam-driver tombolo demo"
    say "  docker run --rm --network demo busybox ip address"
    say "  tombolo status"
}

main() {
    need_root up
    need_cargo
    install_packages
    build
    mkdir -p "$RUN"
    install_file 755 "$BUILT" "$BINARY"
    # tombolo before the engine: one that has networks of ours asks for us while it starts, and waits 15 s for each.
    if with_systemd; then
        start_with_systemd
    else
        start_by_hand
    fi
    wait_for 30 "tombolo answers" tombolo_answers_yet || explain "tombolo does not answer"
    start_engine
    show_what_to_try
}

main
