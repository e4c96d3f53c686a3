"""A buffer pool that processes share: pages of a file are read from disk once, and then found by all of them.

A segment says which page of the store has which page of the file. It is the directory: one compare_swap enters a page,
so when two processes read the same one at once, the first is entered and the other frees its own.
"""

import multiprocessing
import os
import random
import tempfile
from pathlib import Path

import dsmem

PAGE, PAGES, READERS, LOOKS = 4096, 64, 3, 500
ID = os.getpid()


class Pool:
    """Pages of a file, by number."""

    def __init__(self, store, directory, path):
        self.store, self.directory, self.path, self.read_from_disk = store, directory, path, 0

    def page(self, number):
        pid = int(self.directory[number])
        if pid:
            return self.store.read(pid)
        with self.path.open("rb") as file:
            file.seek(number * PAGE)
            data = file.read(PAGE)
        self.read_from_disk += 1
        pid = self.store.allocate()
        self.store.write(pid, data)
        if self.directory.compare_swap(number, 0, pid) != 0:
            self.store.free(pid)
        return data


def look(store, directory, path, results):
    with dsmem.attach(store) as pages, dsmem.attach(directory) as ids, dsmem.attach(results) as queue:
        pool = Pool(pages, ids, path)
        for _ in range(LOOKS):
            number = random.randrange(PAGES)
            assert pool.page(number) == bytes([number]) * PAGE
        queue.put(b"%d" % pool.read_from_disk)


def main():
    spawn = multiprocessing.get_context("spawn")
    with dsmem.connect("examples") as cluster, tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "table")
        path.write_bytes(b"".join(bytes([number]) * PAGE for number in range(PAGES)))
        how = {"create": True, "lifetime": "creator"}
        # Room for the pages that are in the pool, and for one that each reader has just read.
        store = cluster.store(f"pool-{ID}", page_size=PAGE, capacity=(PAGES + READERS) * PAGE, **how)
        directory = cluster.segment(f"directory-{ID}", PAGES, "u8", **how)
        results = cluster.queue(f"results-{ID}", producers="many", **how)
        refs = store.ref, directory.ref, path, results.ref
        readers = [spawn.Process(target=look, args=refs) for _ in range(READERS)]
        for reader in readers:
            reader.start()
        total = sum(int(results.get(timeout=60)) for _ in readers)
        for reader in readers:
            reader.join()
        print(f"{READERS * LOOKS} looks at {PAGES} pages: {total} reads of the file")
        used = store.stat()
        assert PAGES >= used["pages"] - used["free"] > 0 and total < READERS * PAGES
        for handle in (store, directory, results):
            handle.close()


if __name__ == "__main__":
    main()
