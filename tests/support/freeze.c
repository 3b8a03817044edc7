/* Stops every thread that is about to change something below a folder, from the n-th change on, until it is let go. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static char prefix[4096];
static long count, stop_at = -1, waiting;

void freeze_at(const char *folder, long n) {
    pthread_mutex_lock(&lock);
    strncpy(prefix, folder, sizeof prefix - 1);
    count = 0;
    stop_at = n;
    pthread_mutex_unlock(&lock);
}

/* 1 once a thread stands still, 0 if none does after so many milliseconds. */
int frozen(long ms) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) { until.tv_sec++; until.tv_nsec -= 1000000000; }
    pthread_mutex_lock(&lock);
    int gone = 0;
    while (!waiting && !gone) gone = pthread_cond_timedwait(&changed, &lock, &until);
    int is = waiting > 0;
    pthread_mutex_unlock(&lock);
    return is;
}

long thaw(void) {
    pthread_mutex_lock(&lock);
    stop_at = -1;
    long seen = count;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return seen;
}

static void pass(const char *path) {
    int before = errno;
    pthread_mutex_lock(&lock);
    if (prefix[0] && !strncmp(path, prefix, strlen(prefix))) {
        count++;
        while (stop_at >= 0 && count > stop_at) {
            waiting++;
            pthread_cond_broadcast(&changed);
            pthread_cond_wait(&changed, &lock);
            waiting--;
        }
    }
    pthread_mutex_unlock(&lock);
    errno = before;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int rename(const char *a, const char *b) { pass(b); return REAL(rename)(a, b); }
int renameat(int x, const char *a, int y, const char *b) { pass(b); return REAL(renameat)(x, a, y, b); }
int link(const char *a, const char *b) { pass(b); return REAL(link)(a, b); }
int linkat(int x, const char *a, int y, const char *b, int f) { pass(b); return REAL(linkat)(x, a, y, b, f); }
int unlink(const char *a) { pass(a); return REAL(unlink)(a); }
int unlinkat(int d, const char *a, int f) { pass(a); return REAL(unlinkat)(d, a, f); }
int rmdir(const char *a) { pass(a); return REAL(rmdir)(a); }
int mkdir(const char *a, mode_t m) { pass(a); return REAL(mkdir)(a, m); }

static int opened(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    if (flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR)) pass(path);
    return real(path, flags, mode);
}
#define OPENS(name)                                                                     \
    int name(const char *path, int flags, ...) {                                        \
        va_list more;                                                                   \
        va_start(more, flags);                                                          \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;       \
        va_end(more);                                                                   \
        return opened(dlsym(RTLD_NEXT, #name), path, flags, mode);                      \
    }
OPENS(open)
OPENS(open64)
