/* Requests to a service: many clients and one thread that answers, clients that leave with requests on their way, a
 * service that ends with requests in hand, an end beside all of it, and a fork. */
#include "base/atomic.h"
#include "check.h"
#include "context.h"
#include "dsm.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CLIENTS = 8, ROUNDS = 50 };
#define SECOND INT64_C(1000000000)

static dsm_ctx *server, *user;

static int call(dsm_service *s, const void *request, size_t len, void *reply, size_t *got, int64_t timeout)
{
    *got = DSM_CALL_MAX;
    return dsm_service_call(s, request, len, reply, got, timeout);
}

static dsm_service *open_service(void)
{
    dsm_service *s;
    CHECK(!dsm_service_open(user, dsm_agent_address(server, 0), &s));
    return s;
}

/* ---- many at a time ---- */

/* Answers with the bytes in their reverse order, until the service ends. Counts in *arg the clients that have left. */
static void *answer_all(void *arg)
{
    uint32_t *left = arg;
    dsm_call c;
    int rc;
    while ((rc = dsm_next_call(server, -1, &c)) != -DSM_ECLOSED) {
        uint8_t out[DSM_CALL_MAX];
        CHECK(!rc);
        for (uint32_t i = 0; i < c.len; i++)
            out[i] = c.bytes[c.len - 1 - i];
        if (c.left)
            fetch_add_u32(left, 1);
        else
            dsm_reply(server, &c, out, c.len);
    }
    return NULL;
}

static void *ask(void *arg)
{
    dsm_service *s = open_service();
    uint8_t request[DSM_CALL_MAX], reply[DSM_CALL_MAX];
    size_t got, len = 1 + (size_t)(uintptr_t)arg * (DSM_CALL_MAX - 1) / (CLIENTS - 1); /* the shortest, the longest */
    for (uint32_t i = 0; i < ROUNDS; i++) {
        memset(request, (int)i, len);
        request[0] = (uint8_t)(uintptr_t)arg;
        CHECK(!call(s, request, len, reply, &got, 60 * SECOND));
        CHECK(got == len && reply[len - 1] == (uint8_t)(uintptr_t)arg && (len < 2 || reply[0] == (uint8_t)i));
    }
    CHECK(!dsm_service_close(s));
    return NULL;
}

static void many(void)
{
    uint32_t left = 0;
    pthread_t answering, asking[CLIENTS];
    CHECK(!dsm_serve(server, 1, -1));
    CHECK(!pthread_create(&answering, NULL, answer_all, &left));
    for (uintptr_t i = 0; i < CLIENTS; i++)
        CHECK(!pthread_create(&asking[i], NULL, ask, (void *)i));
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(asking[i], NULL);
    while (load_acquire_u32(&left) < CLIENTS) /* each end of a connection is told, once */
        usleep(1000);
    CHECK(!dsm_serve(server, 0, -1));
    pthread_join(answering, NULL);
    CHECK(left == CLIENTS);
}

/* ---- ends ---- */

/* A request is sent, and its client does not wait for the reply. */
static dsm_service *send_one(void)
{
    uint8_t reply[DSM_CALL_MAX];
    size_t got;
    dsm_service *s = open_service();
    while (call(s, "?", 1, reply, &got, SECOND / 10) != -DSM_ETIME)
        ;
    return s;
}

static void clients_that_leave(void)
{
    dsm_call in_hand, next;
    CHECK(!dsm_serve(server, 1, -1));
    dsm_service *a = send_one(), *b = send_one(); /* one in hand, one in the queue */
    CHECK(!dsm_next_call(server, 60 * SECOND, &in_hand) && in_hand.len == 1);
    CHECK(!dsm_service_close(a) && !dsm_service_close(b));
    for (int i = 0; i < 2;) { /* what is in the queue may be taken before its end is seen */
        CHECK(!dsm_next_call(server, 60 * SECOND, &next));
        i += next.left;
    }
    CHECK(dsm_next_call(server, 0, &next) == -DSM_ETIME);
    CHECK(dsm_reply(server, &in_hand, "!", 1) == -DSM_EPEER);
    CHECK(!dsm_serve(server, 0, -1));
}

static void a_service_that_ends(void)
{
    uint8_t reply[DSM_CALL_MAX];
    size_t got;
    dsm_call in_hand;
    CHECK(!dsm_serve(server, 1, -1));
    dsm_service *a = send_one(), *b = send_one();
    CHECK(!dsm_next_call(server, 60 * SECOND, &in_hand));
    CHECK(!dsm_serve(server, 0, -1));
    CHECK(dsm_next_call(server, 0, &in_hand) == -DSM_ECLOSED);
    CHECK(dsm_reply(server, &in_hand, "!", 1) == -DSM_EPEER);
    CHECK(call(a, "?", 1, reply, &got, 60 * SECOND) == -DSM_EUNSUPPORTED); /* its first has been refused */
    CHECK(!dsm_serve(server, 1, -1)); /* the connections are there, and serve the next one */
    pthread_t answering;
    uint32_t left = 0;
    CHECK(!pthread_create(&answering, NULL, answer_all, &left));
    CHECK(!call(b, "ab", 2, reply, &got, 60 * SECOND) && got == 2 && !memcmp(reply, "ba", 2));
    CHECK(!dsm_serve(server, 0, -1));
    pthread_join(answering, NULL);
    CHECK(!dsm_service_close(a) && !dsm_service_close(b));
}

/* The context of the server is closed with one request in hand and one in the queue, then that of a client. */
static void a_server_that_closes(void)
{
    dsm_call in_hand;
    CHECK(!dsm_serve(server, 1, -1));
    dsm_service *a = send_one(), *b = send_one();
    CHECK(!dsm_next_call(server, 60 * SECOND, &in_hand));
    dsm_close(server);
    uint8_t reply[DSM_CALL_MAX];
    size_t got;
    CHECK(call(a, "?", 1, reply, &got, 60 * SECOND) == -DSM_EPEER);
    CHECK(!dsm_service_close(a));
    dsm_close(user);
    CHECK(call(b, "?", 1, reply, &got, SECOND) == -DSM_ECLOSED);
    CHECK(!dsm_service_close(b)); /* frees the context */
}

static void arguments(void)
{
    uint8_t raw[DSM_CALL_MAX + 1] = {0};
    size_t got;
    dsm_call c = {0};
    dsm_service *s = open_service(), *none;
    CHECK(call(s, raw, 0, raw, &got, SECOND) == -DSM_EINVAL);
    CHECK(call(s, raw, sizeof raw, raw, &got, SECOND) == -DSM_EINVAL);
    CHECK(call(s, raw, 1, raw, &got, 60 * SECOND) == -DSM_EUNSUPPORTED);
    CHECK(dsm_reply(server, &c, raw, sizeof raw) == -DSM_EINVAL);
    CHECK(dsm_reply(server, &c, raw, 1) == -DSM_EPEER);
    CHECK(dsm_next_call(server, 0, &c) == -DSM_ECLOSED);
    CHECK(!dsm_service_close(s));
    dsm_ctx *shm = open_context(NULL);
    CHECK(dsm_service_open(shm, dsm_agent_address(server, 0), &none) == -DSM_EINVAL);
    dsm_close(shm);
}

static void a_forked_child(void)
{
    dsm_service *s = open_service(), *none;
    pid_t child = fork();
    if (!child) {
        uint8_t reply[DSM_CALL_MAX];
        size_t got;
        dsm_call c = {0};
        bool good = call(s, "?", 1, reply, &got, SECOND) == -DSM_EFORK && dsm_serve(server, 1, -1) == -DSM_EFORK &&
                    dsm_next_call(server, 0, &c) == -DSM_EFORK && dsm_reply(server, &c, "!", 1) == -DSM_EFORK &&
                    dsm_service_open(user, "tcp:127.0.0.1:1", &none) == -DSM_EFORK && !dsm_service_close(s);
        _exit(good ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && !status);
    CHECK(!dsm_service_close(s));
}

int main(void)
{
    server = open_with(options_of("tcp"));
    user = open_with(options_of("tcp"));
    arguments();
    many();
    clients_that_leave();
    a_service_that_ends();
    a_forked_child();
    a_server_that_closes();
    puts("ok");
    return 0;
}
