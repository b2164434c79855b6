#!/usr/bin/env bash
# Benchmarks: reqpool beside what it would replace, on loopback, in one run; see tests/bench.
#   ops/bench.sh [--against REV] [--quick] [--rounds N] [--only SECTION...] [--workers N]    all goals, one table
#   ops/bench.sh dns|http|redis|mysql [--quick] [--rounds N] [--only SECTION...] [--workers N]
#   ops/bench.sh bystander [--only NEIGHBOUR] [--seconds N] [--workers N]
# Prints one table, writes bench-goals.json or bench-<kind>.json; exit status 0 if every bar holds. With --against
# REV (a commit, say) that revision's client, broker and workers are measured beside this code.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. ops/venv.sh
. ops/apt.sh

kind=goals
case ${1:-} in
"" | -*) ;;
*)
    kind=$1
    shift
    ;;
esac
case $kind in
goals)
    programs="knotd:knot nginx:nginx-light redis-server:redis-server redis-benchmark:redis-tools"
    programs+=" mariadbd:mariadb-server"
    ;;
dns) programs="knotd:knot dnsperf:dnsperf redis-server:redis-server" ;;
http) programs="nginx:nginx-light wrk:wrk" ;;
redis) programs="redis-server:redis-server redis-benchmark:redis-tools" ;;
mysql) programs="mariadbd:mariadb-server" ;;
bystander) programs="" ;;
*)
    sed -n '2,7s/^# //p' ops/bench.sh >&2
    exit 2
    ;;
esac

# shellcheck disable=SC2086  # a list of words
find_missing $programs
install_missing
if [ ${#missing[@]} -gt 0 ]; then
    say "not installed: ${missing[*]}; as root: apt-get install ${packages[*]}"
    exit 2
fi

ensure_venv server,bench
# Debian's servers are in /usr/sbin, which is not on every user's path.
PATH=$PATH:/usr/sbin PYTHONPATH=tests exec "$py" -P -m "bench.$kind" "$@"
