"""Grants are worked out only where they may change."""

from __future__ import annotations

import pytest

from reqpool_broker.grant_table import GrantTable
from reqpool_broker.origin import Origin
from reqpool_broker.upstream import Upstream
from reqpool_broker.worker import Worker
from reqpool_contract.wire import KindInfo
from support.storm import MIXES, Mix, Storm


def levels(upstream: Upstream) -> dict[tuple[Worker, str], tuple[int, int, int]]:
    return {who: (grant.number, grant.slots, grant.reserved) for who, grant in upstream.grants.items()}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.name)
def test_grants_that_are_not_worked_out_would_have_stayed_as_they_are(
    mix: Mix, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assign, assign_to = GrantTable.assign, GrantTable.assign_to
    saved = 0

    def checked(table: GrantTable, origin: Origin, owners: list[Worker], kind: KindInfo) -> None:
        nonlocal saved
        with monkeypatch.context() as patch:
            worked_out: list[Upstream] = []
            patch.setattr(GrantTable, "assign", lambda _, upstream: worked_out.append(upstream))
            assign_to(table, origin, owners, kind)
        if not worked_out:
            saved += 1
            before = (levels(origin.upstream), origin.upstream.limit)
            assign(table, origin.upstream)
            assert (levels(origin.upstream), origin.upstream.limit) == before
        else:
            assign(table, origin.upstream)

    monkeypatch.setattr(GrantTable, "assign_to", checked)
    Storm(seed, mix).run()
    assert saved or mix.name != "connections of depth 1"
