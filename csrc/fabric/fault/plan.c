/* Parsing a plan; fault.h describes its grammar. */
#include "fault.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define PAUSE_NS 1000000
enum { PAUSE_MAX_MS = 1000000 };

static const struct {
    const char *name;
    uint32_t fault;
} kinds[] = {
    {"fail", FAULT_FAIL}, {"failafter", FAULT_FAILAFTER}, {"delay", FAULT_DELAY},
    {"drop", FAULT_DROP}, {"tear", FAULT_TEAR},           {"duplicate", FAULT_DUPLICATE},
    {"cas", FAULT_CAS},   {"kill", FAULT_KILL},           {"refuse", FAULT_REFUSE},
};

static int refuse(const char *item, size_t len)
{
    return err_set(DSM_EINVAL, 0,
                   "'%.*s' is not an item of a fault plan; items are fail=3, delay=*:5ms, every=10 and others",
                   len < 60 ? (int)len : 60, item);
}

/* Parses a decimal number from 1 to max and advances *at behind it. */
static bool number(const char **at, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;
    const char *p = *at;
    for (; isdigit((unsigned char)*p); p++) {
        unsigned digit = (unsigned)(*p - '0');
        if (v > (max - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    if (p == *at || !v)
        return false;
    *at = p;
    *out = v;
    return true;
}

static bool accept(const char **at, const char *text)
{
    size_t n = strlen(text);
    if (strncmp(*at, text, n))
        return false;
    *at += n;
    return true;
}

static bool parse_which(const char **at, struct fault_item *i)
{
    *i = (struct fault_item){.first = 1, .last = UINT64_MAX};
    if (accept(at, "*"))
        return true;
    if (!number(at, UINT64_MAX, &i->first))
        return false;
    if (!accept(at, "-")) {
        i->last = i->first;
        return true;
    }
    return !isdigit((unsigned char)**at) || (number(at, UINT64_MAX, &i->last) && i->last >= i->first);
}

/* Parses the pause, or the process to kill. */
static bool parse_more(const char **at, struct fault_item *i)
{
    uint64_t ms, pid;
    i->pause_ns = PAUSE_NS;
    if (i->fault == FAULT_KILL && accept(at, ":")) {
        bool good = number(at, INT32_MAX, &pid);
        i->pid = good ? (pid_t)pid : 0;
        return good;
    }
    if (!accept(at, ":"))
        return i->fault != FAULT_DELAY;
    if (!(i->fault & (FAULT_DELAY | FAULT_TEAR | FAULT_DUPLICATE | FAULT_CAS)) || !number(at, PAUSE_MAX_MS, &ms))
        return false;
    i->pause_ns = (int64_t)ms * 1000000;
    return accept(at, "ms");
}

/* Parses one item, from *at up to the next '&' or the end. */
static bool parse_item(const char **at, struct fault_plan *p)
{
    struct fault_item *i = &p->items[p->n];
    size_t len = strcspn(*at, "=&");
    if ((*at)[len] != '=')
        return false;
    if (accept(at, "every="))
        return !p->every && number(at, UINT64_MAX, &p->every);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        if (strlen(kinds[k].name) != len || strncmp(kinds[k].name, *at, len))
            continue;
        *at += len + 1;
        if (!parse_which(at, i))
            return false;
        i->fault = kinds[k].fault;
        p->n++;
        return parse_more(at, i);
    }
    return false;
}

int fault_plan_parse(const char *text, struct fault_plan *out)
{
    size_t most = 1;
    for (const char *p = text; *p; p++)
        most += *p == '&';
    *out = (struct fault_plan){.items = calloc(most, sizeof *out->items)};
    if (!out->items)
        return err_set(DSM_ENOMEM, 0, "fault plan");
    const char *at = text;
    for (bool more = *at; more;) {
        const char *item = at;
        size_t len = strcspn(item, "&");
        if (!parse_item(&at, out) || at != item + len) {
            fault_plan_free(out);
            return refuse(item, len);
        }
        more = *at == '&';
        at += more;
    }
    return 0;
}

void fault_plan_free(struct fault_plan *p)
{
    free(p->items);
    *p = (struct fault_plan){0};
}

static bool names(const struct fault_plan *p, const struct fault_item *i, uint64_t op_number)
{
    if (op_number < i->first)
        return false;
    uint64_t behind = op_number - i->first;
    return (p->every ? behind % p->every : behind) <= i->last - i->first;
}

struct fault_fate fault_plan_fate(const struct fault_plan *p, uint64_t op_number)
{
    struct fault_fate fate = {0};
    for (size_t k = 0; k < p->n; k++) {
        const struct fault_item *i = &p->items[k];
        if (!names(p, i, op_number))
            continue;
        fate.faults |= i->fault;
        if (i->fault == FAULT_KILL)
            fate.pid = i->pid;
        *(i->fault == FAULT_DELAY ? &fate.delay_ns : &fate.pause_ns) = i->pause_ns;
    }
    return fate;
}
