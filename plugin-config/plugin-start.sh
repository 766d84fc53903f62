#!/bin/sh
# The first program of the managed plug-in: makes the place what tombolo needs, gives up what that took, and becomes it.
set -eu

# Docker gives plug-ins a /proc/sys that cannot be written, and forwarding is a setting there. This needs SYS_ADMIN, which
# goes below.
mount -o remount,bind,rw /proc/sys

# Both sorts of iptables are one program each under many names; only the one that the engine uses sees its chains.
case ${IPTABLES:=nft} in
nft | legacy) ;;
*)
    echo "tombolo: IPTABLES: it is '$IPTABLES', and may be nft or legacy" >&2
    exit 2
    ;;
esac
export XTABLES_LOCKFILE=/host/run/xtables.lock
export PATH="/usr/lib/iptables-$IPTABLES:$PATH"

exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+net_admin,+net_raw,+net_bind_service \
    /usr/bin/tombolo serve
