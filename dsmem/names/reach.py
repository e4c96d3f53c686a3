"""How the memory of servers is reached: through a context that the program has, or through contexts of the place."""

from __future__ import annotations

from dsmem import _core, errors
from dsmem.context import Context


class Reach:
    """Attaches to memory of servers. All methods may be called from any thread.

    Parameters
    ----------
    context : Context, optional
        Through which all of it is reached. By default one on tcp, and one for each other fabric by which some of it is
        reached: they are opened when they are needed, and closed with this object.

    Attributes
    ----------
    context : Context
        The one that was given, or the one on tcp.
    """

    def __init__(self, context: _core.Context | None = None) -> None:
        self._is_given = context is not None
        self.context = _opened("tcp") if context is None else context
        self._others: dict[str, Context] = {}

    def attach(self, descriptor: bytes, address: str, timeout: float | None = None) -> _core.Remote:
        """Attach to memory at an address, which an exception names."""
        try:
            return self.context.attach(descriptor, timeout=timeout)
        except errors.InvalidArgumentError:
            ways = [way.fabric for way in _core.Descriptor(descriptor).ways]
            ours = sorted({each.fabric.removeprefix("fault+") for each in self.context.fabrics})
            if not ways or set(ways) & set(ours):
                raise
            if self._is_given:
                text = f"memory at {address} is reached by {' or '.join(ways)}, not by {' or '.join(ours)}"
                remedy = f"dsmem.connect({address!r}, context=dsmem.Context({ways[0]!r}))"
                raise errors.InvalidArgumentError(f"{text}; {remedy}") from None
        return self._other(ways[0]).attach(descriptor, timeout=timeout)

    def _other(self, fabric: str) -> Context:
        found = self._others.get(fabric)
        if found is None:
            made = _opened(fabric)
            found = self._others.setdefault(fabric, made)
            if found is not made:  # another thread, or a signal's handler, has been faster
                made.close()
        return found

    def close(self) -> None:
        """Close the contexts that are its own."""
        for context in list(self._others.values()):
            context.close()
        if not self._is_given:
            self.context.close()


def _opened(fabric: str) -> Context:
    """Open a context of which the program does not know. It has no memory that others reach."""
    context = Context(fabric, listen="127.0.0.1")
    context._of_cluster = True
    return context
