"""Machines for the tests: a real systemd, booted by systemd-nspawn on layers of overlayfs.

docs/testing.md explains the layers with a diagram. Everything is made below one scratch directory, inside a mount namespace of our
own, and every machine dies with the process that booted it: whatever way a test run ends, no mount and no process outlives it.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "debianized-jupyterhub"
SCRATCH = pathlib.Path(tempfile.gettempdir() if "TMPDIR" in os.environ else "/var/tmp")
PREFIX = "debianized-jupyterhub-tests."
CGROUPS = pathlib.Path("/sys/fs/cgroup")

# What a small Debian server has. Neither Python nor Node: apt has to bring them with the package.
SERVER = "systemd systemd-sysv dbus libpam-systemd sudo openssh-server procps iproute2 init ca-certificates"

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000  # linux/sched.h; Python's os module has them only since 3.12
SIGRTMIN = signal.SIGRTMIN  # systemd(1): pid 1 powers off at SIGRTMIN+4


class HarnessError(RuntimeError):
    """The harness itself cannot go on (no root, no mmdebstrap, a machine that does not boot)."""


class CommandFailed(AssertionError):
    """A command inside a machine ended with another exit code than 0."""

    def __init__(self, result):
        super().__init__(f"exit code {result.returncode}: {' '.join(result.args)}\n{result.stdout}{result.stderr}".rstrip())
        self.result = result


class TimedOut(AssertionError):
    """Something did not happen within its time."""


def wait_for(predicate, what, timeout=10, every=0.05):
    """Return the first true value of `predicate()`, asked every `every` seconds for `timeout` seconds; raise TimedOut(what)."""
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimedOut(f"not within {timeout} s: {what}")
        time.sleep(every)


# -- Namespaces and control groups -------------------------------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result, what):
    if result != 0:
        raise HarnessError(f"{what}: {os.strerror(ctypes.get_errno())}")


def new_mount_namespace():
    """Give this process mounts of its own, which vanish with it."""
    _checked(_libc.unshare(CLONE_NEWNS), "cannot make a mount namespace (are you root?)")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


@contextlib.contextmanager
def network(netns_fd):
    """Let the calling thread, and what it starts meanwhile, live in another network namespace."""
    with open("/proc/thread-self/ns/net") as before:
        _checked(_libc.setns(netns_fd, CLONE_NEWNET), "cannot enter the machine's network")
        try:
            yield
        finally:
            _checked(_libc.setns(before.fileno(), CLONE_NEWNET), "cannot leave the machine's network")


def _new_network():
    """Return a file descriptor of a new, empty network namespace."""
    fds = []

    def make():  # in a thread, since unshare() moves its caller
        if _libc.unshare(CLONE_NEWNET) == 0:
            fds.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if not fds:
        raise HarnessError("cannot make a network namespace (are you root?)")
    return fds[0]


@contextlib.contextmanager
def loopback():
    """Let the calling thread, and what it starts meanwhile, live in a network of their own that has nothing but 127.0.0.1."""
    fd = _new_network()
    try:
        with network(fd):
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
    finally:
        os.close(fd)


def _cgroups_of(pid):
    """Return the directories of the control groups that systemd cares for: one with cgroup2 alone, two with hybrid hierarchies."""
    found = []
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd"):
            mount = "systemd" if controllers else ("unified" if (CGROUPS / "unified").exists() else ".")
            found.append(CGROUPS / mount / path.strip("/"))
    return found


def mount_overlay(root, lowers, upper, work, *options):
    """Mount the layers `lowers` (the first is the uppermost) with what is written to `upper` on `root`; all are paths."""
    layers = f"lowerdir={':'.join(map(str, lowers))},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", ",".join([layers, *options]), str(root)], check=True)


@contextlib.contextmanager
def overlay(directory, lowers, upper):
    """Mount `lowers` and `upper` for as long as the context lasts; yield the root, which is made in the directory (Path)."""
    for sub in ("root", "work"):
        (directory / sub).mkdir()
    mount_overlay(directory / "root", lowers, upper, directory / "work")
    try:
        yield directory / "root"
    finally:
        subprocess.run(["umount", "--recursive", str(directory / "root")], check=True)


def _children(pid):
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# Join control groups (first argument, colon separated), then become the command.
JOIN = 'IFS=:; for group in $1; do echo $$ >"$group/cgroup.procs"; done; unset IFS; shift; exec "$@"'


def _in_cgroups(groups, argv):
    return ["sh", "-c", JOIN, "sh", ":".join(map(str, groups)), *argv]


def _remove_cgroup(group):
    for directory, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):  # busy for a moment after the last process died; check_clean() has the last word
            os.rmdir(directory)


def _ip(machine, *commands):
    """Give ip(8) commands in a machine's network; it is the host's program, as few machines need one."""
    with machine.network():
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)


# -- Machines ----------------------------------------------------------------------------------------------------------------------


class Machine:
    """One machine: a throw-away layer over read-only ones, a network of its own with nothing but loopback, a systemd as pid 1."""

    def __init__(self, name, lowers, directory):
        self.name, self.directory = name, directory
        self.root, self.upper, self.console = directory / "root", directory / "upper", directory / "console.log"
        self.nspawn = self.leader = None
        for sub in ("root", "upper", "work"):
            (directory / sub).mkdir(parents=True)
        # volatile: nothing of this has to survive a power cut of the host, so skip every fsync
        mount_overlay(self.root, lowers, self.upper, directory / "work", "volatile")
        self._netns = _new_network()
        self.cgroups = []

    # Power

    def boot(self, timeout=90):
        """Boot, and return once systemd has started everything; raise HarnessError with the console's end if it does not."""
        assert not self.nspawn, f"{self.name} is up"
        command = [
            *("systemd-nspawn", "--quiet", "--boot", "--settings=no", "--register=no", "--keep-unit", f"--directory={self.root}"),
            *(f"--machine={self.name}", f"--network-namespace-path=/proc/self/fd/{self._netns}", "--capability=CAP_NET_ADMIN"),
            *("--console=pipe", "--resolv-conf=off", "--timezone=off", "--link-journal=no"),
        ]
        # The machine dies with us: nspawn's children outlive it, but nobody outlives pid 1 of a pid namespace.
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command]
        # A control group of its own for each machine, or they disturb each other.
        if os.path.isdir("/run/systemd/system"):
            command = ["systemd-run", "--quiet", "--scope", "--property=Delegate=yes", *command]
        else:
            self.cgroups = [group / f"{PREFIX}{os.getpid()}.{self.name}" for group in _cgroups_of("self")]
            for group in self.cgroups:
                group.mkdir(exist_ok=True)
            command = _in_cgroups(self.cgroups, command)
        with open(self.console, "ab") as console:
            self.nspawn = subprocess.Popen(
                command,
                pass_fds=[self._netns],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        try:
            self.leader = wait_for(self._find_leader, f"pid 1 of {self.name}", timeout)
            self._groups = _cgroups_of(self.leader)
            state = self.run("systemctl", "is-system-running", "--wait", check=False, timeout=timeout).stdout.strip()
            if state not in ("running", "degraded"):
                raise TimedOut(f"{self.name} is {state or 'not up'} after {timeout} s")
        except AssertionError as error:
            self.kill()
            console = self.console.read_text(errors="replace")[-3000:]
            raise HarnessError(f"{self.name} does not boot: {error}\n{console}") from None
        return self

    def _find_leader(self):
        """Return pid 1 of the machine as a pid of the host, once its systemd can be asked."""
        if self.nspawn.poll() is not None:
            raise TimedOut("systemd-nspawn has ended")
        with contextlib.suppress(OSError, ValueError):
            (nspawn,) = _children(self.nspawn.pid)  # below unshare
            for pid in _children(nspawn):
                if os.readlink(f"/proc/{pid}/exe").endswith("/systemd") and os.path.exists(f"/proc/{pid}/root/run/systemd/private"):
                    return pid
        return None

    def power_off(self, timeout=60):
        """Shut down as a power button does; kill what has not gone after `timeout` seconds, and raise TimedOut."""
        if self.leader:
            os.kill(self.leader, SIGRTMIN + 4)
            try:
                self.nspawn.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise TimedOut(f"{self.name} did not power off within {timeout} s") from None
            self._is_down()

    def kill(self):
        """Cut the power: kill -9 of everything, nothing is told to stop."""
        if self.leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.leader, signal.SIGKILL)
        elif self.nspawn:
            self.nspawn.kill()
        if self.nspawn:
            self.nspawn.wait(30)
            self._is_down()

    def _is_down(self):
        self.nspawn = self.leader = None
        for group in self.cgroups:
            _remove_cgroup(group)

    def discard(self):
        """Cut the power and forget everything the machine has written."""
        self.kill()
        self.unmount()
        shutil.rmtree(self.directory)

    def unmount(self):
        """Let go of the root and the network; what the machine has written stays in `upper`, to be a layer of others."""
        if self._netns is not None:
            os.close(self._netns)
            self._netns = None
            subprocess.run(["umount", str(self.root)], check=True)

    # Commands

    def run(self, *argv, user=None, input=None, check=True, timeout=60):
        """Run a command inside, with a clean environment, as root or `user`.

        `input` is a str, or a binary file that becomes stdin. Returns a subprocess.CompletedProcess with text; raises CommandFailed
        (exit code not 0, unless check=False) and TimedOut (after `timeout` seconds; the command is dead then).
        """
        assert self.leader, f"{self.name} is not up"
        argv = [str(argument) for argument in argv]
        home = self.run("getent", "passwd", user).stdout.split(":")[5] if user else "/root"
        become = ["runuser", "-u", user, "--"] if user else []
        environment = [f"HOME={home}", f"USER={user or 'root'}", f"LOGNAME={user or 'root'}", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]
        environment += ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        command = self._inside("env", "-i", "-C", home, *environment, "timeout", "--foreground", "--kill-after=5", str(timeout), *become, *argv)
        stdin = {"input": input or ""} if input is None or isinstance(input, str) else {"stdin": input}
        result = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace", timeout=timeout + 15, **stdin)
        result.args = argv
        if result.returncode == 124:
            raise TimedOut(f"not done after {timeout} s: {' '.join(argv)}\n{result.stdout}{result.stderr}")
        if check and result.returncode != 0:
            raise CommandFailed(result)
        return result

    def _inside(self, *argv):
        """Return the command of the host that runs `argv` inside."""
        return _in_cgroups(self._groups, ["nsenter", "-t", str(self.leader), "-a", *argv])

    def sh(self, script, **options):
        """Run a shell script inside (it stops at its first error) and return what it printed, without blank ends."""
        return self.run("sh", "-euc", script, **options).stdout.strip()

    def write(self, path, text, mode=0o644):
        """Write a file inside, as root."""
        self.run("sh", "-euc", 'mkdir -p "${1%/*}"; cat >"$1"; chmod "$2" "$1"', "sh", path, f"{mode:o}", input=text)

    def push(self, file, directory="/root"):
        """Copy a file of the host into a directory inside; return its path there."""
        path = f"{directory}/{pathlib.Path(file).name}"
        with open(file, "rb") as stream:
            self.run("sh", "-euc", 'cat >"$1"', "sh", path, input=stream)
        return path

    def add_user(self, name, password="secret", groups=("users",)):
        """Make a login account with a home directory."""
        self.run("useradd", "--create-home", "--shell", "/bin/bash", *(["--groups", ",".join(groups)] if groups else []), name)
        self.run("chpasswd", input=f"{name}:{password}\n")

    # Looking inside

    def journal(self, *arguments):
        """Return the journal's lines (journalctl's arguments), also of a machine that is down."""
        command = ("journalctl", "--no-pager", "--quiet", *arguments)
        if self.leader:
            return self.run(*command).stdout
        journal = f"--directory={self.root}/var/log/journal"
        return subprocess.run([*command, journal], check=False, capture_output=True, text=True, errors="replace").stdout

    def written(self, text):
        """Tell where in the machine's logs and the hub's state a text (str), such as a password, can be read: names of files, "" for nowhere."""
        found = self.run("grep", "-rlF", "--exclude-dir=journal", "--", text, "/var/log", "/var/opt/jupyterhub", check=False).stdout
        return found + ("the journal" if text in self.journal("--output=export") else "")

    def property(self, unit, name):
        """Return one property of a unit, as `systemctl show` prints it."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).stdout.strip()

    def pid_of(self, unit):
        """Return the main pid (inside) of a service, 0 if it does not run."""
        return int(self.property(unit, "MainPID"))

    def network(self):
        """`with machine.network():` makes 127.0.0.1 the machine's for this thread, its new threads and its new processes."""
        return network(self._netns)

    def be_a_switch(self, address):
        """Give the machine a bridge, which has the `address` (str, as 192.0.2.1/24), and into which others are plugged."""
        _ip(self, "link add lan type bridge", f"addr add {address} dev lan", "link set lan up")

    def plug_in(self, machine, address):
        """Lay a cable from the eth0 of another machine that is up, which has the `address` then, to this one's switch, where it ends as to-NAME."""
        end = f"to-{machine.name}"
        with self.network():
            subprocess.run(["ip", "link", "delete", end], check=False, capture_output=True)  # that of an earlier boot
        _ip(self, f"link add {end} master lan type veth peer name eth0 netns {machine.leader}", f"link set {end} up")
        _ip(machine, f"addr add {address} dev eth0", "link set eth0 up")

    @contextlib.contextmanager
    def recorded(self):
        """Record what crosses the cables of this switch; yield the bytes (bytearray), which are all there when the context has ended."""
        seen, over = bytearray(), threading.Event()
        with self.network():
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))  # ETH_P_ALL
        wire.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: nothing is lost
        wire.settimeout(0.2)

        def take():
            packet, source = wire.recvfrom(1 << 16)
            if source[0] != "lo":
                seen.extend(packet)

        def record():
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    take()

        thread = threading.Thread(target=record)
        thread.start()
        try:
            yield seen
        finally:
            over.set()
            thread.join()
            wire.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:  # what is still in the buffer
                    take()
            wire.close()

    def how_to_enter(self):
        """Return the lines that `--sit` prints."""
        return (
            f"{self.name} is up. From another terminal, as root:\n"
            f"  nsenter -t {self.leader} -a env -i TERM=$TERM PATH=/usr/sbin:/usr/bin:/sbin:/bin bash -l   # a shell in it\n"
            f"  nsenter -t {self.leader} -n curl -s http://127.0.0.1:8000/hub/login                     # host's curl, its network\n"
            f"  less {self.console}"
        )


class Here(Machine):
    """The machine that we are on, with the package installed: for debian/tests. It has no power button and no network of its own."""

    def __init__(self):
        self.name, self.root, self.leader = "this machine", pathlib.Path("/"), 1
        self._accounts = []

    def _inside(self, *argv):
        return argv

    def network(self):
        """Do nothing: 127.0.0.1 is the machine's."""
        return contextlib.nullcontext()

    def add_user(self, name, *arguments, **options):
        """Make a login account, until the topic ends."""
        super().add_user(name, *arguments, **options)
        self._accounts.append(name)

    def discard(self):
        """Take the topic's accounts away; the rest is for whoever wanted the tests to run here."""
        for name in self._accounts:
            self.sh('loginctl terminate-user "$1" || true; sleep 1; userdel --force --remove "$1" 2>&1'.replace("$1", name))


# -- All of them -------------------------------------------------------------------------------------------------------------------


class Site:
    """The scratch directory of one test run and the machines on it."""

    def __init__(self):
        if os.geteuid() != 0:
            raise HarnessError("booting machines needs root: run tests/run as root")
        new_mount_namespace()
        self._sweep()
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir=SCRATCH))
        self._lock = os.open(self.directory / "lock", os.O_WRONLY | os.O_CREAT)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.machines = []

    @staticmethod
    def _sweep():
        """Remove what runs left that were killed with -9: their mounts and processes are gone, their files and cgroups are not."""
        for directory in SCRATCH.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError), open(directory / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its run is alive
                shutil.rmtree(directory, ignore_errors=True)
        for own in _cgroups_of("self"):
            for group in own.glob(f"{PREFIX}*"):
                if not os.path.exists(f"/proc/{group.name[len(PREFIX) :].split('.')[0]}"):
                    _remove_cgroup(group)

    def machine(self, name, *lowers):
        """Return a new machine, powered off, over the given layers (the first is the uppermost)."""
        machine = Machine(name, lowers, self.directory / name)
        self.machines.append(machine)
        return machine

    def discard(self, machine):
        machine.discard()
        self.machines.remove(machine)

    def up(self):
        return [machine for machine in self.machines if machine.leader]

    def close(self):
        """Cut all power, unmount, remove the scratch directory."""
        for machine in reversed(self.machines[:]):
            self.discard(machine)
        shutil.rmtree(self.directory)
        os.close(self._lock)

    def check_clean(self):
        """Raise AssertionError if a process, mount, cgroup or file of this run is left."""
        mine = f"{PREFIX}{os.getpid()}."
        left = [line.split()[4] for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if str(self.directory) in line]
        left += [str(group) for own in _cgroups_of("self") for group in own.glob(f"{mine}*")]
        for cmdline in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(self.directory) in cmdline.read_text():
                    left.append(f"process {cmdline.parent.name}")
        left += [str(path) for path in [self.directory] if path.exists()]
        assert not left, f"the harness left behind: {', '.join(left)}"


def cached(path, what, make, say, days=7):
    """Return the directory `path` of the cache; where it is not there, let `make(new)` fill the empty directory `new`, which becomes it.

    `say(what)` is called before that. Directories beside it with the same name up to the last `-` go when nobody has used them for `days`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / f".{path.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            say(f"{what}, in {path} (once)")
            for old in path.parent.glob(f"{path.name.rpartition('-')[0]}-*"):
                if old.stat().st_mtime < time.time() - days * 24 * 3600:  # another run may be using a younger one
                    shutil.rmtree(old)
            new = path.parent / f"{path.name}.new"
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            try:
                make(new)
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise
            new.rename(path)
        os.utime(path)
    return path


def mmdebstrap(root, codename, *options):
    """Fill the empty directory `root` (Path) with mmdebstrap's minimal Debian or Ubuntu. Raises HarnessError with the log's last line."""
    log = root.parent / f"{codename}.log"
    with open(log, "w") as stream:
        command = ["mmdebstrap", "--variant=minbase", *options, codename, str(root)]
        if subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream).returncode != 0:
            raise HarnessError(f"mmdebstrap failed, see {log}: {log.read_text().strip().rpartition(chr(10))[2]}")


def with_version(deb, version, directory):
    """Return the path of a copy of `deb` (Path) in `directory` (Path) that differs in its version (str) alone; a matter of a second.

    A .deb is an ar archive of three members (deb(5)): the control archive is made anew, the data are copied as they are.
    """
    control = directory / "control"
    subprocess.run(["dpkg-deb", "--control", deb, control], check=True)
    text = (control / "control").read_text()
    (control / "control").write_text(re.sub(r"(?m)^Version: .*", f"Version: {version}", text, count=1))
    tar = subprocess.run(["tar", "-C", control, "--owner=0", "--group=0", "-c", "."], check=True, capture_output=True).stdout
    shutil.rmtree(control)
    copy = directory / f"{deb.name.split('_')[0]}_{version}_{deb.name.split('_')[2]}"
    with open(deb, "rb") as old, open(copy, "wb") as new:
        new.write(old.read(8))
        while header := old.read(60):
            name, size = header[:16], int(header[48:58])
            if name.startswith(b"control.tar"):
                old.seek(size + size % 2, os.SEEK_CUR)
                new.write(b"%-16s%s%-10d`\n%s%s" % (b"control.tar", header[16:48], len(tar), tar, b"\n" * (len(tar) % 2)))
            else:
                new.write(header + old.read(size + size % 2))
    return copy


def base_root(suite, deb, say):
    """Return the cached root of a small server of `suite` (e.g. "debian:trixie"), with all that `deb` needs in apt's cache.

    Machines have no network: apt finds the package lists and the archives of the dependencies in the root. A new root is made when the
    dependencies change, not when the package does. `say(text)` is called before slow work. Raises HarnessError.
    """
    if deb:
        fields = subprocess.run(["dpkg-deb", "--field", deb, "Depends", "Pre-Depends", "Recommends"], capture_output=True, text=True, check=True)
        needs = fields.stdout
    else:
        needs = ""
    distribution, _, codename = suite.partition(":")
    key = hashlib.sha256(f"{SERVER}\n{needs}".encode()).hexdigest()[:12]

    def make(root):
        # Recommended packages come along, as on a server; mmdebstrap has switched them off for its own installing.
        options = "-qq -y --download-only -o APT::Install-Recommends=true -o APT::Sandbox::User=root"
        download = f'env -u APT_CONFIG chroot "$1" apt-get {options} install /root/package.deb'
        hooks = [f'cp "{deb}" "$1/root/package.deb"', 'chroot "$1" apt-get clean', download, 'rm "$1/root/package.deb"'] if deb else []
        # Ready to answer: no question at first boot, a journal that survives a power cut.
        hooks += [
            'mkdir -p "$1/var/log/journal"',
            'echo localhost >"$1/etc/hostname"',
            'echo 127.0.0.1 localhost >"$1/etc/hosts"',
            'rm -f "$1/etc/resolv.conf"',
        ]
        components = ["--components=main,universe", "--include=apt"] if distribution == "ubuntu" else []
        include = f"--include={SERVER.replace(' ', ',')}"
        mmdebstrap(root, codename, include, "--skip=cleanup/apt", *components, *(f"--customize-hook={hook}" for hook in hooks))

    return cached(CACHE / "roots" / f"{codename}-{key}", f"making the root of a {codename} server", make, say)


def downloads(base, packages, say):
    """Return the cached layer with Debian's `packages` (tuple of str), and all they need on `base` (Path), in apt's cache; apt installs them offline.

    Call it from the mount namespace of a Site. Raises HarnessError.
    """
    key = hashlib.sha256(f"{base.name}\n{' '.join(packages)}".encode()).hexdigest()[:12]

    def make(layer):
        with tempfile.TemporaryDirectory(dir=base.parent, prefix=".") as scratch, overlay(pathlib.Path(scratch), [base], layer) as root:
            script = """
                cat /etc/resolv.conf >"$1/etc/resolv.conf"
                chroot "$1" apt-get -qq update
                root=$1; shift
                chroot "$root" apt-get -qq -y --download-only -o APT::Install-Recommends=true -o APT::Sandbox::User=root install "$@"
                rm "$root/etc/resolv.conf"
            """
            command = ["sh", "-euc", script, "sh", str(root), *packages]
            done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise HarnessError(f"cannot fetch {' '.join(packages)}: {(done.stderr or done.stdout).strip()}")

    return cached(base.parent / f"{base.name}+{key}", f"fetching {' '.join(packages)}", make, say)


def with_package(site, base, deb, say):
    """Return the cached layer on `base` (Path) of a server on which `apt install ./DEB` was run: one for all processes and runs that test this `deb` (Path).

    Raises CommandFailed.
    """
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()[:12]

    def make(layer):
        machine = site.machine("installed", base).boot()
        machine.run("apt-get", "-qq", "-y", "install", machine.push(deb), timeout=300)
        machine.sh("rm /root/*.deb; apt-get clean")
        machine.power_off()
        machine.unmount()
        subprocess.run(["mv", str(machine.upper), str(layer)], check=True)  # also to another file system, with overlayfs' own attributes
        site.discard(machine)

    return cached(base.parent / f"{base.name}+installed-{digest}", f"installing {deb.name} on a fresh server", make, say, days=1) / "upper"


def python_of(deb):
    """Return the version of Python (str, "3.13") that the package (Path) is made for."""
    depends = subprocess.run(["dpkg-deb", "--field", deb, "Depends"], check=True, capture_output=True, text=True).stdout
    return re.search(r"\bpython(3\.\d+)\b", depends)[1]
