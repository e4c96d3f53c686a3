"""What a name may be, and what every place of names can do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from dsmem import errors
from dsmem.memory import Memory, Opened

Lifetime = Literal["name", "creator"]
Format = Callable[[memoryview], None]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")


def check_name(name: object) -> str:
    """Refuse what is no name.

    Parameters
    ----------
    name : str
        1 to 200 letters, digits or any of ``. _ - +``, beginning with a letter or digit.

    Returns
    -------
    str
        The name, and no object of a class derived from str: formatting that gives whatever its author wants.

    Raises
    ------
    InvalidNameError
        It is none.
    """
    if isinstance(name, str):
        plain = str.__str__(name)
        if _NAME.fullmatch(plain):
            return plain
    raise errors.InvalidNameError(f"{name!r:.230}")


@dataclass(frozen=True)
class NameInfo:
    """What :meth:`dsmem.Cluster.list` tells of a name.

    Attributes
    ----------
    name : str
        The name.
    kind : str
        "segment", "queue", "lock" and so on; "corrupt" for memory that is not an object, "other version" for an object
        of another release, "unreadable" without the right to read.
    nbytes : int
        Memory that it takes, in bytes.
    owner : str
        The user who owns it; with the creator's pid if ``lifetime`` is "creator".
    created : float
        Time of creation, in seconds since 1970.
    lifetime : str
        "name" (until it is unlinked) or "creator" (until its creator closes the cluster or ends).
    left : bool
        Whether its creator is dead, so that :meth:`dsmem.Cluster.gc` and the next process that connects remove it.
    """

    name: str
    kind: str
    nbytes: int
    owner: str
    created: float
    lifetime: str
    left: bool = False


class Names(Protocol):
    """A place of names. All methods may be called from any thread."""

    @property
    def is_mapped(self) -> bool:
        """Whether whoever can use an object has it mapped."""

    def attach(self, name: str, kind: str, readonly: bool) -> Memory:
        """Raise NameNotFoundError, AccessDeniedError, CorruptError, VersionError or MismatchError."""

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
        """What open_ makes of the memory, which it gets before anybody else can; only then it has its name.

        Raise what open_ raises, NameExistsError, OutOfMemoryError or AccessDeniedError; then nothing is left.
        """

    def infos(self) -> list[NameInfo]:
        """All names, sorted."""

    def unlink(self, name: str, number: int = 0) -> None:
        """Remove the name, of the object with this id only unless it is 0. NameNotFoundError, AccessDeniedError."""

    def gc(self) -> list[str]:
        """Remove what dead creators have left; returns those names."""

    def close(self) -> None:
        """Names that were to go with this place go."""
