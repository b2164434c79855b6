"""The configuration that a broker is handed by its supervisor, when that one has gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from reqpool_broker.__main__ import read_checked
from reqpool_contract.errors import UsageError


def test_a_place_that_went_with_the_supervisor_is_said_to_be_gone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_checked(tmp_path / "gone")
