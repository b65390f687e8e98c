"""An index of packages on the machine: filled where there is a network, carried in one file, and used by pip, uv, users' layers and environments."""

import hashlib
import json
import time

import pytest
from checked_tars import repacked, says
from harness import wait_for
from wheels import INDEX as ELSEWHERE
from wheels import for_environments, offer

slow = pytest.mark.slow
ROOT = "/var/lib/jupyterhub-index"
WHEELS = f"{ROOT}/current/wheels"
LIST = "/etc/jupyterhub/index.txt"
# "The network": a folder of wheels and an index that has nothing, named by variables of root's, while the machine's settings name the index of our own.
FROM_ELSEWHERE = {"PIP_FIND_LINKS": ELSEWHERE, "PIP_NO_INDEX": "1", "UV_FIND_LINKS": ELSEWHERE, "UV_DEFAULT_INDEX": "file:///srv/simple"}
TOOK = {}  # seconds of each verb


@pytest.fixture(scope="session")
def fetched(deb, say):
    """A folder of the host with uv, ipykernel and what that needs; made before the machine's network is entered, which leads nowhere."""
    return for_environments(deb, ["ipykernel"], say)


@pytest.fixture(scope="module")
def source(fetched, machine):
    """The machine reaches answer 1.0 and 2.0, which need extra; other; and what is of no good."""
    for version in ("1.0", "2.0"):
        offer(machine, "answer", version, {"answer.py": f"value = {version}\n"}, ["extra"])
    offer(machine, "extra", "1.0", {"extra.py": "value = 1\n"})
    offer(machine, "other", "1.0", {"other.py": "value = 1\n"})
    offer(machine, "forbidden", "1.0", {"forbidden.py": "value = 1\n"})
    machine.sh(f"mkdir /srv/simple; cd {ELSEWHERE}; tar czf compiled-1.0.tar.gz /etc/hostname")
    for file in fetched.iterdir():
        machine.push(file, ELSEWHERE)
    machine.write("/etc/pip.conf", f"[global]\nno-index = true\nfind-links = {WHEELS}\n")
    machine.write("/etc/uv/uv.toml", f'no-index = true\nfind-links = ["{WHEELS}"]\n')
    return machine


def ctl(machine, *arguments, check=True, variables=FROM_ELSEWHERE, timeout=120):
    given = [f"{name}={value}" for name, value in variables.items()]
    return machine.run("env", *given, "jupyterhub-ctl", "index", *arguments, check=check, timeout=timeout)


def packages(machine):
    """Return what the index has (dict of versions by name), but for ipykernel, uv and what they need."""
    rows = json.loads(ctl(machine, "list", "--json").stdout)
    assert not rows or {"ipykernel", "uv"} <= {row["name"] for row in rows}
    return {row["name"]: row["version"] for row in rows if row["name"] in ("answer", "extra", "other", "forbidden")}


def everything(machine):
    """Return what there is of the index, names and links."""
    return machine.sh(f"find {ROOT} {LIST} -path '{ROOT}/.work.*' -prune -o -printf '%p %l %i\\n' | sort")


def verified(machine):
    (row,) = json.loads(machine.run("jupyterhub-ctl", "verify", "index", "--json", check=False).stdout)
    return row


@pytest.fixture(scope="module")
def filled(source):
    """The index has answer 1.0, which was asked for, and extra, which it needs."""
    assert verified(source)["what"] == "none" and ctl(source, "list").stdout == ""
    source.write("/srv/list.txt", "answer<2  # the last with the old numbers\n\n")
    started = time.monotonic()
    done = ctl(source, "fill", "/srv/list.txt")
    TOOK["fill"] = TOOK["add"] = time.monotonic() - started
    return done


# -- What it has -------------------------------------------------------------------------------------------------------------------


def test_fill(source, filled):
    """With all that is needed, and what environments need."""
    assert packages(source) == {"answer": "1.0", "extra": "1.0"}
    assert "packages, " in filled.stdout and f"in {WHEELS}" in filled.stdout
    rows = {row["name"]: row["asked_for"] for row in json.loads(ctl(source, "list", "--json").stdout)}
    assert (rows["answer"], rows["extra"], rows["uv"]) == ("yes", None, None)
    assert source.sh(f"grep -v '^#' {LIST}") == "answer<2"


def test_add_and_remove(source, filled):
    """Versions of others stay; without a network, what nothing else needs goes; a package that others need stays, and that is said."""
    ctl(source, "add", "other")
    assert packages(source) == {"answer": "1.0", "extra": "1.0", "other": "1.0"}
    ctl(source, "add", "answer", "extra")
    assert packages(source)["answer"] == "1.0"
    assert "others need extra, so it stays" in ctl(source, "remove", "extra", "other", variables={}).stderr
    assert packages(source) == {"answer": "1.0", "extra": "1.0"}
    assert "other is not among the packages that were asked for (answer)" in ctl(source, "remove", "other", check=False).stderr
    ctl(source, "fill", LIST)
    assert packages(source)["answer"] == "2.0"
    assert source.sh(f"ls -A {ROOT} | wc -l") == "3"  # the link, the state, and the one before


@pytest.mark.parametrize("account", ["jupyterhub", "alice"])
def test_everybody_reads_and_nobody_changes_it(source, filled, account):
    if account == "alice":
        source.add_user("alice")
    assert source.sh(f"find {ROOT} -writable ! -type l", user=account) == ""
    source.sh(f"cat {WHEELS}/*.whl | wc -c", user=account)


def test_needs_root(source, filled):
    for arguments in (["fill", "/srv/list.txt"], ["list"], ["export", "/tmp/x"]):
        done = source.run("jupyterhub-ctl", "index", *arguments, user="alice", check=False)
        assert done.returncode == 4 and "needs root" in done.stderr


# -- Who uses it -------------------------------------------------------------------------------------------------------------------


def test_users_layers(source, filled):
    """pip of a layer finds what is allowed, and nothing else."""
    install = ["jupyterhub-packages", "run", "pip", "install"]
    assert "Successfully installed answer-" in source.run(*install, "answer", user="alice").stdout
    assert "No matching distribution found for forbidden" in source.run(*install, "forbidden", user="alice", check=False).stderr


def test_environments_have_nothing_else(source, filled):
    source.write("/srv/environment.txt", "forbidden\n")
    done = source.run("jupyterhub-ctl", "environment", "add", "work", "/srv/environment.txt", check=False, timeout=120)
    assert done.returncode == 1 and "forbidden was not found" in done.stderr


@slow("test_environments makes them of an index each time")
def test_environments(source, filled):
    """They are made of it, by a uv that comes from it as well."""
    source.sh("rm -r /opt/venvs/jupyterhub-environments/.uv")
    source.write("/srv/environment.txt", "answer\n")
    source.run("jupyterhub-ctl", "environment", "add", "work", "/srv/environment.txt", timeout=120)


def test_verify_says_whether_it_is_a_policy(source, filled):
    assert verified(source)["what"].endswith("used by /etc/pip.conf and /etc/uv/uv.toml; users can name another, for the network is open to them")
    assert "users can name another index" in ctl(source, "fill", LIST).stderr
    source.sh("sed -i 's/^JUPYTERHUB_EGRESS_CLOSED_FOR=/&1000-59999/' /etc/default/jupyterhub")
    assert verified(source)["what"].endswith("; the network is closed to users")
    source.sh("sed -i 's/^JUPYTERHUB_EGRESS_CLOSED_FOR=.*/JUPYTERHUB_EGRESS_CLOSED_FOR=/' /etc/default/jupyterhub")


FILL = "jupyterhub-ctl index fill /etc/jupyterhub/index.txt"
FAULTS = {
    "wheel lost": (f"mv {WHEELS}/answer-* /root/", f"mv /root/answer-* {WHEELS}/", "failed", "/answer-2.0-py3-none-any.whl is missing", FILL),
    "record damaged": (
        f"cp -a {ROOT}/current/index.json /root/; echo x >{ROOT}/current/index.json",
        f"mv /root/index.json {ROOT}/current/",
        "failed",
        "damaged",
        FILL,
    ),
    "open to others": (f"chmod o+w {WHEELS}/", f"chmod o-w {WHEELS}/", "failed", "others than root can change", "chmod go-w"),
    "restored list": (f"echo other >>{LIST}", f"sed -i /other/d {LIST}", "warning", "is not the list that the index was made of", FILL),
    "restored elsewhere": (f"mv {ROOT} {ROOT}.away", f"mv {ROOT}.away {ROOT}", "warning", "that the configuration names is not there", FILL),
}


@pytest.mark.parametrize("broken, mended, status, words, remedy", FAULTS.values(), ids=FAULTS.keys())
def test_verify_names_what_is_wrong(source, filled, broken, mended, status, words, remedy):
    source.sh(broken)
    try:
        row = verified(source)
    finally:
        source.sh(mended)
    assert row["status"] == status and words in row["what"] and remedy in row["mend"]


# -- In one file -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(source, filled):
    said = ctl(source, "export", "/root/index.tar").stdout
    assert said.split() == ["/root/index.tar", f"sha256:{source.sh('sha256sum /root/index.tar').split()[0]}"]
    return "/root/index.tar"


def test_import_without_network(source, exported):
    """On a machine that has nothing: the same packages, by the same hashes."""
    before, lock = packages(source), source.sh(f"cat {ROOT}/current/lock.txt")
    source.sh(f"rm -r {ROOT} {LIST}")
    ctl(source, "import", exported, variables={})
    assert packages(source) == before and source.sh(f"cat {ROOT}/current/lock.txt") == lock
    assert verified(source)["status"] == "passed" and source.sh(f"stat -c %a {exported}") == "600"


def tampered(members):
    """Another wheel, with a manifest that has its checksum: the lock has not."""
    manifest = json.loads(members["manifest.json"])
    name = next(name for name in members if name.startswith("wheels/answer"))
    members[name] += b"x"
    manifest["files"][name] = hashlib.sha256(members[name]).hexdigest()
    members["manifest.json"] = json.dumps(manifest).encode()


BAD_FILES = {
    "wheel": (lambda members: members.update({"wheels/extra-1.0-py3-none-any.whl": b"x"}), 9, "extra-1.0-py3-none-any.whl is not what it was"),
    "wheel, with its checksum": (tampered, 9, "answer-2.0-py3-none-any.whl is not among the files of its lock"),
    "missing": (lambda members: members.pop("lock.txt"), 9, "lock.txt is missing in it"),
    "more": (lambda members: members.update({"../../etc/cron.d/x": b"x"}), 9, "../../etc/cron.d/x does not belong into it"),
    "architecture": (says(architecture="riscv64"), 9, "is for machines of the architecture riscv64, and this machine has "),
    "python": (says(python="3.7"), 9, "is for Python 3.7, and this machine has 3."),
    "newer": (says(format=2), 9, "comes from a newer version"),
    "list": (says(asked_for=["x @ file:///etc"]), 1, "is not the name of a package"),
    "no list": (says(asked_for="x"), 9, "is no export of an index"),
}


@pytest.mark.parametrize("change, code, words", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_file(source, exported, tmp_path, change, code, words):
    """One line, and what was there stays."""
    source.push(repacked(source.root / exported[1:], tmp_path, change))
    before = everything(source)
    done = ctl(source, "import", "/root/bad.tar", check=False)
    assert done.returncode == code and words in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert everything(source) == before and source.sh(f"ls -A {ROOT} | grep work || true") == ""


# -- Bad input ---------------------------------------------------------------------------------------------------------------------

BAD = {
    "unresolvable": (["add", "answer==7"], {}, 1, "your requirements are unsatisfiable"),
    "sdist": (["add", "compiled"], {}, 1, "has no usable wheels"),
    "option": (["fill", "/srv/bad.txt"], {}, 1, "/srv/bad.txt:2: '--index-url x' is not the name of a package"),
    "address": (["add", "x @ https://example.org/x.whl"], {}, 1, "is not the name of a package"),
    "no file": (["fill", "/srv/missing.txt"], {}, 1, "/srv/missing.txt cannot be read: No such file or directory"),
    "no network": (["add", "more", "--from", "http://127.0.0.1:9/simple"], {"UV_HTTP_RETRIES": "0"}, 1, "Connection refused"),
    "export over": (["export", "/srv/bad.txt"], {}, 1, "/srv/bad.txt is there already"),
    "no archive": (["import", "/srv/bad.txt"], {}, 9, "/srv/bad.txt is damaged, or no export of an index"),
}


@pytest.mark.parametrize("arguments, variables, code, words", BAD.values(), ids=BAD.keys())
def test_bad_input(source, filled, arguments, variables, code, words):
    """One line, and what was there stays."""
    source.write("/srv/bad.txt", "answer\n--index-url x\n")
    before = everything(source)
    done = ctl(source, *arguments, check=False, variables=variables or FROM_ELSEWHERE)
    assert done.returncode == code and done.stdout == "" and words in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert everything(source) == before


def test_two_at_once(source, filled):
    done = source.run("flock", "/opt/venvs/jupyterhub-environments/.lock", "jupyterhub-ctl", "index", "remove", "answer", check=False)
    assert done.returncode == 8 and "another jupyterhub-ctl environment or index is at work" in done.stderr


def test_no_room(source, exported):
    """In the middle of it; exit code 10, as of other commands."""
    source.sh(f"mount -t tmpfs -o size=10m tmpfs {ROOT}")
    try:
        done = ctl(source, "import", exported, check=False)
        left = source.sh(f"ls -A {ROOT}")
    finally:
        source.sh(f"umount {ROOT}")
    assert done.returncode == 10 and "No space left on device" in done.stderr.splitlines()[-1] and left == ""


@slow("cuts at each verb, and a boot for each")
@pytest.mark.parametrize("verb, cut", [("fill", 0), ("fill", 1), ("fill", 2), ("add", 1), ("import", 0), ("import", 1)])
def test_power_cut(source, exported, hub, verb, cut):
    """The index is as before or as after it, and the next command clears away what is neither."""
    ctl(source, "import", exported)
    arguments = {"fill": "fill /srv/other.txt", "add": "add other", "import": f"import {exported}"}[verb]
    source.write("/srv/other.txt", "other\n")
    variables = " ".join(f"-E {name}={value}" for name, value in FROM_ELSEWHERE.items())
    source.sh(f"systemd-run --quiet --unit=interrupted {variables} jupyterhub-ctl index {arguments}")
    time.sleep(TOOK.get(verb, 1.5) * (cut + 0.5) / 3)
    source.kill()
    source.boot()
    wait_for(hub.answers, "the hub answers after the cut", timeout=60)
    assert packages(source) in ({"answer": "2.0", "extra": "1.0"}, {"other": "1.0"}, {"answer": "2.0", "extra": "1.0", "other": "1.0"})
    ctl(source, "fill", "/srv/list.txt")
    assert packages(source) == {"answer": "1.0", "extra": "1.0"} and source.sh(f"ls -A {ROOT} | wc -l") == "3"
