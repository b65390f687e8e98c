"""The two machines that are compared: one with the package, one with the peer.

The peer is what JupyterHub's documentation says for a machine of one's own ("from the ground up"): a venv, pip, npm, a hub that runs as
root and starts servers as its children. It gets the versions that the .deb carries. What each downloads is fetched once, into a root of
its own in the cache; the machines have no network.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import typing

from harness import CACHE, HarnessError, _cgroups_of, base_root, wait_for
from hubclient import BASE, Hub

TOP = pathlib.Path(__file__).resolve().parents[2]
DEBIAN_PACKAGES = ("python3-venv", "nodejs", "npm")
PIP_PACKAGES = ("jupyterhub", "jupyterlab", "notebook", "ipywidgets")
PROXY_PACKAGE = "configurable-http-proxy"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
PATIENCE = 900  # seconds that anything may take on a computer that does other things too
BACKEND_PORT = 9009

# A route to a program that does next to nothing, to measure the proxy alone; see backend.py.
SERVICE = f'c = get_config()\nc.JupyterHub.services = [{{"name": "backend", "url": "http://127.0.0.1:{BACKEND_PORT}"}}]\n'
PEER_CONFIG = f"""{SERVICE}
c.JupyterHub.bind_url = "{BASE}/"
c.PAMAuthenticator.allowed_groups = {{"users"}}
c.Spawner.default_url = "/lab"
"""
PEER_UNIT = """[Unit]
Description=JupyterHub
After=network.target
[Service]
User=root
Environment=PATH=/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/opt/jupyterhub/bin
ExecStart=/opt/jupyterhub/bin/jupyterhub -f /opt/jupyterhub/etc/jupyterhub/jupyterhub_config.py
WorkingDirectory=/opt/jupyterhub/etc/jupyterhub
[Install]
WantedBy=multi-user.target
"""


def versions_in(deb):
    """Return the Python distributions in the .deb (Path) as {name: version}."""
    listing = subprocess.run(["dpkg-deb", "--contents", deb], check=True, capture_output=True, text=True).stdout
    found = re.findall(r"site-packages/([^/]+)-([^/-]+)\.dist-info/METADATA$", listing, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found if name != "debianized_jupyterhub"}


def peer_requirements(versions):
    """Return (what pip is told to install, its constraints): the peer's four packages, and the extras that the .deb carries."""
    sys.path.insert(0, str(TOP))
    from setup import EXTRAS

    extras = {requirement.partition("==")[0] for group in ("base", "plot") for requirement in EXTRAS[group]}
    return [*PIP_PACKAGES, *sorted(extras & versions.keys())], [f"{name}=={version}" for name, version in sorted(versions.items())]


def add_users(machine, users):
    """Make many accounts (iterable of str) at once, as Machine.add_user() makes one."""
    machine.sh(f"for user in {' '.join(users)}; do useradd --create-home --shell /bin/bash --groups users $user; done", timeout=PATIENCE)
    machine.run("chpasswd", input="".join(f"{user}:secret\n" for user in users), timeout=PATIENCE)


class Process(typing.NamedTuple):
    """A process of a machine."""

    pid: int  # on the host
    inside: int  # its pid in the machine
    uid: int
    name: str
    cgroup: str  # content of its /proc/PID/cgroup


class Contender:
    """One of the two machines."""

    name = ""
    proxy_unit = hub_unit = "jupyterhub.service"
    hub_account = venv = database = ""

    def __init__(self, site, say):
        self.site, self.say = site, say
        self.machine = None
        self._installations = itertools.count(1)
        self.hub = Hub()
        self.details = {}  # what a figure is made of, for whoever wants to know why

    # Installing

    def install(self):
        """Install on a fresh machine with everything downloaded before; return (the powered-off machine, seconds)."""
        machine = self.site.machine(f"{self.name}-install-{next(self._installations)}", self.root).boot()
        files = self._used(machine)
        started = time.monotonic()
        self._install(machine)
        seconds = time.monotonic() - started
        self.installed_bytes = self._used(machine) - files
        self._configure(machine)
        return machine, seconds

    @staticmethod
    def _used(machine):
        """Return the bytes that the files of a machine take, without what was downloaded for the installation."""
        return int(machine.sh("du --summarize --bytes --one-file-system --exclude=/root/* --exclude=/var/cache/apt --exclude=/var/log /").split()[0])

    def debian_download(self, *packages):
        """Return the bytes that apt downloads for `packages` on a fresh machine."""
        machine = self.site.machine(f"{self.name}-download", self.root).boot()
        empty = "mkdir -p /root/empty/partial; apt-get -qq -y --print-uris -o Dir::Cache::archives=/root/empty install"
        uris = machine.sh(f"{empty} {' '.join(self._inside(machine, package) for package in packages)}")
        self.site.discard(machine)
        return sum(int(line.split()[2]) for line in uris.splitlines() if line.startswith("'http"))

    def _inside(self, machine, package):
        return machine.push(package) if isinstance(package, pathlib.Path) else package

    # Running

    def boot(self, users):
        """Boot the installed machine, with accounts for `users` (iterable of str) and the hub answering."""
        self.machine = self.site.machine(self.name, *self.layers).boot()
        self._users = itertools.cycle(users)
        with self.machine.network():  # at once: the hub waits for it, half a minute if need be
            backend = [sys.executable, pathlib.Path(__file__).with_name("backend.py"), str(BACKEND_PORT)]
            self._backend = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *backend])
        add_users(self.machine, users)
        with self.machine.network():
            wait_for(self.hub.answers, f"the hub of {self.name} answers", timeout=PATIENCE)
        return self

    def next_user(self):
        """Return one user after the other, so that the last one's `systemd --user` has had its time to end."""
        return next(self._users)

    def discard(self):
        self._backend.kill()
        self._backend.wait()
        self.site.discard(self.machine)
        self.machine = None

    def stop_hub(self):
        self.machine.sh(f"systemctl stop {self.hub_unit} {self.proxy_unit}")

    def start_hub(self):
        self.machine.sh(f"systemctl start --no-block {self.hub_unit} {self.proxy_unit}")

    # Looking at it from the host

    def sql(self, *statements):
        """Put statements (str) to the hub's database while the hub is stopped."""
        code = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); [d.execute(each) for each in sys.argv[2:]]; d.commit()"
        self.machine.run("runuser", "-u", self.hub_account, "--", f"{self.venv}/bin/python", "-c", code, self.database, *statements)

    def hub_pid(self):
        """Return the hub's pid inside."""
        return self.machine.pid_of(self.hub_unit)

    def cpu_seconds(self):
        """Return the CPU seconds that all processes of the machine have used until now, the ended ones included (cgroup2's cpu.stat)."""
        groups = [group for group in _cgroups_of(self.machine.leader) if (group / "cpu.stat").exists()]
        group = groups[0].parent if groups[0].name == "init.scope" else groups[0]
        usage = re.search(r"(?m)^usage_usec (\d+)", (group / "cpu.stat").read_text())
        return int(usage[1]) / 1e6

    def processes(self):
        """Return the machine's processes (list of Process), without its pid 1."""
        namespace, found = os.readlink(f"/proc/{self.machine.leader}/ns/pid"), []
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(path / "ns/pid") == namespace and int(path.name) != self.machine.leader:
                    status = (path / "status").read_text()
                    inside = int(re.search(r"(?m)^NSpid:.*\t(\d+)$", status)[1])
                    uid = int(re.search(r"(?m)^Uid:\t(\d+)", status)[1])
                    name = re.search(r"(?m)^Name:\t(.*)$", status)[1]
                    found.append(Process(int(path.name), inside, uid, name, (path / "cgroup").read_text()))
        return found

    def processes_for(self, user):
        """Return all processes that are there for `user` (str): the user's own, and root's in the user's slice."""
        uid = int(self.machine.run("id", "-u", user).stdout)
        return [process for process in self.processes() if process.uid == uid or f"/user-{uid}.slice/" in process.cgroup]

    @staticmethod
    def pss(pid):
        """Return the proportional set size of a process (pid on the host) in bytes."""
        return int(re.search(r"(?m)^Pss:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text())[1]) * 1024


class Package(Contender):
    """The machine that runs the .deb."""

    name = "package"
    proxy_unit = "jupyterhub-proxy.service"
    hub_account, venv, database = "jupyterhub", "/opt/venvs/jupyterhub", "/var/opt/jupyterhub/jupyterhub.sqlite"

    def __init__(self, site, suite, deb, say, name=name):
        super().__init__(site, say)
        self.deb, self.name = deb, name
        # A copy: page cache of files that other machines use too would be shared with them, and look like less memory.
        self.root = site.directory / f"{name}-base"
        _copy(base_root(suite, deb, say), self.root)
        machine, _ = self.install()
        machine.power_off()
        machine.unmount()
        self.layers = [machine.upper, self.root]

    def _install(self, machine):
        machine.run("apt-get", "-qq", "-y", "install", machine.push(self.deb), timeout=PATIENCE)

    def _configure(self, machine):
        machine.write("/etc/jupyterhub/jupyterhub_config.d/90-benchmark.py", SERVICE)

    def download_bytes(self):
        return self.debian_download(self.deb) + self.deb.stat().st_size

    def proxy_pid(self):
        return self.machine.pid_of(self.proxy_unit)


class Peer(Contender):
    """The machine on which the documentation was followed."""

    name = "peer"
    hub_account, venv, database = "root", "/opt/jupyterhub", "/opt/jupyterhub/etc/jupyterhub/jupyterhub.sqlite"

    def __init__(self, site, suite, deb, say):
        super().__init__(site, say)
        self.requirements, self.constraints = peer_requirements(versions_in(deb))
        lock = json.loads((TOP / "npm/node20/package.json").read_text())
        self.proxy = f"{PROXY_PACKAGE}@{lock['dependencies'][PROXY_PACKAGE]}"
        base = base_root(suite, deb, say)
        text = "\n".join([base.name, *DEBIAN_PACKAGES, *self.requirements, *self.constraints, self.proxy, PEER_CONFIG, PEER_UNIT])
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.root = CACHE / "roots" / f"{suite.partition(':')[2]}-peer-{key}"  # base_root() removes it when it was not used for a week
        with open(self.root.parent / f".{self.root.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.root.exists():
                say(f"fetching what the peer needs into {self.root} (once)")
                self._fetch(base)
            installed = self.root.with_name(f"{self.root.name}-installed")
            if not installed.exists():
                say("installing the peer (once)")
                machine, _ = self.install()
                machine.power_off()
                machine.unmount()
                (machine.directory / "installed_bytes").write_text(str(self.installed_bytes))
                self.site.machines.remove(machine)
                shutil.move(machine.directory, installed)
        for path in (self.root, installed):
            os.utime(path)
        self.installed_bytes = int((installed / "installed_bytes").read_text())
        self.layers = [installed / "upper", self.root]

    def _fetch(self, base):
        """Make the root: a copy of `base` (Path) with the peer's archives, wheels and npm packages, fetched as the machine would."""
        new = self.root.with_name(f"{self.root.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        _copy(base, new)
        tools = self.site.machine("peer-tools", new)  # what pip and npm need to run stays out of the root
        script = f"""
            apt-get -qq update
            apt-get -qq -y --download-only -o APT::Sandbox::User=root install {" ".join(DEBIAN_PACKAGES)}
            DEBIAN_FRONTEND=noninteractive apt-get -qq -y install {" ".join(DEBIAN_PACKAGES)}
            python3 -m venv /tmp/venv
            /tmp/venv/bin/pip download --quiet --dest /root/wheels --constraint /root/constraints.txt {" ".join(self.requirements)}
            npm install --global --silent --prefix /tmp/npm --cache /root/npm {self.proxy}
            rm -r /tmp/venv /tmp/npm /root/npm/_logs
        """
        (tools.root / "root/constraints.txt").write_text("\n".join(self.constraints) + "\n")
        environment = {name: value for name, value in os.environ.items() if re.match(r"(?i)pip_index|pip_extra|npm_config_|.*_proxy$", name)}
        environment |= {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        environment |= dict.fromkeys(("PIP_CERT", "NODE_EXTRA_CA_CERTS", "npm_config_cafile"), "/tmp/host-ca.crt")
        shutil.copy("/etc/resolv.conf", tools.root / "etc/resolv.conf")
        shutil.copy(os.environ.get("SSL_CERT_FILE") or CA_BUNDLE, tools.root / "tmp/host-ca.crt")
        mounts = [("proc", "proc", "proc"), ("/dev", "dev", None)]
        for source, target, kind in mounts:
            subprocess.run(["mount", *(["-t", kind] if kind else ["--rbind"]), source, str(tools.root / target)], check=True)
        log = self.root.with_name(f"{self.root.name}.log")
        with open(log, "w") as stream:
            done = subprocess.run(["chroot", tools.root, "sh", "-euc", script], check=False, env=environment, stdout=stream, stderr=stream)
        for _, target, _ in mounts:
            subprocess.run(["umount", "--lazy", str(tools.root / target)], check=True)
        if done.returncode != 0:
            raise HarnessError(f"cannot fetch the peer's packages, see {log}: {log.read_text().strip().rpartition(chr(10))[2]}")
        tools.unmount()
        for path in ("root", "var/cache/apt/archives", "var/lib/apt/lists"):
            _copy(f"{tools.upper / path}/.", new / path)
        self.site.discard(tools)
        new.rename(self.root)

    def _install(self, machine):
        machine.run("apt-get", "-qq", "-y", "install", *DEBIAN_PACKAGES, timeout=PATIENCE)
        machine.run("python3", "-m", "venv", "/opt/jupyterhub", timeout=PATIENCE)
        pip = ("/opt/jupyterhub/bin/pip", "install", "--quiet", "--no-index", "--find-links=/root/wheels", "--constraint=/root/constraints.txt")
        machine.run(*pip, *self.requirements, timeout=PATIENCE)
        machine.run("npm", "install", "--global", "--silent", "--offline", "--cache=/root/npm", self.proxy, timeout=PATIENCE)

    def _configure(self, machine):
        machine.write("/opt/jupyterhub/etc/jupyterhub/jupyterhub_config.py", PEER_CONFIG)
        machine.write("/etc/systemd/system/jupyterhub.service", PEER_UNIT)
        machine.sh("systemctl enable jupyterhub.service")

    def download_bytes(self):
        """apt's archives, pip's wheels and npm's packages, without the metadata of either."""
        tarballs = [path.stat().st_size for path in (self.root / "root/npm/_cacache/content-v2").rglob("*") if path.is_file() and _is_gzip(path)]
        wheels = [path.stat().st_size for path in (self.root / "root/wheels").iterdir()]
        return self.debian_download(*DEBIAN_PACKAGES) + sum(wheels) + sum(tarballs)

    def proxy_pid(self):
        return int(self.machine.sh("pgrep --full --parent $(systemctl show --value --property=MainPID jupyterhub) configurable-http-proxy"))


def _is_gzip(path):
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _copy(source, target):
    subprocess.run(["cp", "--archive", "--reflink=auto", source, target], check=True)
