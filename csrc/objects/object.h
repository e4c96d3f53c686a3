/*
 * The header of every object in shared memory: 64 bytes that the creator writes before any other process sees the
 * object, and that never change.
 *
 *   offset  bytes  what
 *        0      8  magic "dsmemobj"
 *        8      4  version of the layout, 2: one for the objects of all types
 *       12      4  type, enum dsm_type
 *       16      8  bytes of the whole object
 *       24      8  id, random, never 0
 *       32      8  time of its creation, in nanoseconds since 1970; 0: not known
 *       40      8  identity (member.h) of the process with which its name is associated; 0: none
 *       48     16  zero
 *
 * Numbers are little-endian. The bytes behind the header depend on the type.
 */
#ifndef DSM_OBJECTS_OBJECT_H
#define DSM_OBJECTS_OBJECT_H

#include "../base/error.h"
#include "../dsm.h"

#define OBJECT_MAGIC 0x6a626f6d656d7364ull /* "dsmemobj" */
enum { OBJECT_VERSION = 2, OBJECT_HEADER = 64 };

struct object_header {
    uint64_t magic;
    uint32_t version, type;
    uint64_t nbytes, id;
    uint64_t made, creator;
    uint64_t zero[2];
};
_Static_assert(sizeof(struct object_header) == OBJECT_HEADER, "docs/protocols/objects.md");

/* Writes the header, before the object has a name or a descriptor. 'made' and 'creator' are kept as they are in the
 * memory. */
int object_format(void *memory, enum dsm_type type, uint64_t nbytes);
/* Copies the header, read through the remote, to *out and checks it: EMISMATCH, EVERSION, ECORRUPT. */
int object_check(dsm_remote *r, enum dsm_type type, struct object_header *out);

#endif
