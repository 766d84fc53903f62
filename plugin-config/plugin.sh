#!/usr/bin/env bash
# Makes the managed plug-in: a folder with config.json and rootfs/, as `docker plugin create` takes it.
#
#   plugin.sh [BINARY [FOLDER]]     default: target/release/tombolo, target/plugin
#
# The root holds the binary and the few programs it calls, with their libraries, all from this machine's own packages.
set -euo pipefail
# shellcheck source=plugin-config/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

BINARY=${1:-${CARGO_TARGET_DIR:-target}/release/tombolo}
FOLDER=${2:-${CARGO_TARGET_DIR:-target}/plugin}
ROOT=$FOLDER.part/rootfs

# What the root holds beside tombolo: sh, mount and setpriv to start it, nft and iptables for its rules.
PROGRAMS=(sh:dash mount:mount setpriv:util-linux nft:nftables xtables-nft-multi:iptables xtables-legacy-multi:iptables)

# put FILE PLACE: puts a file into the root.
put() { install -D "$(readlink -f "$1")" "$ROOT$2"; }

fill_root() {
    local pair program files=("$BINARY") extension extensions library sort
    put "$BINARY" /usr/bin/tombolo
    for pair in "${PROGRAMS[@]}"; do
        program=$(command -v "${pair%%:*}") || die "there is no ${pair%%:*}, which the plug-in needs" \
            "Get it, as root, with: apt-get install --no-install-recommends ${pair##*:}"
        put "$program" "/usr/sbin/${pair%%:*}"
        files+=("$program")
    done
    # iptables loads a library for each sort of match; it could not read Docker's rules without them.
    extensions=$(dirname "$(find /usr/lib -path '*/xtables/libxt_mark.so' -print -quit)")
    [ "$extensions" != . ] || die "the libraries of iptables (libxt_mark.so) are not in /usr/lib"
    for extension in "$extensions"/lib{xt,ipt,ip6t}_*.so; do
        put "$extension" "$extension"
        files+=("$extension")
    done
    # Their shared libraries and the loader keep their places.
    while read -r library; do
        put "$library" "$library"
    done < <(ldd "${files[@]}" | sed -nE 's#^.* => (/[^ ]+) .*#\1#p; s#^[[:space:]]*(/[^ ]+) \(.*#\1#p' | sort -u)
    # One program under two names in two sorts; the start chooses the sort.
    for sort in nft legacy; do
        mkdir -p "$ROOT/usr/lib/iptables-$sort"
        ln -s "../../sbin/xtables-$sort-multi" "$ROOT/usr/lib/iptables-$sort/iptables"
        ln -s "../../sbin/xtables-$sort-multi" "$ROOT/usr/lib/iptables-$sort/ip6tables"
    done
    put plugin-config/plugin-start.sh /usr/sbin/tombolo-plugin
    mkdir -p "$ROOT"/{bin,proc,sys,dev,etc,tmp,run/docker/plugins,host/run,var/lib/tombolo}
    ln -s ../usr/sbin/sh "$ROOT/bin/sh"
    : >"$ROOT/etc/hosts"
    : >"$ROOT/etc/resolv.conf"
}

[ -x "$BINARY" ] || die "$BINARY is missing" "Build it with: make build"
rm -rf "$FOLDER.part"
mkdir -p "$ROOT"
fill_root
cp plugin-config/config.json "$FOLDER.part/config.json"
rm -rf "$FOLDER"
mv "$FOLDER.part" "$FOLDER"
VERSION=$("$BINARY" version --output json | sed -nE 's/.*"version": *"([^"]+)".*/\1/p')
say "$FOLDER holds the plug-in ($(du -sh "$FOLDER" | cut -f1)). Give it to an engine with"
say ""
say "  docker plugin create tombolo:$VERSION $FOLDER"
say "  docker plugin enable tombolo:$VERSION"
