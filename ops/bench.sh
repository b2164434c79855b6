#!/bin/sh
# Benchmarks: reqpool beside what it would replace, on loopback, in one run; see tests/bench.
#   ops/bench.sh dns [--quick] [--rounds N] [--only SECTION] [--workers N]
# Prints one table, writes bench-<kind>.json; exit status 0 if every bar holds.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin  # knotd; not on every user's path

case "${1:-}" in
    dns) kind=$1; shift ;;
    *) sed -n '2,4s/^# //p' ops/bench.sh >&2; exit 2 ;;
esac

if [ ! -x .venv/bin/python ]; then
    python3 -m venv .venv || { echo "no python3-venv: apt-get install python3-venv" >&2; exit 2; }
fi
if ! .venv/bin/python -c 'import reqpool_ops, psutil, aiodns, uvloop, celery, redis, hiredis' 2>/dev/null; then
    .venv/bin/pip install --quiet -e '.[server,bench]'
fi

missing=
command -v knotd >/dev/null || missing="$missing knot"
command -v dnsperf >/dev/null || missing="$missing dnsperf"
command -v redis-server >/dev/null || missing="$missing redis-server"
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "not installed:$missing; as root: apt-get install$missing" >&2
        exit 2
    fi
    echo "installing Debian's$missing, without starting their services" >&2
    (
        if [ ! -e /usr/sbin/policy-rc.d ]; then
            # invoke-rc.d(8): 101 forbids starting a service on install. Only for as long as this takes.
            trap 'rm -f /usr/sbin/policy-rc.d' EXIT
            printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
            chmod 755 /usr/sbin/policy-rc.d
        fi
        apt-get update -qq
        # shellcheck disable=SC2086  # a list of words
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
    )
fi

PYTHONPATH=tests exec .venv/bin/python -P -m "bench.$kind" "$@"
