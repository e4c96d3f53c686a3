"""A pool of workers: tasks from a queue, and a file that only one of them at a time may change.

The queue has many consumers, and each task goes to one of them. One worker is killed in the middle. The tasks that it
has not taken go to the others. If it held the lock, the next worker gets the lock with ``recovered`` set.
"""

import contextlib
import multiprocessing
import os
import tempfile
from pathlib import Path

import dsmem

TASKS, WORKERS = 2000, 3
ID = os.getpid()  # part of names, so that two runs at a time don't collide


def work(tasks, lock, path):
    # 'with mutex' acquires the lock, so closing() closes the handle.
    with dsmem.attach(tasks) as queue, contextlib.closing(dsmem.attach(lock)) as mutex:
        try:
            while True:
                task = int(queue.get())
                with mutex:
                    if mutex.recovered:  # the file is replaced atomically, so it is intact after any death
                        print("a worker has died with the lock")
                    total = int(path.read_text()) + task
                    scratch = path.with_suffix(".new")
                    scratch.write_text(str(total))
                    scratch.replace(path)
        except dsmem.errors.ShutDownError:
            pass


def main():
    spawn = multiprocessing.get_context("spawn")
    with dsmem.connect("examples") as cluster, tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "total")
        path.write_text("0")
        queue = cluster.queue(f"tasks-{ID}", create=True, consumers="many", lifetime="creator")
        lock = cluster.lock(f"file-{ID}", create=True, lifetime="creator")
        workers = [spawn.Process(target=work, args=(queue.ref, lock.ref, path)) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        queue.put_many([b"%d" % task for task in range(TASKS // 2)])
        while queue.qsize() > TASKS // 4:
            workers[0].join(0.001)
        workers[0].kill()
        queue.put_many([b"%d" % task for task in range(TASKS // 2, TASKS)])
        queue.shutdown()  # workers end when the queue is empty
        for worker in workers:
            worker.join()
        total = int(path.read_text())
        queue.unlink()
        lock.unlink()
    # The killed worker may have taken one task and not finished it.
    lost = sum(range(TASKS)) - total
    assert 0 <= lost < TASKS
    print(f"{TASKS} tasks by {WORKERS} workers, of which one was killed" + (f" with task {lost}" if lost else ""))


if __name__ == "__main__":
    main()
