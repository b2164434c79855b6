#!/usr/bin/env bash
# Everything that is checked: ruff, mypy --strict, pytest. Makes .venv on first use; as root on Debian it installs
# the real servers the tests need. Works from any folder.
#
# usage: ops/test.sh [--no-install] [--long] [pytest arguments]
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. ops/venv.sh

# What a test needs that pip does not bring: program, Debian package.
servers="knotd:knot"

install=${REQPOOL_NO_INSTALL:+no}
arguments=()
for argument in "$@"; do
    case $argument in
    --no-install) install=no ;;
    *) arguments+=("$argument") ;;
    esac
done

missing=()
packages=()
for server in $servers; do
    if ! PATH=$PATH:/usr/sbin:/sbin command -v "${server%%:*}" >/dev/null; then
        missing+=("${server%%:*}")
        packages+=("${server#*:}")
    fi
done

apt_install() {
    # Debian starts a service as soon as its package is installed, unless policy-rc.d says 101 (invoke-rc.d(8)).
    local policy=/usr/sbin/policy-rc.d status=0
    if [ -e "$policy" ]; then
        policy= # the administrator's own word stands
    else
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -q && apt-get install -q -y --no-install-recommends "$@"; } >/dev/null || status=$?
    if [ -n "$policy" ]; then
        rm -f "$policy"
        trap - EXIT
    fi
    return $status
}

if [ ${#missing[@]} -gt 0 ]; then
    if [ "$install" = no ]; then
        why="--no-install"
    elif [ "$(id -u)" != 0 ]; then
        why="not root"
    elif ! command -v apt-get >/dev/null; then
        why="no apt-get here"
    else
        say "installing from Debian's packages, no service is started: ${packages[*]}"
        apt_install "${packages[@]}" || fail "apt-get failed; --no-install leaves out the tests that need ${missing[*]}"
        missing=()
    fi
    if [ ${#missing[@]} -gt 0 ]; then
        export REQPOOL_NO_INSTALL=1 # the tests skip instead of failing
        say "left out ($why): the tests that need ${missing[*]} (apt-get install ${packages[*]});"
        say "pytest's summary names each of them as SKIPPED"
    fi
fi

ensure_venv dev
say "ruff"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
say "mypy --strict"
.venv/bin/mypy
say "pytest"
exec .venv/bin/python -m pytest ${arguments[@]+"${arguments[@]}"}
