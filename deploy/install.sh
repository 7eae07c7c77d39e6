#!/bin/sh
# Make .venv and install Skep into it: `deploy/install.sh embedded` to run Skep, `deploy/install.sh dev` to work on it.
# Do nothing if that was done before for this pyproject.toml, this directory and this extra.
set -eu
cd "$(dirname "$0")/.."
extra=${1:?which extra: embedded or dev}

stamp() { printf '%s %s\n' "$(cksum <pyproject.toml)" "$PWD"; }
has() { command -v "$1" >/dev/null 2>&1; }
fail() { printf '%s\n' "$@" >&2; exit 1; }

# An installation for development serves for running too.
for done in .venv/installed-dev ".venv/installed-$extra"; do
    if [ -x .venv/bin/python ] && [ -f "$done" ] && [ "$(cat "$done")" = "$(stamp)" ]; then exit 0; fi
done

suits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

python=
for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.14; do
    if [ -n "$candidate" ] && suits "$candidate"; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
    fail "Skep needs Python 3.11 or newer, and none was found as python3, python3.11 ... python3.14." \
        "Install one, or name it: make run PYTHON=/path/to/python3.12"
fi

# A .venv that works is kept, since it may be in use. Only one that this script made is replaced: when
# its Python is gone, or when the directory was moved (the scripts in it hold the old path).
if [ -e .venv ] && { ! suits .venv/bin/python || [ "$(cat .venv/made-in 2>/dev/null || echo "$PWD")" != "$PWD" ]; }; then
    if [ ! -f .venv/made-in ]; then
        fail ".venv exists, but holds no working Python 3.11 or newer. Rename or delete it, then try again."
    fi
    echo "the present .venv does not work here any more and is replaced"
    rm -rf .venv
fi

# The program that installs packages into .venv. Debian and Ubuntu keep ensurepip in a package of its own
# (python3-venv), so .venv may have no pip; then any installer of this machine serves that can install elsewhere.
if [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1; then
    installer=own
elif "$python" -c 'import ensurepip' >/dev/null 2>&1; then
    installer=ensurepip
elif has uv; then
    installer=uv
elif has virtualenv; then
    installer=virtualenv
elif "$python" -m pip --python "$python" --version >/dev/null 2>&1; then  # 22.3 or newer
    installer=pip
else
    fail "$python comes without ensurepip, and this machine has neither pip, uv nor virtualenv to install Skep with." \
        "On Debian and Ubuntu:  apt install python3-venv" \
        "Elsewhere install uv (https://docs.astral.sh/uv/), or name another Python: make run PYTHON=/path/to/python3.12"
fi

if [ ! -e .venv ]; then
    echo "making .venv with $("$python" --version)"
    mkdir .venv
    printf '%s\n' "$PWD" >.venv/made-in
    case $installer in
        ensurepip) "$python" -m venv .venv ;;
        virtualenv) virtualenv --quiet --python "$python" .venv ;;
        *) "$python" -m venv --without-pip .venv ;;
    esac
elif [ "$installer" = ensurepip ]; then
    .venv/bin/python -m ensurepip >/dev/null
elif [ "$installer" = virtualenv ]; then
    fail ".venv has no pip. Rename or delete it, then try again."
fi

echo "installing (a minute or two, the first time)"
case $installer in
    uv) uv pip install --quiet --python .venv/bin/python --editable ".[$extra]" ;;
    pip) "$python" -m pip --python .venv/bin/python install --quiet --disable-pip-version-check --editable ".[$extra]" ;;
    *) .venv/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 --editable ".[$extra]" ;;
esac
stamp >".venv/installed-$extra"
