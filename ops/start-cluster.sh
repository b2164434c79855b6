#!/usr/bin/env bash
# Start, stop or inspect this user's reqpool cluster; --demo shows what it does and leaves nothing behind.
# Creates .venv on first use. Works from any folder.
set -euo pipefail
from=$PWD
cd "$(dirname "$(readlink -f "$0")")/.."
. ops/venv.sh

usage() {
    cat >&2 <<'TEXT'
usage: ops/start-cluster.sh [start [--workers N] [--config PATH] | stop | restart | reload | scale N |
                             status [--json] | --demo]
    start    run a broker and workers in the background (the default)
    stop     let them finish what they are running, then end them
    restart  replace all processes, one after the other, while they serve; with arguments other than those
             of the last start: stop, then start
    reload   read the configuration (reqpool.toml) again
    scale    change the number of workers to N
    status   show the state of the pool; exit status 0 if all is well
    --demo   start a separate cluster and upstreams, load them, print figures, stop everything
TEXT
    exit 2
}

absolute() { # a path, from the caller's folder
    case $1 in
    /*) echo "$1" ;;
    *) echo "${from%/}/$1" ;;
    esac
}

alive() { # is $1 the pid of a supervisor?
    # Redirections are made from left to right: an error that there is no such process is silenced, too.
    [ -n "${1:-}" ] && tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -q ' reqpool_ops up '
}

stop_s=28 # reqpool_ops.cluster_spans.STOP_ENDS_S, rounded up

wait_gone() { # wait_gone PID SECONDS
    local looks=$(($2 * 20))
    while alive "$1"; do
        [ $((looks--)) -gt 0 ] || return 1
        sleep 0.05
    done
}

is_stopping() { # has the supervisor been told to end, by this script or not? It notes that in its lock.
    alive "$1" && grep -q '"stopping": true' "$folder/reqpool.sock.lock" 2>/dev/null
}

read_pid() { # sets $pid: of the supervisor that this script started
    # A pid file in another user's folder, or a link there, could name any process of this user.
    pid=
    if is_ours; then pid=$(cat "$folder/cluster.pid" 2>/dev/null || true); fi
}

is_ours() { [ -O "$folder" ] && [ ! -L "$folder" ]; }

in_turn() { # wait until no other script starts or stops the cluster; then read_pid
    if is_ours; then
        exec 8<"$folder"
        flock -w 60 8 || fail "another $(basename "$0") has been starting or stopping the cluster for 60 s"
    fi
    read_pid
}

exec_ops() { # from .venv as it is: the running cluster was started from it
    py=$PWD/.venv/bin/python
    [ -x "$py" ] || ensure_venv server
    exec "$py" -P -m reqpool_ops "$@"
}

configured() { # sets `arguments`: the given ones, and the configuration that the environment names
    arguments=("$@")
    # An argument, so that a restart and a reload find it.
    if [ -n "${REQPOOL_CONFIG:-}" ] && [[ " $*" != *" --config"* ]]; then
        arguments+=(--config "$(absolute "$REQPOOL_CONFIG")")
    fi
}

start() {
    in_turn # a script that stops the cluster goes first: what is about to end is not "already running"
    if is_stopping "$pid"; then
        say "waiting for the cluster that is stopping (pid $pid)"
        wait_gone "$pid" "$stop_s" || fail "pid $pid does not end"
    fi
    if alive "$pid"; then
        say "already running (pid $pid)${*:+, so '$*' has no effect: stop it first}"
        return
    fi
    configured "$@"
    set -- "${arguments[@]}"
    local log=$folder/cluster.log old
    old=$(wc -c 2>/dev/null <"$log" || echo 0)
    # A session of its own: it outlives this terminal.
    setsid "$py" -P -m reqpool_ops up "$@" >>"$log" 2>&1 </dev/null 8<&- &
    pid=$!
    echo "$pid" >"$folder/cluster.pid"
    exec 8<&- # the next script may stop it, or find that it is running
    for _ in $(seq 100); do
        # Only then: a process that asks too early takes the CPU from those that are starting.
        if tail -c "+$((old + 1))" "$log" | grep -q "the pool is up at" &&
            "$py" -P -m reqpool_ops status --url "$url" >/dev/null 2>&1; then
            say "running (pid $pid) at $url, log in $log"
            return
        fi
        alive "$pid" || [ -e "/proc/$pid" ] || break
        sleep 0.1
    done
    tail -c "+$((old + 1))" "$log" | tail -n 5 >&2
    if alive "$pid"; then fail "started (pid $pid), but not well yet; see $log"; fi
    [ "$(cat "$folder/cluster.pid")" != "$pid" ] || rm -f "$folder/cluster.pid"
    fail "did not start; see $log"
}

stop() {
    in_turn # if it were told twice, the cluster would end at once
    if ! alive "$pid"; then
        say "not running"
        [ -z "$pid" ] || rm -f "$folder/cluster.pid"
        return
    fi
    is_stopping "$pid" || kill -TERM "$pid"
    kill -CONT "$pid" 2>/dev/null || true # a suspended one (Ctrl-Z, SIGSTOP) would not notice
    if ! wait_gone "$pid" "$stop_s"; then
        say "pid $pid does not stop; killing it"
        kill -KILL "$pid" 2>/dev/null || true # its processes end with it
        wait_gone "$pid" 5 || fail "pid $pid does not end"
    fi
    rm -f "$folder/cluster.pid"
    say "stopped"
}

restart() {
    local words=() # of the running one: python -P -m reqpool_ops up ARGUMENTS
    if is_stopping "$pid"; then
        start "$@"
        return
    fi
    if alive "$pid"; then
        mapfile -d '' words <"/proc/$pid/cmdline"
        words=("${words[@]:5}")
        [ $# -gt 0 ] || set -- "${words[@]}"
    fi
    configured "$@"
    # Before anything is stopped: an error in a configuration must not take the service down.
    if [[ " ${arguments[*]}" == *" --config"* ]]; then
        "$py" -P -m reqpool_ops up --check "${arguments[@]}" >/dev/null || fail "nothing was stopped"
    fi
    # Unchanged arguments: the supervisor stays, and replaces all others while they serve.
    if alive "$pid" && [ "${arguments[*]@Q}" = "${words[*]@Q}" ]; then
        local said
        [[ " ${arguments[*]}" != *" --config"* ]] || reload
        if said=$("$py" -P -m reqpool_ops restart --url "$url"); then
            say "running (pid $pid) at $url: $said"
            return
        fi
        fail "see $folder/cluster.log"
    fi
    stop
    start "${arguments[@]}"
}

reload() {
    alive "$pid" || fail "not running"
    # A cluster without a configuration would stop at the signal.
    if ! tr '\0' '\n' <"/proc/$pid/cmdline" | grep -q '^--config'; then
        fail "it runs without a configuration: restart it with --config PATH"
    fi
    local log=$folder/cluster.log looks=100 old said
    # One that has just been started blocks the signal once it has its lock; before that, it would end.
    until grep -q "\"pid\": $pid," "$folder/reqpool.sock.lock" 2>/dev/null; do
        [ $((looks--)) -gt 0 ] && alive "$pid" || fail "pid $pid has not started; see $log"
        sleep 0.05
    done
    old=$(wc -c <"$log")
    kill -HUP "$pid"
    for _ in $(seq 50); do
        said=$(tail -c "+$((old + 1))" "$log")
        case $said in
        *"SIGHUP: new configuration: "*)
            say "new configuration: $(sed -n 's/.*SIGHUP: new configuration: //p' <<<"$said" | tail -n 1)"
            return
            ;;
        *"SIGHUP: the configuration stays"*)
            sed -n '/SIGHUP: the configuration stays/,$p' <<<"$said" | sed 1d >&2
            fail "the configuration stays as it was"
            ;;
        esac
        sleep 0.1
    done
    fail "pid $pid does not respond; see $log"
}

command=${1:-start}
[ $# -eq 0 ] || shift
if [ "$command" = start ] && [ "${1:-}" = --demo ]; then
    command=--demo
    shift
fi
case $command in
start | stop | restart | reload | scale | status | --demo) ;;
--workers | --config) set -- "$command" "$@" && command=start ;;
*) usage ;;
esac

arguments=()
while [ $# -gt 0 ]; do
    case $1 in
    --config=*) arguments+=("--config=$(absolute "${1#*=}")") ;;
    --config)
        arguments+=("$1")
        if [ $# -gt 1 ]; then
            shift
            arguments+=("$(absolute "$1")")
        fi
        ;;
    *) arguments+=("$1") ;;
    esac
    shift
done
set -- "${arguments[@]}"

case $command in
stop | reload) [ $# -eq 0 ] || usage ;;
scale) [ $# -eq 1 ] || usage ;;
--demo)
    [ $# -eq 0 ] || usage
    ensure_venv server
    exec "$py" -P -m reqpool_ops.demo
    ;;
start | restart) ensure_venv server ;;
esac

# As in reqpool_ops.runtime.folder_path(), without Python: `stop` must work even if .venv is broken.
folder=/tmp/reqpool-$(id -ru)
[ ! -d "${XDG_RUNTIME_DIR:-}" ] || folder=$XDG_RUNTIME_DIR/reqpool
url=ipc://$folder/reqpool.sock
case $command in
start | restart)
    "$py" -P -c '
import sys
from reqpool_ops import runtime
try:
    runtime.make_folder(runtime.folder_path())
except runtime.CannotStart as error:
    sys.exit(f"reqpool: {error}")' || exit
    ;;
esac
read_pid

case $command in
start) start "$@" ;;
stop) stop ;;
restart) restart "$@" ;;
reload) reload ;;
scale) alive "$pid" && exec_ops scale "$1" --url "$url" || fail "not running" ;;
status) exec_ops status --url "$url" "$@" ;;
esac
