# Included by _core.pyx before store.pxi: what a handle of a store counts of its calls, and how long they take.
#
# All of it is changed under the GIL, so without a lock. A call is counted when it has succeeded. Where memory is
# mapped, one of SAMPLE_EACH calls of a kind is timed, and every one where it is not: there a call is a round trip.
# A time goes into one of TIMES classes, four for each power of two: those of a class differ by a quarter at most.

cdef extern from *:
    """
    static inline int dsmem_log2(unsigned long long v) { return 63 - __builtin_clzll(v); }
    """
    int log2_of "dsmem_log2"(unsigned long long v) noexcept nogil

cdef enum:
    CALL_READ
    CALL_VERSION
    CALL_WRITE
    CALL_COMPARE_WRITE
    CALL_READ_MANY
    CALL_WRITE_MANY
    CALL_ALLOCATE
    CALL_FREE
    CALL_SNAPSHOT
    CALL_COMMIT
    CALLS
    TIMES = 160  # the last one also has what takes longer than 18 minutes
    SAMPLE_EACH = 64

cdef tuple CALL_NAMES = ("read", "version", "write", "compare_write", "read_many", "write_many", "allocate", "free",
                         "snapshot", "commit")
cdef tuple OF_MANY = (CALL_READ_MANY, CALL_WRITE_MANY, CALL_ALLOCATE)  # whose pages are counted, too

cdef struct StoreCalls:
    uint64_t skip  # calls whose number has a bit of these are not timed
    uint64_t calls[CALLS]
    uint64_t pages[CALLS]
    uint64_t conflicts
    uint64_t unknown
    uint64_t failed
    uint64_t times[CALLS][TIMES]


cdef int64_t clock_now() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t> now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef inline int64_t call_begins(StoreCalls *n, int call) noexcept:
    """When it begins, if it is to be timed, or 0."""
    return 0 if n.calls[call] & n.skip else clock_now()


cdef inline int time_class(uint64_t ns) noexcept:
    cdef int power
    if ns < 4:
        return <int> ns
    power = log2_of(ns)
    return min((power - 1) * 4 + <int> ((ns >> (power - 2)) & 3), TIMES - 1)


cdef inline uint64_t least_of(int which) noexcept:
    """The shortest time of a class, in nanoseconds."""
    return <uint64_t> which if which < 4 else <uint64_t> (4 + (which & 3)) << ((which >> 2) - 1)


cdef inline void call_ends(StoreCalls *n, int call, uint64_t pages, int64_t began) noexcept:
    """It has succeeded."""
    n.calls[call] += 1
    n.pages[call] += pages
    if began:
        n.times[call][time_class(<uint64_t> (clock_now() - began))] += 1


cdef inline uint64_t pages_done(const uint8_t *codes, size_t n) noexcept:
    """Of those of a call that has succeeded: its status names the others."""
    cdef uint64_t done = 0
    cdef size_t i
    if codes == NULL:
        return n
    for i in range(n):
        done += codes[i] == 0
    return done


cdef void call_failed(StoreCalls *n, int rc) noexcept:
    if rc == -c.DSM_ECONFLICT:
        n.conflicts += 1
    elif rc == -c.DSM_EUNKNOWN:
        n.unknown += 1
    else:
        n.failed += 1


cdef dict counts_as_dict(const StoreCalls *n):
    cdef dict found = {}
    cdef int call
    for call in range(CALLS):
        found[CALL_NAMES[call]] = n.calls[call]
        if call in OF_MANY:
            found[CALL_NAMES[call] + "_pages"] = n.pages[call]
    return found


def latencies_of(times):
    """Samples and percentiles of calls, in seconds, from how many times there are of each class."""
    cdef dict found = {}
    for name, classes in times.items():
        found[name] = {"samples": sum(classes.values()), **{f"p{part}": percentile(classes, part) for part in (50, 99)}}
    return found


cdef double percentile(dict classes, int part):
    """The middle of the class in which it is."""
    cdef uint64_t least = 0
    left = sum(classes.values()) * part / 100
    for which in sorted(classes):
        least = least_of(which)
        left -= classes[which]
        if left <= 0:
            return (least + least_of(which + 1)) / 2e9
    return least / 1e9


cdef dict times_as_dict(const StoreCalls *n):
    """Of each call that was timed, how many times there are of each class."""
    cdef dict found = {}, classes
    cdef int call, which
    for call in range(CALLS):
        classes = {}
        for which in range(TIMES):
            if n.times[call][which]:
                classes[which] = n.times[call][which]
        if classes:
            found[CALL_NAMES[call]] = classes
    return found
