/* The options of verbs; a build without verbs knows them, too. */
#ifndef DSM_FABRIC_VERBS_KEYS_H
#define DSM_FABRIC_VERBS_KEYS_H

#include "../options.h"

#include <limits.h>

static const struct fabric_key verbs_keys[] = {
    {"device", TEXT_OPTION}, {"port", 0, 255}, {"gid", -1, INT_MAX},      {"mtu", 0, 4096},
    {"depth", 0, INT_MAX},   {"sl", 0, 15},    {"traffic_class", 0, 255}, {0},
};

#endif
