# Sets up .venv and the system library; sourced by quickstart.sh and run_tests.sh from the project's folder.

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found: install it (Debian, Ubuntu: apt-get install python3 python3-venv), or name one with PYTHON=/path/to/python3.11"
}

make_venv() {
    [ -x .venv/bin/pip ] && .venv/bin/python -c '' 2>/dev/null && return
    rm -rf .venv
    if ! "$1" -m venv .venv >/dev/null 2>&1; then
        rm -rf .venv
        local version
        version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        fail "$1 cannot make virtual environments: install its venv module (Debian, Ubuntu: apt-get install python$version-venv)"
    fi
}

install_packages() {
    local stamp
    stamp=$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)
    [ "$(cat .venv/installed 2>/dev/null)" = "$stamp" ] && return
    say "installing packages into .venv (once; about 1 GB with a CUDA build of torch several more)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' \
        || fail "pip could not install the packages: see its lines above, then run this again"
    echo "$stamp" > .venv/installed
}

have_x11() { .venv/bin/python -c 'import ctypes; ctypes.CDLL("libX11.so.6")' 2>/dev/null; }

install_x11() {
    have_x11 && return
    local root=()
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || fail "the system library libX11.so.6 is missing: install it (Debian, Ubuntu: sudo apt-get install libx11-6)"
        root=(sudo -n)
    fi
    command -v apt-get >/dev/null || fail "the system library libX11.so.6 is missing: install your system's libX11 package"
    say "installing the system library libx11-6"
    { "${root[@]}" apt-get update -qq && "${root[@]}" apt-get install -y -qq --no-install-recommends libx11-6; } >/dev/null \
        || fail "apt-get could not install libx11-6: see its lines above"
    have_x11 || fail "libX11.so.6 is still missing after installing libx11-6"
}

set_up() {
    local python
    python=$(find_python) || exit 2
    make_venv "$python"
    install_packages
    install_x11
}
