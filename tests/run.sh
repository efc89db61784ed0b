#!/usr/bin/env bash
# bash tests/run.sh [--fast] [--coverage] [pytest's arguments]: sets up .venv if need be, then lint and tests.
# --fast: without the tests marked slow. --coverage: print the share of lines per file that the tests' own processes ran.
set -euo pipefail
cd "$(dirname "$0")/.."
. ./setup.sh
options=()
while [ "${1:-}" = --fast ] || [ "${1:-}" = --coverage ]; do
    if [ "$1" = --fast ]; then options+=(-m "not slow"); else options+=(--cov --cov-report=term); fi
    shift
done
echo "== lint"
$PYTHON -m ruff check .
$PYTHON -m ruff format --check .
echo "== tests"
# Two processes, a file of tests each, for its tests share fixtures. Threads that spin would slow the other process.
OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} $PYTHON -m pytest -n 2 --dist loadfile "${options[@]}" "$@"
