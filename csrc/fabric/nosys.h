/* FABRIC_NOSYS: the first initializers of every fabric's table; initializers that follow override them. */
#ifndef DSM_FABRIC_NOSYS_H
#define DSM_FABRIC_NOSYS_H

#include "fabric.h"

#if defined(__clang__)
#pragma clang diagnostic ignored "-Winitializer-overrides"
#else
#pragma GCC diagnostic ignored "-Woverride-init"
#endif

#define FABRIC_NOSYS \
    .keys = nosys_keys, .probe = nosys_probe, .inventory = nosys_inventory, .open = nosys_open, .close = nosys_close, \
    .fork = nosys_fork, .reg = nosys_reg, .unreg = nosys_unreg, .export = nosys_export, .import = nosys_import, \
    .import_by = nosys_import_by, .forget = nosys_forget, .evict = nosys_evict, .op_prepare = nosys_op_prepare, \
    .op_release = nosys_op_release, .doubt = nosys_doubt, .outcomes = nosys_outcomes, .dev_event = nosys_dev_event, \
    .ep_open = nosys_ep_open, .ep_address = nosys_ep_address, .ep_connect = nosys_ep_connect, \
    .ep_stream = nosys_ep_stream, .ep_abort = nosys_ep_abort, .ep_close = nosys_ep_close, .post = nosys_post, \
    .poll = nosys_poll, .arm = nosys_arm, .ep_fd = nosys_ep_fd

#endif
