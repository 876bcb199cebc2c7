/* What a container does in the benchmarks: a static program, so that no shell or interpreter is measured.
 *
 *   probe watch FILE COUNT     print the CLOCK_MONOTONIC time, in ns, at which each of COUNT new contents of FILE was read;
 *                              waits by inotify on FILE's directory, as an application would
 *   probe open FILE COUNT      print ns per open+read+close, the median of COUNT rounds
 *   probe read FILE COUNT      print ns per pread of 4 KiB of an open file, the median of COUNT rounds
 *   probe wait PREFIX N FILE   wait until PREFIX<i>/FILE is readable for every i below N, then print the time, in ns
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static ssize_t slurp(const char *path, char *buffer, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, buffer, size);
    close(fd);
    return n;
}

static int compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static int watch(const char *path, int count) {
    static char before[65536], after[65536], events[65536];
    char *copy = strdup(path);
    int fd = inotify_init1(IN_CLOEXEC);
    if (inotify_add_watch(fd, dirname(copy), IN_MOVED_TO | IN_CREATE) < 0)
        return perror("inotify"), 1;
    ssize_t old = slurp(path, before, sizeof before);
    printf("ready\n");
    fflush(stdout);
    while (count > 0) {
        if (read(fd, events, sizeof events) < 0 && errno != EINTR)
            return perror("inotify"), 1;
        ssize_t n = slurp(path, after, sizeof after);
        int64_t at = now();
        if (n < 0 || (n == old && memcmp(before, after, (size_t)n) == 0))
            continue;
        memcpy(before, after, (size_t)n);
        old = n;
        printf("%lld\n", (long long)at);
        fflush(stdout);
        count--;
    }
    return 0;
}

static int rounds(const char *path, int count, int reopen) {
    static char buffer[4096];
    int64_t *taken = calloc((size_t)count, sizeof *taken);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return perror(path), 1;
    for (int i = 0; i < count; i++) {
        int64_t start = now();
        if (reopen) {
            if (slurp(path, buffer, sizeof buffer) < 0)
                return perror(path), 1;
        } else if (pread(fd, buffer, sizeof buffer, 0) < 0)
            return perror(path), 1;
        taken[i] = now() - start;
    }
    qsort(taken, (size_t)count, sizeof *taken, compare);
    printf("%lld\n", (long long)taken[count / 2]);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "watch"))
        return watch(argv[2], atoi(argv[3]));
    if (argc == 4 && !strcmp(argv[1], "open"))
        return rounds(argv[2], atoi(argv[3]), 1);
    if (argc == 4 && !strcmp(argv[1], "read"))
        return rounds(argv[2], atoi(argv[3]), 0);
    if (argc == 5 && !strcmp(argv[1], "wait")) {
        char path[4096], byte;
        for (int i = 0; i < atoi(argv[3]); i++) {
            snprintf(path, sizeof path, "%s%d/%s", argv[2], i, argv[4]);
            while (slurp(path, &byte, 1) < 1)
                usleep(1000);
        }
        printf("%lld\n", (long long)now());
        return 0;
    }
    fprintf(stderr, "usage: probe watch|open|read FILE COUNT, or probe wait PREFIX N FILE\n");
    return 2;
}
