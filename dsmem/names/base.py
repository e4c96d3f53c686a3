"""Valid names, and the interface of a place for names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from dsmem import errors
from dsmem.memory import Memory, Opened

Lifetime = Literal["name", "creator"]
Format = Callable[[memoryview], None]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")


def check_name(name: object) -> str:
    """Check a name.

    Parameters
    ----------
    name : str
        1 to 200 letters, digits or any of ``. _ - +``, beginning with a letter or digit.

    Returns
    -------
    str
        The name as a plain str. Formatting an instance of a derived class could give any text.

    Raises
    ------
    InvalidNameError
        The argument is not a valid name.
    """
    if isinstance(name, str):
        plain = str.__str__(name)
        if _NAME.fullmatch(plain):
            return plain
    raise errors.InvalidNameError(f"{name!r:.230}")


def check_cluster(name: object) -> str:
    """Check the name of a cluster, as :func:`check_name` does, and say how the address of a server is written."""
    if isinstance(name, str) and ":" in name:
        text = f"{name!r:.230} is no name of a cluster; the address of one at a server is tcp://HOST:PORT/NAME"
        raise errors.InvalidNameError(text)
    return check_name(name)


@dataclass(frozen=True)
class NameInfo:
    """What :meth:`dsmem.Cluster.list` returns for each name.

    Attributes
    ----------
    name : str
        The name.
    kind : str
        "segment", "queue", "lock" and so on; "corrupt" for memory that is not an object, "other version" for an object
        of another release, "unreadable" without the right to read.
    nbytes : int
        Size of its memory, in bytes.
    owner : str
        The user that owns it, and the creator's pid if ``lifetime`` is "creator".
    created : float
        Time of creation, in seconds since 1970.
    lifetime : str
        "name" (until it is unlinked) or "creator" (until its creator closes the cluster or ends).
    left : bool
        Whether its creator is dead. :meth:`dsmem.Cluster.gc` and the next process that connects remove such a name.
    """

    name: str
    kind: str
    nbytes: int
    owner: str
    created: float
    lifetime: str
    left: bool = False


class OneNode:
    """A place with a single memory node."""

    nodes = 1

    def coordinates(self, timeout: float | None = None) -> bool:
        """Whether a coordinator has the stores of this place."""
        return False

    def refuse_coordinator(self) -> None:
        """Do nothing: no list of addresses names one."""

    def identity(self) -> int:
        """Return 0: where there is one node, none is taken for another."""
        return 0

    def node(self, number: int) -> Names:
        """Return the place itself."""
        place: Any = self
        names: Names = place
        return names


class Names(Protocol):
    """A place for names. All methods may be called from any thread."""

    @property
    def nodes(self) -> int:
        """How many memory nodes it has. Names are at the first; any may have copies of a store."""

    def coordinates(self, timeout: float | None = None) -> bool:
        """Whether a coordinator has the stores of this place. timeout: how long it is waited for, at least 1 s."""

    def refuse_coordinator(self) -> None:
        """Raise InvalidArgumentError if the place is a list of nodes, and the first one is a coordinator."""

    def identity(self) -> int:
        """Return a number of the memory in which the names are, the same for all that reach it; 0: it is not known."""

    def node(self, number: int) -> Names:
        """Return the names that a memory node has, from 0 on.

        Raise what a connection to it raises.
        """

    @property
    def is_mapped(self) -> bool:
        """Whether every process that uses an object has it mapped."""

    def attach(self, name: str, kind: str, readonly: bool, timeout: float | None = None) -> Memory:
        """Attach to an object. timeout: seconds in which another process must answer, where one is asked.

        Raise NameNotFoundError, AccessDeniedError, CorruptError, VersionError, MismatchError or TimeoutError.
        """

    def make(
        self,
        name: str,
        kind: str,
        nbytes: int,
        format: Format,
        mode: int | None,
        lifetime: Lifetime,
        open_: Callable[[Memory], Opened],
    ) -> Opened:
        """Create an object, call open_ with its memory, and only then give it the name. Returns the result of open_.

        No other process can reach the memory before that. Raise what open_ raises, NameExistsError, OutOfMemoryError or
        AccessDeniedError; then nothing remains.
        """

    def infos(self) -> list[NameInfo]:
        """Return all names, sorted."""

    def unlink(self, name: str, number: int = 0) -> None:
        """Remove the name. If number is not 0, only if it is the id of the object that has the name.

        Raise NameNotFoundError or AccessDeniedError.
        """

    def gc(self) -> list[str]:
        """Remove the names of dead creators, and return them."""

    def close(self) -> None:
        """Remove the names whose lifetime ends with this place."""
