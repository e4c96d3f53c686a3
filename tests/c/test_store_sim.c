/*
 * The machines of a store (csrc/store) in a simulated world: many clients in one thread, one seed, virtual time. The
 * code that runs is the product's; the world decides in which order things happen, and a seed decides for the world.
 *
 * What the world does: it executes what is posted in pieces of at most 40 bytes, those of a READ or WRITE in any order,
 * READs at any time, WRITEs and compare-swaps of a client in the order in which they were posted, and those of
 * different clients interleaved. It breaks connections: what has been posted is executed later, or never, but not
 * after the next op of that client; answers are lost. It stops clients. It kills clients, whose posted ops may land
 * until a fence; only then is the death proven, and another client begins in that slot. Hints are kept by some. In
 * every third world a READ of words gives each byte of a word as it was at some moment of the READ.
 *
 * Of several copies some are lost for good in every other world, in which a recovery makes a store of the others
 * (store_epoch.h).
 *
 * What is checked. Each write has a value of its own, which fills the page. Versions give the order of the operations
 * on a page, so it is linearisable if: a version has one value and a value one version; an op that begins after another
 * has ended sees its version, or a later one; a write makes a later version than all ops that had ended when it began.
 * Transactions of several pages have an order with all others and with single operations (store_serial.h). Those whose
 * clients died were made as a whole, or not at all.
 * Of page ids: none is given twice, an op on a freed page fails, and fails only if it is freed. At the end: each frame
 * that a head names is whole, it is the same at all copies, and no two heads name one.
 *
 * Of several extents each copy is at a node of its own, so no order of ops is there by chance.
 *
 *   test_store_sim                       200 seeds with one copy, 200 with two, 100 with three; less with more extents
 *   test_store_sim COPIES FIRST N        N seeds from FIRST on; says the first that fails, and exits with 1
 *   test_store_sim COPIESxEXTENTS FIRST N
 *   test_store_sim COPIES FIRST N [traced] [clients=N] [steps=N] [without=WHAT,…]
 *                                        says each op that ends; in worlds with less (store_world.h)
 */
#include "store_epoch.h"
#include "store_told.h"

#include <stddef.h>

/* ---- clients ---- */

/* Closes what the dead client of the slot has left open, as csrc/store/store.c does, and takes the slot. */
static void take(struct client *c, uint32_t slot)
{
    for (uint64_t i = 0; i < shape.chunks * shape.extents; i++) {
        uint8_t *there = memory[first[i / shape.chunks]] + chunk_at(&shape, i % shape.chunks);
        uint64_t *word = (uint64_t *)(void *)there;
        if (chunk_state(*word) == CHUNK_OPEN && chunk_owner(*word) == slot + 1)
            *word = chunk_next(*word, 0, CHUNK_CLOSED);
    }
    for (uint32_t k = 0; k < nodes_left; k++) {
        uint64_t *word = (uint64_t *)(void *)(memory[k] + word_at(&shape, slot));
        if (tx_state(*word) == TX_PREPARED)
            *word = tx_word(tx_seq(*word), TX_ABORTED);
        c->words.at[k] = *word;
        *(uint64_t *)(void *)(memory[k] + slot_at(slot)) = c->env.mark + 1;
        if (tx_seq(c->words.at[k]) > c->words.seq)
            c->words.seq = tx_seq(c->words.at[k]);
    }
    c->env.slot = slot;
    c->env.freed = slot % 2 ? (struct store_freed *)(void *)c->freed : NULL;
    c->env.survey = c->survey;
    c->env.survey_words = SURVEY;
    c->env.survey_costs = (uint32_t)chance(3);
    places[slot] = (struct place){.mark = c->env.mark, .taken = true};
    c->does = IDLES;
}

/* In the first slot that is free, which may be a dead client's: then its locks are resolved first, where there are
 * several copies. Several newcomers may be at it. */
static void come(struct client *c, bool hints)
{
    uint32_t slot = 0;
    memset(c, 0, offsetof(struct client, flights));
    memset(&c->task, 0, sizeof *c - offsetof(struct client, task));
    c->env = (struct store_env){.shape = &shape,
                                .slot = NOWHERE,
                                .copies = copies,
                                .first = first,
                                .mark = (uint32_t)chance(LOW24),
                                .at = at,
                                .mixes = mixes,
                                .dues = &c->dues,
                                .intents = &c->intents,
                                .words = &c->words,
                                .held = &c->held,
                                .lock_wait = 10000000000,
                                .frames = c->frames,
                                .hints = hints ? c->hints : NULL,
                                .in_turn = hints,
                                .heads = &c->heads};
    while (places[slot].taken && !places[slot].dead)
        slot++;
    if (!places[slot].taken) {
        take(c, slot);
        return;
    }
    c->task = SWEEPS;
    c->sweep.slot = c->resolve.slot = slot;
    c->sweep.mark = c->resolve.mark = places[slot].mark;
    c->resolves = nodes_left == 1; /* only transactions lock there, and the last one has a record */
    c->does = RUNS;
}

static void has_swept(struct client *c)
{
    const struct place *p = &places[c->sweep.slot];
    if (c->env.slot != NOWHERE) { /* its own */
        c->does = IDLES;
        if (!c->sweep.status)
            store_is_swept(&c->env);
        return;
    }
    if (!c->sweep.status && p->dead && p->mark == c->sweep.mark)
        take(c, c->sweep.slot);
    else
        c->does = GONE; /* another newcomer was faster, or an answer was lost */
}

/* Writes are the most, since these move frames. */
static enum store_kind any_kind(void)
{
    static const enum store_kind kinds[] = {STORE_WRITE,   STORE_WRITE,         STORE_WRITE, STORE_READ,
                                            STORE_READ,    STORE_COMPARE_WRITE, STORE_WRITE, STORE_WRITE,
                                            STORE_VERSION, STORE_COMPARE_WRITE, STORE_READ,  STORE_FREE};
    return kinds[chance(sizeof kinds / sizeof *kinds - (chance(4) != 0 || !may(FREES)))];
}

/* ---- transactions ---- */

static void unlock(struct client *c);

/* Of other pages than those before. */
static bool pick(struct client *c)
{
    struct transaction *t = &c->tx;
    uint32_t recent = n_lives < PAGES ? n_lives : PAGES;
    struct life *life = &lives[n_lives - 1 - chance(recent)];
    for (uint32_t i = 0; i < t->want; i++)
        if (page_number(t->pages[i].pid) == page_number(life->pid))
            return false;
    if (life->freed)
        return false;
    struct tx_page *p = &t->pages[t->want];
    *p = (struct tx_page){.pid = life->pid, .reads = chance(4) != 0, .page = t->data[t->want]};
    p->frees = chance(40) == 0 && may(FREES);
    p->writes = !p->frees && (!p->reads || chance(2)) && values + 2 * CLIENTS * TX_PAGES < VALUES;
    life->freeing |= p->frees;
    t->floors[t->want++] = history_of(life->pid)->floor;
    return true;
}

static void read_next(struct client *c, uint32_t i)
{
    const struct tx_page *p = &c->tx.pages[i];
    c->tx.n = i;
    memset(&c->op, 0, sizeof c->op);
    c->op.kind = p->reads ? STORE_READ : STORE_VERSION;
    c->op.pid = p->pid;
    c->op.page = c->page;
}

static bool begin_transaction(struct client *c)
{
    struct transaction *t = &c->tx;
    memset(t, 0, offsetof(struct transaction, ops));
    for (int i = 0; n_lives && i < 2 * TX_PAGES && t->want < TX_PAGES; i++)
        pick(c);
    if (!t->want)
        return false;
    c->task = TRANSACTS;
    c->value = 0;
    read_next(c, 0);
    return true;
}

static void commit_begins(struct client *c)
{
    struct transaction *t = &c->tx;
    t->commit = (struct store_commit){.pages = t->pages, .count = t->want, .ops = t->ops};
    t->phase = TX_COMMITS;
    c->does = RUNS;
    if (t->tries++)
        return;
    t->node = node_begins(c->began);
    for (uint32_t i = 0; i < t->want; i++) {
        struct tx_page *p = &t->pages[i];
        uint64_t value = p->writes ? ++values : 0;
        for (int k = 0; p->writes && k < PAGE_BYTES / 8; k++)
            memcpy(t->data[i] + 8 * k, &value, 8);
        p->hash = xxh3_128(t->data[i], PAGE_BYTES);
        if (t->node)
            node_has(t->node, p->pid, p->version, tx_changes(p), value);
        t->floors[i] = value; /* the other one was looked at */
    }
}

/* What is due, and what was kept, is settled before the commit. */
static void clear(struct client *c)
{
    struct transaction *t = &c->tx;
    if (!c->dues.n && !c->dues.kept) {
        commit_begins(c);
        return;
    }
    t->phase = TX_CLEARS;
    t->n = 0;
    c->task = UNLOCKS;
    post(c, NULL, 0);
    c->task = TRANSACTS;
}

static void has_read(struct client *c)
{
    struct tx_page *p = &c->tx.pages[c->tx.n];
    if (c->op.status) {
        REQUIRE(c->op.status != -DSM_EPAGE || life_of(p->pid)->freeing, "page %llx is not known",
                (unsigned long long)p->pid);
        c->does = IDLES;
        return;
    }
    REQUIRE(c->op.version >= c->tx.floors[c->tx.n], "version %llu in a transaction", (unsigned long long)c->op.version);
    p->head = c->op.guess;
    p->version = c->op.version;
    p->seen = now;
    if (p->reads)
        learn(p->pid, p->version, value_in(c->page));
    if (c->tx.n + 1 == c->tx.want) {
        clear(c);
    } else {
        read_next(c, c->tx.n + 1);
        c->does = RUNS;
    }
}

static void committed(struct client *c)
{
    struct transaction *t = &c->tx;
    for (uint32_t i = 0; i < t->want; i++) {
        const struct tx_page *p = &t->pages[i];
        uint64_t version = p->version, *floor = &history_of(p->pid)->floor;
        if (p->writes)
            learn(p->pid, version, t->floors[i]);
        if (p->frees)
            life_of(p->pid)->freed = true;
        if (*floor < version)
            *floor = version;
    }
    if (t->node) {
        t->node->is = DONE;
        t->node->ends = steps_done;
    }
}

/* Of the extents with chunks that are held. */
static uint64_t held_places(const struct client *c)
{
    uint64_t places = 0;
    for (uint32_t i = 0; i < c->held.n; i++)
        places |= places_of(&c->env, c->held.of[i].extent);
    return places;
}

/* Chunks that are held are closed once no WRITE to them is under way. */
static void close_held(struct client *c)
{
    struct transaction *t = &c->tx;
    t->n = 0;
    if (!c->held.n) {
        c->does = IDLES;
        return;
    }
    for (uint32_t k = 0; k < nodes_left; k++)
        if (c->dues.unsettled & held_places(c) & 1ull << k)
            t->ops[t->n++] = store_read_op(&c->env, k, slot_at(c->env.slot), &t->commit.seen[k], 8);
    t->phase = t->n ? TX_SETTLES : TX_CLOSES;
    if (!t->n)
        t->n = store_held_ops(&c->env, t->ops);
    post(c, t->ops, t->n);
}

static void transaction_ended(struct client *c, int status)
{
    struct transaction *t = &c->tx;
    if (traced)
        printf("%ld: client %u, transaction of %u pages: %d\n", steps_done, c->env.slot, t->want, status);
    REQUIRE(!status || status == -DSM_ECONFLICT || status == -DSM_EUNKNOWN || status == -DSM_EIO ||
                status == -DSM_ECANCELED || status == -DSM_EPEER || status == -DSM_EBUSY,
            "a transaction: status %d", status);
    if (!status)
        committed(c);
    for (uint32_t i = 0; status && status != -DSM_EUNKNOWN && i < t->want; i++)
        if (t->pages[i].writes)
            forget(t->floors[i]);
    if (status == -DSM_EUNKNOWN)
        note_transaction_in_doubt(t);
    if (status && status != -DSM_EUNKNOWN && t->node)
        t->node->is = FAILED;
    close_held(c);
}

static enum store_next step_transaction(struct client *c)
{
    struct transaction *t = &c->tx;
    switch (t->phase) {
    case TX_CLEARS:
        if (c->dues.n || c->dues.kept)
            return STORE_DONE; /* another time */
        commit_begins(c);
        break;
    case TX_SETTLES:
        for (uint32_t i = 0; i < t->n; i++)
            if (t->ops[i].status)
                return STORE_DONE;
        c->dues.unsettled &= ~held_places(c);
        t->phase = TX_CLOSES;
        t->n = store_held_ops(&c->env, t->ops);
        return STORE_POST;
    case TX_CLOSES:
        store_held_done(&c->env, t->ops, t->n);
        return STORE_DONE;
    default:
        break;
    }
    enum store_next next = store_commit_step(&t->commit, &c->env);
    t->n = t->commit.n;
    return next;
}

static void go_on(struct client *c)
{
    switch (c->tx.phase) {
    case TX_READS:
        has_read(c);
        return;
    case TX_COMMITS:
        if (c->tx.commit.status && c->tx.commit.again && c->tx.tries < 4)
            clear(c);
        else
            transaction_ended(c, c->tx.commit.status);
        return;
    case TX_CLEARS:
        if (c->tx.tries) {
            transaction_ended(c, -DSM_EIO);
            return;
        }
        c->does = IDLES;
        return;
    default:
        c->does = IDLES;
    }
}

static void begin(struct client *c)
{
    c->does = RUNS;
    c->began = steps_done;
    if (chance(3) == 0 && may(TRANSACTIONS) && begin_transaction(c))
        return;
    if (!n_lives || (chance(12) == 0 && n_lives < IDS - MANY * CLIENTS)) {
        c->task = ALLOCATES;
        memset(&c->allocation, 0, sizeof c->allocation);
        c->allocation.ids = c->ids;
        c->allocation.want = 1 + chance(MANY);
        return;
    }
    uint32_t recent = n_lives < 2 * PAGES ? n_lives : 2 * PAGES;
    struct life *life = &lives[n_lives - 1 - (chance(3) ? 0 : chance(recent))];
    enum store_kind kind = any_kind();
    if (c->failed && chance(4))
        life = life_of(c->failed);
    c->failed = 0;
    if (values + 1 >= VALUES)
        kind = STORE_READ;
    c->task = ONE_PAGE;
    c->floor = history_of(life->pid)->floor;
    c->was_freed = life->freed;
    c->value = 0;
    memset(&c->op, 0, sizeof c->op);
    c->op.kind = kind;
    c->op.pid = life->pid;
    c->op.page = c->page;
    c->op.expected = c->floor;
    if (kind == STORE_WRITE || kind == STORE_COMPARE_WRITE) {
        c->value = ++values;
        for (int i = 0; i < PAGE_BYTES / 8; i++)
            memcpy(c->page + 8 * i, &c->value, 8);
    }
    life->freeing |= kind == STORE_FREE;
}

static void finish(struct client *c)
{
    c->does = IDLES;
    if (c->task == SWEEPS)
        has_swept(c);
    else if (c->task == ALLOCATES)
        allocation_ended(c);
    else if (c->task == ONE_PAGE)
        op_ended(c);
    else if (c->task == TRANSACTS)
        go_on(c);
}

static void unlock(struct client *c)
{
    c->task = UNLOCKS;
    post(c, NULL, 0);
}

static void sweep_own(struct client *c)
{
    memset(&c->sweep, 0, sizeof c->sweep);
    c->task = SWEEPS;
    c->sweep.slot = c->env.slot;
    c->sweep.mark = c->env.mark;
    c->does = RUNS;
}

/* A lock was met. That its holder is dead is known once it is fenced at all nodes. */
static void recover(struct client *c)
{
    uint64_t lock = c->task == ALLOCATES ? c->allocation.lock : c->op.lock;
    uint32_t slot = head_locker(lock);
    REQUIRE(slot < SLOTS, "a lock of slot %u", slot);
    bool is_dead = places[slot].dead && places[slot].mark == head_low(lock);
    if (!is_dead && !store_lock_is_own(&c->env, lock))
        return;
    c->resolves = true;
    memset(&c->resolve, 0, sizeof c->resolve);
    c->resolve.number = c->task == ALLOCATES ? c->allocation.locked : c->op.locked;
    c->resolve.copy = c->task == ALLOCATES ? c->allocation.copy : c->op.copy;
    c->resolve.lock = lock;
}

static void has_resolved(struct client *c)
{
    int status = c->resolve.status;
    c->resolves = false;
    if (c->task == SWEEPS) {
        c->sweep.status = status;
        finish(c);
        return;
    }
    REQUIRE(!status || status == -DSM_EIO || status == -DSM_ECANCELED || status == -DSM_EPEER ||
                status == -DSM_EUNKNOWN,
            "resolving: status %d", status);
    if (status && c->task != ALLOCATES && !store_must_go_on(&c->op)) {
        c->op.status = status;
        finish(c);
    }
}

/* A signal handler ends the op, which sleeps. What has become of its change is said. */
static bool is_interrupted(struct client *c)
{
    if (c->does != SLEEPS || c->task != ONE_PAGE || c->resolves || c->needs_frames || chance(20) || !may(INTERRUPTS))
        return false;
    store_give_up(&c->op, &c->env);
    if (!c->op.status)
        c->op.status = -DSM_ETIME;
    finish(c);
    return true;
}

/* The chunk that was to be opened is open, or could not be. The client takes some of its frames for used, and does not
 * use them, so that it soon needs another chunk. In every other world all use the same few frames of a chunk. */
static void has_chunk(struct client *c)
{
    int status = c->chunking.status;
    c->needs_frames = false;
    REQUIRE(!status || status == -DSM_EIO || status == -DSM_EUNKNOWN || status == -DSM_ECANCELED ||
                status == -DSM_EBUSY,
            "opening a chunk: status %d", status);
    if (status && c->task == TRANSACTS) {
        store_commit_give_up(&c->tx.commit, &c->env);
        transaction_ended(c, status);
    } else if (status) {
        c->does = IDLES; /* the write has not begun */
    }
    uint64_t *free = &c->frames[c->chunking.extent].free;
    if (seed % 2 && *free & 0xf)
        *free &= 0xf;
    for (int i = 0; i < 56 && *free & (*free - 1); i++)
        *free &= ~(1ull << chance(64)) | (*free & -*free);
}

static void post_what(struct client *c)
{
    if (c->resolves)
        post(c, c->resolve.ops, c->resolve.n);
    else if (c->needs_frames)
        post(c, c->chunking.ops, c->chunking.n);
    else if (c->task == SWEEPS)
        post(c, c->sweep.ops, c->sweep.n);
    else if (c->task == ALLOCATES)
        post(c, c->allocation.ops, c->allocation.n);
    else if (c->task == TRANSACTS && c->tx.phase != TX_READS)
        post(c, c->tx.ops, c->tx.n);
    else
        post(c, c->op.ops, c->op.n);
}

static enum store_next step_what(struct client *c)
{
    if (c->resolves)
        return store_resolve_step(&c->resolve, &c->env);
    if (c->needs_frames)
        return store_open_chunk_step(&c->chunking, &c->env);
    if (c->task == SWEEPS)
        return store_sweep_step(&c->sweep, &c->env);
    if (c->task == ALLOCATES)
        return store_allocate_step(&c->allocation, &c->env);
    if (c->task == TRANSACTS && c->tx.phase != TX_READS)
        return step_transaction(c);
    return c->task == UNLOCKS ? STORE_DONE : store_step(&c->op, &c->env);
}

static void step(struct client *c)
{
    c->env.now = now;
    c->env.time = (uint64_t)now;
    c->env.random = chance(UINT64_MAX);
    if (chance(8) == 0)
        c->intents.next = 0; /* as one that has come to the end of them */
    switch (step_what(c)) {
    case STORE_POST:
        post_what(c);
        break;
    case STORE_SLEEP:
        c->does = SLEEPS;
        c->until = now + (c->task == ALLOCATES                                ? c->allocation.sleep_ns
                          : c->task == TRANSACTS && c->tx.phase == TX_COMMITS ? c->tx.commit.sleep_ns
                                                                              : c->op.sleep_ns);
        break;
    case STORE_FRAMES:
        c->needs_frames = true;
        memset(&c->chunking, 0, sizeof c->chunking);
        c->chunking.whole = true;
        c->chunking.extent = c->task == TRANSACTS ? c->tx.commit.extent : c->op.extent;
        break;
    case STORE_RECOVER:
        recover(c);
        break;
    default:
        if (c->resolves)
            has_resolved(c);
        else if (c->needs_frames)
            has_chunk(c);
        else
            finish(c);
    }
}

/* At one node. The slot is free for others once all are done. */
static void fence(struct client *c)
{
    uint32_t node = (uint32_t)chance(nodes_left);
    settle(c, node);
    c->fenced |= 1u << node;
    if (c->fenced != (1u << nodes_left) - 1)
        return;
    if (c->env.slot != NOWHERE)
        places[c->env.slot].dead = true;
    c->does = GONE;
}

/* It waits for the copies to say 'committed': what is lost then decides. */
static bool may_commit(const struct client *c)
{
    return c->task == TRANSACTS && c->tx.phase == TX_COMMITS && c->tx.commit.step == COMMIT_SWAPS;
}

/* Something that this client, or what it has posted, does next. */
static void act(struct client *c, bool calm)
{
    bool hints = chance(2);
    bool waits = c->does == WAITS && waits_for_answers(c);
    if (is_under_way(c, -1) && (waits || (c->does != GONE && chance(2)))) {
        uint32_t node = (uint32_t)chance(nodes_left);
        if (!calm && waits && may(LOSSES) &&
            (chance(may_commit(c) || c->task != TRANSACTS ? 60 : 400) == 0 || c->cut >> node & 1))
            lose(c, node);
        else
            land_some(c, -1);
        return;
    }
    switch (c->does) {
    case IDLES:
        if (c->shut)
            break;
        if (c->dues.kept && now >= c->until && (calm || chance(20) == 0))
            sweep_own(c);
        else if (c->dues.n && now >= c->until && (calm || chance(2)))
            unlock(c);
        else if (now >= c->until && !calm)
            begin(c);
        break;
    case WAITS:
        answer(c);
        break;
    case SLEEPS:
    case RUNS:
        if (now >= c->until && !(copies > 1 && is_interrupted(c)))
            step(c);
        break;
    case DIED:
        if (chance(8) == 0 || calm)
            fence(c);
        break;
    default:
        if (!c->shut)
            come(c, hints);
    }
}

static void disturb(struct client *c)
{
    if (chance(300) == 0 && may(STOPS))
        c->until = now + (int64_t)(chance(8) ? chance(40000) : chance(20000000000ull)); /* is stopped */
    if (nodes_left > 1 && chance(100) == 0 && may(CUTS))
        c->cut = chance(2) ? 0 : 1u << chance(nodes_left);
    if (chance(may_commit(c) ? 60 : nodes_left > 1 ? 300 : 1000) == 0 && c->does < DIED && may(DEATHS)) {
        if (c->task == ALLOCATES && c->does != IDLES)
            spare += c->allocation.want;
        c->does = DIED;
        for (uint32_t i = 0; i < c->n; i++)
            c->flights[i].op = NULL;
    }
}

/* ---- a run ---- */

/* What dead clients and lost answers have left. */
static void sweep_all(void)
{
    struct client *c = &clients[0];
    for (int i = 0; i < CLIENTS; i++)
        REQUIRE(clients[i].does == GONE || !clients[i].dues.n, "client %d has unlocks that are due", i);
    for (int i = 0; i < CLIENTS; i++)
        for (uint32_t k = 0; k < INTENTS; k++)
            REQUIRE(clients[i].does == GONE || clients[i].dues.kept || !clients[i].intents.of[k],
                    "client %d does not use intent %u again", i, k);
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        memset(&c->sweep, 0, sizeof c->sweep);
        c->sweep.slot = slot;
        c->sweep.mark = places[slot].mark;
        while (store_sweep_step(&c->sweep, &c->env) == STORE_POST)
            for (uint32_t i = 0; i < c->sweep.n; i++) {
                struct flight f = {.op = &c->sweep.ops[i], .copy = c->sweep.ops[i], .node = node_of(&c->sweep.ops[i])};
                f.piece = f.copy.nbytes;
                land(&f, 0);
                f.op->result = f.copy.result;
                f.op->status = 0;
            }
        REQUIRE(!c->sweep.status, "sweeping slot %u: status %d", slot, c->sweep.status);
    }
}

static bool all_idle(void)
{
    for (int i = 0; i < CLIENTS; i++)
        if (clients[i].does != GONE && (clients[i].does != IDLES || (clients[i].dues.n && !clients[i].shut)))
            return false;
    return true;
}

static struct client *any_client(void) { return &clients[chance((uint64_t)world.clients)]; }

/* What has begun comes to an end. */
static void end_all(void)
{
    for (long until = steps_done + 100L * STEPS; !all_idle(); steps_done++) {
        REQUIRE(steps_done < until, "an op does not end");
        now += 1000000000;
        act(any_client(), true);
    }
}

/* The memory nodes that are left go on without the others. */
static void change_epoch(void)
{
    fence_all();
    end_all();
    recover_copies();
    for (int i = 0; i < world.clients; i++)
        come(&clients[i], chance(2));
}

static void run(uint64_t number)
{
    seed = number;
    state = number * 0x2545f4914f6cdd1dull;
    steps_done = 0;
    now = 1;
    mixes = number % 3 == 0;
    history_begins();
    n_doubts = 0;
    n_nodes = 0;
    memset(places, 0, sizeof places);
    shape.id = chance(UINT64_MAX);
    begin_epochs();
    for (uint32_t k = 0; k < nodes_left; k++) {
        memset(memory[k], 0, shape.nbytes);
        for (uint64_t i = 0; i < shape.pages; i++)
            ((uint64_t *)(void *)(memory[k] + shape.heads))[i] = head_first(&shape, number_at(&shape, k / copies, i));
    }
    for (int i = 0; i < CLIENTS; i++)
        clients[i].does = GONE;
    for (int i = 0; i < world.clients; i++)
        come(&clients[i], chance(2));
    for (; steps_done < world.steps; steps_done++) {
        struct client *c = any_client();
        now += (int64_t)(chance(1000) ? chance(nodes_left > 1 ? 400000 : 2000) : chance(20000000000ull));
        disturb(c);
        act(c, false);
        if (epoch_ends(c))
            change_epoch();
        ask_sometimes();
    }
    end_all();
    for (int i = 0; i < CLIENTS; i++)
        for (uint32_t k = 0; k < nodes_left; k++)
            settle(&clients[i], k);
    sweep_all();
    ask_about_all();
    check_memory();
    check_words();
    check_owners();
    check_order();
}

static void run_all(uint32_t with, uint32_t extents, uint64_t from, uint64_t n)
{
    copies = shape.copies = with;
    shape.extents = extents;
    shape.pages = PAGES / extents;
    REQUIRE(extents <= EXTENTS && !store_lay_out(&shape), "%u copies of %u extents", with, extents);
    for (uint32_t k = 0; k < with * extents; k++) {
        all_memory[k / with][k % with] = calloc(1, shape.nbytes);
        REQUIRE(all_memory[k / with][k % with], "no memory");
    }
    for (uint64_t i = 0; i < n; i++)
        run(from + i);
    for (uint32_t k = 0; k < with * extents; k++)
        free(all_memory[k / with][k % with]);
}

static void rule_out(const char *what)
{
    size_t i = 0;
    while (i < HAPPENINGS && strcmp(what, happenings[i]))
        i++;
    REQUIRE(i < HAPPENINGS, "%s", what);
    world.without |= 1u << i;
}

/* What is said behind the seeds. */
static void set(char *word)
{
    char *without = strncmp(word, "without=", 8) ? NULL : strtok(word + 8, ",");
    bool known = without || sscanf(word, "clients=%d", &world.clients) || sscanf(word, "steps=%ld", &world.steps);
    traced = traced || !strcmp(word, "traced");
    for (; without; without = strtok(NULL, ","))
        rule_out(without);
    REQUIRE((known || traced) && world.clients >= 1 && world.clients <= CLIENTS && world.steps >= 1, "%s", word);
}

int main(int argc, char **argv)
{
    for (int i = 4; i < argc; i++)
        set(argv[i]);
    if (argc > 3) {
        char *end;
        uint32_t with = (uint32_t)strtoul(argv[1], &end, 10);
        uint32_t extents = *end == 'x' ? (uint32_t)strtoul(end + 1, NULL, 10) : 1;
        run_all(with, extents, strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
    } else {
        run_all(1, 1, 1, 200);
        run_all(2, 1, 1, 200);
        run_all(3, 1, 1, 100);
        run_all(1, 2, 1, 60);
        run_all(1, 3, 1, 60);
        run_all(2, 2, 1, 60);
        run_all(2, 3, 1, 60);
        run_all(3, 2, 1, 40);
    }
    puts("ok");
    return 0;
}
