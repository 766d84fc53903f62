#!/usr/bin/env bash
# Makes the Debian package from a built binary: no debhelper, only what dpkg-dev brings.
#
#   deb.sh [BINARY [FOLDER]]        default: target/release/tombolo, target/deb; prints the package's path
set -euo pipefail
# shellcheck source=plugin-config/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

BINARY=${1:-${CARGO_TARGET_DIR:-target}/release/tombolo}
FOLDER=${2:-${CARGO_TARGET_DIR:-target}/deb}
[ -x "$BINARY" ] || die "$BINARY is missing" "Build it with: make build"
have dpkg-shlibdeps || die "there is no dpkg-shlibdeps, which finds the libraries that the package depends on" \
    "Get it, as root, with: apt-get install --no-install-recommends dpkg-dev"
need_cargo

UPSTREAM=$("$BINARY" version --output json | sed -nE 's/.*"version": *"([^"]+)".*/\1/p')
VERSION=$UPSTREAM-1
ARCH=$(dpkg --print-architecture)
# Debian's own variables say who stands for a package.
MAINTAINER="${DEBFULLNAME:-the tombolo authors} <${DEBEMAIL:-tombolo@localhost}>"
# One source gives one package, whenever it is made.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.lock)}
export SOURCE_DATE_EPOCH

mkdir -p "$FOLDER"
FOLDER=$(cd "$FOLDER" && pwd)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
ROOT=$WORK/root
umask 022

# put MODE FILE PLACE
put() { install -D -m "$1" "$2" "$ROOT$3"; }

# pack PLACE: from standard input, compressed as Debian wants its documents, without a time in it.
pack() {
    mkdir -p "$(dirname "$ROOT$1")"
    gzip -9n >"$ROOT$1"
}

put_program() {
    put 755 "$BINARY" /usr/bin/tombolo
    # What is left in it after cargo's own stripping is for a debugger.
    strip --strip-unneeded --remove-section=.comment "$ROOT/usr/bin/tombolo"
    put 644 plugin-config/tombolo.toml /etc/tombolo/tombolo.toml
    put 644 plugin-config/tombolo.socket /usr/lib/systemd/system/tombolo.socket
    mkdir -p "$ROOT/usr/lib/systemd/system"
    sed 's#^ExecStart=/usr/local/bin/#ExecStart=/usr/bin/#' plugin-config/tombolo.service \
        >"$ROOT/usr/lib/systemd/system/tombolo.service"
    grep -q '^ExecStart=/usr/bin/tombolo ' "$ROOT/usr/lib/systemd/system/tombolo.service" ||
        die "tombolo.service has no ExecStart=/usr/local/bin/tombolo to put the package's path into"
}

put_documents() {
    local doc=/usr/share/doc/tombolo page pages
    "$BINARY" completions bash >"$WORK/bash"
    "$BINARY" completions zsh >"$WORK/zsh"
    "$BINARY" completions fish >"$WORK/fish"
    put 644 "$WORK/bash" /usr/share/bash-completion/completions/tombolo
    put 644 "$WORK/zsh" /usr/share/zsh/vendor-completions/_tombolo
    put 644 "$WORK/fish" /usr/share/fish/vendor_completions.d/tombolo.fish
    pages=$WORK/pages
    mkdir "$pages"
    "$BINARY" manual "$pages"
    for page in "$pages"/*.1; do pack "/usr/share/man/man1/${page##*/}.gz" <"$page"; done
    pack "$doc/changelog.gz" <CHANGELOG.md
    pack "$doc/changelog.Debian.gz" <<END
tombolo ($VERSION) unstable; urgency=medium

  * Version $UPSTREAM; what is new in it stands in changelog.gz.

 -- $MAINTAINER  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END
    put 644 README.md $doc/README.md
    put 644 plugin-config/debian/copyright $doc/copyright
    licences | pack "$doc/licences-of-crates.gz"
}

# The licences of all that is linked into the binary, as their authors wrote them.
licences() {
    local name version licence file found
    cargo tree --locked --offline -p tombolo -e normal --prefix none --format '{p}|{l}' |
        sed -nE 's#^([^ ]+) v([^ |]+)( \(proc-macro\))?( \(\*\))?\|(.*)$#\1 \2 \5#p' | sort -u |
        while read -r name version licence; do
            printf '%s %s: %s\n\n' "$name" "$version" "$licence"
            found=no
            for file in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$name-$version"/{LICEN[CS]E,COPYING,UNLICENSE}*; do
                [ -f "$file" ] || continue
                found=yes
                cat "$file"
                printf '\n'
            done
            [ "$found" = yes ] || printf 'Its package holds no text of its licence.\n\n'
        done
}

# The libraries that the binary needs, as Debian's packages in the versions that have what it uses.
dependencies() {
    mkdir "$WORK/debian"
    printf 'Source: tombolo\n\nPackage: tombolo\nArchitecture: any\nDescription: for dpkg-shlibdeps\n' \
        >"$WORK/debian/control"
    (cd "$WORK" && dpkg-shlibdeps -O "$ROOT/usr/bin/tombolo") | sed 's/^shlibs:Depends=//'
}

put_control() {
    local size file
    size=$(du -k -s --apparent-size "$ROOT" | cut -f1)
    mkdir "$ROOT/DEBIAN"
    cat >"$ROOT/DEBIAN/control" <<END
Package: tombolo
Version: $VERSION
Architecture: $ARCH
Maintainer: $MAINTAINER
Installed-Size: $size
Depends: $(dependencies), nftables (>= 1.0.6), iptables, init-system-helpers (>= 1.54~)
Recommends: docker.io (>= 20.10) | docker-ce
Section: net
Priority: optional
Description: network and IPAM plug-in for Docker
 tombolo makes the networks that containers are on, and decides which address
 is whose. It keeps its records through crashes and power cuts, repairs in the
 kernel what others break, and says in plain words what it did and why it
 refused.
END
    printf '/etc/tombolo/tombolo.toml\n' >"$ROOT/DEBIAN/conffiles"
    (cd "$ROOT" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$ROOT/DEBIAN/md5sums"
    for file in postinst prerm postrm; do put 755 "plugin-config/debian/$file" "/DEBIAN/$file"; done
    chmod 644 "$ROOT"/DEBIAN/{control,conffiles,md5sums}
}

put_program
put_documents
put_control
find "$ROOT" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zxz --build "$ROOT" "$FOLDER/tombolo_${VERSION}_$ARCH.deb" >/dev/null
say "$FOLDER/tombolo_${VERSION}_$ARCH.deb"
