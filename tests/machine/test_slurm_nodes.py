"""Notebook servers as Slurm jobs on other machines: docs/slurm.md, "Other machines". One machine is the hub, one slurmctld and a node, one another node."""

import contextlib
import json
import re
import subprocess
import time

import pytest
import requests
from harness import downloads, wait_for
from hubclient import Hub, HubError, Prober, page_text
from slurm import BEFORE_PACKAGES, SERVER, STARTER, configure, failure, start

pytestmark = pytest.mark.slow("three machines")
PACKAGES = ("--no-install-recommends", "faketime", "slurmctld", "slurmd", "slurm-client", "munge")
MACHINES = {"hub": "10.0.0.1", "one": "10.0.0.2", "two": "10.0.0.3"}
HUB_PORT = 8443
NODES = "NodeName=one,two CPUs=8 RealMemory=16000\nPartitionName=one Nodes=one State=UP\nPartitionName=two Nodes=two State=UP\n"
PROFILES = "[one]\npartition = one\nmemory = 400M\n\n[two]\npartition = two\nmemory = 400M\n"
CA = "/var/opt/jupyterhub/jobs-ca.pem"


@pytest.fixture(scope="module")
def layers(suite, site, installed, node_deb, base, say):
    """Layers of the hub's machine and of a node, each with Slurm and an account, by the machines' names."""
    if suite[0] != "debian:trixie":
        pytest.skip("jobs of Slurm are for Debian 13")

    below = [downloads(base, PACKAGES, say), base]

    def prepared(name, lowers, *debs):
        machine = site.machine(name, *lowers).boot()
        machine.sh(BEFORE_PACKAGES)
        machine.run("apt-get", "-qq", "-y", "install", *PACKAGES, *map(machine.push, debs), timeout=300)
        prepare(machine)
        machine.power_off()
        machine.unmount()
        return [machine.upper, *lowers]

    node = prepared("a-node", below, node_deb)
    return {"hub": prepared("a-hub", [*installed[:-1], *below]), "one": node, "two": node}


def prepare(machine):
    """Set up Slurm, an account, and the hub, if there is one; nothing of it starts at boot, as the cables are not there then."""
    configure(machine, "one", NODES)
    machine.sh("".join(f"echo {address} {name} >>/etc/hosts\n" for name, address in MACHINES.items()))
    machine.sh("systemctl disable --quiet slurmctld slurmd")
    machine.add_user("alice")
    if machine.name == "a-hub":
        machine.write("/etc/jupyterhub/profiles.conf", PROFILES)
        settings = f"s/^JUPYTERHUB_JOBS=.*/JUPYTERHUB_JOBS=beside/; s/^JUPYTERHUB_JOBS_ADDRESS=.*/JUPYTERHUB_JOBS_ADDRESS=hub:{HUB_PORT}/"
        machine.sh(f"sed -i '{settings}' /etc/default/jupyterhub; systemctl disable --quiet jupyterhub jupyterhub-proxy jupyterhub-ports")


@pytest.fixture(scope="module")
def cluster(site, layers, tmp_path_factory):
    """The machines by name, booted and connected, with the same /home; the tests live in the hub's network."""
    home = tmp_path_factory.mktemp("home")
    found = {name: site.machine(name, *layers[name]) for name in MACHINES}
    with contextlib.ExitStack() as stack:
        for machine in found.values():
            stack.callback(site.discard, machine)
            subprocess.run(["mount", "--bind", home, machine.root / "home"], check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", machine.root / "home"], check=True)
            machine.boot()
            machine.sh(f"hostname {machine.name}")
        home.chmod(0o755)
        found["hub"].be_a_switch(f"{MACHINES['hub']}/24")
        for name in ("one", "two"):
            found["hub"].plug_in(found[name], f"{MACHINES[name]}/24")
        found["hub"].sh("cp -a /etc/skel /home/alice; chown -R alice: /home/alice; chmod 700 /home/alice")
        found["one"].sh("systemctl start slurmctld slurmd")
        found["two"].sh("systemctl start slurmd")
        idle = "sinfo --noheader --format='%P %T' | grep --count idle || true"
        wait_for(lambda: found["hub"].sh(idle) == "2", "the nodes are there", timeout=60, every=0.5)
        found["hub"].sh("systemctl enable --quiet --now jupyterhub-ports jupyterhub-proxy jupyterhub")
        stack.enter_context(found["hub"].network())
        yield found


@pytest.fixture(scope="module")
def account(cluster):
    hub = Hub()
    wait_for(hub.answers, "the hub answers", timeout=20)
    return hub.login("alice", "secret")


@pytest.fixture
def alice(account):
    """A user without a server."""
    if account.hub_api("GET", "/users/alice").json()["servers"]:
        account.stop()
    return account


def variable(machine, name):
    """Return a variable of the environment of alice's server."""
    return machine.sh(f"tr '\\0' '\\n' </proc/$({SERVER})/environ | sed -n s/^{name}=//p")


def test_server_on_another_node(cluster, alice):
    """The form, JupyterLab, a cell, a file, stop; nothing on the wire is of use to who listens there."""
    with cluster["hub"].recorded() as wire:
        start(alice, "two")
        assert cluster["one"].sh(f"{SERVER} || true") == "" and cluster["two"].sh(SERVER)
        assert "jupyter-config-data" in alice.get(f"{alice.prefix}lab").text
        assert alice.get(f"{alice.prefix}api/status").json()["kernels"] == 0
        kernel = alice.kernel()
        assert kernel.execute("import socket; socket.gethostname() + ' has ' + 'words-of-a-cell'[::-1]") == "'two has llec-a-fo-sdrow'"
        key = cluster["hub"].sh("cat ~alice/.local/share/jupyterhub/jobs/*.key")
        token = variable(cluster["two"], "JUPYTERHUB_API_TOKEN")
        certificate_key = cluster["two"].sh(f"cat {variable(cluster['two'], 'JUPYTERHUB_SSL_KEYFILE')}").splitlines()[1]
        # The server asks the hub whose token it is.
        with requests.get(f"{alice.base}{alice.prefix}api/status", headers={"Authorization": f"token {new_token(alice)}"}, timeout=10) as answer:
            assert answer.status_code == 200
        alice.stop()
        wait_for(lambda: cluster["two"].sh(f"{SERVER} || true") == "", "no server is left")
    assert b"libexec/jupyterhub/job-starter" in wire  # the job's script: it would be seen
    assert len(key) == 64 and len(token) == 32 and len(certificate_key) == 64
    for secret in (key, bytes.fromhex(key), token, certificate_key, "words-of-a-cell", "llec-a-fo-sdrow", "PRIVATE KEY"):
        assert (secret if isinstance(secret, bytes) else secret.encode()) not in wire


def new_token(user):
    return user.hub_api("POST", f"/users/{user.name}/tokens", json={"note": "of a test"}).json()["token"]


def certificate_of(node, folder):
    """Return the files with certificate and key of alice's server on a node, copied to the folder (two str)."""
    for name in ("CERT", "KEY"):
        (folder / name).write_text(node.sh(f"cat {variable(node, f'JUPYTERHUB_SSL_{name}FILE')}"))
    return str(folder / "CERT"), str(folder / "KEY")


def refused(url, **options):
    """Is a request refused before anybody looks at it?"""
    try:
        requests.get(url, timeout=10, verify=False, **options)
    except requests.ConnectionError:
        return True
    return False


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_nobody_without_a_certificate(cluster, alice, tmp_path):
    start(alice, "two")
    node, hub = cluster["two"], cluster["hub"]
    listening = node.sh(f"ss --no-header --listening --tcp --numeric --processes | grep pid=$({SERVER}),")
    port = re.search(rf"{re.escape(MACHINES['two'])}:(\d+) ", listening)[1]
    assert listening.count("pid=") == 1
    server, hubs = f"https://{MACHINES['two']}:{port}{alice.prefix}api", f"https://{MACHINES['hub']}:{HUB_PORT}/hub/api/"
    theirs = certificate_of(node, tmp_path)
    for url in (server, hubs, server.replace("https", "http"), hubs.replace("https", "http")):
        assert refused(url)
    assert refused(server, cert=theirs)  # one of a server: no server passes for the hub
    assert not refused(hubs, cert=theirs)
    assert hub.sh(f"stat -c '%a %U' {CA}; stat -c '%a %U %G' /run/jupyterhub-servers/proxy.json") == ("600 jupyterhub\n640 jupyterhub jupyterhub-proxy")


def test_restarts(cluster, alice):
    """Of hub and proxy, while the server runs on the node."""
    start(alice, "two")
    kernel = alice.kernel()
    kernel.execute("held = 42")
    certificates = cluster["hub"].sh("cat /run/jupyterhub-servers/proxy.json")
    with Prober(alice, f"{alice.prefix}api/status") as notebook:
        for how in ("systemctl restart jupyterhub", "systemctl kill --signal=KILL jupyterhub"):
            cluster["hub"].sh(how)
            wait_for(Hub().answers, "the hub answers again", timeout=20)
            wait_for(lambda: alice.server_ready, "the hub has adopted the server")
    assert notebook.failures == [] and kernel.execute("held") == "42"
    assert cluster["hub"].sh("cat /run/jupyterhub-servers/proxy.json") != certificates  # they are made anew, and the server believes them
    cluster["hub"].sh("systemctl restart jupyterhub-proxy")
    wait_for(lambda: alice.get(f"{alice.prefix}api/status").ok, "the proxy knows the way")
    kernel.connect()
    alice.stop()


def test_local_server_beside(cluster, alice):
    """On a unix socket, as ever."""
    start(alice, "")
    assert cluster["hub"].sh(SERVER) and cluster["hub"].sh("ls /run/jupyterhub-servers/server-*.sock")
    assert alice.kernel().execute("6 * 7") == "42"
    alice.stop()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("echo a key of this machine alone, which no other has >/etc/munge/munge.key", id="another munge key"),
        pytest.param(
            "mkdir -p /etc/systemd/system/munge.service.d; cd /etc/systemd/system/munge.service.d; printf '[Service]\\n%s\\n%s\\n' >50-test.conf"
            " Environment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 Environment=FAKETIME=-20m; systemctl daemon-reload",
            id="clock behind",
        ),
    ],
)
def test_cluster_does_not_believe_the_hubs_machine(cluster, alice, change):
    """One line on the page; journal and verify say where to look; nothing is left, and all is well again without a restart of the hub."""
    hub = cluster["hub"]
    begun = hub.sh("date '+%F %T'; sleep 1")
    hub.sh(f"cp -p /etc/munge/munge.key /root/; {change}; systemctl restart munge", timeout=90)
    try:
        assert "Slurm does not answer at the moment. Try again later." in failure(alice, "two", timeout=120)
        hint = "all machines need the same /etc/munge/munge.key, and the same time"
        assert hint in hub.journal("-t", "jupyterhub-spawner", f"--since={begun}")
        assert hint in hub.run("jupyterhub-ctl", "verify", "slurm", check=False, timeout=120).stdout
    finally:
        hub.sh(
            "cp -p /root/munge.key /etc/munge/; rm -f /etc/systemd/system/munge.service.d/50-test.conf; systemctl daemon-reload; systemctl restart munge",
            timeout=90,
        )
    assert hub.sh("squeue --noheader --user=alice") == "" and hub.sh("ls ~alice/.local/share/jupyterhub/jobs") == ""
    start(alice, "two")
    alice.stop()


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_servers_token_changes_nothing_at_the_hub(cluster, alice, tmp_path):
    """Neither this server nor another one, nor what is known of them."""
    start(alice, "two")
    certificate, token = certificate_of(cluster["two"], tmp_path), variable(cluster["two"], "JUPYTERHUB_API_TOKEN")
    before = alice.hub_api("GET", "/users/alice").json()["servers"][""]
    wishes = [
        ("POST", "/users/alice/server", {"profile": "two"}),
        ("POST", "/users/alice/servers/other", {"profile": "two"}),
        ("DELETE", "/users/alice/server", {}),
        ("PATCH", "/users/alice", {"admin": True}),
        ("POST", "/users/alice/tokens", {}),
        ("POST", "/batchspawner", {"port": 1}),
    ]
    for method, path, body in wishes:
        url, headers = f"https://{MACHINES['hub']}:{HUB_PORT}/hub/api{path}", {"Authorization": f"token {token}"}
        answer = requests.request(method, url, json=body, headers=headers, cert=certificate, verify=False, timeout=10)
        assert answer.status_code in (403, 404), (method, path, answer.text)
    assert alice.hub_api("GET", "/users/alice").json()["servers"][""]["started"] == before["started"] and alice.server_ready
    alice.stop()


def test_address_that_leads_nowhere(cluster, alice):
    """The hub says so once, and verify how to fix it; when the name leads here again, servers start without a restart."""
    hub = cluster["hub"]
    hosts = hub.sh("cat /etc/hosts")
    verify = ("jupyterhub-ctl", "verify", "jobs-address")
    try:
        for line, what in (("127.0.1.1 hub", "hub in JUPYTERHUB_JOBS_ADDRESS leads to 127.0.1.1 on this machine"), ("", "hub in JUPYTERHUB_JOBS_ADDRESS: ")):
            begun = hub.sh("date '+%F %T'; sleep 1")
            hub.sh(f"sed -i '/ hub$/d' /etc/hosts; echo '{line}' >>/etc/hosts; systemctl restart jupyterhub")
            wait_for(Hub().answers, "the hub answers again", timeout=20)
            time.sleep(32)  # it has tried again
            assert hub.journal("-u", "jupyterhub", f"--since={begun}").count(f"Servers that run as jobs cannot reach this hub: {what}") == 1
            verified = hub.run(*verify, check=False)
            assert verified.returncode == 5 and f"failed\tjobs-address\t{what}" in verified.stdout, verified.stdout
            assert "correct that name in DNS or /etc/hosts, or the setting in /etc/default/jupyterhub" in verified.stdout
        hub.sh(f"sed -i '/ hub$/d' /etc/hosts; printf '%s hub\\n' 127.0.1.1 {MACHINES['hub']} >>/etc/hosts")  # the second is good
        wait_for(lambda: "the hub listens at hub:8443" in hub.run(*verify, check=False).stdout, "the hub has tried again", timeout=60, every=1)
    finally:
        hub.write("/etc/hosts", hosts + "\n")
    wait_for(lambda: "the hub listens at hub:8443" in hub.run(*verify, check=False).stdout, "the hub has tried again", timeout=60, every=1)
    start(alice, "two")
    assert alice.kernel().execute("6 * 7") == "42"
    alice.stop()


def test_address_of_another_machine(cluster):
    """Where somebody answers: verify is not content with that."""
    hub, one = cluster["hub"], cluster["one"]
    verify = ("jupyterhub-ctl", "verify", "jobs-address")
    hosts = hub.sh("cat /etc/hosts")
    one.sh(f"systemd-run --quiet --unit=other systemd-socket-activate --listen={HUB_PORT} --accept cat")
    try:
        hub.sh(f"sed -i '/ hub$/d' /etc/hosts; echo {MACHINES['one']} hub >>/etc/hosts; systemctl restart jupyterhub")
        wait_for(Hub().answers, "the hub answers again", timeout=20)
        verified = hub.run(*verify, check=False)
        assert verified.returncode == 5
        assert f"failed\tjobs-address\thub in JUPYTERHUB_JOBS_ADDRESS leads to {MACHINES['one']}, which is another machine" in verified.stdout
    finally:
        one.sh("systemctl stop other")
        hub.write("/etc/hosts", hosts + "\n")
        hub.sh("systemctl restart jupyterhub")
    wait_for(lambda: "the hub listens at hub:8443" in hub.run(*verify, check=False).stdout, "the hub listens again", timeout=30, every=1)


def home(user):
    return page_text(user.get("/hub/home"))


@contextlib.contextmanager
def cut_off(cluster, name):
    """Cut the cable of a machine; it is whole again at the end."""
    cluster["hub"].sh(f"ip link set to-{name} down")
    try:
        yield
    finally:
        cluster["hub"].sh(f"ip link set to-{name} up")


SILENT = r"Node two stopped answering at \d\d:\d\d\. Your server may still run there, and can be used again when the node is back\."
LEFT = r"An earlier server of yours, job \d+, may still run on node two, which does not answer\. It is ended when the node is back\."


def test_end_on_a_node_is_noticed(cluster, alice):
    start(alice, "two")
    cluster["hub"].sh("scancel --user=alice")
    wait_for(lambda: not alice.server_ready, "the hub has noticed", timeout=3)
    assert "Its Slurm job was cancelled." in home(alice)
    for victim in (SERVER, STARTER):
        start(alice, "two")
        cluster["two"].sh(f"kill -9 $({victim})")
        wait_for(lambda: not alice.server_ready, "the hub has noticed", timeout=3)
        assert "Your server ended on " in home(alice)
        wait_for(lambda: cluster["two"].sh(f"{SERVER} || true") == "", "no server is left", timeout=20)
    assert not re.search(LEFT, home(alice))


def test_slurmctld_is_away_for_a_minute(cluster, alice):
    """It is on another machine than hub and server."""
    start(alice, "two")
    with Prober(alice, f"{alice.prefix}api/status") as notebook:
        cluster["one"].sh("systemctl stop slurmctld; sleep 60; systemctl start slurmctld", timeout=120)
        wait_for(lambda: cluster["hub"].run("sinfo", check=False).returncode == 0, "Slurm answers", timeout=30, every=0.5)
    assert notebook.failures == [] and alice.server_ready
    alice.stop()


def test_node_is_cut_off(cluster, alice):
    """It is noticed, and the server goes on when the node is back; or the user has another one meanwhile, and then the old one is ended."""
    start(alice, "two")
    kernel, server = alice.kernel(), cluster["two"].sh(SERVER)
    kernel.execute("held = 42")
    with cut_off(cluster, "two"):
        wait_for(lambda: re.search(SILENT, home(alice)), "the hub has noticed", timeout=120, every=1)
        assert alice.server_ready
        with pytest.raises(HubError, match="Your server appears to be down"):
            alice.get(f"{alice.prefix}api/status", timeout=60)
    wait_for(lambda: not re.search(SILENT, home(alice)), "the hub has noticed", timeout=60, every=1)
    kernel.connect()
    assert kernel.execute("held") == "42"
    with cut_off(cluster, "two"):
        wait_for(lambda: re.search(SILENT, home(alice)), "the hub has noticed", timeout=120, every=1)
        alice.stop()
        assert re.search(LEFT, home(alice)) and not re.search(SILENT, home(alice))
        start(alice, "one")
        assert alice.kernel().execute("6 * 7") == "42"
        rows = json.loads(cluster["hub"].sh("jupyterhub-ctl sessions --json"))
        assert sorted((row["state"], row["job"]["node"]) for row in rows) == [("left", "two"), ("ready", "one")]
        cluster["hub"].sh("systemctl restart jupyterhub")
        wait_for(Hub().answers, "the hub answers again", timeout=20)
        assert re.search(LEFT, home(alice)) and cluster["two"].sh(SERVER) == server
    wait_for(lambda: not re.search(LEFT, home(alice)), "the hub has heard of its end", timeout=60, every=1)
    assert cluster["two"].sh(f"{SERVER} || true") == ""
    assert alice.kernel().execute("6 * 7") == "42"  # the new one is as it was
    alice.stop()


def test_slurm_gives_up_a_node_that_is_cut_off(cluster, alice):
    """Its word that the job is over does not end the server there."""
    nodes = "sinfo --noheader --Node --format='%N %t'"  # idle*: slurmctld has not heard of it since it was cut off
    wait_for(lambda: "two idle" in cluster["hub"].sh(nodes).splitlines(), "Slurm has the node back", timeout=200, every=1)
    start(alice, "two")
    server = cluster["two"].sh(SERVER)
    with cut_off(cluster, "two"):
        cluster["one"].sh("scontrol update NodeName=two State=DOWN Reason=cut")  # as after SlurmdTimeout
        wait_for(lambda: not alice.server_ready, "the hub has noticed", timeout=150, every=1)
        page = home(alice)
        assert re.search(r"Your server ended on .*: its node has failed\.", page) and re.search(LEFT, page)
        assert cluster["two"].sh(SERVER) == server
    cluster["one"].sh("scontrol update NodeName=two State=RESUME")
    wait_for(lambda: not re.search(LEFT, home(alice)), "the hub has heard of its end", timeout=60, every=1)
    assert cluster["two"].sh(f"{SERVER} || true") == ""
    start(alice, "two")
    alice.stop()


def test_authorities_come_back_from_a_backup(cluster, alice):
    """So what runs meanwhile is still believed, and believes the hub."""
    hub = cluster["hub"]
    start(alice, "one")
    kernel = alice.kernel()
    kernel.execute("held = 42")
    authorities = hub.sh(f"jupyterhub-ctl backup /root/backup.tar.gz >&2; cat {CA}")
    hub.sh(f"rm {CA}; jupyterhub-ctl restore /root/backup.tar.gz", timeout=120)
    wait_for(Hub().answers, "the hub answers again", timeout=20)
    assert hub.sh(f"cat {CA}") == authorities and hub.sh(f"stat -c '%a %U' {CA}") == "600 jupyterhub"
    wait_for(lambda: alice.server_ready, "the hub has adopted the server")
    assert kernel.execute("held") == "42"
    with requests.get(f"{alice.base}{alice.prefix}api/status", headers={"Authorization": f"token {new_token(alice)}"}, timeout=10) as answer:
        assert answer.status_code == 200  # the server has asked the hub
    alice.stop()


def test_authorities_are_lost(cluster, alice):
    """What starts after that works."""
    hub = cluster["hub"]
    hub.sh(f"systemctl stop jupyterhub; rm {CA}; systemctl start jupyterhub")
    wait_for(Hub().answers, "the hub answers again", timeout=20)
    start(alice, "one")
    assert alice.kernel().execute("6 * 7") == "42"
    alice.stop()


ENDING = "from datetime import timedelta as t; from debianized_jupyterhub import certificates as c; c.AUTHORITY = t(days=10); c.authorities()"


@pytest.mark.parametrize(
    "makes, words",
    [
        (f"echo nonsense >{CA}", "it does not hold two keys with their certificates: put it back from a backup"),
        (f"rm -f {CA}; runuser -u jupyterhub -- /opt/venvs/jupyterhub/bin/python -c '{ENDING}'", "its certificates end on "),
    ],
)
def test_authorities_that_cannot_be_used(cluster, makes, words):
    hub = cluster["hub"]
    hub.sh(f"systemctl stop jupyterhub; {makes}; systemctl start --no-block jupyterhub")
    wait_for(lambda: f"{CA}: {words}" in hub.journal("-u", "jupyterhub"), "the hub says what is wrong", timeout=20)
    hub.sh(f"systemctl stop jupyterhub; rm {CA}")
