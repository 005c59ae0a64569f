#!/usr/bin/env bash
# Make a small tree of another release of Debian: scripts/debian-tree.sh SUITE PACKAGES [NAME], in .matrix/NAME, or SUITE. Needs root on
# Debian; made once for the same packages, a few minutes and 400 MB. MATRIX_MIRROR=… names a mirror; otherwise it is that
# of apt's own sources.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

suite=$1
packages=$2
home=$PWD/.matrix
tree=$home/${3:-$suite}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

check_host() {
    [[ $EUID -eq 0 && -e /etc/debian_version ]] && command -v apt-get >/dev/null 2>&1 ||
        fail "only root on Debian can make a tree of another release (debootstrap, chroot, unshare --mount)." \
            "For other servers elsewhere name a folder with their commands: QBRIDGE_TEST_BIN=DIRECTORY"
    unshare --mount true 2>/dev/null ||
        fail "unshare --mount is not permitted here; in a container that takes the capability CAP_SYS_ADMIN"
}

install_debootstrap() {
    command -v debootstrap >/dev/null 2>&1 && return
    echo "Installing debootstrap."
    apt-get -o DPkg::Lock::Timeout=300 -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq install --yes \
        --no-install-recommends debootstrap >/dev/null
}

# The first of apt's sources that is a release of Debian, and not its updates or security fixes.
find_mirror() {
    # shellcheck disable=SC2016 # apt-get replaces these
    apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' |
        awk '$1 !~ /-/ { print $2; exit }'
}

# debootstrap mounts /proc into the tree: in a namespace of its own nothing stays mounted, even if it is killed.
make_tree() {
    local mirror=${MATRIX_MIRROR:-$(find_mirror)} script=
    if [[ -z $mirror ]]; then
        apt-get -o DPkg::Lock::Timeout=300 -qq update
        mirror=$(find_mirror)
    fi
    [[ -n $mirror ]] || fail "apt knows no mirror of Debian; name one: MATRIX_MIRROR=http://…"
    # All newer releases are made alike, also those that this debootstrap has not heard of.
    [[ -e /usr/share/debootstrap/scripts/$suite ]] || script=sid
    echo "Making a tree of Debian $suite in $tree; this takes a few minutes, once."
    rm -rf --one-file-system "$tree.part"
    unshare --mount debootstrap --variant=minbase --include="$packages" "$suite" "$tree.part" "$mirror" $script \
        >"$home/debootstrap.log" 2>&1 ||
        fail "debootstrap failed; the end of $home/debootstrap.log:" "$(tail -n 5 "$home/debootstrap.log")"
    rm -rf "$tree.part"/var/cache/apt "$tree.part"/var/lib/apt/lists
    echo "127.0.0.1 localhost" >"$tree.part/etc/hosts"
    rm -rf --one-file-system "$tree"
    mv "$tree.part" "$tree"
}

# Whether the tree has them all: an older one may have been made for fewer.
has_packages() {
    local package
    for package in ${packages//,/ }; do
        compgen -G "$tree/var/lib/dpkg/info/$package.list" >/dev/null ||
            compgen -G "$tree/var/lib/dpkg/info/$package:*.list" >/dev/null || return 1
    done
}

check_host
mkdir -p "$home"
exec 9>"$home/lock"
flock 9
if [[ ! -d $tree ]] || ! has_packages; then
    install_debootstrap
    make_tree
fi
