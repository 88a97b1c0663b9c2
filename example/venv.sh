#!/bin/sh
# Print the Python of a virtual environment in .venv/ that has this checkout with the extra $1 installed; make it if need be.
# PYTHON names the interpreter (default: the newest found), DJANGO the Django release, such as 5.2 (default: the newest).
set -eu
extra=$1
root=$(cd "$(dirname "$0")/.." && pwd)
lock=$root/.venv/lock

fail() {
    echo "$*" >&2
    exit 1
}

version_of() {
    "$1" -c 'import sys; v = sys.version_info; print("%d.%d.%d" % v[:3]) if v >= (3, 11) else sys.exit(1)' 2>/dev/null
}

if [ -n "${PYTHON:-}" ]; then
    version=$(version_of "$PYTHON") || fail "PYTHON=$PYTHON is not a Python >= 3.11 that runs."
else
    for PYTHON in python3.14 python3.13 python3.12 python3.11 python3 ""; do
        [ -n "$PYTHON" ] || fail "No Python >= 3.11 found: install one, or set PYTHON to its path."
        version=$(version_of "$PYTHON") && break
    done
fi

venv=$root/.venv/py$version-django-${DJANGO:-latest}
# What is measured beside CQ shall not be in the way of the tests.
[ "$extra" != bench ] || venv=$venv-bench
wanted=$(cksum <"$root/setup.py")

runs() {
    "$venv/bin/python" -c '' 2>/dev/null
}

# "dev" includes the other extras, but for "bench".
is_ready() {
    { [ "$(cat "$venv/has-$extra" 2>/dev/null)" = "$wanted" ] || [ "$(cat "$venv/has-dev" 2>/dev/null)" = "$wanted" ]; } && runs
}

wait_for_lock() {
    until ln -s $$ "$lock" 2>/dev/null; do
        kill -0 "$(readlink "$lock")" 2>/dev/null || rm -f "$lock"
        sleep 1
    done
    trap 'rm -f "$lock"' EXIT
    trap 'exit 1' HUP INT TERM
}

install() {
    { [ -x "$venv/bin/pip" ] && runs; } || "$PYTHON" -m venv --clear "$venv" >"$venv.log" 2>&1 ||
        fail "$PYTHON cannot make a virtual environment (on Debian: apt install python3-venv): $(tail -n 1 "$venv.log")"
    rm -f "$venv"/has-*
    cd "$root"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[$extra]" ${DJANGO:+"django~=$DJANGO.0"} \
        >"$venv.log" 2>&1 || fail "pip install -e \".[$extra]\" failed; $venv.log ends with:
$(tail -n 15 "$venv.log" | cut -c 1-500)"
    echo "$wanted" >"$venv/has-$extra"
}

if ! is_ready; then
    mkdir -p "$root/.venv"
    wait_for_lock
    is_ready || install
fi
echo "$venv/bin/python"
