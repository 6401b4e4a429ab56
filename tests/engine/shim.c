/* For LD_PRELOAD: below the folder $SHIM_DIR, calls fail with the errno that a variable gives:
   SHIM_FLOCK flock, SHIM_FCNTL locks of parts of a file, SHIM_BIND binding a Unix socket,
   SHIM_CHMOD changing modes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

static int below(const char *path) {
  const char *folder = getenv("SHIM_DIR");
  return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_below(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return below(path);
}

static int fails(const char *name, int where) {
  const char *number = getenv(name);
  if (!number || !where) return 0;
  errno = atoi(number);
  return 1;
}

int flock(int fd, int operation) {
  if (!(operation & LOCK_UN) && fails("SHIM_FLOCK", is_below(fd))) return -1;
  return NEXT(int (*)(int, int), "flock")(fd, operation);
}

static int control(const char *name, int fd, int command, void *argument) {
  int locks = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK;
  if (locks && ((struct flock *)argument)->l_type != F_UNLCK && fails("SHIM_FCNTL", is_below(fd)))
    return -1;
  return NEXT(int (*)(int, int, void *), name)(fd, command, argument);
}

int fcntl(int fd, int command, ...) {
  va_list rest;
  va_start(rest, command);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  return control("fcntl", fd, command, argument);
}

int fcntl64(int fd, int command, ...) {
  va_list rest;
  va_start(rest, command);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  return control("fcntl64", fd, command, argument);
}

int bind(int fd, const struct sockaddr *address, socklen_t length) {
  if (address->sa_family == AF_UNIX &&
      fails("SHIM_BIND", below(((const struct sockaddr_un *)address)->sun_path)))
    return -1;
  return NEXT(int (*)(int, const struct sockaddr *, socklen_t), "bind")(fd, address, length);
}

int chmod(const char *path, mode_t mode) {
  if (fails("SHIM_CHMOD", below(path))) return -1;
  return NEXT(int (*)(const char *, mode_t), "chmod")(path, mode);
}

int fchmod(int fd, mode_t mode) {
  if (fails("SHIM_CHMOD", is_below(fd))) return -1;
  return NEXT(int (*)(int, mode_t), "fchmod")(fd, mode);
}

int fchmodat(int folder, const char *path, mode_t mode, int flags) {
  if (fails("SHIM_CHMOD", below(path))) return -1;
  return NEXT(int (*)(int, const char *, mode_t, int), "fchmodat")(folder, path, mode, flags);
}
