#!/usr/bin/env bash
# Run the tests of the backends against other versions of the brokers than those that `make test` finds.
# Usage: MATRIX='rabbitmq-4 redis-8 valkey-8' scripts/test-matrix.sh [PYTEST ARGUMENT…]
# With QBRIDGE_TEST_BIN=DIRECTORY the server is the one whose commands are there, and MATRIX=rabbitmq or redis says which.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=${QBRIDGE_TEST_BIN:-}
known='rabbitmq-4 redis-8 valkey-8'
[[ -z $bin ]] || known='rabbitmq redis'
entries=${MATRIX:-$known}
export QBRIDGE_REQUIRE_BROKERS=1
unset QBRIDGE_TEST_AMQP_URL QBRIDGE_TEST_REDIS_URL

# run_entry ENTRY [PYTEST ARGUMENT…]: the tests of one backend, on one server.
run_entry() {
    local entry=$1 backend names
    shift
    case $entry in
    rabbitmq*) backend=rabbitmq names='rabbitmq or quorum or classic' ;;
    *) backend=redis names='redis' ;;
    esac
    echo "== $entry"
    QBRIDGE_TEST_BIN=${bin:-$PWD/.matrix/bin/$entry} .venv/bin/pytest -n 2 --dist worksteal -q -k "$names" \
        "tests/conformance/test_$backend.py" tests/integration tests/unit/test_harness.py "$@"
}

for entry in $entries; do
    [[ " $known " == *" $entry "* ]] || { echo "error: MATRIX is one of, or some of: $known" >&2; exit 1; }
done
[[ -n $bin ]] || scripts/matrix-servers.sh

failed=()
for entry in $entries; do
    run_entry "$entry" "$@" || failed+=("$entry")
done
[[ ${#failed[@]} -eq 0 ]] || { echo "error: failed on ${failed[*]}" >&2; exit 1; }
