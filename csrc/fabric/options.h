/* The options of a fabric, by key: "key=value&key=value". Each fabric has its own keys. */
#ifndef DSM_FABRIC_OPTIONS_H
#define DSM_FABRIC_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fabric_options {
    const char *text;
    int64_t peer_timeout_ns; /* not by key: it is the context's, and more than 0 */
};

/* EINVAL unless the text has this form, and each key is one of 'keys', which end with NULL, and comes once. */
int options_check(const struct fabric_options *o, const char *fabric, const char *const keys[]);
/* The value of a key, cut to n-1 bytes. Returns false if it is not given or empty; then *out is empty. */
bool option_text(const struct fabric_options *o, const char *key, char *out, size_t n);
/* A number of at least 'low' and at most 'high'; otherwise EINVAL. *out is not changed if the key is not given. */
int option_number(const struct fabric_options *o, const char *key, int low, int high, int *out);

#endif
