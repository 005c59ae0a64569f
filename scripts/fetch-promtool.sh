#!/usr/bin/env bash
# Bring promtool, which checks the rules for alerts, into .tools/ where it is not installed and Debian's archive has it. Only
# the program is taken out of the package: no server is installed, and no root needed. Without it its tests are skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v promtool >/dev/null 2>&1 && exit 0
[[ -x .tools/promtool ]] && exit 0
command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1 || exit 0

folder=$(mktemp --directory)
trap 'rm -rf "$folder"' EXIT
fetch() {
    (cd "$folder" && apt-get -qq download prometheus) >/dev/null 2>&1
}
fetch || { [[ $EUID -eq 0 ]] && apt-get -o DPkg::Lock::Timeout=300 -qq update && fetch; } || {
    echo "promtool cannot be had from apt: the rules for alerts are not checked." >&2
    exit 0
}
mkdir -p .tools
dpkg-deb --fsys-tarfile "$folder"/prometheus_*.deb | tar --extract --strip-components=3 --directory .tools ./usr/bin/promtool
