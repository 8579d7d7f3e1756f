# Sourced by quickstart.sh and test.sh: a virtual environment in .venv with everything pinned, made once.

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

# A command with the rights to install system packages, or nothing.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo -n "$@"
  else return 1
  fi
}

apt_install() {
  command -v apt-get >/dev/null 2>&1 || return 1
  as_root env DEBIAN_FRONTEND=noninteractive sh -c \
    "apt-get update -q >/dev/null && apt-get install -q -y --no-install-recommends $* >/dev/null"
}

find_python() {
  for candidate in "${PYTHON:-}" python3 python3.11 python3.12 python3.13; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s' "$candidate"
      return 0
    fi
  done
  return 1
}

# Panda3D loads libX11.so.6 although it opens no window.
need_x11() {
  "$1" -c 'import ctypes; ctypes.CDLL("libX11.so.6")' 2>/dev/null && return 0
  say "installing the system library libX11.so.6 (Debian package libx11-6)"
  apt_install libx11-6 && "$1" -c 'import ctypes; ctypes.CDLL("libX11.so.6")' 2>/dev/null && return 0
  fail "libX11.so.6 is missing and could not be installed: run 'apt-get install libx11-6' as root, then this again"
}

set_up() {
  python=$(find_python) || fail "Python 3.11 or newer is missing: install it (Debian: apt-get install python3 python3-venv)"
  stamp=$("$python" - <<'PY'
import hashlib, pathlib, sys
parts = [pathlib.Path(name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
print(hashlib.sha256(b"".join([sys.version.encode(), *parts])).hexdigest())
PY
  )
  if [ "$(cat .venv/stamp 2>/dev/null)" != "$stamp" ]; then
    say "setting up .venv (some minutes, once)"
    rm -rf .venv
    if ! "$python" -m venv .venv >/dev/null 2>&1; then
      rm -rf .venv
      apt_install python3-venv || fail "Python's venv module is missing: run 'apt-get install python3-venv' as root, then this again"
      "$python" -m venv .venv || fail "a virtual environment could not be made in .venv"
    fi
    .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]' \
      || fail "pip could not install the dependencies: see above"
    printf '%s' "$stamp" > .venv/stamp
  fi
  need_x11 .venv/bin/python
}
