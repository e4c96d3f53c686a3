"""The checker of strict serialisability: it names what is wrong in bad histories, and finds nothing in good ones."""

import random

import pytest
from serialisable import Append, Outcome, Read, Transaction, anomalies

X, Y = 1, 2
ABORTED, UNKNOWN = Outcome.ABORTED, Outcome.UNKNOWN


def append(key, value):
    return Append(key, value)


def read(key, *values):
    return Read(key, values)


def at_once(*transactions):
    """All at the same time, so that real time orders none of them."""
    return [Transaction(0, 1000, ops) for ops in transactions]


def in_turn(*transactions):
    return [Transaction(10 * i, 10 * i + 5, ops) for i, ops in enumerate(transactions)]


BAD = {
    "G0": at_once(
        (append(X, 1), append(Y, 1)),
        (append(X, 2), append(Y, 2)),
        (read(X, 1, 2), read(Y, 2, 1)),
    ),
    "G1a": [
        Transaction(0, 10, (append(X, 1),), ABORTED),
        Transaction(0, 10, (read(X, 1),)),
    ],
    "G1b": at_once((append(X, 1), append(X, 2)), (read(X, 1),), (read(X, 1, 2),)),
    "G1c": at_once((append(X, 1), read(Y, 1)), (append(Y, 1), read(X, 1))),
    "G-single": at_once((append(X, 1), append(Y, 1)), (read(X, 1), read(Y)), (read(Y, 1),)),
    "G2": at_once((read(X), append(Y, 1)), (read(Y), append(X, 1)), (read(X, 1), read(Y, 1))),
    "lost update": at_once((read(X), append(X, 1)), (read(X), append(X, 2)), (read(X, 2),)),
    "stale read": in_turn((append(X, 1),), (read(X),), (read(X, 1),)),
    "real-time violation": [
        Transaction(0, 5, (append(X, 1),)),
        Transaction(10, 15, (append(X, 2),)),
        Transaction(20, 25, (read(X, 2, 1),)),
    ],
    "G2 in real time": [
        Transaction(0, 5, (append(Y, 1),)),
        Transaction(10, 15, (read(X),)),
        Transaction(0, 20, (read(Y), append(X, 1))),
        Transaction(30, 35, (read(X, 1), read(Y, 1))),
    ],
    "garbage": at_once((append(X, 1),), (read(X, 7),)),
    "duplicate": at_once((append(X, 1),), (read(X, 1, 1),)),
    "incompatible order": at_once((append(X, 1),), (append(X, 2),), (read(X, 1, 2),), (read(X, 2, 1),)),
    "internal": at_once((read(X), append(X, 1), read(X)), (read(X, 1),)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_histories(name):
    found = anomalies(BAD[name])
    assert name in [each.name for each in found]
    assert all(each.transactions and each.text for each in found)
    if name not in ("G1a", "G1b", "garbage", "duplicate", "internal"):  # whose values others may have read, too
        assert {each.name for each in found} <= {name, "G-single"}


@pytest.mark.parametrize(
    ("rest", "bad"),
    [
        ((), False),  # it took place, or did not
        ((read(X, 1),), False),
        ((read(X, 1), read(Y)), True),  # half of it
        ((read(X, 1, 2), read(Y, 1)), True),  # a value that was never appended
    ],
)
def test_unknown_outcomes(rest, bad):
    unknown = Transaction(0, None, (read(X), append(X, 1), append(Y, 1)), UNKNOWN)
    assert bool(anomalies([unknown, *in_turn(rest, (read(Y, 1),) if rest == (read(X, 1),) else ())])) is bad


def test_what_an_unknown_one_has_read_counts_if_it_took_place():
    unknown = Transaction(20, None, (read(X), append(Y, 1)), UNKNOWN)
    before = in_turn((append(X, 1),))
    assert not anomalies([*before, unknown, Transaction(30, 40, (read(X, 1), read(Y)))])
    assert anomalies([*before, unknown, Transaction(30, 40, (read(X, 1), read(Y, 1)))])


def test_an_acknowledged_value_that_is_not_found():
    [found] = anomalies(in_turn((append(X, 1),), (read(X),)))
    assert found.name == "stale read" and found.transactions in ((0, 1), (1, 0))
    assert not anomalies(at_once((append(X, 1),), (read(X),)))
    assert not anomalies([Transaction(0, None, (append(X, 1),), UNKNOWN), Transaction(5, 6, (read(X),))])


def played(dice, count, *, keys, width, careless=0.0):
    """What an executor does that takes one transaction after the other, each at some moment between begin and end.

    A careless one has looked at the lists for what it appends before another transaction, and overwrites that.
    """
    lists, history, next_value, before = {}, [], 0, {}
    for i in range(count):
        outcome = dice.choices(list(Outcome), (8, 1, 1))[0]
        takes_place = outcome is Outcome.COMMITTED or (outcome is Outcome.UNKNOWN and dice.random() < 0.5)
        base = before if dice.random() < careless else lists
        before, now, ops = dict(lists), dict(base), []
        for _ in range(dice.randrange(1, 5)):
            key = dice.randrange(keys) + i // 50 * keys  # lists stay short
            if dice.random() < 0.5:
                next_value += 1
                now[key] = (*now.get(key, ()), next_value)
                ops.append(Append(key, next_value))
            else:
                ops.append(Read(key, now.get(key, ())))
        if takes_place:
            lists |= {op.key: now[op.key] for op in ops if isinstance(op, Append)}
        begin, end = 10 * i - dice.randrange(width), 10 * i + dice.randrange(width)
        history.append(Transaction(begin, None if outcome is Outcome.UNKNOWN else end, tuple(ops), outcome))
    dice.shuffle(history)
    return history


def test_good_histories():
    for seed in range(10_000):
        dice = random.Random(seed)
        history = played(dice, dice.randrange(1, 12), keys=3, width=dice.choice((5, 40, 400)))
        assert not anomalies(history), seed


def test_a_long_good_history():
    assert not anomalies(played(random.Random(5), 10_000, keys=8, width=100))


def test_careless_executors_are_found():
    bad = [anomalies(played(random.Random(seed), 200, keys=2, width=40, careless=0.2)) for seed in range(100)]
    assert all(bad)
    assert {"stale read", "lost update", "G-single"} <= {each.name for found in bad for each in found}
