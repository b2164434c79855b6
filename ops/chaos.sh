#!/usr/bin/env bash
# A seeded fault run with real processes, on loopback: kills, freezes, drains, restarts, cuts; see tests/chaos.
#   ops/chaos.sh [--seconds N] [--seed S] [--only FAULT]... [--rate N] [--json FILE] | --list
# Prints one table; exit status 0 if all zeros hold: nothing lost, ended twice, executed twice, leaked.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. ops/venv.sh
. ops/apt.sh

find_missing knotd:knot nginx:nginx-light redis-server:redis-server mariadbd:mariadb-server
install_missing "without them their kinds are left out; install by hand what provides"

ensure_venv dev
# Debian's servers are in /usr/sbin, which is not on every user's path.
PATH=$PATH:/usr/sbin PYTHONPATH=tests exec "$py" -P -m chaos "$@"
