#!/usr/bin/env bash
# bash tests/run.sh: sets up .venv if need be, then lint and tests.
set -euo pipefail
cd "$(dirname "$0")/.."
. ./setup.sh
echo "== lint"
$PYTHON -m ruff check .
$PYTHON -m ruff format --check .
echo "== tests"
$PYTHON -m pytest -n 2 --dist loadfile "$@"  # a file of tests shares its fixtures
