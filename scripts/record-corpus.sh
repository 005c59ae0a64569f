#!/usr/bin/env bash
# Record what a version of QBridge leaves in the brokers: scripts/record-corpus.sh COMMIT VERSION. See tests/corpus/README.md.
# Run it once for a release, with the brokers of `make test`, before anything on the wire changes; what is there is never recorded anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

commit=$1 target=$PWD/tests/corpus/$2
[[ ! -e $target ]] || { echo "error: $target is there already, and is frozen" >&2; exit 1; }
# Tracebacks in the letters show where the programs are: a place that says nothing about this machine.
room=${TMPDIR:-/tmp}/qbridge-recording
rm -rf "$room"
mkdir -p "$room/source"
git archive "$commit" | tar -x -C "$room/source"
cp -r tests/corpus tests/support "$room"
.venv/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$room/wheels" \
    "$room"/source/qbridge_{core,rabbitmq,redis,memory}
.venv/bin/python -m venv --without-pip "$room/env"
.venv/bin/python -m uv pip install --quiet --python "$room/env/bin/python" "$room"/wheels/*.whl pytest
cd "$room"
env/bin/python -m corpus.record "$target"
env/bin/python -m corpus.names >"$target/names.json"
rm -rf "$room"
