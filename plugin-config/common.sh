# shellcheck shell=bash
# What the scripts behind the Makefile share: words on the screen, root, cargo and Debian's packages.
# To be sourced by a script that has set -euo pipefail, from anywhere.

# The project's directory, which is where everything runs.
PROJECT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$PROJECT" || exit 1

# After a plain `su`, PATH lacks the directories that root's programs are in.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf '%s\n' "$*"; }

die() {
    printf '\nFAILED: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '  %s\n' "$line" >&2; done
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# need_root TARGET: ends at once where we are not root.
need_root() {
    [ "$(id -u)" = 0 ] || die "\`make $1\` needs root: it makes network namespaces, links and firewall rules." \
        "Run it as root, for example with: sudo make $1"
}

# Finds cargo, also where sudo has cut PATH and HOME down to root's.
need_cargo() {
    have cargo && return
    local user_home=""
    [ -z "${SUDO_USER:-}" ] || user_home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
    local home
    for home in "${HOME:-/root}" "$user_home"; do
        if [ -x "$home/.cargo/bin/cargo" ]; then
            export PATH="$home/.cargo/bin:$PATH"
            export CARGO_HOME="${CARGO_HOME:-$home/.cargo}" RUSTUP_HOME="${RUSTUP_HOME:-$home/.rustup}"
            return
        fi
    done
    die "cargo is not there: tombolo is built with Rust 1.95 or newer." \
        "Get it from https://rustup.rs:" \
        "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y" \
        "  . \"\$HOME/.cargo/env\""
}

# What cargo needs beside Rust: a C compiler that links. Debian's gcc alone does not: libc6-dev is only recommended by it.
# shellcheck disable=SC2034  # read by those who source this
BUILD_PROGRAMS=(cc:gcc cc:libc6-dev)

links() { printf 'int main(void) { return 0; }\n' | cc -x c -o /dev/null - 2>/dev/null; }

# Ends where cargo could not link. For the targets that are not root's and so install nothing.
need_linker() {
    links || die "cargo needs a C compiler to link with, and there is none that works" \
        "Get it, as root, with: apt-get install --no-install-recommends gcc libc6-dev"
}

# is_there PROGRAM PACKAGE: whether a program is there, and is the right one where there are two.
is_there() {
    have "$1" || return 1
    case $2 in
    libc6-dev) links ;;
    # Many a machine has a busybox that needs libraries, which an image of nothing else cannot use.
    busybox-static) ! ldd "$(command -v "$1")" >/dev/null 2>&1 ;;
    esac
}

# install_missing PROGRAM:PACKAGE...: installs the packages whose programs are missing, in one go.
# Asked for by program, so that an engine from elsewhere (docker-ce) is never replaced by Debian's.
install_missing() {
    local packages=() pair
    for pair in "$@"; do
        is_there "${pair%%:*}" "${pair##*:}" || packages+=("${pair##*:}")
    done
    [ ${#packages[@]} -gt 0 ] || return 0
    have apt-get || die "these are missing, and there is no apt-get to install them with: ${packages[*]}" \
        "Install them with this system's own package manager and try again."
    say "Installing ${packages[*]} ..."
    # Nothing is started by being installed: whoever needs a service starts it. 101 is "forbidden" to invoke-rc.d.
    local policy=/usr/sbin/policy-rc.d made_policy=no done=no
    if [ ! -e "$policy" ]; then
        made_policy=yes
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    if apt-get update -q </dev/null &&
        apt-get install -q -y --no-install-recommends "${packages[@]}" </dev/null; then
        done=yes
    fi
    [ "$made_policy" = no ] || rm -f "$policy"
    [ "$done" = yes ] || die "apt-get could not install ${packages[*]}; its own words are above." \
        "Is the network up, and does /etc/apt/sources.list name a mirror that is?"
    for pair in "$@"; do
        is_there "${pair%%:*}" "${pair##*:}" ||
            die "${pair##*:} is installed, but its ${pair%%:*} is not the one that is found in $PATH"
    done
}
