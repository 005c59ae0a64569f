#!/usr/bin/env bash
# Run the steps of deploy/Dockerfile in trees of Debian, and try out what comes of them: tests/dockerfile.
# Root on Debian.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

wheels=$PWD/.matrix/dockerfile/wheels
PYTHON=.venv/bin/python scripts/build-wheels.sh
rm -rf "$wheels"
# What the image would fetch from an index: the trees know none.
.venv/bin/python -m pip download --quiet --dest "$wheels" --find-links dist --python-version 3.13 --only-binary=:all: \
    --requirement deploy/app/requirements.txt
PYTHONPATH=tests exec .venv/bin/python -m dockerfile
