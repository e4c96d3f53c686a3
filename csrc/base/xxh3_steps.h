/*
 * The loop of xxh3.c for one width of vectors: included there once for each, with these defined.
 *   HASH, TARGET           the function's name, and what stands before it
 *   WIDTH                  bytes of a vector
 *   NEIGHBOURS(v)          v with the words of each pair swapped
 *   PRODUCT_OF_HALVES(v)   of each word the product of its lower and its upper 32 bits
 */

/* to: NULL, or where the bytes are copied to; then nbytes is a multiple of STRIPE, and each stripe is loaded once. */
TARGET struct hash128 HASH(uint8_t *to, const uint8_t *from, uint64_t nbytes) {
    typedef VECTOR(WIDTH) vector;
    enum { VECTORS = STRIPE / WIDTH };
    uint64_t lanes[LANES], last = (nbytes - 1) / STRIPE;
    vector sum[VECTORS], data, key;
    memcpy(sum, first, sizeof sum);
    for (uint64_t s = 0; s <= last; s++) {
        uint64_t at = s < last ? s * STRIPE : nbytes - STRIPE;
        const uint8_t *keys = secret + (s < last ? s % STRIPES * STEP : SECRET - STRIPE - 7);
        for (int i = 0; i < VECTORS; i++) {
            memcpy(&data, from + at + WIDTH * i, WIDTH);
            LOADED_ONCE(data);
            if (to)
                memcpy(to + at + WIDTH * i, &data, WIDTH);
            memcpy(&key, keys + WIDTH * i, WIDTH);
            key ^= data;
            sum[i] += NEIGHBOURS(data) + PRODUCT_OF_HALVES(key);
        }
        for (int i = 0; s < last && s % STRIPES == STRIPES - 1 && i < VECTORS; i++) {
            memcpy(&key, secret + SECRET - STRIPE + WIDTH * i, WIDTH);
            sum[i] = (sum[i] ^ sum[i] >> 47 ^ key) * PRIME32_1;
        }
    }
    memcpy(lanes, sum, sizeof lanes);
    return merged(lanes, nbytes);
}

#undef HASH
#undef TARGET
#undef WIDTH
#undef NEIGHBOURS
#undef PRODUCT_OF_HALVES
