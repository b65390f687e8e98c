"""Dask and Spark on the nodes of a Slurm cluster, from a notebook: docs/many-nodes.md, word for word. Three machines: the hub's and two nodes.

The shared folders are one file system, bind-mounted. What Slurm, Dask and Spark send goes over a bridge and is recorded there.
"""

import json
import pathlib
import re
import shutil
import subprocess

import harness
import pytest
from harness import wait_for
from hubclient import KernelError
from slurm import BEFORE_PACKAGES, configure
from wheels import INDEX, PIP_CONF, for_environments

pytestmark = pytest.mark.slow("three machines, and packages of PyPI")
PACKAGES = ("--no-install-recommends", "slurmctld", "slurm-client", "munge", "default-jre-headless")
ON_NODES = ("--no-install-recommends", "slurmctld", "slurmd", "slurm-client", "munge", "python3", "default-jre-headless")
PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs/many-nodes.md").read_text()
PYSPARK = "4.3.0"
ENVIRONMENTS = "/opt/venvs/jupyterhub-environments"
NODES = ("node1", "node2")
ADDRESSES = {name: f"10.20.0.{number}" for number, name in enumerate(("hub", *NODES), 1)}
STATE = "/srv/slurmctld"
MORE = """
ReturnToService=2
NodeName=node[1-2] CPUs=2 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES MaxTime=1-0 State=UP
"""


def section(title):
    """Return the page's text below a heading of the second order, up to the next one."""
    return re.search(rf"(?ms)^## {title}\n(.*?)(?=^## |\Z)", PAGE)[1]


def fenced(title, language):
    """Return the fenced blocks (list of str) of a section in a language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", section(title))


def commands(title):
    """Return the section's blocks of commands, in one."""
    text = re.sub(r"(?ms)^```.*?^```", "", section(title))
    return "\n".join(line.strip() for line in text.splitlines() if line.startswith("    "))


@pytest.fixture(scope="session")
def fetched(deb, say):
    """A folder of the host with uv, Dask and what pyspark needs; made before the machine's network is entered, which leads nowhere."""
    return for_environments(deb, ["ipykernel", "dask-jobqueue", "cryptography", "py4j==0.10.9.9", "setuptools"], say)


@pytest.fixture(scope="session")
def pyspark(say):
    """The source of pyspark, of which PyPI has no wheel, on the host."""

    def make(new):
        pip = ["python3", "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=pyspark", "--dest", str(new)]
        subprocess.run([*pip, f"pyspark=={PYSPARK}"], check=True)

    return harness.cached(harness.CACHE / "roots" / f"pyspark-{PYSPARK}", "fetching pyspark, 450 MB", make, say)


def lay_cables(hub, nodes):
    """Connect the machines by a switch in the hub's machine."""
    hub.be_a_switch(f"{ADDRESSES['hub']}/24")
    for node in nodes:
        hub.plug_in(node, f"{ADDRESSES[node.name]}/24")
    names = "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
    for machine, name in zip([hub, *nodes], ADDRESSES, strict=True):
        machine.sh(f"hostname {name}; echo {name} >/etc/hostname; ip route add default via 10.20.0.254")
        machine.write("/etc/hosts", f"127.0.0.1 localhost\n{names}")


@pytest.fixture(scope="session")
def for_nodes(base, say):
    """Debian's packages for nodes; fetched before the machine's network is entered."""
    return harness.downloads(base, ON_NODES, say)


@pytest.fixture(scope="module")
def nodes(site, base, for_nodes, machine):
    """Two machines with Slurm and without the package; homes, environments and Slurm's state are those of the hub's machine."""
    machine.sh(f"mkdir -p {ENVIRONMENTS}; install -d -o slurm {STATE}")
    software = site.machine("software", for_nodes, base).boot()
    software.sh(BEFORE_PACKAGES)
    software.run("apt-get", "-qq", "-y", "install", *ON_NODES, timeout=900)
    software.sh("rm /usr/sbin/policy-rc.d; systemctl disable slurmctld slurmd")
    software.power_off()
    software.unmount()
    nodes = [site.machine(name, software.upper, for_nodes, base) for name in NODES]
    shared = [(folder, node.root / folder.lstrip("/")) for node in nodes for folder in ("/home", ENVIRONMENTS, STATE)]
    for folder, there in shared:
        there.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", str(machine.root / folder.lstrip("/")), str(there)], check=True)
    for node in nodes:
        node.boot()
    yield nodes
    for node in nodes:
        node.kill()
    for _, there in shared:
        subprocess.run(["umount", str(there)], check=True)
    for node in nodes:
        site.discard(node)
    site.discard(software)


@pytest.fixture(scope="module")
def cluster(machine, hub, nodes):
    """The hub's machine with its nodes, Slurm running, and the accounts alice and bob."""
    lay_cables(machine, nodes)
    for host in (machine, *nodes):
        for name, uid in (("alice", 2001), ("bob", 2002)):
            host.sh(f"useradd --uid {uid} --shell /bin/bash --groups users {name}; echo {name}:secret | chpasswd")
        host.sh("systemctl stop slurmctld slurmd || true")
        configure(host, "hub", MORE, state=STATE)
    for name in ("alice", "bob"):
        machine.sh(f"cp -r /etc/skel /home/{name}; chown -R {name}: /home/{name}; chmod 700 /home/{name}")
    machine.sh("systemctl start slurmctld")
    for node in nodes:
        node.sh("systemctl start slurmd")
    wait_for(lambda: machine.run("sinfo", "--noheader", "--format=%t %D", check=False).stdout == "idle 2\n", "both nodes are there", timeout=60, every=0.5)
    return machine


@pytest.fixture(scope="module")
def alice(cluster, hub):
    user = hub.login("alice", "secret")
    user.spawn()
    return user


@pytest.fixture(scope="module")
def index(fetched, pyspark, cluster):
    """The hub's machine with an index. What it has is fetched before the first test: later there is no network but the machine's."""
    cluster.sh(f"mkdir -p {INDEX}")
    cluster.write("/etc/pip.conf", PIP_CONF)
    cluster.write("/etc/uv/uv.toml", f'no-index = true\nfind-links = ["{INDEX}"]\n')
    for file in (*fetched.iterdir(), *pyspark.iterdir()):
        shutil.copy(file, cluster.root / INDEX.lstrip("/"))  # half a gigabyte
    return cluster


# Programs of bob's, who may log in to all three machines.
ASK = """
import http.client, sys
for address in sys.argv[1:]:
    host, _, port = address.rpartition(":")
    for path in "/", "/json/", "/status", "/info/main/workers.html", "/metrics", "/health", "/app/?appId=0":
        try:
            connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=3)
            connection.request("GET", path)
            print(connection.getresponse().status)
        except (OSError, http.client.HTTPException):
            print("nothing")
"""
ENTER = """
import sys
from distributed import Client
from distributed.security import Security
own = sys.argv[1:4] if sys.argv[1] else None
for address in sys.argv[4:]:
    for scheme in "tls", "tcp":
        security = Security(**dict(zip(("tls_ca_file", "tls_client_cert", "tls_client_key"), own))) if own else Security.temporary()
        try:
            with Client(f"{scheme}://{address}", security=security if scheme == "tls" else None, timeout=4) as client:
                print("in", client.submit(lambda: __import__("os").getuid()).result(timeout=20))
        except Exception as error:
            print("refused", type(error).__name__)
"""


def listening(machine):
    """Return the addresses (list of str, host:port) at which processes of alice's listen on TCP."""
    lines = machine.sh("ss --no-header --listening --tcp --numeric --extended | grep ' uid:2001 ' || true").splitlines()
    return [line.split()[3].replace("*:", "127.0.0.1:").replace("0.0.0.0:", "127.0.0.1:") for line in lines]


def pages(machine):
    """Let bob ask each of alice's ports on a machine for pages; return the statuses (set of str), without those that talk no HTTP."""
    addresses = listening(machine)
    assert addresses, f"alice has no ports on {machine.name}"
    return set(machine.run("/usr/bin/python3.13", "-c", ASK, *addresses, user="bob", timeout=300).stdout.split()) - {"nothing"}


def environment_of(machine, pattern):
    """Return the variables (str) of all of a machine's processes whose command line matches."""
    return machine.sh(f"for pid in $(pgrep --full '{pattern}'); do tr '\\0' '\\n' </proc/$pid/environ; done")


def jobs(machine):
    return machine.sh("squeue --noheader --format='%u %j %T %N'").splitlines()


def run_as_root(machine, title):
    machine.run("bash", "-euo", "pipefail", "-c", f"cd /root\n{commands(title)}", timeout=600)


def cells(kernel, title):
    """Run a section's cells, but the last one; return what each has shown (list of str)."""
    return [kernel.execute(cell, timeout=180) for cell in fenced(title, "python")[:-1]]


def computed(machine, user, title):
    """Return a kernel in which a section's cells have been run, but the last one: `shown_cells` is what they have shown, `wire` what was on the wire then."""
    kernel = user.kernel(title.lower())
    with machine.recorded() as wire:
        kernel.shown_cells = cells(kernel, title)
    kernel.wire = bytes(wire)
    return kernel


TOKENS = "import os; print(*(value for name, value in os.environ.items() if 'TOKEN' in name or 'SECRET' in name))"


@pytest.fixture(scope="module")
def dask(index, nodes):
    """The environment, and the administrator's settings."""
    run_as_root(index, "Dask")
    (settings,) = fenced("Dask", "yaml")
    for host in (index, *nodes):
        host.write("/etc/dask/jupyterhub.yaml", settings)
    for node in nodes:  # a trap of bob's: what workers spill to it, they would unpickle
        node.sh("install -d -o bob -m 777 /tmp/dask-scratch-space")
    return index


@pytest.fixture(scope="module")
def dask_kernel(dask, alice):
    """A kernel in which the page's cells have been run: see `computed`."""
    return computed(dask, alice, "Dask")


def test_dask_computes_on_two_nodes_as_the_user(dask_kernel, dask):
    _, where, squares = dask_kernel.shown_cells
    assert where == "['node1: uid 2001', 'node2: uid 2001']"
    assert squares == str(sum(number**2 for number in range(1000)))
    assert sorted(jobs(dask)) == ["alice dask-worker RUNNING node1", "alice dask-worker RUNNING node2"]


def test_dask_job_gets_no_secrets(dask_kernel, dask, nodes):
    """Neither in its environment nor on the wire nor on a command line; the certificate's key is in a file of hers."""
    tokens = dask_kernel.execute(TOKENS).split()
    assert tokens
    keys = dask.sh("cat /home/alice/.dask/.dask-jobqueue.worker.key.*").splitlines()
    assert keys[0] == "-----BEGIN PRIVATE KEY-----"
    assert dask.sh("stat --format=%U:%a /home/alice/.dask /home/alice/.dask/.d*") == "alice:700\nalice:600\nalice:600\nalice:600"
    assert b"dask_worker" in dask_kernel.wire  # the job's script
    for secret in (*tokens, keys[10]):
        assert secret.encode() not in dask_kernel.wire
        for host in (dask, *nodes):
            assert secret not in host.sh("ps -e -o args")
    for node in nodes:
        environment = environment_of(node, "distributed.cli.dask_worker")
        assert "SLURM_JOB_ID" in environment
        assert not [token for token in tokens if token in environment]


def test_dask_refuses_others(dask_kernel, dask, nodes):
    addresses = json.loads(
        dask_kernel.execute("""
import json
workers = client.scheduler_info(n_workers=-1)["workers"]
print(json.dumps([each.split("//")[1] for each in [cluster.scheduler_address, *workers, *(worker["nanny"] for worker in workers.values())]]))
""")
    )
    assert len(addresses) == 5
    python = f"{ENVIRONMENTS}/dask/current/bin/python"
    files = dask.sh("ls -d /home/alice/.dask/.dask-jobqueue.worker.{ca_file,cert,key}.*".replace("{ca_file,cert,key}", "*")).split()
    files.sort(key=lambda file: ("ca_file" not in file, "cert" not in file))
    for host in (dask, nodes[1]):
        said = host.run("env", "DASK_ROOT_CONFIG=/none", python, "-c", ENTER, "", "", "", *addresses, user="bob", timeout=300).stdout.split("\n")
        assert len(said) == 11 and all(line.startswith("refused") for line in said[:-1]), said
        assert "Permission denied" in host.run("cat", *files, user="bob", check=False).stderr
    # Who has the files gets in, so that the above could fail.
    assert "in 2001" in dask.run(python, "-c", ENTER, *files, addresses[0], user="alice", timeout=120).stdout


def test_dask_keeps_to_a_folder_of_its_own(dask_kernel, nodes):
    for node in nodes:
        assert node.sh("ls /tmp/dask-scratch-space") == ""
        assert re.fullmatch(r"alice 700 /tmp/dask\.\w+", node.sh("stat --format='%U %a %n' /tmp/dask.*"))


def test_dask_shows_no_pages(dask_kernel, dask, nodes):
    assert pages(dask) <= {"404"}
    for node in nodes:
        assert pages(node) <= {"404"}


def test_dask_without_encryption_is_refused(dask_kernel, alice):
    """Who forgets `security=True` is told."""
    kernel = alice.kernel("dask")
    with pytest.raises(KernelError, match="encryption required"):
        kernel.execute("from dask_jobqueue import SLURMCluster\nSLURMCluster(cores=1, memory='1GB')")
    kernel.shutdown()


def test_dask_ends(dask_kernel, dask, nodes, alice):
    """By the last cell; and with the kernel, also when that is killed."""
    dask_kernel.execute(fenced("Dask", "python")[-1])
    wait_for(lambda: not jobs(dask), "no job is left", timeout=60)
    dask_kernel.shutdown()
    assert dask.sh("find /home/alice/.dask -type f") == ""
    for end in ("shut down", "killed"):
        kernel = alice.kernel("dask")
        cells(kernel, "Dask")
        if end == "killed":
            dask.sh(f"kill -9 {kernel.execute('import os; os.getpid()')}")
        else:
            kernel.shutdown()
        wait_for(lambda: not jobs(dask), f"no job is left of a kernel that was {end}", timeout=120, every=0.5)
    for node in nodes:
        assert node.sh("ls /tmp | grep dask || true") == "dask-scratch-space"


# -- Spark --------------------------------------------------------------------------------------------------------------------------

INTRUDE = """
import os, sys
from pyspark import SparkContext
os.environ["PYSPARK_SUBMIT_ARGS"] = f"--properties-file {sys.argv[2]} pyspark-shell"
context = SparkContext(master=sys.argv[1])
print("in as", context.parallelize(range(4), 4).map(lambda _: __import__("os").getuid()).distinct().collect())
"""


@pytest.fixture(scope="module")
def spark(index):
    index.sh("mkdir -p /srv/wheels")
    index.write("/etc/pip.conf", f"[global]\nno-index = true\nfind-links =\n    {INDEX}\n    /srv/wheels\n")
    index.write("/etc/uv/uv.toml", f'no-index = true\nfind-links = ["{INDEX}", "/srv/wheels"]\n')
    run_as_root(index, "Spark")
    return index


@pytest.fixture(scope="module")
def spark_kernel(spark, alice):
    """A kernel in which the page's cells have been run: see `computed`."""
    return computed(spark, alice, "Spark")


def test_spark_computes_on_two_nodes_as_the_user(spark_kernel, spark):
    _, where, squares = spark_kernel.shown_cells
    # Beside them there are bars that show how far it is.
    assert "['node1: uid 2001', 'node2: uid 2001']" in where.splitlines()
    assert str(sum(number**2 for number in range(1_000_000))) in squares.splitlines()
    assert jobs(spark) == ["alice spark RUNNING node[1-2]"]


def test_spark_keeps_its_secrets(spark_kernel, spark, nodes):
    """They are in a file of hers; not on the wire, on no command line, in no environment of a job."""
    folder = "/home/alice/.spark/" + spark_kernel.execute("print(job)")
    assert spark.sh(f"stat --format=%U:%a {folder} {folder}/*.conf") == "alice:700\nalice:600\nalice:600"
    secrets = re.findall(r"(?m)^\S*secret\S* +([0-9a-f]{64})$", spark.sh(f"cat {folder}/spark.conf"), re.IGNORECASE)
    tokens = spark_kernel.execute(TOKENS).split()
    assert len(set(secrets)) == 2 and tokens
    assert b"spark.network.crypto.enabled" in spark_kernel.wire  # the job's script
    for secret in (*secrets, *tokens):
        assert secret.encode() not in spark_kernel.wire
        for host in (spark, *nodes):
            assert secret not in host.sh("ps -ww -e -o args; cat /home/alice/slurm-*.out")
    for node in nodes:
        environment = environment_of(node, "deploy.worker.Worker")
        assert "SLURM_JOB_ID" in environment and not [secret for secret in (*secrets, *tokens) if secret in environment]


def test_spark_refuses_others(spark_kernel, spark, nodes):
    """Without a secret, and with another one. The cells of the page show that who has it gets in."""
    conf = spark_kernel.execute("print(conf)")
    master = spark.sh(f"sed -n 's/^spark.master //p' {conf}")
    spark.write("/home/bob/none.conf", "spark.ui.enabled false\n")
    spark.sh(f"sed 's/^\\(spark.authenticate.secret\\) .*/\\1 {'0' * 64}/; /^spark.master/d' {conf} >/home/bob/other.conf; chown bob: /home/bob/*.conf")
    assert "Permission denied" in nodes[0].run("cat", conf, user="bob", check=False).stderr
    python = f"{ENVIRONMENTS}/spark/current/bin/python"
    both = 'for conf in none other; do "$@" "$conf.conf" >"$conf.log" 2>&1 & done; wait'
    spark.run("sh", "-c", both, "sh", python, "-c", INTRUDE, master, user="bob", timeout=300)
    for file in ("none", "other"):
        said = spark.sh(f"cat /home/bob/{file}.log")
        assert "All masters are unresponsive" in said and "\nin as " not in said, said[-3000:]


def test_spark_shows_no_pages(spark_kernel, spark, nodes):
    assert not [status for status in pages(spark) if status < "400"]
    for node in nodes:
        statuses = pages(node)
        assert "403" in statuses and min(statuses) >= "400", statuses


def test_spark_ends(spark_kernel, spark, alice):
    """By the last cell; and with the kernel, also when that is killed."""
    spark_kernel.connect()  # nobody has answered the server's pings for long
    spark_kernel.execute(fenced("Spark", "python")[-1])
    wait_for(lambda: not jobs(spark), "no job is left", timeout=60)
    spark_kernel.shutdown()
    for end in ("shut down", "killed"):
        kernel = alice.kernel("spark")
        kernel.execute(fenced("Spark", "python")[0], timeout=180)
        if end == "killed":
            spark.sh(f"kill -9 {kernel.execute('import os; os.getpid()')}")
        else:
            kernel.shutdown()
        wait_for(lambda: not jobs(spark), f"no job is left of a kernel that was {end}", timeout=60)
    assert spark.sh("ls /home/alice/.spark") == ""


# -- The controller -----------------------------------------------------------------------------------------------------------------

SECOND = "A second slurmctld"


@pytest.fixture(scope="module")
def pair(cluster, nodes):
    """slurmctld on the hub's machine and on the first node."""
    (lines,) = fenced(SECOND, "")
    kept = [line for line in cluster.sh("cat /etc/slurm/slurm.conf").splitlines() if line.split("=")[0] not in lines]
    cluster.sh("scancel --user=alice; systemctl stop slurmctld")
    for host in (cluster, *nodes):
        host.write("/etc/slurm/slurm.conf", "\n".join(kept) + "\n" + lines)
    cluster.sh("systemctl start slurmctld")
    nodes[0].sh("systemctl start slurmctld")
    for node in nodes:
        node.sh("systemctl restart slurmd")
    wait_for(lambda: controllers(cluster) == ["UP", "UP"], "both are there", timeout=60, every=0.5)
    return cluster


def controllers(machine):
    """Return what `scontrol ping` says of each (list of str)."""
    said = machine.sh(commands(SECOND).splitlines()[0] + " || true")
    return re.findall(r"Slurmctld\(\w+\) at \w+ is (\w+)", said)


def submitted(machine):
    return machine.run("sbatch", "--parsable", "--ntasks=1", "--mem=100M", "--wrap=sleep 600", user="alice", timeout=120).stdout.strip()


def running(machine):
    """Return the numbers of the jobs that run (set of str), empty if nobody answers."""
    return set(machine.run("squeue", "--noheader", "--states=R", "--format=%i", check=False, timeout=120).stdout.split())


def test_second_slurmctld_takes_over(pair, nodes):
    first = submitted(pair)
    wait_for(lambda: running(pair) == {first}, "the job runs", timeout=30)
    pair.sh(f"touch /srv/running; scontrol update JobId={first} Comment=runs")  # a reason to write
    wait_for(lambda: pair.sh("find /srv/slurmctld/job_state -newer /srv/running"), "that is written down", timeout=60)
    pair.sh("systemctl kill --signal=KILL slurmctld")
    wait_for(lambda: controllers(pair) == ["DOWN", "UP"], "the first is gone", timeout=30)
    wait_for(lambda: running(pair) == {first}, "the second answers", timeout=120, every=1)
    second = submitted(pair)
    assert int(second) == int(first) + 1
    wait_for(lambda: running(pair) == {first, second}, "the new job runs", timeout=60, every=1)
    pair.sh("systemctl reset-failed slurmctld; systemctl start slurmctld")
    wait_for(lambda: controllers(pair) == ["UP", "UP"] and running(pair) == {first, second}, "the first has taken over", timeout=60, every=1)
    nodes[0].sh(commands(SECOND).splitlines()[1])
    wait_for(lambda: controllers(pair) == ["DOWN", "UP"], "the first has ended", timeout=60, every=1)
    wait_for(lambda: running(pair) == {first, second}, "the second answers", timeout=60, every=1)
    pair.sh("scancel --user=alice")
    wait_for(lambda: not running(pair), "the jobs end", timeout=60)
