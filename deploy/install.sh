#!/bin/sh
# Makes .venv and installs Skep into it: `deploy/install.sh embedded` for running, `deploy/install.sh dev` for
# working on it. Does nothing when that was done for this pyproject.toml, this directory and this Python.
set -eu
cd "$(dirname "$0")/.."
extra=${1:?which extra: embedded or dev}

stamp() { printf '%s %s\n' "$(cksum <pyproject.toml)" "$PWD"; }

# What is installed for development serves for running too.
for done in .venv/installed-dev ".venv/installed-$extra"; do
    if [ -x .venv/bin/python ] && [ -f "$done" ] && [ "$(cat "$done")" = "$(stamp)" ]; then exit 0; fi
done

suits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

python=
for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.14; do
    if [ -n "$candidate" ] && suits "$candidate"; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
    echo "Skep needs Python 3.11 or newer, and none was found as python3, python3.11 ... python3.14." >&2
    echo "Install one, or name it: make run PYTHON=/path/to/python3.12" >&2
    exit 1
fi

# One that works is kept, whoever made it: somebody may be using it. Only what we made ourselves is ever made anew:
# when its Python is gone, or when the directory was moved (its scripts hold the old path).
if [ -e .venv ] && { ! suits .venv/bin/python || [ "$(cat .venv/made-in 2>/dev/null || echo "$PWD")" != "$PWD" ]; }; then
    if [ ! -f .venv/made-in ]; then
        echo ".venv is there, but holds no Python 3.11 or newer that works. Rename or delete it, then try again." >&2
        exit 1
    fi
    echo "the present .venv does not work here any more and is made anew"
    rm -rf .venv
fi
if [ ! -e .venv ]; then
    echo "making .venv with $("$python" --version)"
    mkdir .venv
    printf '%s\n' "$PWD" >.venv/made-in
    if "$python" -c 'import ensurepip' >/dev/null 2>&1; then
        "$python" -m venv .venv
    else
        # Debian keeps ensurepip in a package of its own (python3-venv); pip can be had without it, see below.
        "$python" -m venv --without-pip .venv
    fi
fi
.venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python deploy/get_pip.py

echo "installing (a minute or two, the first time)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 --editable ".[$extra]"
stamp >".venv/installed-$extra"
