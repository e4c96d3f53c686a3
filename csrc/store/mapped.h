/*
 * Operations on one page in memory that is mapped, without a machine. They neither wait nor repeat, and change nothing
 * unless they succeed.
 *
 * The head that they find is proven by a second look: a frame that a head names does not change. If the head had gone
 * and come back meanwhile, after 2^28 changes, the whole version in the frame would be another one. So the hashes of
 * the frame, which are for READs that mix old and new bytes, are not computed.
 */
#ifndef DSM_STORE_MAPPED_H
#define DSM_STORE_MAPPED_H

#include "../core/remote.h"
#include "machine.h"

/* 0: done, and *version and *head are those of the page; either may be NULL. 1: the page is not there, is empty, has
 * changed meanwhile or can't be accessed; a machine has to look. */
int mapped_page_read(const dsm_remote *r, const struct store_shape *s, uint64_t pid, void *out, uint64_t *version,
                     uint64_t *head);
/* The head of a page whose id is that of a page which was there once. */
uint64_t mapped_head(const dsm_remote *r, const struct store_shape *s, uint64_t pid);
/* The same, and an empty page has a version. */
int mapped_page_version(const dsm_remote *r, const struct store_shape *s, uint64_t pid, uint64_t *version);
/* The same, of the page as it is then. 1 also if no frame is free, and if the page has not the expected version; NULL
 * expects any. */
int mapped_page_write(const dsm_remote *r, const struct store_env *e, uint64_t pid, const uint64_t *expected,
                      const void *page, uint64_t *version);
/* The header of the page's frame, which is whole. An empty page has none: all but its version is 0. 1 also if the
 * header is damaged. */
int mapped_page_header(const dsm_remote *r, const struct store_shape *s, uint64_t pid, struct frame_header *said,
                       uint64_t *head);

#endif
