# Sourced by start-cluster.sh, test.sh and bench.sh, from the repository's root.

# ensure_venv EXTRA: creates .venv if needed, repairs an incomplete one, installs `-e .[EXTRA]` if pyproject.toml
# has changed since the last time; sets $py.
ensure_venv() {
    local extra=$1 python=${PYTHON:-python3} stamp=.venv/.installed-$1 want
    py=$PWD/.venv/bin/python
    exec 9<pyproject.toml
    flock 9 # two scripts at once would install over each other
    if ! .venv/bin/python -c "$version_check" 2>/dev/null || ! has_pip; then
        if ! command -v "$python" >/dev/null; then
            fail "no $python found; on Debian: apt-get install python3 python3-venv"
        fi
        if ! "$python" -c "$version_check"; then
            fail "Python >= 3.11 is needed, $python is $("$python" -V 2>&1); set PYTHON=/path/to/python3.11"
        fi
        if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            fail "$python cannot make virtual environments; on Debian: apt-get install python3-venv"
        fi
        say "making .venv with $("$python" -V)"
        rm -rf .venv
        "$python" -m venv .venv || fail "could not make .venv"
    fi
    want="$PWD $(sha256sum <pyproject.toml)"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
        say "installing reqpool[$extra] and what it needs into .venv"
        "$py" -m pip install --quiet --disable-pip-version-check -e ".[$extra]" || fail "pip install failed"
        echo "$want" >"$stamp"
        if [ "$extra" = dev ]; then echo "$want" >.venv/.installed-server; fi # dev includes server
    fi
    exec 9<&-
}

has_pip() {
    .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null 2>&1
}

version_check='import sys; sys.exit(sys.version_info < (3, 11))'

say() { echo "$(basename "$0"): $*" >&2; }

fail() {
    say "$*"
    exit 1
}
