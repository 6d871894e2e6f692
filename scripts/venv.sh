# Sourced by the scripts beside it, with $root set to the checkout: provides $root/.venv.
# Talks on stderr only. When nothing changed this starts two small programs and no Python.

# need_venv run|dev: make .venv, or bring it up to date with pyproject.toml and constraints.txt.
need_venv() {
    if venv_is_current "$1"; then return 0; fi
    find_python "$1" || return 5
    "$python" -I "$root/scripts/bootstrap.py" "$root" "$1"
}

venv_is_current() {
    [ -x "$root/.venv/bin/python" ] && [ -f "$root/.venv/hive-$1.installed" ] || return 1
    { printf '%s\n' "$root"; cat "$root/pyproject.toml" "$root/constraints.txt"; } |
        cmp -s - "$root/.venv/hive-$1.installed"
}

# A name on PATH proves nothing (version managers put up shims that only complain), so each candidate is asked.
find_python() {
    can_install='import sys, importlib.util as u, shutil as s
ok = sys.version_info >= (3, 11) and sys.implementation.name == "cpython"
sys.exit(0 if ok and (s.which("uv") or u.find_spec("ensurepip")) else 3 if ok else 4)'
    lacks_venv=
    for python in python3 python3.14 python3.13 python3.12 python3.11; do
        code=0
        "$python" -I -c "$can_install" >/dev/null 2>&1 || code=$?
        if [ "$code" = 0 ]; then return 0; fi
        if [ "$code" = 3 ] && [ -z "$lacks_venv" ]; then lacks_venv=$python; fi
    done
    if python=$(uv python find '>=3.11' 2>/dev/null); then return 0; fi
    if [ -n "$lacks_venv" ]; then
        echo "error[H502]: $lacks_venv cannot make virtual environments: its module ensurepip is missing" >&2
        echo "fix: install it (Debian, Ubuntu: apt install python3-venv), or install uv, and run the same command again" >&2
    else
        echo "error[H501]: no Python 3.11 or newer among python3, python3.14 ... python3.11" >&2
        echo "fix: install Python 3.11 or newer, or uv, and run the same command again" >&2
    fi
    return 5
}
