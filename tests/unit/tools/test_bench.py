"""The benchmarks' arithmetic, and what they read of the tools they run."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bench import asked, bare_pool, compare, goals, report, revision, tools, watches
from bench.cluster import Cluster
from bench.processes import Sample
from bench.report import Bar, Section
from bench.run import Figures, LoadFailed, combine
from bench.sections import ROOT, Bench, Benchmark, Service, at_least, at_most, nothing_lost, rows
from bench.tally import Tally

WRK = """\
Running 2s test @ http://127.0.0.1:8080/small
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   553.85us  195.92us   6.21ms   83.59%
    Req/Sec   116.63k     5.12k  124.33k    75.00%
  Latency Distribution
     50%  481.00us
     75%  612.00us
     90%  745.00us
     99%    1.02ms
  232310 requests in 2.00s, 82.20MB read
Requests/sec: 116159.21
Transfer/sec:     41.10MB
"""
WRK_ERRORS = WRK.replace(
    "Requests/sec",
    "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 310\nRequests/sec",
)
REDIS_BENCHMARK = """\
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"GET","115606.94","0.156","0.040","0.143","0.239","0.343","1.431"
"""
DNSPERF = """\
Statistics:

  Queries sent:         401234
  Queries completed:    401227 (100.00%)
  Queries lost:         7 (0.00%)

  Run time (s):         2.000000
  Queries per second:   250853.123456
"""
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0000
   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 12 1 0000
   2: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 13 1 0000
   3: 0100007F:1F90 0100007F:C351 06 00000000:00000000 03:00000F3B 00000000     0        0 0 3 0000
   4: 0100007F:1F90 0100007F:C352 01 00000000:00000000 00:00000000 00000000     0        0 14 1 0000
"""


def figures(rate_per_s: float, lost: int = 0, cpu_us: float = 1.0) -> Figures:
    return Figures(rate_per_s, {"producer": cpu_us}, 0.25, submitted=100, lost=lost)


def test_wrk_s_report_is_read() -> None:
    said = tools.read_wrk(WRK)
    assert (said.rate_per_s, said.completed, said.lost) == (116159.21, 232310, 0)
    assert (said.p50_us, said.p99_us) == (481.0, 1020.0)


def test_what_wrk_calls_errors_is_lost() -> None:
    said = tools.read_wrk(WRK_ERRORS)
    assert (said.completed, said.lost) == (232000, 320)


def test_redis_benchmark_s_csv_is_read() -> None:
    said = tools.read_redis_benchmark(REDIS_BENCHMARK, 20_000)
    assert (said.rate_per_s, said.completed, said.lost) == (115606.94, 20_000, 0)
    assert (said.p50_us, said.p99_us) == (143.0, 343.0)


def test_dnsperf_s_statistics_are_read() -> None:
    said = tools.read_dnsperf(DNSPERF)
    assert (said.rate_per_s, said.completed, said.lost) == (250853.123456, 401227, 7)


@pytest.mark.parametrize(
    "read", [tools.read_wrk, tools.read_dnsperf, lambda text: tools.read_redis_benchmark(text, 1)]
)
def test_a_tool_that_says_something_else_is_no_figure(read) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(tools.UnknownOutput):
        read("could not connect\n")


def test_connections_are_counted_at_the_servers_end_and_only_established_ones() -> None:
    ours = "0100007F:1F90"
    found = {(ours, "0100007F:C350"), (ours, "0100007F:C352")}
    assert watches.established(TCP.splitlines(), 0x1F90) == found
    assert watches.established(TCP.splitlines(), 0x1F91) == set()


def test_only_what_completes_inside_the_window_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock_s = iter((100.0, 100.5, 101.0, 102.0, 103.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock_s))
    tally = Tally(range(4), share=0.5)
    tally.open((101.0, 103.0))
    handed_out = []
    while (target := tally.next()) is not None:
        handed_out.append(target)
        tally.done += 1
    tally.report()
    assert handed_out == [2, 3, 0, 1]
    said = json.loads(capsys.readouterr().out)
    assert (said["in_window"], said["window_s"], said["submitted"], said["lost"]) == (2, 2.0, 4, 0)


def test_a_failed_request_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally(["a"], count=2)
    tally.open((time.monotonic(), time.monotonic() + 60))
    while tally.next() is not None:
        tally.failed(asked.WrongAnswer("something else"))
    tally.report()
    said = json.loads(capsys.readouterr().out)
    assert (said["lost"], said["errors"]) == (2, {"WrongAnswer: something else": 2})


def test_cpu_and_rates_of_several_producers_are_one_measurement() -> None:
    results = [
        {"in_window": 1000, "window_s": 2.0, "submitted": 1500, "lost": 1, "errors": {"x": 1}, "p50_us": 5.0},
        {"in_window": 3000, "window_s": 2.0, "submitted": 3500, "lost": 0, "errors": {}, "p50_us": 7.0},
    ]
    before = Sample(10.0, {"producer": 1.0, "server": 2.0}, 100.0, 200.0)
    after = Sample(12.0, {"producer": 1.4, "server": 2.2}, 103.0, 204.0)
    both = combine(results, before, after)
    assert (both.rate_per_s, both.submitted, both.lost, both.errors) == (2000.0, 5000, 1, {"x": 1})
    assert both.cpu_us == pytest.approx({"producer": 100.0, "server": 50.0})
    assert (both.idle, both.p50_us, both.p99_us) == (0.25, 7.0, None)


def test_a_load_that_completes_nothing_has_no_figures() -> None:
    results = [{"in_window": 0, "window_s": 2.0, "submitted": 9, "lost": 9, "errors": {"refused": 9}}]
    sample = Sample(10.0, {"producer": 1.0}, 100.0, 200.0)
    with pytest.raises(LoadFailed, match="refused"):
        combine(results, sample, sample)


def test_rounds_are_told_as_medians_and_losses_as_a_sum() -> None:
    median = report.median([figures(10, lost=1), figures(30, cpu_us=3.0), figures(20, lost=2, cpu_us=2.0)])
    assert (median.rate_per_s, median.cpu_us, median.lost, median.submitted) == (
        20,
        {"producer": 2.0},
        3,
        300,
    )


def test_only_our_losses_miss_the_bar() -> None:
    section = Section("s", "t", rows({"reqpool": figures(20), "peer": figures(10, lost=5)}, "reqpool"))
    assert [row.ratio for row in section.rows] == [1.0, 2.0]
    assert [bar.passed for bar in nothing_lost(section).bars] == [True]
    section = Section("s", "t", rows({"reqpool": figures(20, lost=1)}, "reqpool"))
    assert [bar.passed for bar in nothing_lost(section).bars] == [False]


def test_the_verdict_is_that_of_the_bars_that_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def verdict(*bars: Bar) -> bool:
        passed: bool = report.finish([Section("s", "t", bars=list(bars))], {}, tmp_path / "bench.json")
        written = json.loads((tmp_path / "bench.json").read_text())
        assert written["passed"] == passed
        return passed

    assert verdict(at_least("x", 2.0, 2.0), at_most("y", 3.0, 1.0, counts=False))
    assert not verdict(at_least("x", 1.9, 2.0))
    assert not verdict(at_most("x", 2.1, 2.0))
    assert "told  y" in "\n".join(Section("s", "t", bars=[at_most("y", 3.0, 1.0, counts=False)]).lines())


@pytest.mark.parametrize(
    ("subject", "right", "wrong"),
    [
        ("dns", ["10.0.0.0"], []),
        ("dns", ["10.0.0.0"], ["10.0.0.1"]),
        ("http-small", (200, asked.SMALL_BODY), (200, asked.SMALL_BODY[:-1])),
        ("http-big", (200, asked.BIG_BODY), (500, asked.BIG_BODY)),
        ("redis-get", asked.value_of("key:000000000000"), asked.value_of("key:000000000001")),
        ("redis-get", asked.value_of("key:000000000000"), None),
        ("mysql-one", [asked.row_of(0)], [asked.row_of(1)]),
        ("mysql-one", (asked.row_of(0),), ()),
        ("mysql-many", [asked.row_of(n) for n in range(1000)], [asked.row_of(n) for n in range(999)]),
    ],
)
def test_an_answer_that_is_not_the_targets_is_noticed(subject: str, right: object, wrong: object) -> None:
    found = asked.find(subject)
    found.check(found.targets[0], right)
    with pytest.raises(asked.WrongAnswer):
        found.check(found.targets[0], wrong)


def test_a_crawlers_load_has_as_many_origins_as_it_says() -> None:
    for count in asked.ORIGINS:
        targets = asked.find(f"http-origins-{count}", "http://127.0.0.1:8080").targets
        hosts = {urlsplit(target).hostname for target in targets}
        assert len(targets) == len(hosts) == count
        assert {urlsplit(target).port for target in targets} == {8080}
        assert all(ipaddress.ip_address(host).is_loopback for host in hosts)


def test_what_is_asked_has_the_size_that_is_said() -> None:
    assert (len(asked.SMALL_BODY), len(asked.BIG_BODY)) == (130, 1 << 20)
    targets = asked.find("redis-get").targets
    assert len(set(targets)) == asked.COUNT
    assert {len(asked.value_of(key)) for key in targets[:3]} == {asked.VALUE_BYTES}


def cases(**of: Figures) -> compare.Measured:
    return compare.Measured({name.replace("_", " "): each for name, each in of.items()})


def test_a_goal_is_the_ratio_to_the_peer_of_its_run_for_each_revision() -> None:
    found = cases(reqpool=figures(30), old_reqpool=figures(10), peer=figures(20))
    goal = found.goal("x", compare.rate, 1.0, peer="peer")
    assert (goal.new, goal.old, goal.peer) == (30, 10, 20)
    assert (goal.value, goal.old_value, goal.passed) == (1.5, 0.5, True)
    assert goal.line().split() == ["x", "10", "30", "20", "0.50", "1.50", ">=", "1", "PASS"]
    most = found.goal("x", compare.rate, 1.0, peer="peer", least=False)
    assert most.line().split()[-3:] == ["<=", "1", "FAIL"]


def test_each_revision_is_compared_with_its_own_other_load() -> None:
    found = compare.Measured(
        {
            "reqpool one": figures(100),
            "old reqpool one": figures(50),
            "reqpool many": figures(60),
            "old reqpool many": figures(10),
        }
    )
    goal = found.goal("x", compare.rate, 0.6, case=" many", beside=" one")
    assert (goal.value, goal.old_value, goal.passed) == (0.6, 0.2, True)


def test_a_goal_without_an_old_revision_or_a_peer_is_the_figure_itself() -> None:
    found = cases(reqpool=figures(1, cpu_us=12.5))
    goal = found.goal("x", compare.cpu("producer"), 12.0, least=False)
    assert (goal.value, goal.old_value, goal.passed) == (12.5, None, False)
    assert goal.line().split() == ["x", "12.5", "<=", "12", "FAIL"]
    told = found.goal("x", compare.cpu("producer"))
    assert not told.counts
    assert told.line().split() == ["x", "12.5"]


def test_the_table_of_goals_shows_besides_its_lines_only_what_went_wrong() -> None:
    right = cases(reqpool=figures(2), old_reqpool=figures(2, lost=7)).section("s")
    assert [*nothing_lost(right).lines()] == []
    wrong = cases(reqpool=figures(2, lost=1), old_reqpool=figures(2)).section("s")
    assert [line.split()[0] for line in nothing_lost(wrong).lines()] == ["FAIL"]


INTERPRETER = """\
#!/bin/sh
echo "$*" >"$0.arguments"
echo '{"ready": true}'
read -r go
echo '{"in_window": 5, "window_s": 1.0, "submitted": 5, "lost": 0, "errors": {}}'
cat >/dev/null
"""


def test_a_load_runs_with_the_interpreter_of_its_cluster(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(INTERPRETER)
    python.chmod(0o700)
    where = Cluster("ipc://somewhere", str(python), os.getpid(), {"broker": [os.getpid()]})
    bench = Bench(Service("127.0.0.1:53", [os.getpid()]), 1, 1, 0.0, 0.0, True)
    load = compare.Ours("window", "dns", in_flight=7)
    assert load.contestant(bench, where)().rate_per_s == 5
    arguments = (tmp_path / "python.arguments").read_text()
    assert arguments.startswith("-m bench.load window --url ipc://somewhere --subject dns ")
    assert "--window 7 --look" in arguments


def test_a_section_that_could_not_be_measured_is_a_failed_bar() -> None:
    def section(_bench: Bench) -> Section:
        raise LoadFailed("it ended")

    @contextmanager
    def nothing() -> Iterator[Service]:
        yield Service("", [])

    benchmark = Benchmark("k", "about", {"s": section}, {}, nothing)
    bench = Bench(Service("", []), 1, 1, 0.0, 0.0, True)
    (bar,) = benchmark.measured("s", bench).bars
    assert not bar.passed


def test_bulk_replies_are_framed_wherever_the_stream_is_cut() -> None:
    stream = b"$3\r\none\r\n$0\r\n\r\n$4\r\n\r\n\r\n\r\n"
    whole = [b"one", b"", b"\r\n\r\n"]
    assert bare_pool.values(stream) == (whole, b"")
    for at in range(len(stream)):
        first, rest = bare_pool.values(stream[:at])
        then, nothing = bare_pool.values(rest + stream[at:])
        assert (first + then, nothing) == (whole, b"")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose file ``word`` said "old" one commit ago."""
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.test")
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    for word in ("old", "new"):
        (tmp_path / "word").write_text(word)
        subprocess.run(["git", "-C", str(tmp_path), "add", "word"], check=True)
        subprocess.run(
            ["git", "-C", str(tmp_path), *identity, "commit", "--quiet", "-m", word],
            check=True,
        )
    return tmp_path


def worktrees(repository: Path) -> int:
    command = ["git", "-C", str(repository), "worktree", "list"]
    return len(subprocess.run(command, check=True, capture_output=True).stdout.splitlines())


def test_an_old_revision_is_checked_out_beside_the_code_and_removed_again(repository: Path) -> None:
    (repository / "word").write_text("not committed")
    with revision.checked_out(repository, "HEAD~1") as folder:
        assert (folder / "word").read_text() == "old"
        assert worktrees(repository) == 2
    assert not folder.exists()
    assert worktrees(repository) == 1
    assert (repository / "word").read_text() == "not committed"


def test_an_unknown_revision_is_an_error_that_says_so(repository: Path) -> None:
    with (
        pytest.raises(revision.NoRevision, match="no-such-revision"),
        revision.checked_out(repository, "no-such-revision"),
    ):
        pass


def test_goals_are_run_with_the_programs_that_the_script_looks_for() -> None:
    script = (ROOT / "ops" / "bench.sh").read_text()
    branch = script[script.index("\ngoals)") : script.index("\ndns)")]
    assert dict(re.findall(r"([\w-]+):([\w-]+)", branch)) == goals.BENCHMARK.programs
