#!/usr/bin/env bash
# All checks: ruff, mypy --strict, pytest. Creates .venv on first use; as root on Debian it installs the real
# servers that the tests need. Works from any folder.
#
# usage: ops/test.sh [--no-install] [--long] [pytest arguments]
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. ops/venv.sh
. ops/apt.sh

# Programs that tests need and pip does not install, and their Debian packages.
servers="knotd:knot nginx:nginx-light redis-server:redis-server mariadbd:mariadb-server memcached:memcached"

install=${REQPOOL_NO_INSTALL:+no}
arguments=()
for argument in "$@"; do
    case $argument in
    --no-install) install=no ;;
    *) arguments+=("$argument") ;;
    esac
done

# shellcheck disable=SC2086  # a list of words
find_missing $servers
if [ "$install" = no ]; then
    why="--no-install"
else
    install_missing "--no-install skips the tests that need"
fi
if [ ${#missing[@]} -gt 0 ]; then
    export REQPOOL_NO_INSTALL=1 # the tests skip instead of failing
    say "skipped ($why): the tests that need ${missing[*]} (apt-get install ${packages[*]});"
    say "pytest's summary names each of them as SKIPPED"
fi

ensure_venv dev
say "ruff"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
say "mypy --strict"
.venv/bin/mypy
MYPYPATH=client:workers:docs/examples/reqpool-memcached/src .venv/bin/mypy --strict -p reqpool_memcached
say "pytest"
exec .venv/bin/python -m pytest ${arguments[@]+"${arguments[@]}"}
