/* What a container does while its volume is revoked.
 *
 *   revoked_reader read FILE COUNT    reads FILE, open and mapped, as fast as it can, and prints the CLOCK_MONOTONIC time, in ns, at
 *                                     which both have failed; COUNT times, waiting in between until it can be read again
 *   revoked_reader pass FILE SOCKET   opens FILE and sends the descriptor to whoever listens at SOCKET
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static sigjmp_buf no_page;

static void on_bus(int number) { siglongjmp(no_page, number); }

static int is_mapped(volatile char *map) {
    if (sigsetjmp(no_page, 1))
        return 0;
    (void)map[0];
    return 1;
}

static int revoked(const char *path, int count) {
    char byte;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    volatile char *map = mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
    if (fd < 0 || map == MAP_FAILED)
        return perror(path), 1;
    signal(SIGBUS, on_bus);
    printf("ready\n");
    fflush(stdout);
    for (int i = 0; i < count; i++) {
        int64_t read_at = 0, map_at = 0;
        while (!read_at || !map_at) {
            if (!read_at && pread(fd, &byte, 1, 0) < 0)
                read_at = now();
            if (!map_at && !is_mapped(map))
                map_at = now();
        }
        printf("%lld\n", (long long)(read_at > map_at ? read_at : map_at));
        fflush(stdout);
        while (pread(fd, &byte, 1, 0) < 0 || !is_mapped(map))
            usleep(1000);
        printf("again\n");
        fflush(stdout);
    }
    return 0;
}

static int pass(const char *path, const char *address) {
    struct sockaddr_un peer = {.sun_family = AF_UNIX};
    snprintf(peer.sun_path, sizeof peer.sun_path, "%s", address);
    int sock = socket(AF_UNIX, SOCK_STREAM, 0), fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || connect(sock, (struct sockaddr *)&peer, sizeof peer) < 0)
        return perror(path), 1;
    char control[CMSG_SPACE(sizeof fd)] = {0}, byte = 0;
    struct iovec one = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    return sendmsg(sock, &message, 0) == 1 ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "read"))
        return revoked(argv[2], atoi(argv[3]));
    if (argc == 4 && !strcmp(argv[1], "pass"))
        return pass(argv[2], argv[3]);
    fprintf(stderr, "usage: revoked_reader read FILE COUNT | pass FILE SOCKET\n");
    return 2;
}
