/*
 * Transactions of a client: what they have read and are to write is kept here, in the memory of this process, until the
 * commit. So one that is given up has touched nothing.
 */
#include "commit.h"

#include "../base/error.h"
#include "../core/remote.h"
#include "mapped.h"
#include "posting.h"
#include "window.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { PAGES_MOST = 1 << 16, PAGES_FIRST = 16, TRIES = 4, NONE = UINT32_MAX };
enum {
    FRESH_NS = 3000000000
}; /* a head that was read longer ago is proven again: pages.md, 'A word that comes again' */

struct dsm_transaction {
    bool opaque;  /* each read looks at the pages before it */
    int64_t ends; /* as of struct store_op */
    uint32_t count, changes, room;
    struct tx_page *pages;
    uint32_t *index; /* of 2 · room entries: the place of a page, by its number, or NONE */
    uint64_t conflict;
    struct store_commit m; /* the last field: the end of it is not set */
};

/* ---- its pages ---- */

static int grow(dsm_transaction *t, uint32_t room)
{
    struct tx_page *pages = realloc(t->pages, room * sizeof *pages);
    t->pages = pages ? pages : t->pages;
    uint32_t *index = pages ? malloc(2 * room * sizeof *index) : NULL;
    if (!index)
        return err_set(DSM_ENOMEM, 0, "a transaction of %u pages", room);
    free(t->index);
    t->index = index;
    t->room = room;
    memset(index, 0xff, 2 * room * sizeof *index);
    for (uint32_t i = 0; i < t->count; i++) {
        uint32_t at = (uint32_t)page_number(pages[i].pid) & (2 * room - 1);
        while (index[at] != NONE)
            at = (at + 1) & (2 * room - 1);
        index[at] = i;
    }
    return 0;
}

static struct tx_page *find(const dsm_transaction *t, uint64_t pid)
{
    for (uint32_t at = (uint32_t)page_number(pid) & (2 * t->room - 1); t->room; at = (at + 1) & (2 * t->room - 1)) {
        if (t->index[at] == NONE)
            break;
        if (page_number(t->pages[t->index[at]].pid) == page_number(pid))
            return &t->pages[t->index[at]];
    }
    return NULL;
}

static int add(dsm_transaction *t, uint64_t pid, struct tx_page **out)
{
    if (t->count == PAGES_MOST)
        return err_set(DSM_EINVAL, 0, "a transaction of more than %d pages; make several of it", PAGES_MOST);
    int rc = t->count < t->room ? 0 : grow(t, t->room ? 2 * t->room : PAGES_FIRST);
    if (rc)
        return rc;
    uint32_t at = (uint32_t)page_number(pid) & (2 * t->room - 1);
    while (t->index[at] != NONE)
        at = (at + 1) & (2 * t->room - 1);
    t->index[at] = t->count;
    *out = &t->pages[t->count++];
    **out = (struct tx_page){.pid = pid, .frame = NO_FRAME};
    return 0;
}

static int no_page(uint64_t pid) { return err_set(DSM_EPAGE, 0, "page %llu", (unsigned long long)pid); }

static int changed(const dsm_store *s, dsm_transaction *t, const struct tx_page *p, uint64_t found)
{
    t->conflict = p->pid;
    return posting_name_change(s, commit_conflict(p, found), p->pid, found);
}

dsm_transaction *dsm_transaction_new(int opaque)
{
    dsm_transaction *t = malloc(sizeof *t);
    if (!t) {
        err_set(DSM_ENOMEM, 0, "a transaction");
        return NULL;
    }
    memset(t, 0, offsetof(dsm_transaction, m));
    store_commit_begin(&t->m, NULL, 0, NULL);
    t->opaque = opaque;
    return t;
}

void dsm_transaction_until(dsm_transaction *t, int64_t deadline) { t->ends = deadline; }

void dsm_transaction_drop(dsm_transaction *t)
{
    for (uint32_t i = 0; t && i < t->count; i++)
        free(t->pages[i].page);
    if (t) {
        free(t->pages);
        free(t->index);
    }
    free(t);
}

uint64_t dsm_transaction_conflict(const dsm_transaction *t) { return t->conflict; }

/* ---- reading ---- */

/* What a page had when it was read, or looked at: the first time it is noted, and then it must be the same. */
static int note(const dsm_store *s, dsm_transaction *t, uint64_t pid, uint64_t head, uint64_t version, int64_t seen,
                bool reads)
{
    struct tx_page *p = find(t, pid);
    int rc = p ? 0 : add(t, pid, &p);
    if (rc)
        return rc;
    if (p->seen && p->version != version)
        return changed(s, t, p, head);
    p->head = head;
    p->version = version;
    p->seen = seen;
    p->reads |= reads;
    return 0;
}

static int look_at_one(dsm_store *s, enum store_kind kind, uint64_t pid, void *out, int64_t ends, uint64_t *head,
                       uint64_t *version)
{
    if (kind == STORE_READ && remote_is_mapped(s->at[0]) &&
        !mapped_page_read(s->at[0], &s->shape, pid, out, version, head))
        return 0;
    struct store_op m;
    store_op_begin(&m, kind, pid, out);
    m.ends = ends;
    int rc = store_drive(s, &m);
    *head = m.guess;
    *version = m.version;
    return rc;
}

/* Pages whose values are given to the caller, or whose heads are wanted. */
static int look_at(dsm_store *s, dsm_transaction *t, const uint64_t *pids, uint32_t n, void *out)
{
    enum { FEW = 64 };
    enum store_kind kind = out ? STORE_READ : STORE_VERSION;
    uint64_t heads[FEW], versions[FEW], each = s->shape.page_bytes;
    int rc = 0;
    for (uint32_t from = 0, some; from < n && !rc; from += some) {
        struct store_env now;
        uint8_t *at = out ? (uint8_t *)out + from * each : NULL;
        some = n - from < FEW ? n - from : FEW;
        store_ask(&now); /* the oldest time at which one of them can be seen */
        if (some > 1 && s->window) {
            rc = window_operate(s, kind, pids + from, some, at, versions, heads, t->ends);
        } else {
            for (uint32_t i = 0; i < some && !rc; i++)
                rc = look_at_one(s, kind, pids[from + i], at ? at + i * each : NULL, t->ends, &heads[i], &versions[i]);
        }
        for (uint32_t i = 0; i < some && !rc; i++)
            rc = note(s, t, pids[from + i], heads[i], versions[i], now.now, out != NULL);
    }
    return rc;
}

static int run(dsm_store *s, struct store_commit *m);

/* Other threads may read meanwhile, or be in a commit. */
static int look_at_mapped(const dsm_store *s, dsm_transaction *t)
{
    for (uint32_t i = 0; i < t->count; i++) {
        const struct tx_page *p = &t->pages[i];
        uint64_t head = p->reads ? mapped_head(s->at[0], &s->shape, p->pid) : p->head;
        if (head != p->head)
            return changed(s, t, p, head);
    }
    return 0;
}

/* Whether the pages that were read are still the same. */
static int look_again(dsm_store *s, dsm_transaction *t)
{
    if (remote_is_mapped(s->at[0]))
        return look_at_mapped(s, t);
    store_commit_begin(&t->m, t->pages, t->count, posting_ops(s));
    t->m.looks = true;
    int rc = run(s, &t->m);
    t->conflict = t->m.conflict;
    return rc;
}

static bool is_first(const dsm_transaction *t, uint32_t n)
{
    uint32_t reads = 0;
    for (uint32_t i = 0; i < t->count && reads <= n; i++)
        reads += t->pages[i].reads;
    return reads <= n;
}

static int read_pages(dsm_store *s, dsm_transaction *t, const uint64_t *pids, uint32_t n, void *out)
{
    int rc = look_at(s, t, pids, n, out);
    bool checks = (remote_is_mapped(s->at[0]) || t->opaque) && !(n == 1 && is_first(t, 1));
    return rc || !checks ? rc : look_again(s, t);
}

/* What the transaction has itself written or freed. 1: nothing. */
static int read_own(const dsm_store *s, const dsm_transaction *t, uint64_t pid, void *out)
{
    const struct tx_page *p = find(t, pid);
    if (!p || (!p->writes && !p->frees && p->pid == pid))
        return 1;
    if (p->frees || p->pid != pid)
        return no_page(pid);
    memcpy(out, p->page, s->shape.page_bytes);
    return 0;
}

int dsm_transaction_read(dsm_store *s, dsm_transaction *t, const uint64_t *pids, size_t n, void *out)
{
    uint64_t each = s->shape.page_bytes;
    bool own = false;
    if (n > PAGES_MOST)
        return err_set(DSM_EINVAL, 0, "a transaction of more than %d pages; make several of it", PAGES_MOST);
    for (size_t i = 0; i < n; i++)
        own |= find(t, pids[i]) != NULL;
    int rc = store_enter(s);
    if (rc)
        return rc;
    if (!own)
        return store_exit(s, n ? read_pages(s, t, pids, (uint32_t)n, out) : 0);
    for (size_t i = 0; i < n && rc >= 0; i++) {
        rc = read_own(s, t, pids[i], (char *)out + i * each);
        if (rc > 0)
            rc = read_pages(s, t, &pids[i], 1, (char *)out + i * each);
    }
    return store_exit(s, rc);
}

int dsm_transaction_check(dsm_store *s, dsm_transaction *t)
{
    int rc = store_enter(s);
    return rc ? rc : store_exit(s, look_again(s, t));
}

/* ---- writing ---- */

static int to_change(dsm_transaction *t, uint64_t pid, struct tx_page **out)
{
    struct tx_page *p = find(t, pid);
    if (p && (p->frees || p->pid != pid))
        return no_page(pid);
    if ((!p || !tx_changes(p)) && t->changes == RECORD_PAGES)
        return err_set(DSM_EINVAL, 0, "a transaction changes more than %d pages; make several of it", RECORD_PAGES);
    *out = p;
    return p ? 0 : add(t, pid, out);
}

int dsm_transaction_write(const dsm_store *s, dsm_transaction *t, uint64_t pid, const void *page)
{
    struct tx_page *p = NULL;
    void *copy = malloc(s->shape.page_bytes);
    int rc = copy ? to_change(t, pid, &p) : err_set(DSM_ENOMEM, 0, "a page of %u bytes", s->shape.page_bytes);
    if (rc) {
        free(copy);
        return rc;
    }
    p->hash = page_copy(copy, page, s->shape.page_bytes);
    t->changes += !tx_changes(p);
    free(p->page);
    p->page = copy;
    p->writes = true;
    return 0;
}

int dsm_transaction_free(dsm_transaction *t, uint64_t pid)
{
    struct tx_page *p = NULL;
    int rc = to_change(t, pid, &p);
    if (rc)
        return rc;
    t->changes += !tx_changes(p);
    p->frees = true;
    p->writes = false;
    return 0;
}

/* ---- the commit ---- */

static int run(dsm_store *s, struct store_commit *m)
{
    struct store_env env = s->env;
    for (;;) {
        int rc = 0;
        store_ask(&env);
        switch (store_commit_step(m, &env)) {
        case STORE_POST:
            posting_execute(s, m->ops, m->n);
            break;
        case STORE_SLEEP:
            store_sleep(m->sleep_ns);
            break;
        case STORE_FRAMES:
            rc = store_open_chunk(s, m->extent);
            break;
        default:
            return store_explain(s, m->status);
        }
        if (rc) {
            store_commit_give_up(m, &env);
            return rc;
        }
    }
}

/* A page is not there: one that is to be written, or one that was read before. */
static int missing(dsm_store *s, dsm_transaction *t)
{
    dsm_failure why = *dsm_last_error();
    int rc = look_again(s, t);
    return rc ? rc : err_set(why.code, 0, "%s", why.detail);
}

/* Heads that are not known, or were read so long ago that their versions may have come again. */
static int prove(dsm_store *s, dsm_transaction *t)
{
    struct store_env now = s->env;
    uint64_t *pids = malloc((t->count + 1) * sizeof *pids);
    uint32_t n = 0;
    if (!pids)
        return err_set(DSM_ENOMEM, 0, "a transaction of %u pages", t->count);
    store_ask(&now);
    for (uint32_t i = 0; i < t->count; i++) {
        struct tx_page *p = &t->pages[i];
        if (!p->seen && store_knows(&now, p->pid, &p->head, &p->version))
            p->seen = now.now;
        if (now.now - p->seen > FRESH_NS)
            pids[n++] = p->pid;
    }
    int rc = look_at(s, t, pids, n, NULL);
    free(pids);
    return rc == -DSM_EPAGE ? missing(s, t) : rc;
}

static int commit(dsm_store *s, dsm_transaction *t)
{
    int rc = prove(s, t);
    for (int tries = 0; !rc && tries < TRIES; tries++) {
        rc = t->changes ? posting_settle(s) : 0;
        if (!rc)
            rc = posting_close_held(s); /* of the try before, or of a transaction that could not */
        if (rc)
            break;
        store_commit_begin(&t->m, t->pages, t->count, posting_ops(s));
        rc = run(s, &t->m);
        t->conflict = t->m.conflict;
        if (rc == -DSM_ECONFLICT)
            posting_name_change(s, rc, t->conflict, t->m.other);
        if (!rc || !t->m.again || tries + 1 == TRIES)
            break;
        rc = 0;
    }
    dsm_failure why = *dsm_last_error();
    if (remote_is_mapped(s->at[0]))
        posting_settle(s);
    posting_close_held(s);
    return rc ? err_set_op(why.code, why.cause, why.status, why.vendor, "%s", why.detail) : 0;
}

uint32_t dsm_transaction_doubts(const dsm_transaction *t, dsm_store_doubt *out)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        const struct tx_page *p = &t->pages[i];
        if (!tx_changes(p))
            continue;
        out[n] = (dsm_store_doubt){.pid = p->pid, .from = p->head, .to = p->to, .version = p->version + 1};
        if (p->writes)
            memcpy(out[n].header, &p->header, sizeof p->header);
        n++;
    }
    return n;
}

int dsm_transaction_commit(dsm_store *s, dsm_transaction *t)
{
    if (!t->changes && is_first(t, 1))
        return 0;
    int rc = t->changes ? store_enter_to_change(s) : store_enter(s);
    if (rc)
        return rc;
    if (t->changes || !remote_is_mapped(s->at[0]))
        return store_exit(s, commit(s, t));
    rc = prove(s, t);
    return store_exit(s, rc ? rc : look_at_mapped(s, t));
}
