#!/usr/bin/env bash
# Run the tests of scripts/test-pythons.sh on the Python of Debian's next release, with the brokers of that release, in a
# tree of it. Usage: scripts/test-python-next.sh [PYTEST ARGUMENT…]. Root on Debian.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

suite=${NEXT_SUITE:-forky}
tree=$PWD/.matrix/$suite
wheels=$PWD/.pythons/next
in_tree=(scripts/in-tree.sh "$tree")

scripts/debian-tree.sh "$suite" python3,python3-venv,rabbitmq-server,redis-server,postgresql,git
version=$("${in_tree[@]}" /usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# The tree knows no package index: what it installs is fetched out here.
scripts/setup-env.sh .venv >/dev/null
rm -rf "$wheels"
PYTHON=.venv/bin/python scripts/build-wheels.sh "$wheels"
.venv/bin/python -m pip download --quiet --dest "$wheels" --find-links "$wheels" --python-version "$version" \
    --only-binary=:all: 'pip>=25.1' 'qbridge-core[all,testing]' --group test

mkdir -p "$tree$PWD"
exec env -u QBRIDGE_TEST_AMQP_URL -u QBRIDGE_TEST_REDIS_URL -u QBRIDGE_TEST_POSTGRESQL_URL WHEELS="$wheels" PYTHONS="$version" \
    PIP_NO_INDEX=1 PIP_FIND_LINKS="$wheels" PIP_CONFIG_FILE=/dev/null \
    QBRIDGE_REQUIRE_BROKERS=1 QBRIDGE_REQUIRE_PYTHONS=1 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    "${in_tree[@]}" /bin/bash scripts/test-pythons.sh "$@"
