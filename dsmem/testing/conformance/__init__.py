"""A suite of tests for every fabric: what an owner and its peers may rely on.

Import the tests into a test module, and provide a fixture or parameter ``fabric`` (a name or URL for
:class:`dsmem.Context`)::

    from dsmem.testing.conformance import *

Owner and peer are two contexts of one process, except where a process must die.
"""

from .fixtures import owner, peer, region, remote  # noqa: F401
from .lifetimes import *  # noqa: F403
from .ops import *  # noqa: F403
from .outcomes import *  # noqa: F403
from .pools import *  # noqa: F403
from .refusals import *  # noqa: F403
from .rights import *  # noqa: F403
from .unauthenticated import *  # noqa: F403
