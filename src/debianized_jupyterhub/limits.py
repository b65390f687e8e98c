"""Which limit of the account or the machine an error has met, or whose file, in words: for what users read.

The errors are those of the operating system (errno(3)); whose limit it was, setrlimit(2) and the control groups tell.
"""

import errno
import os
import pwd
import resource
import traceback

CGROUPS = "/sys/fs/cgroup"
LIMITS = "/etc/security/limits.conf and limits.d"


def mount_point(path: str) -> str:
    """Return where the file system is mounted that `path` is on, or would be."""
    path = os.path.abspath(path)
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


def _full(path: str) -> str:
    place = mount_point(path)
    with_room = "has no room left"
    try:
        found = os.statvfs(place)
        if found.f_files and not found.f_favail:
            with_room = "has no inodes left, which means too many files"
    except OSError:
        pass
    return f"The file system {place} {with_room}"


def _most(limit: int) -> int:
    return resource.getrlimit(limit)[0]


def _slice_with_all_its_tasks(cgroup: str = "/proc/self/cgroup", top: str = CGROUPS) -> str | None:
    """Return the group, with its TasksMax, that has as many tasks as it may, of those that we are in; None where there is none."""
    try:
        with open(cgroup) as lines:
            path = next(line.rstrip("\n")[3:] for line in lines if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    while path.strip("/"):
        try:
            with open(f"{top}{path}/pids.max") as most, open(f"{top}{path}/pids.current") as current:
                allowed = most.read().strip()
                if allowed.isdecimal() and int(current.read()) >= int(allowed):
                    return f"{os.path.basename(path)} has as many tasks as it may: TasksMax={allowed}"
        except OSError:  # no controllers
            pass
        path = os.path.dirname(path)
    return None


def _too_many_processes() -> str:
    if found := _slice_with_all_its_tasks():
        return found
    most = _most(resource.RLIMIT_NPROC)
    if most == resource.RLIM_INFINITY:
        return "The machine has as many processes as it can have"
    return f"The account has as many processes and threads as it may: nproc {most} in {LIMITS}"


def _too_little_memory() -> str:
    most = _most(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
        return f"The server may not have more memory: as {most // 1024} in {LIMITS}"
    return "There is not enough memory"


def _starts_a_process(error: OSError) -> bool:
    """Was it a new process that there was no room for? Others have that errno, too."""
    return any(frame.f_code.co_name in {"_execute_child", "fork", "_launch"} for frame, _ in traceback.walk_tb(error.__traceback__))


def met_by(error: BaseException, path: str = "~") -> str | None:
    """Return the limit that `error` has met, as a sentence without a full stop; None where it is another error.

    `path` is on the file system that was written to, unless the error names a file.
    """
    if isinstance(error, MemoryError):
        return _too_little_memory()
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return _too_many_processes()
    if not isinstance(error, OSError):
        return None
    path = error.filename if isinstance(error.filename, str) else os.path.expanduser(path)
    if error.errno == errno.ENOSPC:
        return _full(path)
    if error.errno == errno.EDQUOT:
        return f"The quota on {mount_point(path)} is used up"
    if error.errno == errno.EFBIG:
        return f"No file may become so large: fsize {_most(resource.RLIMIT_FSIZE) // 1024} in {LIMITS}"
    if error.errno == errno.EMFILE:
        return f"The server has as many files open as it may: nofile {_most(resource.RLIMIT_NOFILE)} in {LIMITS}"
    if error.errno == errno.ENFILE:
        return "The machine has as many files open as it can have"
    if error.errno == errno.EAGAIN and _starts_a_process(error):
        return _too_many_processes()
    return _too_little_memory() if error.errno == errno.ENOMEM else None


def owner(path: str) -> str:
    """Return the name of the owner of a file, or the number where it has none."""
    uid = os.stat(path).st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def forbidden(path: str, why: str) -> str:
    """Return who keeps us from `path`: the last part of it that can be seen is whose rights are in the way."""
    while not os.path.lexists(path) and path != "/":
        path = os.path.dirname(path)
    me = pwd.getpwuid(os.getuid()).pw_name
    if owner(path) == me:
        return f"{path}: {why}. It is yours, and its mode is {os.stat(path).st_mode & 0o7777:04o}: `chmod u+rwX {path}`."
    return f"{path}: {why}. It belongs to {owner(path)}; `chown -R {me}: {path}` as root gives it back."
