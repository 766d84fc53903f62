#!/usr/bin/env bash
# Undoes up.sh: stops tombolo, takes its binary and units away, and stops the Docker engine if up.sh started it.
# What tombolo remembers (/var/lib/tombolo) and what it made in the kernel stay, so containers go on.
set -euo pipefail
# shellcheck source=plugin-config/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=plugin-config/service.sh
. plugin-config/service.sh

stop_engine() {
    [ -e "$ENGINE_FILE" ] || return 0
    if [ "$(cat "$ENGINE_FILE")" = systemd ]; then
        say "Stopping the Docker engine, which \`make up\` had started ..."
        systemctl stop docker.socket docker.service
        rm -f "$ENGINE_FILE"
    elif runs "$ENGINE_FILE" dockerd; then
        say "Stopping the Docker engine, which \`make up\` had started ..."
        stop_process "$ENGINE_FILE" dockerd 60
    fi
}

stop_tombolo() {
    if with_systemd && [ -e "$UNITS/tombolo.service" ]; then
        say "Stopping tombolo ..."
        systemctl --quiet disable --now tombolo.socket tombolo.service
    elif runs "$PID_FILE" tombolo; then
        say "Stopping tombolo ..."
        stop_process "$PID_FILE" tombolo 15
    fi
}

remove_files() {
    local units=("$UNITS/tombolo.socket" "$UNITS/tombolo.service")
    if [ -e "${units[0]}" ] || [ -e "${units[1]}" ]; then
        rm -f "${units[@]}"
        ! with_systemd || systemctl daemon-reload
    fi
    # A socket that nobody listens on makes Docker wait as long as none at all, and misleads whoever looks.
    rm -f "$BINARY" "$PLUGIN_SOCKET" "$RUN"/control.sock{,.lock} "$PID_FILE" "$LOG_FILE" "$ENGINE_FILE" "$ENGINE_LOG"
    [ ! -d "$RUN" ] || rmdir --ignore-fail-on-non-empty "$RUN"
}

main() {
    need_root down
    if [ ! -e "$BINARY" ] && [ ! -e "$UNITS/tombolo.service" ] && [ ! -e "$PID_FILE" ] && [ ! -e "$ENGINE_FILE" ]; then
        say "tombolo is not up: nothing to do."
        return
    fi
    # The engine before tombolo: it says goodbye to its endpoints while it stops.
    stop_engine
    stop_tombolo
    remove_files
    say "tombolo is down."
    say "Its networks stay as they are: in Docker, in the kernel and in /var/lib/tombolo. Containers go on;"
    say "Docker cannot start or stop containers on them properly until the next \`make up\`."
}

main
