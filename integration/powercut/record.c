// Records what a process does to the files of one folder, in order, so that power cuts can be acted out afterwards.
//
// It is preloaded (LD_PRELOAD). Every change of a file that lies directly in TERCET_POWERCUT_FOLDER is done and then
// appended to TERCET_POWERCUT_TRACE, and so is every sync once it has returned. One lock keeps both in one order. A
// sync of a file whose name ends with TERCET_POWERCUT_LIE is done by nobody and not recorded: a disk that lies.
//
// A record is a header, the file's name without its folder, and the data of a write. The folder itself has no name.
// Files ending with -shm are left out: SQLite makes its index of the log anew after a power cut. What this file has no
// record for ends the process, so that nothing is missed in silence.
//
// Built by the test that uses it: cc -shared -fPIC -O2 -o record.so record.c -ldl -lpthread

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, WRITE = 2, TRUNCATE = 3, SYNC = 4, UNLINK = 5 };
enum { FILES_MAX = 4096, NAME_MAX_ = 64 };

struct header {
    uint8_t kind;
    uint8_t name_length;
    uint8_t unused[6];
    uint64_t offset; // of a write; of a truncation the new length
    uint64_t length; // of a write's data
};

struct file {
    int followed;
    int appends;
    char name[NAME_MAX_];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct file files[FILES_MAX];
static char folder[4096];
static const char *lie;
static int trace = -1;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

static void die(const char *what, const char *name) {
    fprintf(stderr, "powercut: no record for %s of %s\n", what, name);
    abort();
}

__attribute__((constructor)) static void begin(void) {
    const char *in = getenv("TERCET_POWERCUT_FOLDER"), *to = getenv("TERCET_POWERCUT_TRACE");
    if (!in || !to || strlen(in) >= sizeof folder) die("the settings", "the process");
    strcpy(folder, in);
    lie = getenv("TERCET_POWERCUT_LIE");
    trace = REAL(open)(to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (trace < 0) die("the opening", to);
}

// The name of a file in the folder, "" for the folder itself, NULL for any other.
static const char *own(const char *path) {
    size_t length = strlen(folder);
    if (!length || strncmp(path, folder, length) != 0) return NULL;
    const char *rest = path + length;
    if (*rest == 0) return rest;
    if (*rest++ != '/' || strchr(rest, '/')) return NULL;
    size_t end = strlen(rest);
    if (end >= 4 && strcmp(rest + end - 4, "-shm") == 0) return NULL;
    if (end >= NAME_MAX_) die("so long a name", path);
    return rest;
}

static struct file *followed(int fd) {
    return fd >= 0 && fd < FILES_MAX && files[fd].followed ? &files[fd] : NULL;
}

static void record(uint8_t kind, const char *name, uint64_t offset, const void *data, uint64_t length) {
    struct header header = {.kind = kind, .name_length = (uint8_t)strlen(name), .offset = offset, .length = length};
    struct iovec parts[] = {
        {&header, sizeof header}, {(void *)name, header.name_length}, {(void *)data, data ? length : 0}};
    ssize_t whole = (ssize_t)(sizeof header + header.name_length + (data ? length : 0));
    if (REAL(writev)(trace, parts, 3) != whole) die("a full disk under the trace", name);
}

static int opened(int fd, const char *name, int flags, int existed) {
    if (fd < 0 || !name) return fd;
    if (fd >= FILES_MAX) die("so many files", name);
    if (flags & (O_SYNC | O_DSYNC)) die("O_SYNC", name);
    strcpy(files[fd].name, name);
    files[fd].appends = (flags & O_APPEND) != 0;
    files[fd].followed = 1;
    if (!existed) record(CREATE, name, 0, NULL, 0);
    if (existed && (flags & O_TRUNC)) record(TRUNCATE, name, 0, NULL, 0);
    return fd;
}

// Every way to open ends here. `at` is AT_FDCWD, or a folder that the path is relative to.
static int open_(int at, const char *path, int flags, mode_t mode) {
    if (at != AT_FDCWD && path[0] != '/') return REAL(openat)(at, path, flags, mode);
    const char *name = own(path);
    if (!name) return REAL(openat)(at, path, flags, mode);
    pthread_mutex_lock(&lock);
    int existed = REAL(access)(path, F_OK) == 0;
    int fd = opened(REAL(openat)(at, path, flags, mode), name, flags, existed);
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags, mode)                                   \
    mode_t mode = 0;                                        \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                \
        va_list more;                                       \
        va_start(more, flags);                              \
        mode = va_arg(more, mode_t);                        \
        va_end(more);                                       \
    }

int open(const char *path, int flags, ...) {
    MODE(flags, mode)
    return open_(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags, mode)
    return open_(AT_FDCWD, path, flags, mode);
}

int openat(int at, const char *path, int flags, ...) {
    MODE(flags, mode)
    return open_(at, path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...) {
    MODE(flags, mode)
    return open_(at, path, flags, mode);
}

int close(int fd) {
    pthread_mutex_lock(&lock);
    if (followed(fd)) files[fd].followed = 0;
    int done = REAL(close)(fd);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int fd, const void *data, size_t length) {
    struct file *file = followed(fd);
    if (!file) return REAL(write)(fd, data, length);
    pthread_mutex_lock(&lock);
    off64_t offset = lseek64(fd, 0, file->appends ? SEEK_END : SEEK_CUR);
    ssize_t done = REAL(write)(fd, data, length);
    if (done > 0) record(WRITE, file->name, (uint64_t)offset, data, (uint64_t)done);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    struct file *file = followed(fd);
    if (!file) return REAL(pwrite64)(fd, data, length, offset);
    pthread_mutex_lock(&lock);
    ssize_t done = REAL(pwrite64)(fd, data, length, offset);
    if (done > 0) record(WRITE, file->name, (uint64_t)offset, data, (uint64_t)done);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }

int ftruncate64(int fd, off64_t length) {
    struct file *file = followed(fd);
    if (!file) return REAL(ftruncate64)(fd, length);
    pthread_mutex_lock(&lock);
    int done = REAL(ftruncate64)(fd, length);
    if (done == 0) record(TRUNCATE, file->name, (uint64_t)length, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int sync_(int fd, int (*sync)(int)) {
    struct file *file = followed(fd);
    if (!file) return sync(fd);
    size_t name = strlen(file->name), end = lie ? strlen(lie) : 0;
    if (end && name >= end && strcmp(file->name + name - end, lie) == 0) return 0;
    // Under the lock: what others write while it runs may or may not be covered, so it must not look as if it were.
    pthread_mutex_lock(&lock);
    int done = sync(fd);
    if (done == 0) record(SYNC, file->name, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

int fsync(int fd) { return sync_(fd, REAL(fsync)); }

int fdatasync(int fd) { return sync_(fd, REAL(fdatasync)); }

int unlink(const char *path) {
    const char *name = own(path);
    if (!name) return REAL(unlink)(path);
    pthread_mutex_lock(&lock);
    int done = REAL(unlink)(path);
    if (done == 0) record(UNLINK, name, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

// What is not expected of SQLite.

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (followed(fd)) die("writev", files[fd].name);
    return REAL(writev)(fd, parts, count);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    if (followed(fd)) die("pwritev", files[fd].name);
    return REAL(pwritev64)(fd, parts, count, offset);
}

int posix_fallocate64(int fd, off64_t offset, off64_t length) {
    if (followed(fd)) die("posix_fallocate", files[fd].name);
    return REAL(posix_fallocate64)(fd, offset, length);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    if (followed(fd)) die("fallocate", files[fd].name);
    return REAL(fallocate64)(fd, mode, offset, length);
}

int rename(const char *from, const char *to) {
    if (own(from) || own(to)) die("rename", from);
    return REAL(rename)(from, to);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset) {
    struct file *file = followed(fd);
    if (file && (flags & MAP_SHARED) && (protection & PROT_WRITE)) die("a shared mapping", file->name);
    return REAL(mmap64)(at, length, protection, flags, fd, offset);
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    return mmap64(at, length, protection, flags, fd, offset);
}
