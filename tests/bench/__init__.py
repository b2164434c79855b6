"""Benchmarks: reqpool beside what it would replace, in one run. Start them with ``ops/bench.sh``."""
