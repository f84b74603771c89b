/* Makes the n-th call that concerns a folder fail, for any code of the process: Python, Arrow and SQLite alike.
 *
 * Loaded with LD_PRELOAD; tests/support/faults.py compiles and drives it. It sees what is called through the C library's public
 * names. It does not see calls that the C library makes itself (inside fwrite, opendir ...) and paths that are not absolute.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <unistd.h>

#define HANDLES 4096

static char folder[PATH_MAX];
static size_t length;
static char is_ours[HANDLES];
static long countdown;
static long calls;
static int code;
static int is_full; /* From the n-th call on nothing more fits on the disk; otherwise only that call fails. */
static int has_failed;

void faults_arm(const char *path, long nth, int error, int stays_full)
{
    strncpy(folder, path, sizeof folder - 1);
    memset(is_ours, 0, sizeof is_ours);
    countdown = nth, calls = 0, code = error, is_full = stays_full, has_failed = 0;
    length = strlen(folder);
}

/* Number of calls since it was armed; negative if none of them failed. */
long faults_disarm(void)
{
    length = 0;
    return has_failed ? calls : -calls;
}

static int in_folder(const char *path) { return length && path && strncmp(path, folder, length) == 0; }
static int of_folder(int handle) { return length && handle >= 0 && handle < HANDLES && is_ours[handle]; }

/* Whether a call is to fail. takes_room: it may need more of the disk. */
static int fails(int concerns, int takes_room)
{
    if (!concerns || (is_full && !takes_room))
        return 0;
    calls++;
    if (is_full ? calls < countdown : calls != countdown)
        return 0;
    has_failed = 1;
    errno = code;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int opened(int handle, int concerns)
{
    if (handle >= 0 && handle < HANDLES)
        is_ours[handle] = concerns;
    return handle;
}

#define OPEN(name)                                                                                                              \
    int name(const char *path, int flags, ...)                                                                                  \
    {                                                                                                                           \
        va_list more;                                                                                                           \
        va_start(more, flags);                                                                                                  \
        mode_t mode = va_arg(more, mode_t);                                                                                     \
        va_end(more);                                                                                                           \
        int concerns = in_folder(path);                                                                                         \
        return fails(concerns, flags & O_CREAT) ? -1 : opened(REAL(name)(path, flags, mode), concerns);                         \
    }
#define OPENAT(name)                                                                                                            \
    int name(int from, const char *path, int flags, ...)                                                                        \
    {                                                                                                                           \
        va_list more;                                                                                                           \
        va_start(more, flags);                                                                                                  \
        mode_t mode = va_arg(more, mode_t);                                                                                     \
        va_end(more);                                                                                                           \
        int concerns = in_folder(path);                                                                                         \
        return fails(concerns, flags & O_CREAT) ? -1 : opened(REAL(name)(from, path, flags, mode), concerns);                   \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

DIR *opendir(const char *path) { return fails(in_folder(path), 0) ? NULL : REAL(opendir)(path); }

/* The handle is closed, whatever is said of it. */
int close(int handle)
{
    int concerns = of_folder(handle);
    opened(handle, 0);
    int closed = REAL(close)(handle);
    return fails(concerns, 0) ? -1 : closed;
}

/* A disk that fills up takes a part of the last write. */
#define WRITE(name, arguments, ...)                                                                                             \
    ssize_t name arguments                                                                                                      \
    {                                                                                                                           \
        int had_failed = has_failed;                                                                                            \
        if (!fails(of_folder(handle), 1))                                                                                       \
            return REAL(name)(__VA_ARGS__);                                                                                     \
        if (is_full && !had_failed && size > 1) {                                                                               \
            size /= 2;                                                                                                          \
            return REAL(name)(__VA_ARGS__);                                                                                     \
        }                                                                                                                       \
        return -1;                                                                                                              \
    }
WRITE(write, (int handle, const void *bytes, size_t size), handle, bytes, size)
WRITE(pwrite, (int handle, const void *bytes, size_t size, off_t place), handle, bytes, size, place)
WRITE(pwrite64, (int handle, const void *bytes, size_t size, off64_t place), handle, bytes, size, place)

#define BY_HANDLE(type, name, takes_room, arguments, ...)                                                                       \
    type name arguments { return fails(of_folder(handle), takes_room) ? -1 : REAL(name)(__VA_ARGS__); }
BY_HANDLE(ssize_t, read, 0, (int handle, void *bytes, size_t size), handle, bytes, size)
BY_HANDLE(ssize_t, pread, 0, (int handle, void *bytes, size_t size, off_t place), handle, bytes, size, place)
BY_HANDLE(ssize_t, pread64, 0, (int handle, void *bytes, size_t size, off64_t place), handle, bytes, size, place)
BY_HANDLE(off_t, lseek, 0, (int handle, off_t place, int from), handle, place, from)
BY_HANDLE(off64_t, lseek64, 0, (int handle, off64_t place, int from), handle, place, from)
BY_HANDLE(int, fsync, 1, (int handle), handle)
BY_HANDLE(int, fdatasync, 1, (int handle), handle)
BY_HANDLE(int, ftruncate, 0, (int handle, off_t size), handle, size)
BY_HANDLE(int, ftruncate64, 0, (int handle, off64_t size), handle, size)
BY_HANDLE(int, fchmod, 0, (int handle, mode_t mode), handle, mode)
BY_HANDLE(int, fchown, 0, (int handle, uid_t owner, gid_t group), handle, owner, group)
BY_HANDLE(int, fstat, 0, (int handle, struct stat *facts), handle, facts)
BY_HANDLE(int, fstat64, 0, (int handle, struct stat64 *facts), handle, facts)
int flock(int handle, int operation);
BY_HANDLE(int, flock, 0, (int handle, int operation), handle, operation)

#define BY_PATH(type, name, takes_room, arguments, ...)                                                                         \
    type name arguments { return fails(in_folder(path), takes_room) ? -1 : REAL(name)(__VA_ARGS__); }
BY_PATH(int, stat, 0, (const char *path, struct stat *facts), path, facts)
BY_PATH(int, stat64, 0, (const char *path, struct stat64 *facts), path, facts)
BY_PATH(int, lstat, 0, (const char *path, struct stat *facts), path, facts)
BY_PATH(int, lstat64, 0, (const char *path, struct stat64 *facts), path, facts)
BY_PATH(int, fstatat, 0, (int from, const char *path, struct stat *facts, int flags), from, path, facts, flags)
BY_PATH(int, fstatat64, 0, (int from, const char *path, struct stat64 *facts, int flags), from, path, facts, flags)
BY_PATH(int, statvfs, 0, (const char *path, struct statvfs *facts), path, facts)
BY_PATH(int, statvfs64, 0, (const char *path, struct statvfs64 *facts), path, facts)
BY_PATH(int, access, 0, (const char *path, int mode), path, mode)
BY_PATH(ssize_t, readlink, 0, (const char *path, char *found, size_t size), path, found, size)
BY_PATH(ssize_t, readlinkat, 0, (int from, const char *path, char *found, size_t size), from, path, found, size)
BY_PATH(int, mkdir, 1, (const char *path, mode_t mode), path, mode)
BY_PATH(int, mkdirat, 1, (int from, const char *path, mode_t mode), from, path, mode)
BY_PATH(int, unlink, 0, (const char *path), path)
BY_PATH(int, unlinkat, 0, (int from, const char *path, int flags), from, path, flags)
BY_PATH(int, rename, 1, (const char *path, const char *other), path, other)
BY_PATH(int, renameat, 1, (int from, const char *path, int to, const char *other), from, path, to, other)
BY_PATH(int, link, 1, (const char *path, const char *other), path, other)
BY_PATH(int, linkat, 1, (int from, const char *path, int to, const char *other, int flags), from, path, to, other, flags)
BY_PATH(int, chmod, 0, (const char *path, mode_t mode), path, mode)
BY_PATH(int, fchmodat, 0, (int from, const char *path, mode_t mode, int flags), from, path, mode, flags)
BY_PATH(int, chown, 0, (const char *path, uid_t owner, gid_t group), path, owner, group)
BY_PATH(int, truncate, 0, (const char *path, off_t size), path, size)
BY_PATH(int, truncate64, 0, (const char *path, off64_t size), path, size)
