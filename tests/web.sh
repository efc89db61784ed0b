#!/usr/bin/env bash
# bash tests/web.sh: the page's test, with gradio in .venv-web, an environment on top of .venv, and with Chromium, which
# root installs where it is missing (Debian). What cannot be had is named, and the test is then skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
. ./setup.sh
wanted=$(sha256sum requirements.txt requirements-web.txt)
if [ "$(cat .venv-web/requirements.sha256 2>/dev/null)" != "$wanted" ]; then
    echo "== set-up: .venv-web from requirements-web.txt (about a minute)"
    $PYTHON -m venv .venv-web
    packages=$($PYTHON -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$packages" >"$(.venv-web/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
    if timeout 600 .venv-web/bin/pip install -q -r requirements-web.txt; then
        echo "$wanted" >.venv-web/requirements.sha256
    else
        echo "web.sh: warning: requirements-web.txt cannot be installed" >&2
    fi
fi
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "== set-up: Chromium"
    timeout 600 sh -c 'apt-get update && apt-get install -y --no-install-recommends chromium' >/dev/null 2>&1 ||
        echo "web.sh: warning: chromium cannot be installed" >&2
fi
# pytest ends with 5 where all of a file is skipped.
.venv-web/bin/python -m pytest tests/test_web.py "$@" || [ $? = 5 ]
