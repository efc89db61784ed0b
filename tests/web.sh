#!/usr/bin/env bash
# bash tests/web.sh: the page's test in a browser, with Chromium, which root installs where it is missing (Debian). Where
# there is none the test is skipped, with the reason.
set -euo pipefail
cd "$(dirname "$0")/.."
. ./setup.sh
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "== set-up: Chromium"
    timeout 600 sh -c 'apt-get update && apt-get install -y --no-install-recommends chromium' >/dev/null 2>&1 ||
        echo "web.sh: warning: chromium cannot be installed" >&2
fi
# pytest ends with 5 where all of a file is skipped.
$PYTHON -m pytest tests/test_web.py "$@" || [ $? = 5 ]
