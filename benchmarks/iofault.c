/* Fails chosen calls on the files of one folder. The benchmark compiles it and loads it with LD_PRELOAD.

   IOFAULT_FOLDER  only calls on this folder and on what is in it count
   IOFAULT_REPORT  a file, elsewhere, that gets a line for each fault: the call and the path
   IOFAULT_CALL    a name from `names` below, or "change": every call that a read-only file system refuses
   IOFAULT_FROM    the first call that fails, counted from 1 over all threads
   IOFAULT_UNTIL   the last call that fails; 0: all later calls fail, too
   IOFAULT_ERRNO   a number of errno; 0: SIGKILL; -1: the call takes 200 ms longer; -2: the power fails
   IOFAULT_CONTROL a file with a `struct control`, which replaces the last four while the process runs, and the folder
                   if it names one

   When the power fails, each file loses what was written to it since its last fsync, and the process is killed. A
   rename or a new file is not lost: the benchmark `powercut` has those cases.
   A write that meets SIGKILL or ENOSPC writes half of its bytes first, because that is what a file system does.
   libjava and libnio of a JDK that was built for an old glibc call __xstat64 and its siblings; a new one calls stat. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum call { OPEN, WRITE, FSYNC, RENAME, TRUNCATE, UNLINK, LOCK, READ, STAT, READDIR, CLOSE, SEEK, MAP, MODE, MKDIR };

static const char *const names[] = {"open", "write", "fsync", "rename", "truncate", "unlink", "lock", "read", "stat",
                                    "readdir", "close", "seek", "map", "mode", "mkdir"};

enum { FILES = 1 << 16, LONGEST = 1024 };

/* `wanted` is an enum call; all calls that change something have the number after the last one. */
struct control {
    int is_on, wanted, fault, unused;
    long from, until;
    atomic_long count;
    char folder[LONGEST]; /* missing in a shorter file, whose page ends with zeros */
};

static char *_Atomic paths[FILES]; /* of the descriptors of the folder */
static char folder[PATH_MAX], current[PATH_MAX];
static const char *report;
static struct control own, *control = &own;

__attribute__((constructor)) static void start(void) {
    const char *call = getenv("IOFAULT_CALL"), *place = getenv("IOFAULT_FOLDER");
    report = getenv("IOFAULT_REPORT");
    if (!call || !place || !report || !getcwd(current, sizeof current)) return;
    snprintf(folder, sizeof folder, "%s", place);
    own.from = atol(getenv("IOFAULT_FROM"));
    own.until = atol(getenv("IOFAULT_UNTIL"));
    own.fault = atoi(getenv("IOFAULT_ERRNO"));
    int calls = sizeof names / sizeof *names;
    for (own.wanted = 0; own.wanted < calls && strcmp(call, names[own.wanted]); own.wanted++) {}
    own.is_on = own.wanted < calls || !strcmp(call, "change");
    if (!getenv("IOFAULT_CONTROL")) return;
    int fd = (int) syscall(SYS_openat, AT_FDCWD, getenv("IOFAULT_CONTROL"), O_RDWR);
    control = (void *) syscall(SYS_mmap, NULL, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
}

/* The absolute path in `into` if it is in the folder, else NULL. */
static const char *ours(int at, const char *path, char *into) {
    const char *watched = control->folder[0] ? control->folder : folder;
    if (!watched[0] || !path) return NULL;
    const char *base = at == AT_FDCWD ? current : at >= 0 && at < FILES ? paths[at] : NULL;
    if (path[0] == '/') snprintf(into, PATH_MAX, "%s", path);
    else if (!base) return NULL;
    else if (path[0]) snprintf(into, PATH_MAX, "%.2000s/%.2000s", base, path);
    else snprintf(into, PATH_MAX, "%s", base);
    size_t length = strlen(watched);
    return !strncmp(into, watched, length) && (!into[length] || into[length] == '/') ? into : NULL;
}

static const char *of_descriptor(int fd) {
    return fd >= 0 && fd < FILES ? paths[fd] : NULL;
}

static void keep(int fd, const char *path) {
    if (fd >= 0 && fd < FILES) paths[fd] = path ? strdup(path) : NULL;
}

/* How much of each file that was opened for writing is on disk. */
static struct { char path[PATH_MAX]; off64_t size; } written[64];
static int files;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static off64_t size_of(int fd) {
    struct stat64 status;
    return syscall(SYS_fstat, fd, &status) ? 0 : status.st_size;
}

/* size < 0: the file is gone. Only if it is `new`, a file that is not known yet is added. */
static void on_disk(const char *path, off64_t size, int is_new) {
    if (!path) return;
    pthread_mutex_lock(&mutex);
    int i = 0;
    while (i < files && strcmp(written[i].path, path)) i++;
    if (size < 0 && i < files) written[i] = written[--files];
    else if (i < files && !is_new) written[i].size = size;
    else if (i == files && is_new && files < 64) {
        snprintf(written[i].path, PATH_MAX, "%s", path);
        written[files++].size = size;
    }
    pthread_mutex_unlock(&mutex);
}

static void renamed(const char *path, const char *target) {
    off64_t size = -1;
    for (int i = 0; i < files; i++) if (!strcmp(written[i].path, path)) size = written[i].size;
    on_disk(path, -1, 0);
    on_disk(target, -1, 0);
    if (size >= 0) on_disk(target, size, 1);
}

static void fail_power(void) {
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < files; i++) syscall(SYS_truncate, written[i].path, written[i].size);
    kill(getpid(), SIGKILL);
}

static void tell(enum call call, const char *path) {
    char line[PATH_MAX + 32];
    int length = snprintf(line, sizeof line, "%s %s\n", names[call], path);
    int fd = (int) syscall(SYS_openat, AT_FDCWD, report, O_WRONLY | O_CREAT | O_APPEND, 0600);
    syscall(SYS_write, fd, line, (size_t) length);
    syscall(SYS_close, fd);
}

/* 0: the call succeeds; else the errno with which it fails. SIGKILL is left to the caller that wants half a write. */
static int hit(enum call call, const char *path, int changes) {
    int calls = sizeof names / sizeof *names, fault = control->fault;
    if (!path || !control->is_on || (control->wanted == calls ? !changes : control->wanted != (int) call)) return 0;
    long number = atomic_fetch_add(&control->count, 1) + 1;
    if (number < control->from || (control->until && number > control->until)) return 0;
    tell(call, path);
    if (fault == -1) {
        nanosleep(&(struct timespec) {0, 200000000}, NULL);
        return 0;
    }
    if (fault == -2) fail_power();
    if (fault == 0 && call != WRITE) kill(getpid(), SIGKILL);
    return fault == 0 ? INT_MAX : fault;
}

static int failed(int error) {
    errno = error;
    return -1;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__)) dlsym(RTLD_NEXT, #name)

static int opened(int at, const char *path, int flags, mode_t mode) {
    char into[PATH_MAX];
    const char *full = ours(at, path, into);
    int error = hit(OPEN, full, (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT));
    if (error) return failed(error);
    int fd = (int) syscall(SYS_openat, at, path, flags, mode);
    if (fd >= 0 && full) keep(fd, full);
    if (fd >= 0 && full && (flags & O_ACCMODE) != O_RDONLY) on_disk(full, size_of(fd), 1);
    return fd;
}

#define OPENS(name, at, ...) \
    int name(__VA_ARGS__, int flags, ...) { \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        return opened(at, path, flags, mode); \
    }

OPENS(open, AT_FDCWD, const char *path)
OPENS(open64, AT_FDCWD, const char *path)
OPENS(openat, at, int at, const char *path)
OPENS(openat64, at, int at, const char *path)

int close(int fd) {
    const char *path = of_descriptor(fd);
    int error = hit(CLOSE, path, 0);
    if (path) keep(fd, NULL);
    int result = (int) syscall(SYS_close, fd); /* it is closed even if that fails */
    return error ? failed(error) : result;
}

int dup(int fd) {
    int copy = (int) syscall(SYS_dup, fd);
    if (of_descriptor(fd)) keep(copy, of_descriptor(fd));
    return copy;
}

int dup2(int fd, int copy) {
    REAL(int, dup2, int, int);
    keep(copy, of_descriptor(fd));
    return real(fd, copy);
}

/* Half of the bytes of a write, and -1 if all of them may be written. */
static ssize_t half(int fd, size_t length, int *error) {
    *error = hit(WRITE, of_descriptor(fd), 1);
    int is_first = control->until == control->from + 1 && atomic_load(&control->count) == control->from;
    if (*error == INT_MAX || (*error == ENOSPC && is_first && length > 1))
        return (ssize_t) (length / 2);
    return -1;
}

#define WRITES(name, call, parameters, bytes, length, written) \
    ssize_t name parameters { \
        int error; \
        ssize_t part = half(fd, length, &error); \
        if (part < 0) return error ? failed(error) : (ssize_t) (call); \
        written; \
        if (error == INT_MAX) kill(getpid(), SIGKILL); \
        return part; \
    }

WRITES(write, syscall(SYS_write, fd, bytes, length), (int fd, const void *bytes, size_t length), bytes, length,
       part = syscall(SYS_write, fd, bytes, part))
WRITES(pwrite64, syscall(SYS_pwrite64, fd, bytes, length, place),
       (int fd, const void *bytes, size_t length, off64_t place), bytes, length,
       part = syscall(SYS_pwrite64, fd, bytes, part, place))
WRITES(writev, syscall(SYS_writev, fd, all, number), (int fd, const struct iovec *all, int number), all->iov_base,
       all->iov_len, part = syscall(SYS_write, fd, all->iov_base, part))

/* A call on a descriptor. */
#define ON_FILE(type, name, kind, changes, parameters, call) \
    type name parameters { \
        int error = hit(kind, of_descriptor(fd), changes); \
        return error ? failed(error) : (type) (call); \
    }

/* What is written while the call runs may not be on disk. */
static int forced(int call, int fd) {
    off64_t size = size_of(fd);
    int result = (int) syscall(call, fd);
    if (!result) on_disk(of_descriptor(fd), size, 0);
    return result;
}

static int truncated(int fd, off64_t size) {
    int result = (int) syscall(SYS_ftruncate, fd, size);
    if (!result) on_disk(of_descriptor(fd), size, 0);
    return result;
}

ON_FILE(int, fsync, FSYNC, 0, (int fd), forced(SYS_fsync, fd))
ON_FILE(int, fdatasync, FSYNC, 0, (int fd), forced(SYS_fdatasync, fd))
ON_FILE(int, ftruncate, TRUNCATE, 1, (int fd, off_t size), truncated(fd, size))
ON_FILE(int, ftruncate64, TRUNCATE, 1, (int fd, off64_t size), truncated(fd, size))
ON_FILE(ssize_t, read, READ, 0, (int fd, void *into, size_t length), syscall(SYS_read, fd, into, length))
ON_FILE(ssize_t, readv, READ, 0, (int fd, const struct iovec *all, int number), syscall(SYS_readv, fd, all, number))
ON_FILE(ssize_t, pread64, READ, 0, (int fd, void *into, size_t length, off64_t place),
        syscall(SYS_pread64, fd, into, length, place))
ON_FILE(off_t, lseek, SEEK, 0, (int fd, off_t place, int whence), syscall(SYS_lseek, fd, place, whence))
ON_FILE(off64_t, lseek64, SEEK, 0, (int fd, off64_t place, int whence), syscall(SYS_lseek, fd, place, whence))
ON_FILE(int, fchmod, MODE, 1, (int fd, mode_t mode), syscall(SYS_fchmod, fd, mode))

static int locked(int fd, int command, void *value) {
    int is_lock = command == F_SETLK || command == F_SETLKW || command == F_GETLK;
    int error = is_lock ? hit(LOCK, of_descriptor(fd), 0) : 0;
    if (error) return failed(error);
    int result = (int) syscall(SYS_fcntl, fd, command, value);
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) keep(result, of_descriptor(fd));
    return result;
}

#define LOCKS(name) \
    int name(int fd, int command, ...) { \
        va_list more; \
        va_start(more, command); \
        void *value = va_arg(more, void *); \
        va_end(more); \
        return locked(fd, command, value); \
    }

LOCKS(fcntl)
LOCKS(fcntl64)

void *mmap64(void *place, size_t length, int protection, int flags, int fd, off64_t offset) {
    int error = hit(MAP, of_descriptor(fd), 0);
    if (error) return errno = error, MAP_FAILED;
    return (void *) syscall(SYS_mmap, place, length, protection, flags, fd, offset);
}

/* A call on a path. */
#define ON_PATH(name, kind, changes, at, parameters, call) \
    int name parameters { \
        char into[PATH_MAX]; \
        int error = hit(kind, ours(at, path, into), changes); \
        return error ? failed(error) : (int) (call); \
    }

static int moved(int at, const char *path, int to, const char *target, unsigned flags) {
    char from[PATH_MAX], into[PATH_MAX];
    int result = (int) syscall(SYS_renameat2, at, path, to, target, flags);
    if (!result && ours(at, path, from) && ours(to, target, into)) renamed(from, into);
    return result;
}

static int removed(int at, const char *path, int flags) {
    char into[PATH_MAX];
    int result = (int) syscall(SYS_unlinkat, at, path, flags);
    if (!result) on_disk(ours(at, path, into), -1, 0);
    return result;
}

ON_PATH(rename, RENAME, 1, AT_FDCWD, (const char *path, const char *target),
        moved(AT_FDCWD, path, AT_FDCWD, target, 0))
ON_PATH(renameat, RENAME, 1, at, (int at, const char *path, int to, const char *target), moved(at, path, to, target, 0))
ON_PATH(renameat2, RENAME, 1, at, (int at, const char *path, int to, const char *target, unsigned flags),
        moved(at, path, to, target, flags))
ON_PATH(unlink, UNLINK, 1, AT_FDCWD, (const char *path), removed(AT_FDCWD, path, 0))
ON_PATH(rmdir, UNLINK, 1, AT_FDCWD, (const char *path), syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR))
ON_PATH(unlinkat, UNLINK, 1, at, (int at, const char *path, int flags), removed(at, path, flags))
ON_PATH(chmod, MODE, 1, AT_FDCWD, (const char *path, mode_t mode), syscall(SYS_fchmodat, AT_FDCWD, path, mode))
ON_PATH(mkdir, MKDIR, 1, AT_FDCWD, (const char *path, mode_t mode), syscall(SYS_mkdirat, AT_FDCWD, path, mode))
ON_PATH(access, STAT, 0, AT_FDCWD, (const char *path, int mode), syscall(SYS_faccessat, AT_FDCWD, path, mode))
ON_PATH(faccessat, STAT, 0, at, (int at, const char *path, int mode, int flags),
        syscall(SYS_faccessat, at, path, mode, flags))
ON_PATH(statx, STAT, 0, at, (int at, const char *path, int flags, unsigned mask, struct statx *into_),
        syscall(SYS_statx, at, path, flags, mask, into_))

/* The kernel's struct stat is that of a 64-bit glibc. */
#define STATUS(at, path, flags) syscall(SYS_newfstatat, at, path, status, flags)
ON_PATH(stat, STAT, 0, AT_FDCWD, (const char *path, struct stat *status), STATUS(AT_FDCWD, path, 0))
ON_PATH(stat64, STAT, 0, AT_FDCWD, (const char *path, struct stat64 *status), STATUS(AT_FDCWD, path, 0))
ON_PATH(__xstat64, STAT, 0, AT_FDCWD, (int version, const char *path, struct stat64 *status),
        ((void) version, STATUS(AT_FDCWD, path, 0)))
ON_PATH(lstat, STAT, 0, AT_FDCWD, (const char *path, struct stat *status),
        STATUS(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW))
ON_PATH(lstat64, STAT, 0, AT_FDCWD, (const char *path, struct stat64 *status),
        STATUS(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW))
ON_PATH(__lxstat64, STAT, 0, AT_FDCWD, (int version, const char *path, struct stat64 *status),
        ((void) version, STATUS(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW)))
ON_PATH(fstatat, STAT, 0, at, (int at, const char *path, struct stat *status, int flags), STATUS(at, path, flags))
ON_PATH(fstatat64, STAT, 0, at, (int at, const char *path, struct stat64 *status, int flags), STATUS(at, path, flags))
ON_FILE(int, fstat, STAT, 0, (int fd, struct stat *status), STATUS(fd, "", AT_EMPTY_PATH))
ON_FILE(int, fstat64, STAT, 0, (int fd, struct stat64 *status), STATUS(fd, "", AT_EMPTY_PATH))
ON_FILE(int, __fxstat64, STAT, 0, (int version, int fd, struct stat64 *status),
        ((void) version, STATUS(fd, "", AT_EMPTY_PATH)))

/* glibc opens and closes the descriptor of a folder without the calls above. */
DIR *opendir(const char *path) {
    REAL(DIR *, opendir, const char *);
    char into[PATH_MAX];
    const char *full = ours(AT_FDCWD, path, into);
    int error = hit(OPEN, full, 0);
    if (error) return errno = error, NULL;
    DIR *dir = real(path);
    if (dir && full) keep(dirfd(dir), full);
    return dir;
}

int closedir(DIR *dir) {
    REAL(int, closedir, DIR *);
    int fd = dirfd(dir);
    int error = hit(CLOSE, of_descriptor(fd), 0);
    if (of_descriptor(fd)) keep(fd, NULL);
    int result = real(dir);
    return error ? failed(error) : result;
}

#define READS_FOLDER(type, name) \
    type *name(DIR *dir) { \
        REAL(type *, name, DIR *); \
        int error = hit(READDIR, of_descriptor(dirfd(dir)), 0); \
        return error ? errno = error, NULL : real(dir); \
    }

READS_FOLDER(struct dirent, readdir)
READS_FOLDER(struct dirent64, readdir64)
