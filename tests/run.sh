#!/usr/bin/env bash
# bash tests/run.sh [--fast] [pytest's arguments]: sets up .venv if need be, then lint and tests; --fast leaves out those
# marked slow.
set -euo pipefail
cd "$(dirname "$0")/.."
. ./setup.sh
selection=()
if [ "${1:-}" = --fast ]; then
    selection=(-m "not slow")
    shift
fi
echo "== lint"
$PYTHON -m ruff check .
$PYTHON -m ruff format --check .
echo "== tests"
# Two processes, a file of tests each, for its tests share fixtures. Threads that spin would slow the other process.
OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} $PYTHON -m pytest -n 2 --dist loadfile "${selection[@]}" "$@"
