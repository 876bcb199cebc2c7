/* What a container does in the benchmarks: a static program, so that no shell or interpreter is measured.
 *
 *   probe watch FILE COUNT     print the CLOCK_MONOTONIC time, in ns, at which each of COUNT new contents of FILE was read;
 *                              waits by inotify on FILE's directory, as an application would
 *   probe open FILE COUNT      print ns per open+read+close, the median of COUNT rounds
 *   probe read FILE COUNT      print ns per pread of 4 KiB of an open file, the median of COUNT rounds
 *   probe wait PREFIX N FILE   wait until PREFIX<i>/FILE is readable for every i below N, then print the time, in ns
 *   probe latency FILE SECONDS one open+read+close every 2 ms: print count and p50, p99 and the longest, in ns
 *   probe list DIRECTORY COUNT print ns per listing with a stat of each name, the median of COUNT rounds
 *   probe storm KIND PATH N    N threads that ask as much as they can until they are killed; prints "ready"
 *                              open: open+read+close; hold: the same, with 1000 descriptors each kept open; absent: stat of
 *                              names that do not exist; list: read the directory; part: read its beginning; watch: inotify
 *                              watches set and removed, poll
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
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

static int latency(const char *path, int seconds) {
    static char buffer[65536];
    int most = seconds * 1000, count = 0;
    int64_t *taken = calloc((size_t)most, sizeof *taken), until = now() + (int64_t)seconds * 1000000000;
    while (count < most && now() < until) {
        int64_t start = now();
        if (slurp(path, buffer, sizeof buffer) < 0)
            return perror(path), 1;
        taken[count++] = now() - start;
        usleep(2000);
    }
    qsort(taken, (size_t)count, sizeof *taken, compare);
    printf("%d %lld %lld %lld\n", count, (long long)taken[count / 2], (long long)taken[count * 99 / 100],
           (long long)taken[count - 1]);
    return 0;
}

static int list(const char *path, int count) {
    int64_t *taken = calloc((size_t)count, sizeof *taken);
    for (int i = 0; i < count; i++) {
        int64_t start = now();
        DIR *directory = opendir(path);
        if (directory == NULL)
            return perror(path), 1;
        struct stat found;
        for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
            fstatat(dirfd(directory), entry->d_name, &found, 0);
        closedir(directory);
        taken[i] = now() - start;
    }
    qsort(taken, (size_t)count, sizeof *taken, compare);
    printf("%lld\n", (long long)taken[count / 2]);
    return 0;
}

static const char *storm_kind, *storm_path;

static void *storm(void *argument) {
    char buffer[65536], name[4096];
    long thread = (long)argument;
    if (!strcmp(storm_kind, "hold"))
        for (int i = 0; i < 1000; i++)
            (void)!open(storm_path, O_RDONLY | O_CLOEXEC);
    for (long i = 0;; i++) {
        if (!strcmp(storm_kind, "absent")) {
            struct stat found;
            snprintf(name, sizeof name, "%s/absent-%ld-%ld", storm_path, thread, i);
            stat(name, &found);
        } else if (!strcmp(storm_kind, "list") || !strcmp(storm_kind, "part")) {
            DIR *directory = opendir(storm_path);
            if (directory == NULL)
                continue;
            while (readdir(directory) != NULL && !strcmp(storm_kind, "list"))
                ;
            closedir(directory);
        } else if (!strcmp(storm_kind, "watch")) {
            int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
            struct pollfd waiting = {fd, POLLIN, 0};
            inotify_add_watch(fd, storm_path, IN_ALL_EVENTS);
            poll(&waiting, 1, 0);
            close(fd);
            int file = open(storm_path, O_RDONLY | O_CLOEXEC);
            waiting.fd = file;
            poll(&waiting, 1, 0);
            close(file);
        } else
            slurp(storm_path, buffer, sizeof buffer);
    }
    return NULL;
}

static int storms(const char *kind, const char *path, int threads) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    storm_kind = kind, storm_path = path;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 256 << 10);
    for (long i = 0; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, &small, storm, (void *)i))
            return perror("pthread_create"), 1;
    }
    printf("ready\n");
    fflush(stdout);
    pause();
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "watch"))
        return watch(argv[2], atoi(argv[3]));
    if (argc == 4 && !strcmp(argv[1], "open"))
        return rounds(argv[2], atoi(argv[3]), 1);
    if (argc == 4 && !strcmp(argv[1], "read"))
        return rounds(argv[2], atoi(argv[3]), 0);
    if (argc == 4 && !strcmp(argv[1], "latency"))
        return latency(argv[2], atoi(argv[3]));
    if (argc == 4 && !strcmp(argv[1], "list"))
        return list(argv[2], atoi(argv[3]));
    if (argc == 5 && !strcmp(argv[1], "storm"))
        return storms(argv[2], argv[3], atoi(argv[4]));
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
    fprintf(stderr, "usage: probe watch|open|read|latency|list FILE N, probe wait PREFIX N FILE, probe storm KIND PATH N\n");
    return 2;
}
