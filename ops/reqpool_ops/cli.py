"""The command line: ``reqpool up|status|scale|restart``, and a command for each kind.

Exit status: 0 done, or the pool is well; 1 an error, or the pool is not well; 2 wrong usage; 3 no broker
answered `status`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from reqpool_contract.errors import BrokerUnavailable, PoolError
from reqpool_contract.masking import without_passwords

from . import early_signals, runtime
from .report_values import counted, plain
from .report_values import text as printable

DEFAULT_WORKERS = min(os.cpu_count() or 1, 4)
EMBEDDED_DRAIN_S = 0.5
"""An embedded cluster's only client has already waited for its requests, and closed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command's, without the program's name; None for those of the process.

    Returns:
        The exit status.
    """
    try:
        options = parser().parse_args(arguments)
        status: int = options.run(options)
    except (PoolError, runtime.CannotStart) as error:
        print(f"reqpool: {printable(str(error))}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("psutil", "reqpool_broker", "reqpool_workers"):
            raise
        print(f"reqpool: {error.name} is missing: pip install 'reqpool[server]'", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of the output is gone (`| head`); flushing at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


BIND_HELP = (
    "where clients connect: ipc:///PATH in a 0700 folder (also uses PATH.results and PATH.workers) or "
    "tcp://127.0.0.1:PORT (also uses the two ports above it); default: {}"
)
CONFIG_HELP = (
    "reqpool.toml: names, limits and timeouts of upstreams (docs/operations.md); read again at SIGHUP; "
    "default: $REQPOOL_CONFIG if set"
)


class Parser(argparse.ArgumentParser):
    """Masks passwords in its errors: a misplaced argument may be a URL with one."""

    def error(self, message: str) -> NoReturn:
        super().error(without_passwords(message))


class ShowVersion(argparse.Action):
    """Looks the version up only when it is wanted: that takes a quarter of a command's start."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"reqpool {version('reqpool')}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets ``run``."""
    top = Parser(prog="reqpool", description="An asynchronous request pool as a service.")
    top.add_argument("--version", action=ShowVersion, nargs=0, help="show program's version number and exit")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="run a broker and its workers in the foreground")
    up.add_argument("--workers", type=worker_count, default=DEFAULT_WORKERS, metavar="N")
    up.add_argument("--bind", metavar="URL", help=BIND_HELP.format(runtime.default_url().replace("%", "%%")))
    up.add_argument("--config", metavar="PATH", help=CONFIG_HELP)
    up.add_argument("--check", action="store_true", help="check the configuration and exit")
    up.add_argument(
        "--embedded", action="store_true", help="stop when the process given by --parent-pid ends"
    )
    up.add_argument("--parent-pid", type=int, metavar="PID")
    up.set_defaults(run=run_up, usage=up.error)

    status = commands.add_parser("status", help="show the state of the pool; exit status 0 if it is well")
    status.add_argument("--json", action="store_true", help="print the report as JSON, for programs")
    status.add_argument("--url", help="the broker's intake (default: $REQPOOL_URL, or this user's cluster)")
    status.set_defaults(run=run_status)

    scale = commands.add_parser("scale", help="set the number of workers of a cluster on this machine")
    scale.add_argument("workers", type=worker_count, metavar="N")
    scale.add_argument("--url", help="its intake (default: $REQPOOL_URL, or this user's cluster)")
    scale.set_defaults(run=run_scale)

    restart = commands.add_parser(
        "restart", help="replace all processes of a cluster on this machine while it serves"
    )
    restart.add_argument("--url", help="its intake (default: $REQPOOL_URL, or this user's cluster)")
    restart.set_defaults(run=run_restart)

    from . import requests

    requests.add_commands(commands)
    return top


def worker_count(text: str) -> int:
    """Parse the number of workers."""
    if not text.isdecimal() or not 1 <= int(text) <= runtime.MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of workers (1 to {runtime.MAX_WORKERS})")
    return int(text)


def run_up(options: argparse.Namespace) -> int:
    """Run a cluster until it is told to stop."""
    early_signals.hold()
    from .supervisor import ClusterPlan, Supervisor

    if options.embedded and (options.parent_pid is None or options.bind is None):
        options.usage("--embedded needs --parent-pid and --bind")
    if options.parent_pid is not None and not options.embedded:
        options.usage("--parent-pid requires --embedded")
    path = options.config
    if path is None and not options.embedded:
        path = os.environ.get("REQPOOL_CONFIG") or None
    if options.check and path is None:
        options.usage("--check needs --config, or $REQPOOL_CONFIG")
    config = None
    if path is not None:
        from .checked_config import CheckedConfig
        from .config_file import ConfigError

        try:
            config = CheckedConfig(path)
        except ConfigError as error:  # its lines begin with file and line
            print(error, file=sys.stderr)
            return 1
    if options.check and config is not None:
        print(f"{path}: {counted(len(config.config.upstreams), 'upstream')}")
        return 0
    logging.basicConfig(
        level=logging.WARNING if options.embedded else logging.INFO,
        format="%(asctime)s reqpool[%(process)d] %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    if options.bind is None:
        runtime.make_folder(runtime.folder_path())
    url = runtime.check_bind(options.bind or runtime.default_url())
    plan = ClusterPlan(url, options.workers, config=config)
    if options.embedded:
        plan = ClusterPlan(
            url, options.workers, options.parent_pid, EMBEDDED_DRAIN_S, serve_on_s=0.0, config=config
        )
    return Supervisor(plan).run()


def run_scale(options: argparse.Namespace) -> int:
    """Change how many workers a cluster runs."""
    from .scale import scale

    scale(options.url or os.environ.get("REQPOOL_URL") or runtime.default_url(), options.workers)
    return 0


def run_restart(options: argparse.Namespace) -> int:
    """Replace all processes of a cluster except the supervisor."""
    from .restart import restart

    print(restart(options.url or os.environ.get("REQPOOL_URL") or runtime.default_url()))
    return 0


def run_status(options: argparse.Namespace) -> int:
    """Show the state of the pool."""
    from . import health, pools, status

    url = options.url or os.environ.get("REQPOOL_URL") or runtime.default_url()
    try:
        report = status.fetch(url)
    except BrokerUnavailable as error:
        print(f"reqpool: {error}", file=sys.stderr)
        return 3
    lock = runtime.read_lock(url) or {}
    ailments = health.judge(report, lock.get("workers"))
    supervisor = health.sample(lock["pid"]) if "pid" in lock else None
    if supervisor is not None:
        supervisor["pid"] = lock["pid"]
    if options.json:
        report |= {"well": not ailments, "ailments": ailments, "supervisor": supervisor}
        report["pools"] = pools.pools(report)
        print(json.dumps(plain(report)))
    else:
        print(status.render(report, ailments, supervisor))
    return 1 if ailments else 0
