/* A reader in a container of the crash soak: reads the two files of a secret volume in one way, again and again, and counts.
 *
 *   crash_reader KIND VOLUME STOP
 *
 * Each file, a and b, holds the number of its version, one a line, up to 16 KiB. KIND is how they are read:
 *
 *   fresh      open of the version's directory, then of both files in it; and of VOLUME/a by its path
 *   file       pread of a file that was open before everything, its pages dropped each time
 *   map        the same through a mapping
 *   directory  listing of a directory that was open before everything, and openat from there
 *   cwd        relative paths from a working directory in the volume
 *   inotify    both files, but only when inotify says that ..data was replaced
 *
 * Ends when the file STOP exists and the version that it names was read (file, map: at once), after a minute at the latest.
 * Prints "slow START DURATION" (ns, CLOCK_MONOTONIC) for what took longer than 10 ms, and at the end a line of counts:
 *
 *   failed  reads that did not succeed, or gave other than what was asked for
 *   mixed   files of one version directory with different versions, a file with two, or an older version than before
 *   raced   a version was replaced between two steps of a path walk (ENOENT), as happens on tmpfs as well; the reader
 *           tries again, and 100 times in a row are a failure
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SIZE 16384
#define RACED -1
#define FAILED -2

static long reads, failed, mixed, raced, in_a_row, last = -1;
static int64_t slowest;
static const char *kind;
static char buffer[SIZE + 1];

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void took(int64_t start) {
    int64_t duration = now() - start;
    if (duration > slowest)
        slowest = duration;
    if (duration > 10000000)
        printf("slow %lld %lld\n", (long long)start, (long long)duration), fflush(stdout);
}

static void fail(const char *what, int error) {
    failed++;
    printf("failed %s %s: %s\n", kind, what, error ? strerror(error) : "wrong contents"), fflush(stdout);
}

/* The version in a whole file, which must say the same from its first line to its last. */
static long parse(const char *data, ssize_t size) {
    if (size <= 0 || size > SIZE || data[size - 1] != '\n')
        return fail("parse", 0), FAILED;
    size_t line = (size_t)(strchr(data, '\n') - data) + 1;
    for (size_t at = line; at < (size_t)size; at += line)
        if (at + line > (size_t)size || memcmp(data, data + at, line))
            return mixed++, FAILED;
    return strtol(data, NULL, 10);
}

static int race(const char *what) {
    if (errno != ENOENT || ++in_a_row > 100)
        return fail(what, errno), FAILED;
    raced++;
    return RACED;
}

static long read_at(int directory, const char *name) {
    int64_t start = now();
    int fd = openat(directory, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return took(start), race(name);
    ssize_t size = read(fd, buffer, SIZE);
    int error = errno;
    close(fd);
    took(start);
    buffer[size > 0 ? size : 0] = 0;
    reads++;
    return size < 0 ? (fail(name, error), FAILED) : parse(buffer, size);
}

static void see(long version) {
    in_a_row = 0;
    if (version < last)
        mixed++;
    last = version;
}

static int see_both(int base, const char *data) {
    int64_t start = now();
    int fd = openat(base, data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    took(start);
    if (fd < 0)
        return race(data);
    long a = read_at(fd, "a"), b = a < 0 ? a : read_at(fd, "b");
    close(fd);
    if (a < 0 || b < 0)
        return (int)(a < 0 ? a : b);
    if (a != b)
        mixed++;
    see(a);
    return 0;
}

static void see_path(int base, const char *path) {
    long version = read_at(base, path);
    if (version >= 0)
        see(version);
}

static void list(int fd) {
    char entries[8192];
    int found = 0;
    int64_t start = now();
    lseek(fd, 0, SEEK_SET);
    for (;;) {
        ssize_t n = getdents64(fd, entries, sizeof entries);
        if (n < 0) {
            fail("getdents", errno);
            return;
        }
        if (n == 0)
            break;
        for (ssize_t at = 0; at < n;) {
            struct dirent64 *entry = (struct dirent64 *)(entries + at);
            found += !strcmp(entry->d_name, "a") || !strcmp(entry->d_name, "b");
            at += entry->d_reclen;
        }
    }
    took(start);
    reads++;
    if (found != 2)
        fail("listing", 0);
}

static sigjmp_buf bus;

static void on_bus(int number) {
    siglongjmp(bus, number);
}

static void check_old(const char *data, ssize_t size, long version) {
    reads++;
    if (size != SIZE && (size <= 0 || data[size - 1] != '\n')) {
        fail("read", errno);
        return;
    }
    memcpy(buffer, data, (size_t)size);
    long got = parse(buffer, size);
    if (got >= 0 && got != version)
        mixed++;
}

/* The version that the STOP file names, or -1 while there is none. */
static long read_stop(const char *path) {
    char text[32] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    return n > 0 && text[n - 1] == '\n' ? strtol(text, NULL, 10) : -1;
}

int main(int argc, char **argv) {
    if (argc != 4)
        return fprintf(stderr, "usage: crash_reader KIND VOLUME STOP\n"), 2;
    kind = argv[1];
    int volume = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int old = openat(volume, "a", O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (volume < 0 || old < 0 || fstat(old, &status) < 0 || chdir(argv[2]) < 0)
        return perror(argv[2]), 1;
    char *map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, old, 0);
    static char copy[SIZE];
    memcpy(copy, map, (size_t)status.st_size);
    long oldest = parse(copy, status.st_size);
    int is_file = !strcmp(kind, "file"), is_map = !strcmp(kind, "map");
    int watch = -1;
    if (!strcmp(kind, "inotify")) {
        watch = inotify_init1(IN_CLOEXEC);
        if (inotify_add_watch(watch, argv[2], IN_MOVED_TO) < 0)
            return perror("inotify"), 1;
    }
    signal(SIGBUS, on_bus);
    printf("ready\n"), fflush(stdout);
    long final = -1;
    int64_t deadline = 0;
    for (;;) {
        if (is_file || is_map) {
            posix_fadvise(old, 0, 0, POSIX_FADV_DONTNEED);
            int64_t start = now();
            if (is_file) {
                ssize_t size = pread(old, copy, SIZE, 0);
                took(start);
                check_old(copy, size, oldest);
            } else if (sigsetjmp(bus, 1)) {
                fail("map", EFAULT);
            } else {
                madvise(map, (size_t)status.st_size, MADV_DONTNEED);
                posix_fadvise(old, 0, 0, POSIX_FADV_DONTNEED);
                memcpy(copy, map, (size_t)status.st_size);
                took(start);
                check_old(copy, status.st_size, oldest);
            }
        } else if (watch >= 0) {
            char events[4096];
            struct pollfd poller = {.fd = watch, .events = POLLIN};
            if (poll(&poller, 1, 50) > 0 && read(watch, events, sizeof events) > 0)
                while (see_both(volume, "..data") == RACED)
                    ;
        } else if (!strcmp(kind, "directory")) {
            list(volume);
            see_path(volume, "a");
        } else if (!strcmp(kind, "cwd")) {
            if (stat(".", &status) < 0)
                fail("stat", errno);
            see_path(AT_FDCWD, "a");
            see_both(AT_FDCWD, "..data");
        } else {
            char path[4096];
            snprintf(path, sizeof path, "%s/a", argv[2]);
            see_both(volume, "..data");
            see_path(AT_FDCWD, path);
        }
        if (final < 0 && (final = read_stop(argv[3])) >= 0)
            deadline = now() + 60000000000;
        if (final >= 0 && (is_file || is_map || last == final || now() > deadline))
            break;
        usleep(1000);
    }
    printf("end kind=%s reads=%ld failed=%ld mixed=%ld raced=%ld lost=%d slowest_us=%lld\n", kind, reads, failed, mixed,
           raced, !(is_file || is_map || last == final), (long long)slowest / 1000);
    return 0;
}
