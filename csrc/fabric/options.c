#include "options.h"

#include "../base/error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VALUE_MAX = 64 };

/* Finds the value of a key: its first byte and its length. NULL: it is not given. */
static const char *find(const char *text, const char *key, size_t *n)
{
    size_t len = strlen(key);
    for (const char *at = text; *at; at += strcspn(at, "&"), at += *at == '&')
        if (!strncmp(at, key, len) && at[len] == '=') {
            *n = strcspn(at + len + 1, "&");
            return at + len + 1;
        }
    return NULL;
}

static int refuse_key(const char *fabric, const struct fabric_key *keys, const char *at, size_t n)
{
    char known[256] = "";
    for (size_t k = 0, used = 0; keys[k].name && used < sizeof known; k++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", k ? ", " : "; there are ", keys[k].name);
    return err_set(DSM_EINVAL, 0, "%s has no option '%.*s'%s", fabric, (int)(n < VALUE_MAX ? n : VALUE_MAX), at, known);
}

/* The value is empty or a number that the key takes. */
static int check_number(const struct fabric_key *key, const char *value, size_t n)
{
    char text[VALUE_MAX] = "", *end;
    memcpy(text, value, n);
    errno = 0;
    long number = strtol(text, &end, 10);
    if (n && (*end || errno || number < key->low || number > key->high))
        return err_set(DSM_EINVAL, 0, "%s=%s: a number from %d to %d", key->name, text, key->low, key->high);
    return 0;
}

int options_check(const char *text, const char *fabric, const struct fabric_key *keys)
{
    for (const char *at = text; *at; at += strcspn(at, "&"), at += *at == '&') {
        size_t n = strcspn(at, "=&"), length;
        const struct fabric_key *key = keys;
        while (key->name && (strlen(key->name) != n || strncmp(key->name, at, n)))
            key++;
        if (!key->name)
            return refuse_key(fabric, keys, at, n);
        if (at[n] != '=' || find(at + n, key->name, &length) || (length = strcspn(at + n, "&") - 1) >= VALUE_MAX)
            return err_set(DSM_EINVAL, 0, "option %s of %s needs one value of at most %d bytes", key->name, fabric,
                           VALUE_MAX - 1);
        int rc = key->low > key->high ? 0 : check_number(key, at + n + 1, length);
        if (rc)
            return rc;
    }
    return 0;
}

bool option_text(const struct fabric_options *o, const char *key, char *out, size_t n)
{
    size_t len;
    const char *value = find(o->text, key, &len);
    len = !value ? 0 : len < n ? len : n - 1;
    memcpy(out, value ? value : "", len);
    out[len] = 0;
    return len;
}

void option_number(const struct fabric_options *o, const char *key, int *out)
{
    char text[VALUE_MAX];
    if (option_text(o, key, text, sizeof text))
        *out = (int)strtol(text, NULL, 10);
}
