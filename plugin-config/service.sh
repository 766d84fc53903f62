# shellcheck shell=bash disable=SC2034
# What up.sh and down.sh agree on: where tombolo is put, how it runs, and whether it does.
# To be sourced after common.sh.

BINARY=/usr/local/bin/tombolo
UNITS=/etc/systemd/system
RUN=/run/tombolo
PID_FILE=$RUN/tombolo.pid
LOG_FILE=$RUN/tombolo.log
# Who started the Docker engine: there if up.sh did. Holds its process id, or `systemd`.
ENGINE_FILE=$RUN/dockerd.pid
ENGINE_LOG=$RUN/dockerd.log
PLUGIN_SOCKET=${TOMBOLO_PLUGIN_SOCKET:-/run/docker/plugins/tombolo.sock}

# /run/systemd/system may be left in a container image, so the first process is asked as well.
with_systemd() { [ -d /run/systemd/system ] && [ "$(cat /proc/1/comm)" = systemd ]; }

# runs PID_FILE NAME: whether the process of a pid file is alive and still the program that it was.
runs() {
    local pid
    [ -r "$1" ] && read -r pid <"$1" && [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ]
}

# dead PID_FILE: whether the process of a pid file that was just written is no more. Its name is not asked: what was
# started in the background has its starter's name for a moment.
dead() {
    local pid
    read -r pid <"$1" && ! kill -0 "$pid" 2>/dev/null
}

# is_old PID: whether a process runs another binary than the one that is installed now.
is_old() { ! cmp -s "/proc/$1/exe" "$BINARY"; }

# stop_process PID_FILE NAME SECONDS: ends it and waits until it has.
stop_process() {
    local pid
    read -r pid <"$1"
    kill -TERM "$pid" 2>/dev/null || true
    if ! wait_for "$3" "$2 ends" gone "$1" "$2"; then
        say "$2 (process $pid) does not end; it is killed."
        kill -KILL "$pid" 2>/dev/null || true
        wait_for 5 "$2 is gone" gone "$1" "$2" || die "process $pid ($2) cannot be ended"
    fi
    rm -f "$1"
}

gone() { ! runs "$1" "$2"; }

# wait_for SECONDS WHAT COMMAND...: asks until the command succeeds, and shows that time goes by. Gives up when the
# time is over, or at once when the command says 2: there is nothing left to wait for.
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2 shown=no said
    shift 2
    while true; do
        said=0
        "$@" || said=$?
        if [ "$said" = 0 ]; then
            [ "$shown" = no ] || printf ' yes\n'
            return 0
        fi
        if [ "$shown" = no ]; then
            printf 'Waiting until %s ' "$what"
            shown=yes
        fi
        if [ "$said" = 2 ] || [ "$SECONDS" -ge "$deadline" ]; then
            printf ' no\n'
            return 1
        fi
        printf '.'
        sleep 0.5
    done
}
