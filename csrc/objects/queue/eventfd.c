/*
 * A queue as a file descriptor: a private thread sleeps as a waiting consumer (producer) would, and makes an eventfd
 * readable. The thread works only while it is armed, so a queue that is used by polling or by blocking calls pays
 * nothing for it.
 */
#include "../../base/error.h"
#include "../../base/thread.h"
#include "../../dsm.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SLICE_NS 50000000

struct dsm_watch {
    dsm_queue *q;
    int fd;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool armed, stop;
    uint64_t room; /* length of the message to wait for room for; 0: wait for a message */
};

static bool wait_armed(dsm_watch *w, uint64_t *room)
{
    pthread_mutex_lock(&w->lock);
    while (!w->armed && !w->stop)
        pthread_cond_wait(&w->changed, &w->lock);
    *room = w->room;
    bool go_on = !w->stop;
    pthread_mutex_unlock(&w->lock);
    return go_on;
}

void dsm_watch_ring(dsm_watch *w)
{
    uint64_t one = 1;
    pthread_mutex_lock(&w->lock);
    w->armed = false;
    if (write(w->fd, &one, sizeof one) < 0) {
        /* EAGAIN: the counter is full, so it is readable */
    }
    pthread_mutex_unlock(&w->lock);
}

static void *run(void *arg)
{
    dsm_watch *w = arg;
    uint64_t room;
    while (wait_armed(w, &room)) {
        int rc = room ? dsm_queue_wait_room(w->q, room, SLICE_NS, 0, -1) : dsm_queue_wait_item(w->q, SLICE_NS, 0, -1);
        if (rc != -DSM_ETIME) /* also after an error: the next call on the queue reports it */
            dsm_watch_ring(w);
    }
    return NULL;
}

int dsm_watch_open(dsm_queue *q, dsm_watch **out)
{
    dsm_watch *w = calloc(1, sizeof *w);
    if (!w)
        return err_set(DSM_ENOMEM, 0, "watch");
    w->q = q;
    w->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (w->fd < 0) {
        int sys = errno;
        free(w);
        return err_set_errno(sys, "eventfd");
    }
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    int sys = thread_start(&w->thread, run, w);
    if (sys) {
        close(w->fd);
        free(w);
        return err_set_errno(sys, "the thread that watches a queue");
    }
    *out = w;
    return 0;
}

int dsm_watch_fd(const dsm_watch *w) { return w->fd; }

void dsm_watch_arm(dsm_watch *w, uint64_t room)
{
    uint64_t count;
    pthread_mutex_lock(&w->lock);
    if (read(w->fd, &count, sizeof count) < 0) {
        /* EAGAIN: it was not readable */
    }
    w->room = room;
    w->armed = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

void dsm_watch_close(dsm_watch *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    close(w->fd);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
    free(w);
}
