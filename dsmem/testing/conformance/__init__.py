"""One suite for every fabric: what an owner and its peers may rely on.

Import its tests into a module of your own and provide a fixture or parameter ``fabric`` (a name or URL that
:class:`dsmem.Context` takes)::

    from dsmem.testing.conformance import *

Owner and peer are two contexts of one process, except where a process must die.
"""

from .fixtures import owner, peer, region, remote  # noqa: F401
from .lifetimes import *  # noqa: F403
from .ops import *  # noqa: F403
from .refusals import *  # noqa: F403
from .strangers import *  # noqa: F403
