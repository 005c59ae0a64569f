#!/usr/bin/env bash
# Run a program of a Debian tree: scripts/in-tree.sh TREE PROGRAM [ARGUMENT…]. Root only.
#
# It sees /proc, /dev, this checkout and the folder for temporary files of this machine, mounted in a namespace of its own:
# they go with the process, however it ends. Each step replaces the one before, so that the program has this process id, and a signal
# or a kill -9 meets the server itself.
set -euo pipefail

tree=$1
shift
temporary=$(realpath "${TMPDIR:-/tmp}")
checkout=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
mkdir -p "$tree$temporary" "$tree$checkout"
# shellcheck disable=SC2016 # the inner shell replaces these
exec unshare --mount sh -ec '
    tree=$1 temporary=$2 checkout=$3
    shift 3
    mount --rbind /dev "$tree/dev"
    mount --rbind /proc "$tree/proc"
    mount --bind "$temporary" "$tree$temporary"
    mkdir -p "$tree$checkout" # below the folder that was mounted just now, perhaps
    mount --bind "$checkout" "$tree$checkout"
    [ -d "$tree$PWD" ] || cd /
    exec chroot "$tree" env --chdir="$PWD" "$@"
' sh "$tree" "$temporary" "$checkout" "$@"
