"""How tasks of event loops make calls that wait: each in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from dsmem import errors

_T = TypeVar("_T")


def _quietly(undo: Callable[[Any], object], result: Any) -> None:
    with contextlib.suppress(errors.DsmemError):
        undo(result)


async def in_thread(call: Callable[[], _T], undo: Callable[[_T], object] | None = None) -> _T:
    """Make a call in a thread of its own: those of the loop are the program's, and the end of the loop waits for them.

    undo: what is done with a result that no task takes.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def tell(result: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_result(result) if error is None else future.set_exception(error)
        elif error is None and undo is not None:
            threading.Thread(target=_quietly, args=(undo, result), daemon=True).start()

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(tell, result, error)
        except RuntimeError:  # the loop is closed
            if error is None and undo is not None:
                _quietly(undo, result)

    threading.Thread(target=run, name="dsmem-task", daemon=True).start()
    return await future
