/*
 * Parts of the agent in isolation: the TCP keepalive timeouts, and MACs against the test vectors of RFC 4231.
 */
#include "agent/agent.h"
#include "check.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int option(int fd, int name)
{
    int value = -1;
    socklen_t len = sizeof value;
    CHECK(!getsockopt(fd, IPPROTO_TCP, name, &value, &len));
    return value;
}

/* A peer that is silent for less than the peer timeout keeps its connection. One that is silent for longer loses it,
 * also if something was on its way to it. */
static void keepalive(int64_t timeout_s, int want_s)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    socket_keep_alive(fd, timeout_s * 1000000000);
    CHECK(option(fd, TCP_KEEPIDLE) + option(fd, TCP_KEEPCNT) * option(fd, TCP_KEEPINTVL) == want_s);
    CHECK(option(fd, TCP_KEEPIDLE) >= option(fd, TCP_KEEPINTVL));
    CHECK(option(fd, TCP_USER_TIMEOUT) == want_s * 1000);
    CHECK(option(fd, TCP_NODELAY) == 1);
    close(fd);
}

static void check_mac(const void *key, size_t key_len, const void *text, size_t len, const uint8_t want[8])
{
    struct hmac k;
    uint8_t got[MAC];
    hmac_key(&k, key, key_len);
    for (int again = 0; again < 2; again++) {
        hmac_sum(&k, text, len, got);
        CHECK(!memcmp(got, want, 8));
    }
}

/* The first 8 bytes are enough to tell one SHA-256 from another. */
static void macs(void)
{
    uint8_t many[131], dd[50];
    memset(many, 0xaa, sizeof many);
    memset(dd, 0xdd, sizeof dd);
    check_mac("Jefe", 4, "what do ya want for nothing?", 28, (const uint8_t *)"\x5b\xdc\xc1\x46\xbf\x60\x75\x4e");
    check_mac(many, 20, dd, sizeof dd, (const uint8_t *)"\x77\x3e\xa9\x1e\x36\x80\x0e\x46");
    check_mac(many, 131, "Test Using Larger Than Block-Size Key - Hash Key First", 54,
              (const uint8_t *)"\x60\xe4\x31\x59\x1e\xe0\xb6\x7f");
}

/* Each byte changes the MAC, and so does each length across the borders of a block. */
static void messages(void)
{
    struct hmac k, other;
    uint8_t message[HEADER_SIZE + 70 + MAC];
    hmac_key(&k, "a key of a direction", 20);
    hmac_key(&other, "a key of another one", 20);
    for (uint8_t len = 0; len <= 70; len++) {
        memset(message, 1, sizeof message);
        message[6] = len;
        message[7] = 0;
        message_seal(&k, message);
        CHECK(message_genuine(&k, message) && !message_genuine(&other, message));
        for (size_t i = 0; i < message_length(message); i++) {
            if (i == 6 || i == 7)
                continue;
            message[i] ^= 0x80;
            CHECK(!message_genuine(&k, message));
            message[i] ^= 0x80;
        }
    }
}

int main(void)
{
    keepalive(1, 4);
    keepalive(2, 4);
    keepalive(5, 5);
    keepalive(60, 60);
    keepalive(599, 599);
    keepalive(1 << 20, 4 * 32767);
    macs();
    messages();
    puts("ok");
    return 0;
}
