#!/usr/bin/env bash
# Build the wheels of the six distributions: scripts/build-wheels.sh [DIRECTORY], by default dist/. PYTHON=… chooses the interpreter.
# Then: pip install --find-links DIRECTORY 'qbridge-core[rabbitmq]'
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "${1:-dist}"
rm -f "${1:-dist}"/qbridge_*.whl
"${PYTHON:-python3}" -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir "${1:-dist}" \
    ./qbridge_core ./qbridge_rabbitmq ./qbridge_redis ./qbridge_memory ./qbridge_kombu ./qbridge_pytest
