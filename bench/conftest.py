"""Benches: contestants take turns, one short round each, over and over; so what disturbs one disturbs all.

A turn begins with a tenth of its calls untimed, because the one before has had the caches. A bench runs on
pytest-benchmark, which times dsmem's rounds (the peers' lie in its set-up), and puts the figures of all contestants
into extra_info; report.py says what a figure is. The owner of the memory is always another process.
"""

import platform
import statistics
import timeit

import memcpy
import mpi
import pytest
import queues
import report

import dsmem
from dsmem.cli.owner import owner

NBYTES = 64 << 20
# A turn is far shorter than a slice of the scheduler: then what else runs takes few of the turns, and not the median.
SHORT = {"rounds": 25, "seconds": 0.0003}
LONG = {"rounds": 201, "seconds": 0.0004}
QUEUES_SHORT = {"rounds": 3, "seconds": 0.005}  # it takes two processes a while to find their pace
QUEUES_LONG = {"rounds": 31, "seconds": 0.03}
_peers = {}


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="many rounds, for the tables; else a few seconds in all")


class Race:
    """One figure: contestants are functions (number of calls) -> seconds."""

    def __init__(self, benchmark, rounds, seconds):
        self.benchmark, self.rounds, self.seconds = benchmark, rounds, seconds
        benchmark.extra_info["figures"] = []

    def _number(self, run):
        run(1)  # a contestant that has to connect first does it now
        number = 1
        while (spent := run(number)) < self.seconds / 2:
            number = max(number * 2, int(number * self.seconds / max(spent, 1e-9)) // 2)
        # A disturbed trial would give this contestant shorter rounds than the others, which disturbances then miss.
        spent = min(spent, *(run(number) for _ in range(4)))
        return max(1, round(number * self.seconds / spent))

    def run(self, name, unit, contestants, *, amount=1, target=None, relative=False, bound=None):
        """Amount: what one call does, in the unit's numerator (Mops, GB); for unit µs the time itself is the figure."""
        numbers = {contestant: self._number(run) for contestant, run in contestants.items()}
        times = {contestant: [] for contestant in contestants}

        def warm_up(contestant):
            contestants[contestant](max(1, numbers[contestant] // 10))

        def turn(contestant):
            times[contestant].append(contestants[contestant](numbers[contestant]) / numbers[contestant])

        def others():
            for contestant in contestants:
                if contestant != "dsmem":
                    warm_up(contestant)
                    turn(contestant)
            warm_up("dsmem")

        self.benchmark.pedantic(turn, args=("dsmem",), setup=others, rounds=self.rounds, iterations=1)
        value = (lambda t: t * 1e6) if unit == "µs" else (lambda t: amount / t)
        of = {}
        for contestant, spent in times.items():
            low, median, high = sorted(map(value, statistics.quantiles(spent, n=4)))
            of[contestant] = {"median": median, "quartiles": [low, high], "calls_per_round": numbers[contestant]}
        figure = {"name": name, "unit": unit, "better": "low" if unit == "µs" else "high", "of": of}
        figure |= {"target": target, "relative": relative, "bound": bound}
        self.benchmark.extra_info["figures"].append(figure)


@pytest.fixture
def race(benchmark, request):
    return Race(benchmark, **(LONG if request.config.getoption("long") else SHORT))


@pytest.fixture
def queue_race(benchmark, request):
    return Race(benchmark, **(QUEUES_LONG if request.config.getoption("long") else QUEUES_SHORT))


@pytest.fixture(scope="session")
def at_hand():
    """Which of the classes of queues.py can run here, as a function of their list."""

    def choose(*classes):
        chosen = []
        for cls in classes:
            reason, what = queues.missing(cls)
            if reason or what:
                _peers[cls.name] = reason or what
            if not reason:
                chosen.append(cls)
        return chosen

    return choose


@pytest.fixture(scope="session")
def context():
    with dsmem.Context("shm") as context:
        yield context


@pytest.fixture(scope="session")
def remote(context):
    """64 MiB of another process, all of it mapped."""
    with owner("shm", NBYTES) as raw, context.attach(raw) as remote:
        remote.array()[:] = 0
        yield remote


@pytest.fixture(scope="session")
def copy(tmp_path_factory):
    """See memcpy.py."""
    return memcpy.build(tmp_path_factory.mktemp("memcpy"))


@pytest.fixture(scope="session")
def mpi_time():
    """See mpi.py; None where it can't run."""
    reason = mpi.missing()
    if reason:
        _peers["mpi4py"] = f"without mpi4py: {reason}"
        yield None
        return
    with mpi.ranks() as (time, library):
        _peers["mpi4py"] = f"mpi4py over {library}"
        yield time


@pytest.fixture
def by_mpi(mpi_time):
    """The contestant of that name, as a dict to be joined with the others."""

    def contestant(name):
        return {"mpi4py": lambda number: mpi_time(name, number)} if mpi_time else {}

    return contestant


@pytest.fixture(scope="session")
def python():
    """A contestant that executes a statement of Python."""

    def contestant(statement, **names):
        return timeit.Timer(statement, globals=names).timeit

    return contestant


# ---- what is written ----


def pytest_benchmark_update_machine_info(config, machine_info):
    cpu = machine_info["cpu"]
    machine_info.clear()
    machine_info.update(
        cpu=cpu.get("brand_raw", platform.machine()),
        cores=cpu.get("count"),
        kernel=platform.release().split("-")[0],
        python=platform.python_version(),
        fabric="shm",
    )


def pytest_benchmark_update_commit_info(config, commit_info):
    kept = {"id": commit_info.get("id", "unknown"), "dirty": commit_info.get("dirty", True)}
    commit_info.clear()
    commit_info.update(kept)


def pytest_benchmark_update_json(config, benchmarks, output_json):
    output_json["machine_info"]["peers"] = ", ".join(_peers.values())
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"].pop("data", None)
    config.stash[_result] = output_json


_result = pytest.StashKey()


def pytest_terminal_summary(terminalreporter, config):
    document = config.stash.get(_result, None)
    if document:
        terminalreporter.write_line("")
        terminalreporter.write_line(report.heading(document))
        terminalreporter.write_line("")
        terminalreporter.write_line(report.table(document))
