# Sourced by the other scripts: creates .venv from requirements.txt, in the versions of constraints.txt, if it is missing
# or out of date, and sets PYTHON.
# PYTHON=... in the environment (a conda environment's, say) is taken as it is.
if [ -z "${PYTHON:-}" ]; then
    PYTHON=.venv/bin/python
    wanted=$(sha256sum requirements.txt requirements-web.txt constraints.txt)
    if [ "$(cat .venv/requirements.sha256 2>/dev/null)" != "$wanted" ]; then
        echo "== set-up: .venv from requirements.txt (several GB; fairseq is built from source; 5 to 15 minutes)"
        if ! command -v gcc >/dev/null; then
            echo "setup.sh: error: gcc not found; it builds fairseq (Debian: apt-get install build-essential)" >&2
            exit 2
        fi
        python3 -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || {
            echo "setup.sh: error: expected Python 3.11 or newer as python3, found $(python3 --version 2>&1)" >&2
            exit 2
        }
        python3 -m venv .venv
        .venv/bin/pip install -r requirements.txt -c constraints.txt
        echo "$wanted" >.venv/requirements.sha256
    fi
fi
