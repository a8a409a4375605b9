"""A fork server: starts submissions' processes, each in a jail of Linux namespaces of its own.

`sltools.grading.forkserver` starts it as a script and sends it, as JSON on the socket that its
argument numbers, its settings and then one order for each process. It imports the `module` of the
settings once, runs nothing of a submission ever, and for each order forks a process that calls the
module's `main`. So processes start fast, and nothing that one of them does reaches the next.

In a jail there is no network, no process but its own, and of the files only those named visible,
read-only, and an empty working folder in memory; all of it goes when the process ends, or when the
other end of the order's socket is closed, by the grader or by the grader's death. Linux 5.14 or
newer. A filter refuses the system calls that reach what namespaces do not hold apart, the kernel's
keyrings above all, and memory that belongs to no process.
"""

import ctypes
import errno
import importlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
# Of each process; the file system is made before, and the user namespace, where there must be one.
OWN_NAMESPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 1, 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SECCOMP_MODE_FILTER, RET_KILL, RET_ERRNO, RET_ALLOW = 2, 0x80000000, 0x00050000, 0x7FFF0000
NEW_NAMESPACES = 0x7E020000  # all flags of clone that make one
X32 = 0x40000000  # calls of the other ABI of x86-64, by other numbers
# Of each architecture its number, those of clone and clone3, and those of the calls refused:
# add_key, request_key, keyctl, ptrace, process_vm_readv, process_vm_writev, perf_event_open, bpf,
# userfaultfd, unshare, setns, io_uring_setup; shmget, semget, msgget, mq_open, memfd_create and
# memfd_secret.
CALLS = {
    "x86_64": (
        *(0xC000003E, 56, 435),
        (248, 249, 250, 101, 310, 311, 298, 321, 323, 272, 308, 425, 29, 64, 68, 240, 319, 447),
    ),
    "aarch64": (
        *(0xC00000B7, 220, 435),
        (217, 218, 219, 117, 270, 271, 241, 280, 282, 97, 268, 425, 194, 190, 186, 180, 279, 447),
    ),
}
LOAD, EQUAL, AT_LEAST, ANY_OF, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of the filter's machine
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
WORK = "/submission"  # the working folder in the jail: no place where a library may be
INODES = 10_000  # in the working folder
CAPABILITIES = 0x20080522  # version 3 of the kernel's interface
MESSAGE = 2**20  # bytes of an order
POLL_SECONDS = 0.05  # seconds between two looks at the process
REFUSED = 125  # the exit code when the jail cannot be made


def main() -> None:
    """Make the file system of the jails, import the module, and follow orders until they end."""
    orders = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(orders.recv(MESSAGE))
    isolate = settings["isolate"]
    try:
        if isolate:
            _enter_namespaces(new_user=os.geteuid() != 0)
            _change_root(settings)
    except OSError as error:
        os.write(2, f"{error}\n".encode())
        os._exit(REFUSED)
    importlib.invalidate_caches()  # some of what was seen is hidden now
    module = importlib.import_module(settings["module"])
    del settings  # it names what is hidden
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # none of them is waited for
    orders.send(b"ready")
    while True:
        text, descriptors, *_ = socket.recv_fds(orders, MESSAGE, 2)
        if not text:
            os._exit(0)  # nothing is to be tidied up
        if os.fork() == 0:
            try:
                _start(module, isolate, json.loads(text), *descriptors)
            finally:
                os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def _start(module: Any, isolate: bool, order: dict[str, Any], channel: int, watch: int) -> None:
    """Fork the submission's process, and watch it to its end.

    The grader is told its number, and then the exit code, 128 + N if signal N ended it.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    grader = socket.socket(fileno=watch)
    # Limits on processes do not hold for root: each of root's jails has a user of its own.
    user = 50_000 + os.getpid() % 10_000 if isolate and os.geteuid() == 0 else None
    try:
        if isolate:
            _call("unshare", OWN_NAMESPACES)
        child = os.fork()
        if child == 0:
            _enter_jail(order, user, channel, isolate)
            module.main(channel)
    except OSError as error:
        os.write(2, f"{error}\n".encode())
        os._exit(REFUSED)
    os.close(channel)
    try:
        grader.send(str(child).encode())
    except OSError:  # it is gone
        _kill(child)
    code = _watch(child, grader)
    with suppress(OSError):
        grader.send(str(code).encode())


def _watch(child: int, grader: socket.socket) -> int:
    """Wait for a process; kill it, with its process group, when the grader closes its end.

    In a PID namespace of its own all processes die with it, whatever they did to escape.
    """
    closed = False
    while True:
        ended, status = os.waitpid(child, 0 if closed else os.WNOHANG)
        if ended:
            _kill(child)  # what it leaves behind
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        closed = bool(select.select([grader], [], [], POLL_SECONDS)[0])
        if closed:
            _kill(child)


def _kill(child: int) -> None:
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(child, signal.SIGKILL)


def _enter_jail(order: dict[str, Any], user: int | None, channel: int, isolate: bool) -> None:
    """Take from this process all that a submission must not have, but the socket `channel`."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.closerange(3, channel)
    os.closerange(channel + 1, 2**16)
    os.environ |= order["environment"]
    if isolate:
        _mount_proc()
        _mount_work(Path(WORK), order["disk"])
    os.chdir(order["folder"])
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    if sys.platform == "linux":
        header, none = struct.pack("=Ii", CAPABILITIES, 0), bytes(24)
        _call("capset", header, none)
        _call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)
        _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _filter_calls()
    die_with_parent()
    for name, most in order["limits"].items():
        resource.setrlimit(getattr(resource, name), (most, most))


def die_with_parent() -> None:
    """Let the kernel, if it is Linux, end this process when the one that started it ends."""
    if sys.platform == "linux":
        _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def can_filter() -> bool:
    """Say whether this machine's system calls are known by number, so that some are refused."""
    return sys.platform == "linux" and os.uname().machine in CALLS


def _filter_calls() -> None:
    """Let the kernel refuse some system calls, from here on and to all children."""
    if not can_filter():
        return
    architecture, clone, clone3, refused = CALLS[os.uname().machine]
    steps = [
        (LOAD, 0, 0, 4),
        (EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, RET_KILL),
        (LOAD, 0, 0, 0),
    ]
    steps += [(AT_LEAST, 0, 1, X32), (RETURN, 0, 0, RET_ERRNO | errno.EPERM)]
    for number in refused:
        steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, RET_ERRNO | errno.EPERM)]
    # Its flags lie in memory, where no filter sees them: the C library then takes clone.
    steps += [(EQUAL, 0, 1, clone3), (RETURN, 0, 0, RET_ERRNO | errno.ENOSYS)]
    steps += [(EQUAL, 0, 3, clone), (LOAD, 0, 0, 16), (ANY_OF, 0, 1, NEW_NAMESPACES)]
    steps += [(RETURN, 0, 0, RET_ERRNO | errno.EPERM), (RETURN, 0, 0, RET_ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))
    _call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)


def _enter_namespaces(new_user: bool) -> None:
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", CLONE_NEWNS | (CLONE_NEWUSER if new_user else 0))
    if new_user:
        Path("/proc/self/setgroups").write_text("deny")
        # Not root in there either: the rights to mount end where a submission's process begins.
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        _call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # or its files in /proc belong to nobody here


def _change_root(settings: dict[str, Any]) -> None:
    """Make a file system of the visible paths, read-only, beside a working folder; enter it."""
    root = Path(settings["scratch"])
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", MS_NOSUID, "mode=755")
    # The system's /proc is there to be covered: else nobody but root may mount another.
    for path in map(Path, [*settings["visible"], *DEVICES, "/proc"]):
        _bind(path, root)
    for path in map(Path, settings["hidden"]):
        _mask(_path_in(root, path))
    (root / WORK[1:]).mkdir(exist_ok=True)
    if not (root / "dev/shm").exists():
        (root / "dev/shm").symlink_to(WORK)
    _make_read_only(root)
    _mount_work(root / WORK[1:], settings["disk"])  # to import the module; each process has its own
    os.chdir(root)
    _call("pivot_root", b".", b".")  # stacks the old root upon the new one, to be taken off
    _call("umount2", b".", MNT_DETACH)
    os.chdir(WORK)


def _mount_proc() -> None:
    """Lay a /proc of this process's namespace over the system's, read-only.

    Where memory runs out the kernel takes this process, not the grader.
    """
    try:
        _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV)
    except OSError:  # some containers allow no new one: then there is none
        _mount("tmpfs", "/proc", "tmpfs", MS_NOSUID | MS_NODEV | MS_RDONLY)
        return
    Path("/proc/self/oom_score_adj").write_text("1000")
    _make_read_only(Path("/proc"))


def _mount_work(place: Path, size: int) -> None:
    """Lay an empty working folder over `place`."""
    options = f"mode=1777,size={size},nr_inodes={INODES}"
    _mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, options)


def _bind(path: Path, root: Path) -> None:
    """Make `path` of the real system visible under `root`; a link stays a link."""
    place = _path_in(root, path)
    if not os.path.lexists(path) or os.path.lexists(place):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        place.symlink_to(path.readlink())
        return
    if path.is_dir():
        place.mkdir()
    else:
        place.touch()
    _mount(path, place, None, MS_BIND | MS_REC)


def _mask(place: Path) -> None:
    """Lay something empty over a file or folder that would be visible."""
    if place.is_dir():
        _mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    elif place.exists():
        _mount("/dev/null", place, None, MS_BIND)


def _path_in(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _make_read_only(root: Path) -> None:
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    path, size = os.fsencode(root), ctypes.sizeof(attributes)
    where = (ctypes.c_long(AT_FDCWD), path, ctypes.c_long(AT_RECURSIVE))
    _call("syscall", ctypes.c_long(SYS_MOUNT_SETATTR), *where, attributes, ctypes.c_size_t(size))


def _mount(
    source: str | Path, target: str | Path, kind: str | None, flags: int, options: str = ""
) -> None:
    texts = [text and os.fsencode(text) for text in (source, target, kind)]
    _call("mount", *texts, ctypes.c_ulong(flags), options.encode() or None)


_LIBC = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    """Call a function of the C library; raise OSError, saying which, if it fails."""
    if getattr(_LIBC, name)(*arguments) != 0:
        code = ctypes.get_errno()
        told = ", ".join(os.fsdecode(a) for a in arguments if isinstance(a, bytes))
        raise OSError(code, f"{name}({told}): {os.strerror(code)}")


if __name__ == "__main__":
    main()
