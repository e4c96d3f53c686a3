"""What the policy of a coordinator is told, and what it wants done."""

from __future__ import annotations

from dataclasses import dataclass

from dsmem.membership.standing import NONE, Standing
from dsmem.membership.state import Copy, Node, Place

# ---- events ----


@dataclass(frozen=True)
class Joined:
    """A node has registered.

    ``seen``: the latest standing of a coordinator that it has heard of. ``was_known``: that coordinator has asked this
    number for something, so its state had the node.
    """

    node: Node
    seen: Standing = NONE
    was_known: bool = False


@dataclass(frozen=True)
class Heard:
    """A node has answered."""

    node: int


@dataclass(frozen=True)
class Silent:
    """A node does not answer, refuses connections, or is of no use though it answers, for this reason."""

    node: int
    reason: str = ""


@dataclass(frozen=True)
class Gone:
    """Another process has the node's address: its memory is gone."""

    node: int


@dataclass(frozen=True)
class Drained:
    """An operator wants a node to have no copies, or takes that back."""

    node: int
    leaving: bool


@dataclass(frozen=True)
class Outdated:
    """A node has heard of a later state than that which this coordinator began with."""

    reason: str


@dataclass(frozen=True)
class Created:
    """A client wants a store."""

    id: int
    cluster: str
    name: str
    shape: tuple[int, int, int, int]  # page size, pages, members, replicas
    time: float  # seconds since 1970
    extents: int = 1


@dataclass(frozen=True)
class Removed:
    """A client has removed a store."""

    store: int


@dataclass(frozen=True)
class Closed:
    """A copy was made, or closed to all clients; its memory has a new descriptor."""

    store: int
    epoch: int
    node: int
    descriptor: bytes
    extent: int = 0


@dataclass(frozen=True)
class Refused:
    """A node has answered that it can't make or close the copy.

    ``lost``: it has none of this store. ``no_room``: it has no memory for it. ``making``: which one was to be made, or
    0 if it was to be closed.
    """

    store: int
    epoch: int
    node: int
    reason: str
    lost: bool = False
    extent: int = 0
    no_room: bool = False
    making: int = 0


@dataclass(frozen=True)
class Recovered:
    """The copies of the epoch are equal, and say the epoch."""

    store: int
    epoch: int


@dataclass(frozen=True)
class Failed:
    """The recovery has failed."""

    store: int
    epoch: int
    reason: str


@dataclass(frozen=True)
class Due:
    """The time has come that :class:`WakeAt` has named."""

    store: int
    epoch: int


@dataclass(frozen=True)
class GivenBack:
    """A client reads under a lease no more."""

    store: int
    lease: int


@dataclass(frozen=True)
class Dropped:
    """A node has no copy of the store any more that was made by then."""

    store: int
    node: int
    making: int
    extent: int = 0


@dataclass(frozen=True)
class Filled:
    """A new copy has all pages but for a few that change."""

    store: int
    epoch: int
    node: int
    extent: int = 0


@dataclass(frozen=True)
class FillFailed:
    """A new copy can't be filled."""

    store: int
    epoch: int
    node: int
    extent: int = 0


Event = (
    Joined
    | Heard
    | Silent
    | Gone
    | Drained
    | Outdated
    | Created
    | Removed
    | Closed
    | Refused
    | Recovered
    | Failed
    | Due
    | GivenBack
    | Dropped
    | Filled
    | FillFailed
)

# ---- actions ----


@dataclass(frozen=True)
class Save:
    """Write the state to disk, which counts how often. Nothing that follows is done before."""


@dataclass(frozen=True)
class Stop:
    """Decide nothing any more."""

    reason: str


@dataclass(frozen=True)
class Watch:
    """Ask the node all the time whether it is there."""

    node: Node


@dataclass(frozen=True)
class Forget:
    """Ask it no longer."""

    node: int


@dataclass(frozen=True)
class Make:
    """Make a copy at the node."""

    store: int
    epoch: int
    copy: Copy
    making: int


@dataclass(frozen=True)
class Close:
    """Close the copy at the node to all clients."""

    store: int
    epoch: int
    node: int
    extent: int = 0


@dataclass(frozen=True)
class Recover:
    """Make the copies equal, and let them say the epoch.

    ``fresh``: a copy that was filled. It gets the rest, and belongs to the epoch then. ``moved``: where the copy is in
    whose place it comes. That one is recovered with the others, and does not belong to the epoch.
    """

    store: int
    epoch: int
    copies: tuple[Copy, ...]
    fresh: Copy | None = None
    moved: Place | None = None


@dataclass(frozen=True)
class Fill:
    """Fill a new copy while clients use the others."""

    store: int
    epoch: int
    source: Copy
    copy: Copy


@dataclass(frozen=True)
class Drop:
    """Let the node drop its copy, if it was made by then."""

    store: int
    node: int
    making: int
    extent: int = 0


@dataclass(frozen=True)
class WakeAt:
    """Tell :class:`Due` at that time."""

    store: int
    epoch: int
    at: float


Action = Save | Stop | Watch | Forget | Make | Close | Recover | Fill | Drop | WakeAt
