"""Reports of a broker, written by hand."""

from __future__ import annotations

from typing import Any


def pooled(**origins: Any) -> dict[str, Any]:
    """Return one with three origins of two upstreams, and the connections that two workers have there.

    Args:
        **origins: further counts of the second worker's sample.
    """
    redis = {"upstream": "redis://127.0.0.1:6379", "names": ["cache", "sessions"], "limit": 8}
    one, two = "redis://127.0.0.1:6379/0#0123456789abcdef0123", "redis://127.0.0.1:6379/1?exclusive"
    return {
        "origins": {
            one: redis | {"granted": 3, "reserved": 4},
            two: redis | {"granted": 1, "reserved": 1},
            "http://127.0.0.1:80": {"upstream": "http://127.0.0.1:80", "names": [], "limit": 64},
        },
        "workers": [
            {"name": "worker-1", "sample": {"origins": {one: [64, 2, 1, 5, 7, 0], two: [0, 1, 0, 0, 0, 1]}}},
            {"name": "worker-2", "sample": {"origins": {one: [1, 1, 0, 0, 1, 0], **origins}}},
        ],
    }
