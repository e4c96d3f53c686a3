/* The options of a fabric, by key: "key=value&key=value". Each fabric has its own keys. */
#ifndef DSM_FABRIC_OPTIONS_H
#define DSM_FABRIC_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fabric_options {
    const char *text;        /* options_check() has accepted it */
    int64_t peer_timeout_ns; /* not by key: it is the context's, and more than 0 */
};

/* A key of a fabric, and the numbers that it takes. Lists end with a name that is NULL. */
struct fabric_key {
    const char *name;
    int low, high;
};
#define TEXT_OPTION 1, 0 /* for low and high: it takes a text */

/* EINVAL unless the text has this form, and each key is one of 'keys', comes once, and has a value that it takes. */
int options_check(const char *text, const char *fabric, const struct fabric_key *keys);
/* The value of a key, cut to n-1 bytes. Returns false if it is not given or empty; then *out is empty. */
bool option_text(const struct fabric_options *o, const char *key, char *out, size_t n);
/* The value of a key that takes a number. *out is not changed if it is not given or empty. */
void option_number(const struct fabric_options *o, const char *key, int *out);

#endif
