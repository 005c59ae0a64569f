#!/usr/bin/env bash
# Create a virtual environment with the six distributions (editable) and the development tools.
# Usage: scripts/setup-env.sh [DIRECTORY]. PYTHON=... chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${1:-.venv}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

is_supported() {
    command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

can_make_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

is_debian_root() {
    [[ $EUID -eq 0 && -e /etc/debian_version ]] && command -v apt-get >/dev/null 2>&1
}

# The first supported interpreter that can make an environment, or else the first supported one.
find_python() {
    local candidate fallback=
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3}; do
        is_supported "$candidate" || continue
        if can_make_venv "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
        fallback=${fallback:-$candidate}
    done
    printf '%s' "$fallback"
}

# Debian ships Python without ensurepip; python3-venv brings it.
install_venv_package() {
    echo "Installing python3-venv, which $1 needs to create a virtual environment."
    apt-get -o DPkg::Lock::Timeout=300 -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq install --yes \
        --no-install-recommends python3-venv >/dev/null
}

python=$(find_python)
[[ -n $python ]] || fail "Python 3.11 or newer is needed${PYTHON:+, and $PYTHON is none} (on Debian: apt-get install python3 python3-venv);" \
    "PYTHON=/path/to/python3 chooses another one."

if ! can_make_venv "$python" && is_debian_root; then
    install_venv_package "$python"
    python=$(find_python)
fi
can_make_venv "$python" || fail "$python cannot create virtual environments: the modules venv and ensurepip" \
    "are missing. On Debian or Ubuntu run: sudo apt-get install python3-venv"

[[ -n ${PYTHON:-} || $python == python3 ]] ||
    echo "python3 is not Python 3.11 or newer with venv and ensurepip; taking $python."

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "Creating $venv with $("$python" --version)."
    "$python" -m venv --clear "$venv"
fi
# Older versions of pip do not know --group.
"$venv/bin/python" -m pip install --quiet --upgrade 'pip>=25.1'
echo "Installing QBridge and its tools into $venv."
"$venv/bin/python" -m pip install --quiet \
    --editable './qbridge_core[cli,testing]' \
    --editable ./qbridge_rabbitmq \
    --editable ./qbridge_redis \
    --editable ./qbridge_memory \
    --editable './qbridge_kombu[redis,sqlalchemy]' \
    --editable ./qbridge_pytest \
    --group dev
