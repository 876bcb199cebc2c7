/* Ways to get at a file, each by one real process. Static, so that it runs in a container that has nothing.

     attack WAY ARGUMENT...

   Prints what the file holds, or the name of the errno that stopped it, and a newline. Source of truth for the ways: the table in
   test_attacks.py. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void stop(const char *what) {
    printf("%s %s\n", what, strerrorname_np(errno));
    exit(1);
}

static int show(int fd) {
    char text[256];
    ssize_t size = fd < 0 ? -1 : pread(fd, text, sizeof text - 1, 0);
    if (size < 0)
        puts(strerrorname_np(errno));
    else
        printf("%.*s\n", (int)size, text);
    fflush(stdout);
    return 0;
}

static int show_path(const char *path) { return show(open(path, O_RDONLY)); }

/* Cuts the file off at its beginning, which a descriptor that is for reading alone does as well. */
static int cut(const char *path) { return show(open(path, O_RDONLY | O_TRUNC)); }

static void *show_in_thread(void *path) {
    show_path(path);
    exit(0);
}

static int thread(char *path, int is_alone) {
    pthread_t other;
    pthread_create(&other, NULL, show_in_thread, path);
    if (is_alone) pthread_exit(NULL); /* the leader is a zombie from here on */
    pthread_join(other, NULL);
    return 0;
}

/* mode 0: in the caller's own thread where that does not block; 1: by a worker; 2: by the kernel thread that polls the queue */
static int uring(int mode, const char *path) {
    struct io_uring_params params = {.flags = mode == 2 ? IORING_SETUP_SQPOLL : 0, .sq_thread_idle = 1000};
    int ring = syscall(__NR_io_uring_setup, 4, &params);
    if (ring < 0) stop("io_uring_setup");
    size_t sq_size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    size_t cq_size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    char *sq = mmap(NULL, sq_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    char *cq = mmap(NULL, cq_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    struct io_uring_sqe *sqe = mmap(NULL, params.sq_entries * sizeof *sqe, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
                                    IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || sqe == MAP_FAILED) stop("mmap");
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_OPENAT;
    sqe->fd = AT_FDCWD;
    sqe->addr = (unsigned long)path;
    sqe->open_flags = O_RDONLY;
    sqe->flags = mode == 1 ? IOSQE_ASYNC : 0;
    *(unsigned *)(sq + params.sq_off.array) = 0;
    __atomic_store_n((unsigned *)(sq + params.sq_off.tail), 1, __ATOMIC_RELEASE);
    unsigned flags = IORING_ENTER_GETEVENTS | (mode == 2 ? IORING_ENTER_SQ_WAKEUP : 0);
    if (syscall(__NR_io_uring_enter, ring, 1, 1, flags, NULL, 0) < 0) stop("io_uring_enter");
    unsigned *tail = (unsigned *)(cq + params.cq_off.tail);
    while (!__atomic_load_n(tail, __ATOMIC_ACQUIRE)) usleep(1000);
    int result = ((struct io_uring_cqe *)(cq + params.cq_off.cqes))->res;
    if (result < 0) errno = -result;
    return show(result < 0 ? -1 : result);
}

static int in_namespaces(int flags, const char *path) {
    if (unshare(flags)) stop("unshare");
    if (!(flags & CLONE_NEWPID)) return show_path(path);
    pid_t child = fork();
    if (child == 0) exit(show_path(path));
    waitpid(child, NULL, 0);
    return 0;
}

/* Joins namespaces of another process: letters as nsenter(1) has them. All are opened first: joining one hides the others. */
static int enter(const char *pid, const char *letters, const char *path) {
    static const struct {
        char letter;
        const char *name;
    } kinds[] = {{'C', "cgroup"}, {'u', "uts"}, {'i', "ipc"}, {'n', "net"}, {'p', "pid"}, {'m', "mnt"}};
    int fds[6];
    char link[64];
    for (int index = 0; index < 6; index++) {
        snprintf(link, sizeof link, "/proc/%s/ns/%s", pid, kinds[index].name);
        fds[index] = strchr(letters, kinds[index].letter) ? open(link, O_RDONLY) : -2;
        if (fds[index] == -1) stop(link);
    }
    for (int index = 0; index < 6; index++)
        if (fds[index] >= 0 && setns(fds[index], 0)) stop(kinds[index].name);
    pid_t child = fork(); /* a pid namespace is for children */
    if (child == 0) exit(show_path(path));
    waitpid(child, NULL, 0);
    return 0;
}

static int by_handle(const char *path, const char *directory) {
    struct {
        struct file_handle head;
        unsigned char body[MAX_HANDLE_SZ];
    } handle = {.head.handle_bytes = MAX_HANDLE_SZ};
    int mount_id;
    if (name_to_handle_at(AT_FDCWD, path, &handle.head, &mount_id, AT_SYMLINK_FOLLOW)) stop("name_to_handle_at");
    /* It wants a descriptor of the filesystem, which it would take an open to get; the current directory serves as well. */
    if (chdir(directory)) stop("chdir");
    return show(open_by_handle_at(AT_FDCWD, &handle.head, O_RDONLY));
}

static int by_tree(const char *directory, const char *name) {
    int tree = syscall(SYS_open_tree, AT_FDCWD, directory, 1 /* OPEN_TREE_CLONE */);
    if (tree < 0) stop("open_tree");
    return show(openat(tree, name, O_RDONLY));
}

/* Tells of opens of the file; an event brings a descriptor, which is opened by whoever reads the event. */
static int by_fanotify(const char *path) {
    int group = fanotify_init(FAN_CLASS_NOTIF, O_RDONLY);
    if (group < 0) stop("fanotify_init");
    if (fanotify_mark(group, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, path)) stop("fanotify_mark");
    puts("marked");
    fflush(stdout);
    struct fanotify_event_metadata event;
    ssize_t size = read(group, &event, sizeof event);
    return show(size < 0 ? -1 : event.fd);
}

static int send_to(const char *path, const char *address) {
    struct sockaddr_un peer = {.sun_family = AF_UNIX};
    strncpy(peer.sun_path, address, sizeof peer.sun_path - 1);
    int sock = socket(AF_UNIX, SOCK_STREAM, 0), fd = open(path, O_RDONLY);
    if (fd < 0) stop("open");
    if (connect(sock, (struct sockaddr *)&peer, sizeof peer)) stop("connect");
    char control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec one = {.iov_base = "x", .iov_len = 1};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    if (sendmsg(sock, &message, 0) < 0) stop("sendmsg");
    puts("sent");
    return 0;
}

/* Asks the agent over its socket, as the command line does. */
static int ask(const char *address) {
    static const char question[] = "{\"method\":\"status\"}\n";
    struct sockaddr_un peer = {.sun_family = AF_UNIX};
    strncpy(peer.sun_path, address, sizeof peer.sun_path - 1);
    int sock = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(sock, (struct sockaddr *)&peer, sizeof peer)) stop("connect");
    if (write(sock, question, sizeof question - 1) < 0) stop("write");
    char answer[8192];
    ssize_t size = read(sock, answer, sizeof answer);
    if (size < 0) stop("read");
    printf("%.*s\n", (int)size, answer);
    return 0;
}

/* A descriptor goes where its holder takes it: here to a mount namespace that may open nothing itself. */
static int inherit(const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) stop("open");
    if (unshare(CLONE_NEWNS)) stop("unshare");
    show(fd);
    return show_path(path);
}

static sigjmp_buf no_page;
static void on_bus(int number) { siglongjmp(no_page, number); }

/* Has the file open and mapped and its directory open and current; says again, for each line of input, what it gets of them. */
static int hold(const char *path, const char *directory) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) stop("open");
    volatile char *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    int list = open(directory, O_RDONLY | O_DIRECTORY);
    if (map == MAP_FAILED || list < 0 || chdir(directory)) stop("hold");
    signal(SIGBUS, on_bus);
    char line[64], entries[4096], text[256];
    printf("held %c %p\n", map[0], (void *)map);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        ssize_t size = pread(fd, text, sizeof text - 1, 0);
        printf("read=%.*s%s", size < 0 ? 0 : (int)size, text, size < 0 ? strerrorname_np(errno) : "");
        if (sigsetjmp(no_page, 1))
            printf(" map=SIGBUS");
        else
            printf(" map=%c", map[0]);
        lseek(list, 0, SEEK_SET);
        size = syscall(SYS_getdents64, list, entries, sizeof entries);
        printf(" list=%s", size < 0 ? strerrorname_np(errno) : "yes");
        int again = open(path, O_RDONLY);
        printf(" open=%s\n", again < 0 ? strerrorname_np(errno) : "yes");
        if (again >= 0) close(again);
        fflush(stdout);
    }
    return 0;
}

/* One thread that opens what each line of input names. */
static int opener(void) {
    char path[1024];
    puts("ready");
    fflush(stdout);
    while (fgets(path, sizeof path, stdin)) {
        path[strcspn(path, "\n")] = 0;
        int fd = open(path, O_RDONLY);
        show(fd);
        if (fd >= 0) close(fd);
    }
    return 0;
}

int main(int count, char **words) {
    const char *way = count > 1 ? words[1] : "";
    char *one = count > 2 ? words[2] : "", *two = count > 3 ? words[3] : "";
    if (!strcmp(way, "cat")) return show_path(one);
    if (!strcmp(way, "cut")) return cut(one);
    if (!strcmp(way, "thread")) return thread(one, 0);
    if (!strcmp(way, "leaderless")) return thread(one, 1);
    if (!strcmp(way, "uring")) return uring(0, one);
    if (!strcmp(way, "uring-worker")) return uring(1, one);
    if (!strcmp(way, "uring-sqpoll")) return uring(2, one);
    if (!strcmp(way, "userns")) return in_namespaces(CLONE_NEWUSER, one);
    if (!strcmp(way, "userns-mntns")) return in_namespaces(CLONE_NEWUSER | CLONE_NEWNS, one);
    if (!strcmp(way, "mntns")) return in_namespaces(CLONE_NEWNS, one);
    if (!strcmp(way, "pidns")) return in_namespaces(CLONE_NEWPID, one);
    if (!strcmp(way, "chroot")) return chroot(one) ? (stop("chroot"), 1) : show_path(two);
    if (!strcmp(way, "enter")) return count == 5 ? enter(one, two, words[4]) : 2;
    if (!strcmp(way, "handle")) return by_handle(one, two);
    if (!strcmp(way, "open-tree")) return by_tree(one, two);
    if (!strcmp(way, "fanotify")) return by_fanotify(one);
    if (!strcmp(way, "send")) return send_to(one, two);
    if (!strcmp(way, "ask")) return ask(one);
    if (!strcmp(way, "inherit")) return inherit(one);
    if (!strcmp(way, "hold")) return hold(one, two);
    if (!strcmp(way, "opener")) return opener();
    fprintf(stderr, "attack: no way %s\n", way);
    return 2;
}
