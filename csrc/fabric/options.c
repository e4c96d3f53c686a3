#include "options.h"

#include "../base/error.h"

#include <errno.h>
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

int options_check(const struct fabric_options *o, const char *fabric, const char *const keys[])
{
    for (const char *at = o->text; *at; at += strcspn(at, "&"), at += *at == '&') {
        size_t n = strcspn(at, "=&"), k = 0;
        while (keys[k] && (strlen(keys[k]) != n || strncmp(keys[k], at, n)))
            k++;
        if (!keys[k])
            return err_set(DSM_EINVAL, 0, "%s has no option '%.*s'", fabric, (int)(n < VALUE_MAX ? n : VALUE_MAX), at);
        size_t length;
        if (at[n] != '=' || find(at + n, keys[k], &length) || strcspn(at + n, "&") > VALUE_MAX)
            return err_set(DSM_EINVAL, 0, "option %s of %s needs one value of at most %d bytes", keys[k], fabric,
                           VALUE_MAX - 1);
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

int option_number(const struct fabric_options *o, const char *key, int low, int high, int *out)
{
    char text[VALUE_MAX], *end;
    if (!option_text(o, key, text, sizeof text))
        return 0;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (*end || errno || value < low || value > high)
        return err_set(DSM_EINVAL, 0, "%s=%s; it is %d to %d", key, text, low, high);
    *out = (int)value;
    return 0;
}
