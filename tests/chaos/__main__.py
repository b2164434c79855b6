"""``ops/chaos.sh``: a seeded fault run with real processes; :mod:`.judge` says what is held against what.

Exit status 0 if all zeros hold, 1 if not, 2 if it was called wrongly. Recovery is shown beside its targets,
which are for the median over faults that happened alone. It does not change the exit status: a busy machine
misses them.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from .faults import FAULTS, has_rolling
from .report import as_json, render
from .run import run

RATE_PER_S = 600.0


def main() -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="ops/chaos.sh", description="a seeded fault run with real processes"
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="how long there is load (120)")
    parser.add_argument("--seed", type=int, help="of all choices; without it one is chosen and printed")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=FAULTS,
        metavar="FAULT",
        help="repeatable; --list has them",
    )
    parser.add_argument("--rate", type=float, default=RATE_PER_S, help="requests a second, all in all (600)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    parser.add_argument("--list", action="store_true", help="list the faults")
    arguments = parser.parse_args()
    if arguments.list:
        for name, fault in FAULTS.items():
            print(f"{name:22}{'planned ' if fault.sort.planned else '        '} {fault.says}")
        return 0
    faults = {name: FAULTS[name] for name in arguments.only or FAULTS}
    if "rolling" in faults and not has_rolling():
        del faults["rolling"]
        print("LEFT OUT: rolling: this reqpool has no command `restart`", file=sys.stderr)
    seed = secrets.randbelow(1 << 31) if arguments.seed is None else arguments.seed
    print(f"seed {seed}, {arguments.seconds:g} s of load", file=sys.stderr, flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # what runs is ended on the way out
    folder = Path(tempfile.mkdtemp(prefix="rp-chaos-"))
    result = None
    try:
        result = run(folder, seed, arguments.seconds, faults, arguments.rate)
        print(render(result))
        if arguments.json is not None:
            arguments.json.write_text(as_json(result))
    finally:
        if result is not None and result.holds:
            shutil.rmtree(folder)
        else:
            print(f"journals and logs are in {folder}", file=sys.stderr)
    return 0 if result.holds else 1


if __name__ == "__main__":
    sys.exit(main())
