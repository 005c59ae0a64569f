#!/usr/bin/env bash
# Run the tests of the parts, the conformance suite and a short set with real processes on every Python that the
# metadata claims, each in an environment of its own, from built wheels, with warnings as errors; and once with the
# oldest drivers that the metadata allows.
# Usage: PYTHONS='3.11 3.13 lowest' scripts/test-pythons.sh [PYTEST ARGUMENT…]
# WHEELS=DIRECTORY has wheels that were built before. A Python that is not found is left out with a red line, and is a failure with QBRIDGE_REQUIRE_PYTHONS=1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

home=$PWD/.pythons
claimed=$(sed -n 's/.*"Programming Language :: Python :: \(3\.[0-9]*\)".*/\1/p' qbridge_core/pyproject.toml)
oldest=$(head -n 1 <<<"$claimed")
entries=${PYTHONS:-$claimed lowest}
processes=${PROCESSES:-6}
bound=${TEST_TIMEOUT:-20m} # a run of the tests that does not end by then will not end at all
wheels=${WHEELS:-$home/wheels}
tests=(tests/unit tests/conformance
    tests/integration/test_child_processes.py tests/integration/test_demo.py tests/integration/test_hot_path.py
    tests/integration/test_supervisor.py tests/integration/test_worker_survives.py tests/integration/django)
# What uses more of a driver than its documented calls.
driver_tests=(tests/integration/rabbitmq/test_frames.py tests/integration/rabbitmq/test_headers.py
    tests/integration/rabbitmq/test_lifecycle.py tests/integration/rabbitmq/test_publishing.py
    tests/integration/redis/test_lifecycle.py tests/integration/redis/test_publishing.py
    tests/integration/redis/test_wire.py tests/integration/kombu)

is_version() {
    [[ -x $1 ]] && "$1" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$2')" 2>/dev/null
}

# find_python VERSION: the interpreter on PATH, of pyenv (the newest), or of uv.
find_python() {
    local candidate
    for candidate in "$(command -v "python$1" || true)" "$(command -v python3 || true)" "/usr/bin/python$1" \
        $(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".* 2>/dev/null | sort -rV | sed 's|$|/bin/python3|') \
        "$(command -v uv >/dev/null && uv python find --no-python-downloads "$1" 2>/dev/null || true)"; do
        if is_version "$candidate" "$1"; then
            printf '%s' "$candidate"
            return
        fi
    done
}

# (The shell does not end on errors in functions that stand before an ||.)
# make_environment PYTHON DIRECTORY [CONSTRAINTS]: the wheels and the tools of the tests, and nothing of this tree.
make_environment() {
    local python=$2/bin/python
    "$1" -m venv --clear "$2" &&
        "$python" -m pip install --quiet --upgrade 'pip>=25.1' &&
        "$python" -m pip install --quiet --find-links "$wheels" ${3:+--constraint "$3"} \
            'qbridge-core[all,cli,pytest,testing]' --group test
}

run_entry() {
    local entry=$1 version=$1 constraints='' more=()
    shift
    if [[ $entry == lowest ]]; then
        version=$oldest constraints=$home/lowest.txt more=("${driver_tests[@]}")
    fi
    local python
    python=$(find_python "$version")
    if [[ -z $python ]]; then
        printf '\033[1;31mNO PYTHON %s: not found; its tests do not run\033[0m\n' "$version"
        [[ ${QBRIDGE_REQUIRE_PYTHONS:-} != 1 ]]
        return
    fi
    if [[ -n $constraints ]]; then
        "$python" scripts/lowest-versions.py qbridge_*/pyproject.toml >"$constraints" || return
    fi
    make_environment "$python" "$home/$entry" "$constraints" || return
    echo "== $entry: $("$python" --version) with" \
        "$("$home/$entry/bin/python" -m pip freeze 2>/dev/null | grep -iE '^(django|kombu|pika|pluggy|redis)=' | tr '\n' ' ')"
    # What fails is run once more, alone, as in .ci/run.
    run_tests "$entry" -n "$processes" --dist worksteal "$@" ||
        run_tests "$entry" --last-failed --last-failed-no-failures none "$@"
}

run_tests() {
    local entry=$1
    shift
    # SIGABRT makes pytest print where its threads are.
    timeout --signal=ABRT --kill-after=30 "$bound" \
        "$home/$entry/bin/python" -W error -m pytest -q -o "cache_dir=$home/$entry/cache" "${tests[@]}" "${more[@]}" "$@"
}

for entry in $entries; do
    [[ $entry == lowest || $entry =~ ^3\.[0-9]+$ ]] || { echo "error: PYTHONS is some of: $claimed lowest" >&2; exit 1; }
done
mkdir -p "$home"
[[ -n ${WHEELS:-} ]] || PYTHON=${PYTHON:-.venv/bin/python} scripts/build-wheels.sh "$wheels"

failed=()
for entry in $entries; do
    run_entry "$entry" "$@" || failed+=("$entry")
done
[[ ${#failed[@]} -eq 0 ]] || { echo "error: failed on ${failed[*]}" >&2; exit 1; }
