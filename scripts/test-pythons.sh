#!/usr/bin/env bash
# Run the tests of the parts, the conformance suite and a short set with real processes on every Python that the
# metadata claims, each in an environment of its own, from built wheels, with warnings as errors; and what concerns
# drivers once with the oldest ones that the metadata allows.
# Usage: PYTHONS='3.11 3.13 lowest' scripts/test-pythons.sh [PYTEST ARGUMENT…]
# WHEELS=DIRECTORY has wheels that were built before. A Python that is not found is left out with a red line, and is a failure with QBRIDGE_REQUIRE_PYTHONS=1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

home=$PWD/.pythons
claimed=$(sed -n 's/.*"Programming Language :: Python :: \(3\.[0-9]*\)".*/\1/p' qbridge_core/pyproject.toml)
oldest=$(head -n 1 <<<"$claimed")
read -ra entries <<<"${PYTHONS:-${claimed//$'\n'/ } lowest}"
processes=${PROCESSES:-6}
bound=${TEST_TIMEOUT:-20m} # a run of the tests that does not end by then will not end at all
wheels=${WHEELS:-$home/wheels}
tests=(tests/unit tests/conformance
    tests/integration/test_child_processes.py tests/integration/test_demo.py tests/integration/test_hot_path.py
    tests/integration/test_supervisor.py tests/integration/test_worker_survives.py tests/integration/django)
# `make test` has run the whole conformance suite on each kind of queue and each transport of kombu, and broken clients
# against the suite. Another Python changes nothing between those: one of each client has the suite, the others its main job.
repeated='TestClassic or TestVirtualTime or TestSQS or (test_kombu.py and not (TestMemory or TestAMQP))'
# With the oldest drivers: what uses them or the hooks, and more than their documented calls. Kombu brings its transports.
driver_tests=(tests/unit/test_*hook*.py tests/unit/test_registry.py
    tests/conformance/test_kombu.py tests/conformance/test_rabbitmq.py tests/conformance/test_redis.py tests/conformance/test_sqs.py
    tests/integration/test_demo.py tests/integration/test_hot_path.py tests/integration/test_worker_survives.py
    tests/integration/rabbitmq/test_frames.py tests/integration/rabbitmq/test_headers.py
    tests/integration/rabbitmq/test_lifecycle.py tests/integration/rabbitmq/test_publishing.py
    tests/integration/redis/test_lifecycle.py tests/integration/redis/test_publishing.py
    tests/integration/redis/test_wire.py tests/integration/kombu)
repeated_with_drivers='TestClassic or TestSQS or TestAny or TestPostgreSQL'

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
# make_environment ENTRY: the wheels and the tools of the tests, and nothing of this tree. Without its Python it has none.
make_environment() {
    local entry=$1 version=$1 constraints='' python
    if [[ $entry == lowest ]]; then
        version=$oldest constraints=$home/lowest.txt
    fi
    rm -rf "${home:?}/$entry"
    python=$(find_python "$version")
    [[ -n $python ]] || return 0
    if [[ -n $constraints ]]; then
        "$python" scripts/lowest-versions.py qbridge_*/pyproject.toml >"$constraints" || return
    fi
    nice -n 10 "$python" -m venv "$home/$entry" &&
        nice -n 10 "$home/$entry/bin/python" -m pip install --quiet --upgrade 'pip>=25.1' &&
        nice -n 10 "$home/$entry/bin/python" -m pip install --quiet --find-links "$wheels" \
            ${constraints:+--constraint "$constraints"} 'qbridge-core[all,cli,pytest,testing]' --group test
}

run_entry() {
    local entry=$1 python=$home/$1/bin/python
    shift
    if [[ ! -x $python ]]; then
        printf '\033[1;31mNO PYTHON for %s: not found; its tests do not run\033[0m\n' "$entry"
        [[ ${QBRIDGE_REQUIRE_PYTHONS:-} != 1 ]]
        return
    fi
    echo "== $entry: $("$python" --version) with" \
        "$("$python" -m pip freeze 2>/dev/null | grep -iE '^(django|kombu|pika|pluggy|redis)=' | tr '\n' ' ')"
    # What fails is run once more, alone, as in .ci/run.
    run_tests "$entry" -n "$processes" --dist worksteal "$@" ||
        run_tests "$entry" --last-failed --last-failed-no-failures none "$@"
}

run_tests() {
    local entry=$1 its=("${tests[@]}") other=$repeated
    shift
    if [[ $entry == lowest ]]; then
        its=("${driver_tests[@]}") other=$repeated_with_drivers
    fi
    # SIGABRT makes pytest print where its threads are.
    timeout --signal=ABRT --kill-after=30 "$bound" \
        "$home/$entry/bin/python" -W error -m pytest -q -o "cache_dir=$home/$entry/cache" "${its[@]}" \
        -k "not test_broken_clients.py and (not ($other) or test_g2_the_main_job)" "$@"
}

# begin ENTRY: its environment is made while the tests of the one before run, which wait more than they compute.
begin() {
    make_environment "$1" &
    making=$!
}

for entry in "${entries[@]}"; do
    [[ $entry == lowest || $entry =~ ^3\.[0-9]+$ ]] || { echo "error: PYTHONS is some of: $claimed lowest" >&2; exit 1; }
done
mkdir -p "$home"
[[ -n ${WHEELS:-} ]] || PYTHON=${PYTHON:-.venv/bin/python} scripts/build-wheels.sh "$wheels"

failed=()
making=
trap '[[ -z $making ]] || kill "$making" 2>/dev/null || true' EXIT
begin "${entries[0]}"
for number in "${!entries[@]}"; do
    entry=${entries[number]} made=0
    wait "$making" || made=$?
    next=${entries[number + 1]:-}
    making=
    [[ -z $next ]] || begin "$next"
    [[ $made -eq 0 ]] && run_entry "$entry" "$@" || failed+=("$entry")
done
[[ ${#failed[@]} -eq 0 ]] || { echo "error: failed on ${failed[*]}" >&2; exit 1; }
