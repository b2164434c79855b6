"""``Pool.map``: one request per item, and how many of them are in flight at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, TypeVar

from reqpool_contract.errors import Code, UsageError

from .callback_runner import Handoff
from .dispatcher import Dispatcher
from .future import Future
from .refused_future import refused

Item = TypeVar("Item")
T = TypeVar("T")


def windowed(
    dispatcher: Dispatcher,
    method: Callable[..., Future[T]],
    items: Iterable[Item],
    window: int,
    options: Mapping[str, Any],
) -> Generator[tuple[Item, Future[T]], None, None]:
    """Submit one request per item and yield them as they end; see :meth:`.Pool.map`.

    As TCP's congestion control: half as many are in flight after a refusal, and one more for each window that
    was answered. Otherwise a slow upstream would have all items refused at once.
    """
    if type(window) is not int or window < 1:
        raise UsageError(f"window={window!r}: must be a number from 1")
    ended = Handoff()
    asked: dict[Future[T], tuple[Item, int]] = {}
    most, count, cut = float(window), 0, 0
    source = iter(items)
    exhausted = False
    try:
        while True:
            while not exhausted and len(asked) < int(most):
                try:
                    item = next(source)
                except StopIteration:
                    exhausted = True
                    break
                try:
                    count += 1
                    asked[method(item, callback=ended, block=True, **options)] = (item, count)
                except UsageError as error:
                    if dispatcher.closed:
                        raise
                    yield item, refused(error)
            if not asked:
                return
            if ended.empty():
                dispatcher.check_wait()
            future = ended.get()
            item, number = asked.pop(future)
            if future._code != Code.OVERLOADED:
                most = min(window, most + 1 / most)
            elif number > cut:  # not for those that were in flight at the last refusal
                most, cut = max(1.0, most / 2), count
            yield item, future
    finally:
        for future in asked:
            future.cancel()
