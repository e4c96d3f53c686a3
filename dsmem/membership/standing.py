"""Which state of a coordinator is the latest: what each memory node remembers of it, and what it refuses.

A folder that was restored from a backup, or copied, does not know what was decided since. A node that has heard of it
obeys no coordinator that began with less. docs/protocols/epochs.md has the argument.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsmem import errors
from dsmem.names import wire
from dsmem.names.wire import Reader


@dataclass(frozen=True)
class Standing:
    """How far the state of a coordinator is, all on disk before it is told.

    Attributes
    ----------
    folder : int
        Of the state, drawn when the first coordinator began with it.
    run : int
        Of the process, drawn when it began.
    began : int
        How often the state had been written when the process read it.
    written : int
        How often it has been written now.
    """

    folder: int
    run: int
    began: int
    written: int

    def encode(self) -> bytes:
        """Return its fields in a request."""
        return b"".join(wire.number(each) for each in (self.folder, self.run, self.began, self.written))

    @classmethod
    def read(cls, fields: Reader) -> Standing:
        """Read them."""
        return cls(fields.number(), fields.number(), fields.number(), fields.number())

    def knows(self, other: Standing) -> bool:
        """Whether all that was decided at another time is known here: of the same process, or by what it has read."""
        return self.folder == other.folder and (self.run == other.run or self.began >= other.written)


#: What a node tells that has obeyed none.
NONE = Standing(0, 0, 0, 0)


class Witness:
    """What a memory node remembers of the coordinators that it has obeyed."""

    def __init__(self) -> None:
        self.seen = NONE

    def obey(self, standing: Standing, has_copies: bool) -> None:
        """Remember the standing that came with a request.

        Raises
        ------
        FencedError
            Its folder is older than what the node has heard of.
        ConflictError
            The node has copies for the coordinator of another folder.
        """
        seen = self.seen
        if standing.folder != seen.folder:
            if has_copies:
                text = "this memory node has copies of stores of a coordinator with another --state folder"
                raise errors.ConflictError(f"{text}; start that one, or this node again, which gives up its copies")
        elif not standing.knows(seen):
            raise errors.FencedError(older(seen.written, standing.began))
        elif standing.run == seen.run and standing.written < seen.written:
            return  # a request that comes late
        self.seen = standing


def older(seen: int, began: int) -> str:
    """Say why a coordinator may not decide anything."""
    return (
        f"the --state folder of this coordinator had been written {began} times when it began, and this memory node "
        f"knows of {seen} times: the folder was restored from a backup, or another coordinator has used a copy of it. "
        "Start the coordinator with the folder that was used last. If this is the one, start this memory node again. "
        "If that one is lost, so are its stores: end all memory nodes, and begin with an empty folder"
    )
