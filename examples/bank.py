"""A bank in a store of pages: processes move money between accounts, and one of them is killed in the middle.

Each transfer is a transaction: it happens as a whole or not at all, whenever its process dies. The sum stays.
"""

import multiprocessing
import os
import random

import dsmem

ACCOUNTS, CLERKS, TRANSFERS, AMOUNT = 40, 3, 2000, 100
PAGE = 256


def page(amount):
    return amount.to_bytes(8, "little", signed=True).ljust(PAGE)


def amount(data):
    return int.from_bytes(data[:8], "little", signed=True)


def work(ref, ids, control):
    with dsmem.attach(ref) as store:
        control.send("begun")
        for _ in range(TRANSFERS):
            mine, yours = random.sample(ids, 2)

            def move(tx, mine=mine, yours=yours):
                tx.write(mine, page(amount(tx.read(mine)) - 1))
                tx.write(yours, page(amount(tx.read(yours)) + 1))

            store.run(move)  # again, if another clerk has changed one of the two meanwhile


def main():
    spawn = multiprocessing.get_context("spawn")
    with dsmem.connect("examples") as cluster:
        name = f"bank-{os.getpid()}"  # so that two runs at a time don't collide
        store = cluster.store(name, page_size=PAGE, capacity=ACCOUNTS * PAGE, create=True, lifetime="creator")
        ids = store.allocate_many(ACCOUNTS).tolist()
        store.write_many(ids, page(AMOUNT) * ACCOUNTS)
        control, theirs = spawn.Pipe()
        clerks = [spawn.Process(target=work, args=(store.ref, ids, theirs)) for _ in range(CLERKS)]
        for clerk in clerks:
            clerk.start()
        for _ in clerks:
            control.recv()
        clerks[0].kill()
        for clerk in clerks:
            clerk.join()
        total = sum(amount(each.tobytes()) for each in store.snapshot(ids))
        print(f"{total} in {ACCOUNTS} accounts, after a clerk was killed")
        assert total == ACCOUNTS * AMOUNT
        store.close()


if __name__ == "__main__":
    main()
