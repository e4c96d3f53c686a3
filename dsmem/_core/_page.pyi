from typing import NamedTuple

class PageMetadata(NamedTuple):
    """What a page says of its last change; :meth:`dsmem.Store.metadata` returns it.

    Attributes
    ----------
    version : int
        The version of the page, as :meth:`dsmem.Store.version` returns it.
    slot : int or None
        The place, from 0 on, that the client had among those of the store which wrote the page; errors name clients by
        it. It is given to another client when that one has closed its handle, or has died. None, like all that
        follows: the page was allocated, and not written since.
    epoch : int or None
        The lower 20 bits of the epoch in which it was written; 0 in a store without a coordinator. Each epoch gives
        the places of clients again.
    time : float or None
        When it was written, in seconds since 1970 by the clock of the writer's host, with a resolution of some
        milliseconds. Clocks of hosts differ: a later version may have an earlier time.
    transaction : int or None
        The lower 31 bits of the number of the transaction that wrote the page. Transactions of a slot are numbered in
        their order, across its clients, so pages of the same slot, epoch and number were written at one instant. None:
        it was not written by a transaction.
    """

    version: int
    slot: int | None
    epoch: int | None
    time: float | None
    transaction: int | None
