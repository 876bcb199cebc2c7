/* A stand-in for the e2e tests' image agnhost: the subcommands that the translated tests use, printing what agnhost prints.
 *
 *   mounttest [--flag=value ...]   looks at files; the flags, their order of execution and every line printed are agnhost's
 *   entrypoint-tester [args ...]   prints all its arguments as Go prints a slice
 *   pause                          prints "Paused" and waits for a signal
 *   test-webserver                 answers every HTTP request on port 80 with 200
 *
 * Called as sh it is busybox's, but for "sh -c env": Debian's busybox does not pass on variables whose names a shell could not
 * have, the e2e tests' does, and prints them.
 *
 * Written for machines that cannot pull images; on others the tests run the real one. Not a port: nothing else is here.
 * Source: kubernetes test/images/agnhost/{mounttest,entrypoint-tester,pause,test-webserver}, agnhost 2.63.0.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#define TMPFS 0x01021994
#define INITIAL_CONTENT "mount-tester new file\n"

/* Go prints errno in lower case: "open /x: no such file or directory". */
static const char *reason(int code) {
    static char text[128];
    snprintf(text, sizeof text, "%s", strerror(code));
    if (text[0] >= 'A' && text[0] <= 'Z' && strncmp(text, "RPC", 3) != 0)
        text[0] += 'a' - 'A';
    return text;
}

static void permissions(mode_t mode, char *out) {
    static const char letters[] = "rwxrwxrwx";
    for (int i = 0; i < 9; i++)
        out[i] = mode & (1 << (8 - i)) ? letters[i] : '-';
    out[9] = 0;
}

/* As Go's FileMode.String: type and special bits as letters, a dash when there is none, nine permission bits. */
static void mode_string(mode_t mode, char *out) {
    char *at = out;
    if (S_ISDIR(mode)) *at++ = 'd';
    if (S_ISLNK(mode)) *at++ = 'L';
    if (S_ISBLK(mode) || S_ISCHR(mode)) *at++ = 'D';
    if (S_ISFIFO(mode)) *at++ = 'p';
    if (S_ISSOCK(mode)) *at++ = 'S';
    if (mode & S_ISUID) *at++ = 'u';
    if (mode & S_ISGID) *at++ = 'g';
    if (S_ISCHR(mode)) *at++ = 'c';
    if (mode & S_ISVTX) *at++ = 't';
    if (at == out) *at++ = '-';
    permissions(mode, at);
}

/* Read a whole file into a string of the caller's; returns errno, and which step failed. */
static int read_file(const char *path, char **content, const char **step) {
    size_t size = 0, room = 4096;
    ssize_t got;
    *content = malloc(room);
    *step = "open";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    *step = "read";
    while ((got = read(fd, *content + size, room - size - 1)) > 0) {
        size += got;
        if (room - size < 2)
            *content = realloc(*content, room *= 2);
    }
    int code = got < 0 ? errno : 0;
    close(fd);
    (*content)[size] = 0;
    return code;
}

static bool print_fs_type(const char *path) {
    struct statfs found;
    if (statfs(path, &found) < 0) {
        printf("error from statfs(\"%s\"): %s\n", path, reason(errno));
        return false;
    }
    if (found.f_type == TMPFS)
        printf("mount type of \"%s\": tmpfs\n", path);
    else
        printf("mount type of \"%s\": %ld\n", path, (long)found.f_type);
    return true;
}

static bool print_content(const char *path) {
    char *content;
    const char *step;
    int code = read_file(path, &content, &step);
    if (code)
        printf("error reading file content for \"%s\": %s %s: %s\n", path, step, path, reason(code));
    else
        printf("content of file \"%s\": %s\n", path, content);
    free(content);
    return code == 0;
}

static bool write_new(const char *path, mode_t mode) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    if (fd < 0 || write(fd, INITIAL_CONTENT, strlen(INITIAL_CONTENT)) < 0 || close(fd) < 0) {
        printf("error writing new file \"%s\": open %s: %s\n", path, path, reason(errno));
        return false;
    }
    return print_content(path);
}

static bool print_stat(const char *path, char what) {
    struct stat found;
    char text[32];
    if (stat(path, &found) < 0) {
        printf("error from %s(\"%s\"): stat %s: %s\n", what == 'o' ? "stat" : "Stat", path, path, reason(errno));
        return false;
    }
    if (what == 'm') {
        mode_string(found.st_mode, text);
        printf("mode of file \"%s\": %s\n", path, text);
    } else if (what == 'p') {
        permissions(found.st_mode, text);
        printf("perms of file \"%s\": -%s\n", path, text);
    } else {
        printf("owner UID of \"%s\": %u\nowner GID of \"%s\": %u\n", path, found.st_uid, path, found.st_gid);
    }
    return true;
}

static bool print_in_loop(const char *path, int retry_s, bool stop_at_initial) {
    time_t start = time(NULL);
    bool good = true;
    for (; time(NULL) - start < retry_s; sleep(2)) {
        char *content;
        const char *step;
        int code = read_file(path, &content, &step);
        good = code == 0;
        bool initial = good && strcmp(content, INITIAL_CONTENT) == 0;
        if (!good)
            printf("Error reading file %s: %s %s: %s, retrying\n", path, step, path, reason(code));
        else
            printf("content of file \"%s\": %s\n", path, content);
        free(content);
        if (good && stop_at_initial) {
            if (initial)
                break;
            printf("Unexpected content. Expected: %s. Retrying", INITIAL_CONTENT);
        }
    }
    return good;
}

static const char *flag(int argc, char **argv, const char *name) {
    size_t length = strlen(name);
    for (int i = 2; i < argc; i++)
        if (strncmp(argv[i], "--", 2) == 0 && strncmp(argv[i] + 2, name, length) == 0 && argv[i][length + 2] == '=')
            return argv[i] + length + 3;
    return "";
}

static int mounttest(int argc, char **argv) {
    static const char *known[] = {"fs_type", "new_file_0644", "new_file_0666", "new_file_0660", "new_file_0777",
                                  "file_mode", "file_perm", "file_owner", "file_content", "file_content_in_loop",
                                  "retry_time", "break_on_expected_content"};
    static const mode_t modes[] = {0, 0644, 0666, 0660, 0777};
    for (int i = 2; i < argc; i++) {
        bool found = false;
        for (size_t j = 0; j < sizeof known / sizeof *known; j++) {
            size_t length = strlen(known[j]);
            found |= strncmp(argv[i], "--", 2) == 0 && strncmp(argv[i] + 2, known[j], length) == 0 && argv[i][length + 2] == '=';
        }
        if (!found) {
            fprintf(stderr, "Error: unknown flag: %s\n", argv[i]);
            return 1;
        }
    }
    bool good = true;
    umask(0);
    for (size_t j = 0; j < 9; j++) {
        const char *path = flag(argc, argv, known[j]);
        if (!*path)
            continue;
        if (j == 0)
            good &= print_fs_type(path);
        else if (j < 5)
            good &= write_new(path, modes[j]);
        else if (j < 8)
            good &= print_stat(path, known[j][5]);
        else
            good &= print_content(path);
    }
    const char *path = flag(argc, argv, "file_content_in_loop"), *retry = flag(argc, argv, "retry_time");
    if (*path)
        good &= print_in_loop(path, *retry ? atoi(retry) : 180,
                              strcasecmp(flag(argc, argv, "break_on_expected_content"), "false") != 0);
    return good ? 0 : 1;
}

static int entrypoint_tester(int argc, char **argv) {
    for (int i = 0; i < argc; i++)
        printf("%s%s", i ? " " : "[", argv[i]);
    printf("]\n");
    return 0;
}

static int pause_until_signal(void) {
    sigset_t wanted;
    int number;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGINT);
    sigaddset(&wanted, SIGTERM);
    sigprocmask(SIG_BLOCK, &wanted, NULL);
    printf("Paused\n");
    sigwait(&wanted, &number);
    return 0;
}

static void end(int number) {
    (void)number;
    _exit(0);
}

static int test_webserver(void) {
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK";
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(80)};
    char request[4096];
    int server = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, client;
    signal(SIGTERM, end);
    signal(SIGPIPE, SIG_IGN);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(server, (struct sockaddr *)&address, sizeof address) < 0 || listen(server, 64) < 0) {
        perror("listen");
        return 1;
    }
    while ((client = accept(server, NULL, NULL)) >= 0) {
        if (read(client, request, sizeof request) > 0 && write(client, answer, sizeof answer - 1) < 0)
            perror("write");
        close(client);
    }
    perror("accept");
    return 1;
}

static int shell(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "-c") == 0 && strcmp(argv[2], "env") == 0)
        execl("/bin/busybox", "env", NULL);
    else
        execv("/bin/busybox", argv);
    perror("/bin/busybox");
    return 127;
}

int main(int argc, char **argv) {
    const char *slash = strrchr(argv[0], '/');
    if (strcmp(slash ? slash + 1 : argv[0], "sh") == 0)
        return shell(argc, argv);
    const char *command = argc > 1 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0); /* agnhost writes unbuffered: a line is in the log when it is printed */
    if (strcmp(command, "mounttest") == 0)
        return mounttest(argc, argv);
    if (strcmp(command, "entrypoint-tester") == 0)
        return entrypoint_tester(argc, argv);
    if (strcmp(command, "pause") == 0)
        return pause_until_signal();
    if (strcmp(command, "test-webserver") == 0)
        return test_webserver();
    fprintf(stderr, "Error: unknown command \"%s\" for \"app\"\n", command);
    return 1;
}
