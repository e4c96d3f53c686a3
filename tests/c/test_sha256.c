/* SHA-256 by the processor's instructions and without them: the same digests, of all lengths around a block's, and that
 * of a known text. */
#include "../../csrc/base/sha256.h"
#include "check.h"

#include <stdio.h>
#include <string.h>

static void hash(const uint8_t *text, size_t n, size_t step, uint8_t digest[SHA256_SIZE])
{
    struct sha256 s;
    sha256_init(&s);
    for (size_t at = 0; at < n; at += step)
        sha256_update(&s, text + at, n - at < step ? n - at : step);
    sha256_final(&s, digest);
}

/* FIPS 180-4, the example of two blocks. */
static void known(void)
{
    static const char text[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    static const uint8_t want[SHA256_SIZE] = {
        0x24, 0x8d, 0x6a, 0x61, 0xd2, 0x06, 0x38, 0xb8, 0xe5, 0xc0, 0x26, 0x93, 0x0c, 0x3e, 0x60, 0x39,
        0xa3, 0x3c, 0xe4, 0x59, 0x64, 0xff, 0x21, 0x67, 0xf6, 0xec, 0xed, 0xd4, 0x19, 0xdb, 0x06, 0xc1,
    };
    uint8_t digest[SHA256_SIZE];
    hash((const uint8_t *)text, sizeof text - 1, sizeof text, digest);
    CHECK(!memcmp(digest, want, sizeof want));
}

int main(void)
{
    enum { MOST = 300 };
    uint8_t text[MOST], plain[SHA256_SIZE], other[SHA256_SIZE];
    bool there = sha256_has_instructions;
    for (size_t i = 0; i < MOST; i++)
        text[i] = (uint8_t)(i * 167 + (i >> 3));
    for (size_t n = 0; n <= MOST; n++) {
        sha256_has_instructions = false;
        hash(text, n, n + 1, plain);
        sha256_has_instructions = there;
        hash(text, n, 1 + n % 70, other);
        CHECK(!memcmp(plain, other, sizeof plain));
    }
    known();
    sha256_has_instructions = false;
    known();
    puts(there ? "by instructions and without: ok" : "without instructions: ok");
    return 0;
}
