// Makes the disk under one folder small, so that it can be full wherever a process can be started.
//
// It is preloaded (LD_PRELOAD). The files that lie directly in TERCET_SMALLDISK_FOLDER have TERCET_SMALLDISK_BYTES
// together, whoever wrote them, counted in pages as a file system in memory does. What a file has it keeps; a write that
// makes it longer goes as far as there is room, and fails with ENOSPC where there is none. The folder's free space is
// told accordingly. A way to grow that this file does not know ends the process, so that none is missed in silence.
//
// Built by the test that uses it: cc -shared -fPIC -O2 -o small.so small.c -ldl -lpthread

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PAGE = 4096 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[4096];
static uint64_t limit; // in pages

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

static void die(const char *what, const char *name) {
    fprintf(stderr, "smalldisk: can not account for %s of %s\n", what, name);
    abort();
}

__attribute__((constructor)) static void begin(void) {
    const char *in = getenv("TERCET_SMALLDISK_FOLDER"), *bytes = getenv("TERCET_SMALLDISK_BYTES");
    if (!in || !bytes || strlen(in) >= sizeof folder) die("the settings", "the process");
    strcpy(folder, in);
    limit = strtoull(bytes, NULL, 10) / PAGE;
}

static uint64_t pages(uint64_t bytes) { return (bytes + PAGE - 1) / PAGE; }

// Free pages.
static uint64_t room(void) {
    uint64_t used = 0;
    DIR *all = opendir(folder);
    if (!all) die("the files", folder);
    for (struct dirent *one; (one = readdir(all));) {
        struct stat64 file;
        // One that is gone by now takes no room.
        if (fstatat64(dirfd(all), one->d_name, &file, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(file.st_mode))
            used += pages((uint64_t)file.st_size);
    }
    closedir(all);
    return used < limit ? limit - used : 0;
}

// Whether an open file lies in the folder.
static int inside(int fd) {
    struct stat64 file;
    char link[64], path[sizeof folder + 256];
    int before = errno, lies = 0;
    if (*folder && fstat64(fd, &file) == 0 && S_ISREG(file.st_mode)) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length < 0) die("the name", link);
        path[length] = 0;
        size_t end = strlen(folder);
        lies = strncmp(path, folder, end) == 0 && path[end] == '/' && !strchr(path + end + 1, '/');
    }
    errno = before;
    return lies;
}

// To which length a file may grow that would have this one.
static uint64_t reach(int fd, uint64_t wanted) {
    struct stat64 file;
    if (fstat64(fd, &file) != 0) return wanted;
    uint64_t has = pages((uint64_t)file.st_size);
    if (pages(wanted) <= has) return wanted;
    uint64_t most = (has + room()) * PAGE;
    return most < wanted ? most : wanted;
}

static ssize_t full(void) {
    pthread_mutex_unlock(&lock);
    errno = ENOSPC;
    return -1;
}

ssize_t write(int fd, const void *data, size_t length) {
    if (!length || !inside(fd)) return REAL(write)(fd, data, length);
    pthread_mutex_lock(&lock);
    off64_t offset = lseek64(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    uint64_t end = reach(fd, (uint64_t)offset + length);
    if (end <= (uint64_t)offset) return full();
    ssize_t done = REAL(write)(fd, data, end - (uint64_t)offset);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    if (!length || !inside(fd)) return REAL(pwrite64)(fd, data, length, offset);
    pthread_mutex_lock(&lock);
    uint64_t end = reach(fd, (uint64_t)offset + length);
    if (end <= (uint64_t)offset) return full();
    ssize_t done = REAL(pwrite64)(fd, data, end - (uint64_t)offset, offset);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }

int ftruncate64(int fd, off64_t length) {
    if (!inside(fd)) return REAL(ftruncate64)(fd, length);
    pthread_mutex_lock(&lock);
    if (reach(fd, (uint64_t)length) < (uint64_t)length) return (int)full();
    int done = REAL(ftruncate64)(fd, length);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int statvfs64(const char *path, struct statvfs64 *disk) {
    int done = REAL(statvfs64)(path, disk);
    if (done == 0 && strcmp(path, folder) == 0) {
        disk->f_bsize = disk->f_frsize = PAGE;
        disk->f_blocks = limit;
        pthread_mutex_lock(&lock);
        disk->f_bfree = disk->f_bavail = room();
        pthread_mutex_unlock(&lock);
    }
    return done;
}

int statvfs(const char *path, struct statvfs *disk) {
    _Static_assert(sizeof(struct statvfs) == sizeof(struct statvfs64), "of 64 bits both");
    return statvfs64(path, (struct statvfs64 *)disk);
}

// What is not expected of SQLite.

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (inside(fd)) die("writev", folder);
    return REAL(writev)(fd, parts, count);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    if (inside(fd)) die("pwritev", folder);
    return REAL(pwritev64)(fd, parts, count, offset);
}

int posix_fallocate64(int fd, off64_t offset, off64_t length) {
    if (inside(fd)) die("posix_fallocate", folder);
    return REAL(posix_fallocate64)(fd, offset, length);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    if (inside(fd)) die("fallocate", folder);
    return REAL(fallocate64)(fd, mode, offset, length);
}
