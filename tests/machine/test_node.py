"""jupyterhub-node, the package for nodes of a cluster, on a machine: installed, upgraded and removed below a job, and in turn with jupyterhub.

Slurm and the hub are stand-ins: what a job says of itself is noted in a file, and its server is started as the hub does it. tests/machine/test_slurm.py has
the real ones.
"""

import json
import re

import harness
import pytest
import requests
from harness import wait_for
from hubclient import Hub

pytestmark = pytest.mark.slow("apt and dpkg do most of it; what the package contains is looked at in tests/package/test_node.py")

INSTALL = "apt-get -qq -y --no-install-recommends install"
PROCESSES = "pgrep --uid alice --full 'job-starter|singleuser' || true"
TREES = "/opt/venvs/jupyterhub-servers"
KEY = "5e" * 32
# Of the hub a server only asks which version it is, and tells it that it lives.
HUB = """
import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"version": "6.1.1"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

http.server.ThreadingHTTPServer(("127.0.0.1", 8081), Handler).serve_forever()
"""
# As debianized_jupyterhub/jobs.py: starts the server, and hears why it ends.
LINK = """
import asyncio, json, sys
from debianized_jupyterhub import job_link

async def main(port, key, request):
    reader, writer = await job_link.connect("127.0.0.1", int(port), key)
    print(json.dumps(await job_link.ask(reader, writer, json.loads(request), 30)), flush=True)
    print(json.dumps(await job_link.said(reader)), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""
ENVIRONMENT = {
    "JUPYTERHUB_API_TOKEN": "token",
    "JUPYTERHUB_API_URL": "http://127.0.0.1:8081/hub/api",
    "JUPYTERHUB_BASE_URL": "/",
    "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-alice",
    "JUPYTERHUB_HOST": "",
    "JUPYTERHUB_OAUTH_CALLBACK_URL": "/user/alice/oauth_callback",
    "JUPYTERHUB_SERVER_NAME": "",
    "JUPYTERHUB_SERVICE_PREFIX": "/user/alice/",
    "JUPYTERHUB_USER": "alice",
}


@pytest.fixture(scope="module")
def node(bare_machine, suite, node_deb):
    """A node with an account, and the package."""
    if suite[0] != "debian:trixie":
        pytest.skip("jobs of Slurm are for Debian 13")
    machine = bare_machine
    machine.add_user("alice")
    machine.write("/usr/bin/scontrol", '#!/bin/sh\necho "$*" >>/tmp/said\n', 0o755)
    machine.write("/srv/hub", HUB)
    machine.write("/srv/link", LINK)
    machine.before = set(machine.sh("find /etc /opt /usr/bin /usr/sbin /usr/lib/systemd /usr/libexec /var/opt").splitlines())
    machine.sh(f"{INSTALL} {machine.push(node_deb)}", timeout=300)
    return machine


class Job:
    """A job of alice's on the node, with its server."""

    def __init__(self, machine, tag, *words, first="true"):
        """`words` are what its script says of the hub's machine; `first` is a command of hers."""
        self.machine, self.tag = machine, tag
        machine.sh("install -d ~/.local/share/jupyterhub/jobs", user="alice")
        machine.run("sh", "-euc", f"echo {KEY} >~/.local/share/jupyterhub/jobs/{tag}.key; {first}", user="alice")
        machine.run(
            *("systemd-run", "--quiet", "--collect", f"--unit=job-{tag}", "--uid=alice", "--setenv=SLURM_JOB_ID=1", "--setenv=SLURMD_NODENAME=n2"),
            *("/usr/libexec/jupyterhub/job-starter", tag, *(words or ("1", "6", "alice", ""))),
        )

    def says(self):
        """What the job has said of itself, as the hub finds it in its comment."""
        comment = f"update JobId=1 Comment=jupyterhub:{self.tag}:"
        return next((line.removeprefix(comment) for line in self.machine.sh("cat /tmp/said || true").splitlines() if line.startswith(comment)), "")

    def start(self):
        """Start the server; return what the starter answers."""
        port = wait_for(self.says, "the job tells its port", timeout=20)
        request = json.dumps({"action": "start", "args": [], "env": ENVIRONMENT})
        unit = ("systemd-run", "--quiet", f"--unit=link-{self.tag}", f"--property=StandardOutput=file:/tmp/heard-{self.tag}")
        self.machine.run(*unit, "/opt/venvs/jupyterhub/bin/python", "-I", "/srv/link", port, KEY, request)
        answer = wait_for(lambda: self.heard()[:1], "the starter answers", timeout=30)[0]
        self.url = f"http://127.0.0.1:{answer['port']}/user/alice/api"
        wait_for(self.answers, "the server answers", timeout=40)
        return answer

    def heard(self):
        return [json.loads(line) for line in self.machine.sh(f"cat /tmp/heard-{self.tag} || true").splitlines()]

    def answers(self):
        try:
            return "version" in requests.get(self.url, timeout=5).json()
        except requests.RequestException:
            return False

    def tree(self):
        """The tree of files that the server runs from."""
        return self.machine.sh(f"tr '\\0' '\\n' </proc/$(pgrep --oldest --uid alice --full bin/jupyterhub-singleuser)/cmdline | grep -m 1 -o '{TREES}/[^/]*'")


def version(deb):
    return deb.name.split("_")[1]


@pytest.fixture(scope="module")
def job(node):
    """A job that runs while the package is upgraded and removed."""
    node.sh("systemd-run --quiet --unit=hub-stand-in /opt/venvs/jupyterhub/bin/python -I /srv/hub")
    found = Job(node, "00000000000000aa")
    found.start()
    return found


def test_it_brings_no_service_and_no_account(node, node_deb):
    assert node.sh("dpkg --verify jupyterhub-node") == ""
    assert node.sh("systemctl list-unit-files 'jupyterhub*' --no-legend || true; getent passwd | grep jupyterhub || true") == ""
    assert node.sh("pgrep --full ^/opt/venvs || true") == ""
    assert node.sh(f"readlink {TREES}/current") == version(node_deb)


@pytest.mark.parametrize(
    "words, said",
    [
        (("99", "9.0.0.1+deb13", "alice", ""), r"no:Node n2 has version \S+ of the notebook servers, which does not fit the hub's 9.0.0.1\+deb13: it needs .*"),
        (("1", "6", "zq", ""), r"no:Node n2 does not know the account zq \(uid \d+\)\."),
        (("1", "6", "root", ""), r"no:Your account root has uid \d+ on the server, and 0 on node n2: it must be the same\."),
    ],
    ids=["version", "account", "uid"],
)
def test_what_does_not_fit_is_said_in_one_line(node, words, said):
    job = Job(node, words[0].zfill(8) + words[2].encode().hex().zfill(12)[-8:], *words)
    assert re.fullmatch(said, wait_for(job.says, "the job says something", timeout=20))
    wait_for(lambda: node.property(f"job-{job.tag}", "ActiveState") != "active", "the job is over")


def test_home_without_room(node):
    node.sh("mount -t tmpfs -o size=64k none /home/alice; chown alice: /home/alice")
    try:
        job = Job(node, "00000000000000bb", first="cat /dev/zero >~/full || true")
        said = wait_for(job.says, "the job says something", timeout=20)
        assert said == "no:Your home folder /home/alice cannot be written to on node n2: No space left on device."
    finally:
        node.sh("umount /home/alice")


def test_environments_of_the_hub_that_are_missing(node, job):
    other = Job(node, "00000000000000cc", "1", "6", "alice", "stats,web")
    assert other.start()["lacks"] == "Node n2 does not have the environments stats, web."
    node.sh(f"systemctl stop job-{other.tag}")


def test_job_goes_on_through_an_upgrade(node, node_deb, job, tmp_path):
    """It keeps the files of its version; the next one has those of the new."""
    before = job.tree()
    newer = re.sub(r"\+", ".1+", version(node_deb), count=1)
    node.sh(f"{INSTALL} {node.push(harness.with_version(node_deb, newer, tmp_path))}", timeout=300)
    assert before == f"{TREES}/{version(node_deb)}" and job.answers()
    assert node.sh(f"test -e {before}/bin/jupyterhub-singleuser; readlink {TREES}/current") == newer
    assert node.sh("dpkg --verify jupyterhub-node") == ""


def test_removing_it_ends_the_job(node, job):
    node.sh("apt-get -qq -y remove jupyterhub-node", timeout=120)
    wait_for(lambda: node.sh(PROCESSES) == "", "no process of the job is left", timeout=20)
    assert job.heard()[-1] == {"ended": "The notebook servers' software was removed from its node."}
    assert node.sh("ls -A /opt") == ""


def test_purge_leaves_nothing(node):
    node.sh("apt-get -qq -y purge jupyterhub-node; apt-get -qq -y autoremove --purge", timeout=120)
    left = set(node.sh("find /etc /opt /usr/bin /usr/sbin /usr/lib/systemd /usr/libexec /var/opt").splitlines()) - node.before
    assert {path for path in left if "jupyter" in path or path.startswith("/opt")} == set()


def test_change_to_jupyterhub_and_back(node, deb, node_deb):
    """Each takes the place of the other: what the other alone has goes, what both have stays, also when the first is purged."""
    hub, ours = node.push(deb), f"/root/{node_deb.name}"
    node.sh("systemctl stop hub-stand-in")
    node.sh(f"{INSTALL} {ours}", timeout=300)
    node.sh(f"{INSTALL} {hub}", timeout=300)
    wait_for(Hub().answers, "the hub answers", timeout=30)
    assert node.sh("dpkg --verify jupyterhub; dpkg-query --show --showformat='${db:Status-Status}' jupyterhub-node || true") in ("", "config-files")
    assert Hub().login("alice", "secret").run_cell("6 * 7") == "42"
    node.sh("apt-get -qq -y purge jupyterhub-node", timeout=120)
    assert node.sh(f"dpkg --verify jupyterhub; test -e {TREES}/current/pyvenv.cfg; test -e /etc/profile.d/jupyterhub.sh") == ""
    assert Hub().answers()

    node.sh(f"{INSTALL} {ours}", timeout=300)
    assert node.sh("dpkg --verify jupyterhub-node; ls /usr/lib/systemd/system | grep jupyterhub || true") == ""
    wait_for(lambda: node.sh("pgrep --full ^/opt/venvs || true") == "", "nothing of the hub's runs", timeout=20)
    node.sh("apt-get -qq -y purge jupyterhub", timeout=120)
    assert node.sh(f"dpkg --verify jupyterhub-node; test -e {TREES}/current/bin/jupyterhub-singleuser; test -e /etc/profile.d/jupyterhub.sh") == ""
    assert node.sh("systemctl --failed --no-legend --plain") == ""
    again = Job(node, "00000000000000dd")
    assert wait_for(again.says, "the job tells its port", timeout=20).isdecimal()
    node.sh("apt-get -qq -y purge jupyterhub-node", timeout=120)
    wait_for(lambda: node.sh(PROCESSES) == "", "no process of the job is left", timeout=20)
    assert node.sh("ls -A /opt; ls -d /etc/jupyterhub /var/opt/jupyterhub /etc/profile.d/jupyterhub.sh || true") == ""
