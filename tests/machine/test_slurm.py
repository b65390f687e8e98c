"""Notebook servers as Slurm jobs: docs/slurm.md. One machine is hub, slurmctld and node.

Resources are granted by Slurm's count; that limits bite is not tested here, since machines on hybrid cgroups have no controllers.
"""

import concurrent.futures
import contextlib
import json
import re
import statistics

import pytest
import requests
from browser import lab_of, log_in
from harness import wait_for
from hubclient import HubError, Prober
from playwright.sync_api import expect
from slurm import BEFORE_PACKAGES, SERVER, STARTER, ask_for, configure, failure, ready, start, where_it_stands  # noqa: F401 (the first is the fixture's)
from test_boundary import ask_gate

PACKAGES = ("--no-install-recommends", "slurmctld", "slurmd", "slurm-client", "munge")
slow = pytest.mark.slow("minutes, for a feature that is off as shipped; test_short_path has the whole of a job's life each time")
# A machine of the tests has nothing but loopback addresses, and Slurm wants another one.
ADDRESS = "192.0.2.10"
NODES = f"""
GresTypes=gpu
NodeName=localhost NodeAddr={ADDRESS} CPUs=8 RealMemory=16000 Gres=gpu:fake:2
PartitionName=main Nodes=ALL Default=YES MaxTime=1-0 State=UP
PartitionName=off Nodes=ALL MaxTime=1-0 State=DOWN
PartitionName=percpu Nodes=ALL MaxTime=1-0 DefMemPerCPU=300 State=UP
"""
PROFILES = """
[small]
title = A small one
memory = 400M
time = 1h-8h

[waiting]
title = One that waits
partition = off
memory = 400M

[percpu]
title = What Slurm gives for each CPU
partition = percpu
cpus = 2

[team]
title = For the team
group = team

[lost]
partition = nowhere

[huge]
memory = 900G

[gpu]
memory = 400M
gpus = 1-2
gpu-type = fake
"""
GPUS = "Name=gpu Type=fake File=/srv/gpu[0-1]\n"  # /dev/null and /dev/zero


@pytest.fixture(scope="module")
def debian_13(suite):
    """Debian 12's Slurm is not tested, and its Python has no pre-shared keys."""
    if suite[0] != "debian:trixie":
        pytest.skip("jobs of Slurm are for Debian 13")


@pytest.fixture(scope="module")
def slurm(debian_13, machine, hub):
    """Slurm on the machine, and a hub that offers jobs."""
    machine.sh(f"ip address add {ADDRESS}/32 dev lo")
    configure(machine, "localhost", NODES)
    machine.write("/etc/slurm/gres.conf", GPUS)
    machine.sh("for gpu in 0:null 1:zero; do touch /srv/gpu${gpu%:*}; mount --bind /dev/${gpu#*:} /srv/gpu${gpu%:*}; done")
    machine.sh("systemctl restart slurmctld slurmd")
    wait_for(lambda: "idle" in machine.run("sinfo", "--noheader", check=False).stdout, "the node is there", timeout=30, every=0.5)
    machine.write("/etc/jupyterhub/profiles.conf", PROFILES)
    machine.sh("groupadd team; sed -i s/^JUPYTERHUB_JOBS=.*/JUPYTERHUB_JOBS=beside/ /etc/default/jupyterhub; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers again", timeout=20)
    yield machine
    machine.sh("scancel --user=alice; systemctl stop jupyterhub")


@pytest.fixture(scope="module")
def account(slurm, hub):
    slurm.add_user("alice")
    return hub.login("alice", "secret")


def assert_lab_shows_memory(user, megabytes):
    """What Lab's status bar shows is what the job uses, of so much."""
    shown = user.api("GET", "/metrics/v1").json()
    assert shown["limits"]["memory"]["pss"] == megabytes << 20 and 20 << 20 < shown["pss"] < megabytes << 20


@pytest.fixture
def alice(slurm, account):
    """A user without a server or a job."""
    if account.hub_api("GET", "/users/alice").json()["servers"]:
        account.stop()
    slurm.sh("scancel --user=alice")
    wait_for(lambda: not jobs(slurm), "no job of alice is left", timeout=30)
    return account


def jobs(machine):
    """Return Slurm's words for alice's jobs that are not over: number, name, state."""
    return machine.sh("squeue --noheader --user=alice --format='%i %j %T'")


def waiting(machine, user):
    """Ask for a server whose job waits; return the job's number."""
    ask_for(user, "waiting")
    wait_for(lambda: "PENDING" in jobs(machine), "the job waits")
    return jobs(machine).split()[0]


def let_go(machine):
    """Let the jobs run that wait."""
    machine.sh("scontrol update PartitionName=off State=UP")


@pytest.fixture
def held(slurm):
    """The partition of the jobs that wait is off again after the test."""
    yield slurm
    slurm.sh("scontrol update PartitionName=off State=DOWN")


def ctl(machine, *arguments, **options):
    return machine.run("jupyterhub-ctl", *arguments, **options)


def verify(machine, *names):
    """Return what is not well: (status, check, what, what follows, how to fix it)."""
    lines = ctl(machine, "verify", *names, check=False).stdout.splitlines()
    return [found for found in (line.split("\t") for line in lines) if found[0] not in ("passed", "skipped")]


def restart(machine, hub, how="systemctl restart jupyterhub"):
    machine.sh(how)
    wait_for(hub.answers, "the hub answers again", timeout=20)


def test_short_path(slurm, alice):
    """Login, the form, a server as a job, a cell, stop."""
    form = alice.get("/hub/spawn").text
    assert "On this server" in form and "A small one" in form and "1h to 8h" in form
    assert "For the team" not in form
    start(alice, "small", time="2h")
    number, name, state = jobs(slurm).split()
    assert (name, state) == ("jupyterhub", "RUNNING")
    about = slurm.sh(f"scontrol show job {number}")
    assert "TimeLimit=02:00:00" in about and "mem=400M" in about and "UserId=alice" in about
    kernel = alice.kernel()
    assert kernel.execute("6 * 7") == "42"
    assert kernel.execute("import os; os.environ['MEM_LIMIT'], os.environ['SLURM_JOB_ID']") == f"('{400 << 20}', '{number}')"
    assert_lab_shows_memory(alice, 400)
    # The key is for the user alone; nothing that Slurm sends about has a secret in it.
    assert slurm.sh("stat -c %a ~alice/.local/share/jupyterhub/jobs/*.key ~alice/.local/share/jupyterhub/jobs") == "600\n700"
    script = slurm.sh(f"scontrol write batch_script {number} -")
    environment = slurm.sh(f"tr '\\0' '\\n' </proc/$({STARTER})/environ")
    key = slurm.sh("cat ~alice/.local/share/jupyterhub/jobs/*.key")
    assert "job-starter" in script and "SLURM_JOB_ID" in environment
    for text in (script, environment, about):
        assert key not in text and "TOKEN" not in text
    alice.stop()
    wait_for(lambda: not jobs(slurm), "the job is over")
    assert slurm.sh("ls ~alice/.local/share/jupyterhub/jobs; ls -d /tmp/jupyterhub-* || true") == ""
    assert "Slurm" not in alice.get("/hub/home").text  # she has stopped it herself


def test_root_sees_a_job(slurm, alice):
    """With jupyterhub-ctl: what it has and uses, and where its log is; it is stopped as any server."""
    start(alice, "small", time="2h")
    number = int(jobs(slurm).split()[0])
    (row,) = json.loads(ctl(slurm, "sessions", "--json").stdout)
    about = row["job"]
    assert 7000 < about.pop("left") <= 7200 and about.pop("start")
    assert about == {
        "id": number, "profile": "small", "node": "localhost", "state": "RUNNING", "reason": None, "cpus": 1, "memory": 400 << 20, "gpus": None
    }  # fmt: skip
    assert 20 << 20 < row["memory"] < 400 << 20 and row["version"] == slurm.sh("dpkg-query --show --showformat='${Version}' jupyterhub")
    shown = ctl(slurm, "sessions").stdout.split("\t")
    assert shown[5].endswith(" of 400 MiB") and shown[8:] == [f"{number} RUNNING", "localhost", "1 h\n"]
    assert "jobs:      1 run, 0 wait\n" in ctl(slurm, "status").stdout
    logs = ctl(slurm, "logs", "alice")
    assert re.search(r" server\[\d+\]: ", logs.stdout) and f"job {number}, runs on localhost" in logs.stdout and logs.stderr == ""
    assert ctl(slurm, "stop", "alice").stdout == f"stopped the server of alice (job {number} on localhost)\n"
    assert slurm.sh(f"{SERVER} || true") == ""


@slow
def test_profile_of_others_is_refused(slurm, alice):
    """By hand, beside the form: one line on the page and in the journal, and no job."""
    for profile, words in (("team", "There is no profile team for you"), ("none", "There is no profile none for you")):
        assert words in failure(alice, profile)
    assert "The profile small has time 1h to 8h, not 9h" in failure(alice, "small", time="9h")
    assert "The profile small has no partition to choose" in failure(alice, "small", partition="off")
    with pytest.raises(HubError, match="There is no profile team for you"):
        alice.hub_api("POST", "/users/alice/server", json={"user_options": {"profile": "team"}})
    journal = slurm.journal("-t", "jupyterhub-spawner")
    assert "alice is in none of its groups: team" in journal
    assert "Traceback" not in slurm.journal("-u", "jupyterhub")
    assert jobs(slurm) == ""


@slow
def test_jobs_and_servers_of_others(held, hub, alice):
    """Neither by the pages and the API, nor by the account of a hub that was taken over, which asks the gate by hand."""
    machine = held
    machine.add_user("bob")
    machine.add_user("mallory", groups=())
    bob = hub.login("bob", "secret")
    number = waiting(machine, alice)
    his = machine.run("sbatch", "--parsable", "--partition=off", "--chdir=/tmp", "--wrap=sleep 100", user="bob").stdout.strip()
    tag = machine.sh(f"squeue --noheader --job={number} --format=%k").partition(":")[2]
    for method, path in (("DELETE", "/users/alice/server"), ("POST", "/users/alice/server")):
        with pytest.raises(HubError, match=r"\b40[34]\b"):
            bob.hub_api(method, path)
    submit = {"action": "submit", "chosen": {}, "server": "", "tag": "0" * 16, "key": "0" * 64}
    for wish in (
        {**submit, "user": "mallory", "profile": "small"},
        {**submit, "user": "root", "profile": "small"},
        {**submit, "user": "bob", "profile": "team"},
        {"action": "state", "own": "mallory"},
    ):
        answer = json.loads(ask_gate(machine, json.dumps(wish)))
        assert answer["ok"] is False and answer["error"] and "\n" not in answer["error"], (wish, answer)
    # What is not the user's, or has not the mark of the hub's job, is another job: the one that is meant is over.
    for user, job, mark in (("bob", number, tag), ("bob", his, tag), ("alice", his, "0" * 16), ("alice", number, "0" * 16)):
        assert json.loads(ask_gate(machine, json.dumps({"action": "cancel", "user": user, "job": int(job), "tag": mark})))["ok"]
    assert machine.sh("squeue --noheader --format='%i %u' | sort").splitlines() == sorted([f"{number} alice", f"{his} bob"])
    machine.sh(f"scancel {his}")
    let_go(machine)
    ready(alice)
    for path in ("api/status", "lab"):
        with pytest.raises(HubError, match=r"\b40[34]\b"):
            bob.get(f"/user/alice/{path}")


def test_node_that_does_not_fit_is_refused(slurm, alice):
    """By its name and versions; once it fits, the next start is on it, since there is no other."""
    starter = "/usr/libexec/jupyterhub/job-starter"
    slurm.sh(f"sed -i.good 's/^LANGUAGES = .*/LANGUAGES = {{\"0\"}}/' {starter}")
    version = slurm.sh("dpkg-query --show --showformat='${Version}' jupyterhub")
    try:
        said = failure(alice, "small")
    finally:
        slurm.sh(f"mv {starter}.good {starter}")
    assert f"Node localhost has version {version} of the notebook servers, which does not fit the hub" in said
    assert f"it needs jupyterhub-node {version}." in said
    start(alice, "small")
    assert slurm.sh(SERVER)


@slow
def test_scancel_is_noticed(held, alice):
    machine = held
    start(alice, "small")
    machine.run("scancel", "--user=alice", user="alice")
    wait_for(lambda: not alice.server_ready, "the hub has noticed", timeout=3)
    assert "Its Slurm job was cancelled." in alice.get("/hub/home").text
    waiting(machine, alice)
    machine.run("scancel", "--user=alice", user="alice")
    with pytest.raises(HubError, match="The server was not started: the job was cancelled"):
        ready(alice, timeout=5)


# -- What is slow, or seldom breaks -------------------------------------------------------------------------------------------------


@slow
def test_hub_restarts_while_a_job_waits_and_runs(held, hub, alice):
    machine = held
    number = waiting(machine, alice)
    assert re.fullmatch(rf"Job {number} waits: the partition is off\..*", where_it_stands(alice))
    for how in ("systemctl restart jupyterhub", "systemctl kill --signal=KILL jupyterhub"):
        restart(machine, hub, how)
        assert jobs(machine) == f"{number} jupyterhub PENDING"
        assert "waits: the partition is off" in where_it_stands(alice)
    let_go(machine)
    ready(alice)
    alice.get(alice.prefix)
    kernel = alice.kernel()
    kernel.execute("held = 42")
    server = machine.sh(SERVER)
    for how in ("systemctl restart jupyterhub", "systemctl kill --signal=KILL jupyterhub"):
        restart(machine, hub, how)
        wait_for(lambda: alice.server_ready, "the hub has adopted the server")
        assert kernel.execute("held") == "42"
    assert machine.sh(SERVER) == server and jobs(machine) == f"{number} jupyterhub RUNNING"
    alice.stop()
    wait_for(lambda: not jobs(machine), "the job is over")


@slow
def test_server_on_this_machine_beside_jobs(slurm, alice):
    start(alice, "")
    assert jobs(slurm) == "" and slurm.sh(SERVER)
    assert alice.kernel().execute("6 * 7") == "42"
    alice.stop()
    assert slurm.sh(f"{SERVER} || true") == ""


@slow
@pytest.mark.parametrize("victim", [SERVER, STARTER])
def test_kill_is_noticed(slurm, alice, victim):
    start(alice, "small")
    slurm.sh(f"kill -9 $({victim})")
    wait_for(lambda: not alice.server_ready, "the hub has noticed", timeout=3)
    wait_for(lambda: not jobs(slurm), "the job is over", timeout=20)
    wait_for(lambda: slurm.sh(f"{SERVER} || true") == "", "no server is left", timeout=20)
    start(alice, "small")


@slow
def test_files_of_a_long_job_stay(slurm, alice):
    """systemd removes what nobody has touched for 10 days from /tmp; here it is one second."""
    start(alice, "small")
    kernel = alice.kernel()
    slurm.write("/root/tmp.conf", "d /tmp 1777 root root 1s\n")
    slurm.sh("touch /tmp/old; sleep 2; systemd-tmpfiles --clean /root/tmp.conf")
    assert slurm.sh("ls /tmp/old 2>/dev/null || true") == ""
    assert slurm.sh("ls /tmp/jupyterhub-*/runtime/kernel-*.json")
    assert kernel.execute("6 * 7") == "42"
    alice.stop()


@slow
def test_waiting_start_is_stopped(slurm, alice):
    waiting(slurm, alice)
    alice.hub_api("DELETE", "/users/alice/server")
    wait_for(lambda: not jobs(slurm), "the job is cancelled")
    assert slurm.sh("ls ~alice/.local/share/jupyterhub/jobs") == ""


@slow
@pytest.mark.parametrize(
    "profile, words",
    [("lost", "Slurm has no partition of the name that the profile lost asks for"), ("huge", "No node has as much as the profile huge asks for")],
)
def test_what_slurm_does_not_have(slurm, alice, profile, words):
    assert words in failure(alice, profile)
    assert f"profile {profile} in /etc/jupyterhub/profiles.conf" in slurm.journal("-t", "jupyterhub-spawner")
    assert jobs(slurm) == ""


@slow
def test_slurm_is_not_installed(slurm, alice):
    slurm.sh("mv /usr/bin/sbatch /usr/bin/sbatch.away")
    try:
        assert "Slurm is not installed on this server" in failure(alice, "small")
    finally:
        slurm.sh("mv /usr/bin/sbatch.away /usr/bin/sbatch")


@slow
def test_slurmctld_is_away(slurm, hub, alice):
    """Nobody can submit; who waits, waits; a cancel is kept, over a restart of the hub, and delivered later; what runs can be stopped."""
    number = waiting(slurm, alice)
    slurm.sh("systemctl stop slurmctld")
    alice.hub_api("DELETE", "/users/alice/server")
    wait_for(lambda: "will be cancelled later" in slurm.journal("-u", "jupyterhub"), "the cancel is kept", timeout=90)
    restart(slurm, hub)
    assert "Slurm does not answer at the moment" in failure(alice, "small", timeout=90)
    slurm.sh("systemctl start slurmctld")
    wait_for(lambda: number not in slurm.run("squeue", "--noheader", "--format=%i", check=False).stdout.split(), "the job is cancelled", timeout=90, every=1)
    start(alice, "small")
    kernel = alice.kernel()
    slurm.sh("systemctl stop slurmctld")
    restart(slurm, hub)
    assert alice.server_ready and kernel.execute("6 * 7") == "42"
    alice.stop()
    assert slurm.sh(f"{SERVER} || true") == ""
    slurm.sh("systemctl start slurmctld")
    wait_for(lambda: slurm.run("squeue", "--noheader", "--user=alice", check=False).stdout.strip() == "", "the job is over", timeout=90, every=1)


@slow
def test_changed_comment_is_refused(held, hub, alice):
    """The job says that its starter is somewhere else: at sshd's port. Nothing is handed over."""
    machine = held
    number = waiting(machine, alice)
    machine.sh("systemctl stop jupyterhub")
    let_go(machine)
    comment = f"scontrol show job {number} | sed -n 's/ *Comment=\\(jupyterhub:[0-9a-f]*\\):.*/\\1/p'"
    tag = wait_for(lambda: machine.sh(comment), "the job has told its port", timeout=20)
    machine.run("scontrol", "update", f"JobId={number}", f"Comment={tag}:22", user="alice")
    restart(machine, hub, "systemctl start jupyterhub")
    with pytest.raises(HubError, match="does not have the job's key"):
        ready(alice)
    wait_for(lambda: not jobs(machine), "the job is cancelled")


@slow
def test_jobs_are_private(slurm, hub, alice):
    """The hub's account does not see alice's jobs; she is asked."""
    slurm.sh("echo PrivateData=jobs >>/etc/slurm/slurm.conf; scontrol reconfigure")
    try:
        start(alice, "small")
        kernel = alice.kernel()
        kernel.execute("held = 42")
        assert slurm.run("squeue", "--noheader", user="jupyterhub").stdout == ""
        restart(slurm, hub)
        assert alice.server_ready and kernel.execute("held") == "42"
        slurm.run("scancel", "--user=alice", user="alice")
        wait_for(lambda: not alice.server_ready, "the hub has noticed", timeout=3)
        waiting(slurm, alice)
        restart(slurm, hub)
        assert "waits" in where_it_stands(alice)
        alice.hub_api("DELETE", "/users/alice/server")
        wait_for(lambda: not jobs(slurm), "the job is cancelled", timeout=20)
    finally:
        slurm.sh("sed -i /PrivateData/d /etc/slurm/slurm.conf; scontrol reconfigure")


@slow
def test_hub_killed_while_it_submits(held, hub, alice):
    """The next hub finds the job by its mark, or asks for it: there is one."""
    machine = held
    machine.sh("mv /usr/bin/sbatch /usr/bin/sbatch.real")
    machine.write("/usr/bin/sbatch", '#!/bin/sh\n/usr/bin/sbatch.real "$@"\nsleep 3\n', 0o755)
    killer = "until squeue --noheader --user=alice | grep -q .; do sleep 0.05; done; systemctl kill --signal=KILL jupyterhub"
    machine.sh(f"systemd-run --quiet --unit=hub-killer sh -c '{killer}'")
    try:
        with contextlib.suppress(HubError, requests.RequestException):
            ask_for(alice, "waiting")
        wait_for(lambda: machine.property("hub-killer", "ActiveState") == "inactive", "the hub was killed", timeout=20)
    finally:
        machine.sh("mv /usr/bin/sbatch.real /usr/bin/sbatch")
    wait_for(hub.answers, "the hub answers again", timeout=20)
    let_go(machine)
    ready(alice)
    assert re.fullmatch(r"\d+ jupyterhub RUNNING", jobs(machine))


@slow
def test_mistakes_in_profiles_are_named(slurm, hub):
    slurm.sh("sed 's/400M/lots/' -i.good /etc/jupyterhub/profiles.conf")
    try:
        said = slurm.run("jupyterhub-ctl", "check-config", check=False)
        assert said.returncode != 0
        assert "/etc/jupyterhub/profiles.conf\t4\tmemory = lots is not an amount of memory" in said.stdout
        assert slurm.run("systemctl", "reload", "jupyterhub", check=False).returncode != 0
        assert "/etc/jupyterhub/profiles.conf:4: memory = lots" in slurm.journal("-u", "jupyterhub", "--lines=20")
        assert hub.answers()
    finally:
        slurm.sh("mv /etc/jupyterhub/profiles.conf.good /etc/jupyterhub/profiles.conf")


COUNT_TOASTS = """
window.toasts = 0;
const count = changes => changes.forEach(change => change.addedNodes.forEach(node => {
    toasts += node.classList?.contains("Toastify__toast") || (node.querySelectorAll?.(".Toastify__toast").length ?? 0);
}));
new MutationObserver(count).observe(document.body, {childList: true, subtree: true});
"""


@slow
def test_end_of_the_time_is_announced(slurm, hub, alice, browser):
    """In Lab's open page 10 minutes before, and again 2 minutes before; what an administrator gives or takes of it counts. Then Slurm ends the server."""
    start(alice, "small", time="1h")
    number = jobs(slurm).split()[0]
    page = lab_of(browser, "alice")
    toast = page.locator(".Toastify__toast")
    expect(toast).to_have_count(0)
    slurm.sh(f"scontrol update JobId={number} TimeLimit=9")
    expect(toast).to_contain_text("The time of your Slurm job will soon be over. This server and its kernels are stopped in 8 min", timeout=90_000)
    restart(slurm, hub)
    slurm.sh(f"scontrol update JobId={number} TimeLimit=4")
    soon = toast.filter(has_text="will soon be over. This server and its kernels are stopped in 3 min")
    expect(soon).to_have_count(1, timeout=90_000)
    browser.screenshot(page, "job-ends-soon")
    soon.locator(".jp-Notification-Toast-Close").click()
    expect(toast).to_have_count(0)
    page.evaluate(COUNT_TOASTS)
    expect(toast).to_contain_text("The time of your Slurm job is almost over. This server and its kernels are stopped in 2 min", timeout=150_000)
    browser.screenshot(page, "job-ends")
    assert page.evaluate("toasts") == 1  # the one that she has closed has not come back meanwhile
    wait_for(lambda: not alice.server_ready, "Slurm has ended the job", timeout=240, every=1)
    assert "The time of its Slurm job is over." in alice.get("/hub/home").text


@slow
def test_form_and_waiting_in_a_browser(held, alice, browser):
    """With labels and descriptions as screen readers have them, by keyboard; one line for a wrong value; why it waits, also at home; cancel."""
    machine = held
    page = browser.page()
    log_in(page, "alice", "secret")
    expect(page.get_by_role("group", name="Where should your notebooks run?")).to_be_visible()
    page.get_by_role("radio", name="On this server").check()
    expect(page.get_by_label("Time")).to_be_hidden()
    page.get_by_role("radio", name="A small one").focus()
    page.keyboard.press("Space")
    time_field = page.get_by_role("textbox", name="Time")
    expect(time_field).to_have_accessible_description("1h to 8h")
    page.keyboard.press("Tab")
    expect(time_field).to_be_focused()
    browser.screenshot(page, "job-form")
    time_field.fill("9h")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The profile small has time 1h to 8h, not 9h.")).to_have_count(1)
    browser.screenshot(page, "job-form-wrong")
    page.goto("hub/spawn")
    page.get_by_role("radio", name="One that waits").check()
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("status")).to_have_text(re.compile(r"Job \d+ waits: the partition is off\."), timeout=30_000)
    browser.screenshot(page, "job-waits")
    with page.context.new_page() as home:
        home.goto("/hub/home")
        expect(home.locator(".job")).to_have_text(re.compile(r"\s*Job \d+ waits: the partition is off\.\s*"))
        browser.screenshot(home, "job-waits-home")
    page.get_by_role("button", name="Cancel").click()
    wait_for(lambda: not jobs(machine), "the job is cancelled")
    expect(page.get_by_role("button", name="Launch Server")).to_be_visible(timeout=20_000)
    browser.screenshot(page, "job-cancelled")
    start(alice, "small")
    home = alice.get("/hub/home").text
    assert re.search(r"Your server is job \d+ on localhost\. Its time is over (at|on) ", home)


@slow
def test_named_server_is_cancelled_by_its_page(held, hub, alice, browser):
    """And not the default one, which runs beside it; root sees both."""
    machine = held
    config = "/etc/jupyterhub/jupyterhub_config.d/60-named.py"
    machine.write(config, "c = get_config()\nc.JupyterHub.allow_named_servers = True\n")
    restart(machine, hub)
    try:
        start(alice, "")
        page = browser.page()
        log_in(page, "alice", "secret")
        page.goto("/hub/spawn/alice/second")
        page.get_by_role("radio", name="One that waits").check()
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_role("status")).to_have_text(re.compile(r"Job \d+ waits: "), timeout=30_000)
        assert re.search(r"second:\s+Job \d+ waits: the partition is off\.", alice.get("/hub/home").text)
        rows = json.loads(ctl(machine, "sessions", "--json").stdout)
        assert {(row["server"], row["job"] and row["job"]["state"]) for row in rows} == {(None, None), ("second", "PENDING")}
        page.get_by_role("button", name="Cancel").click()
        wait_for(lambda: not jobs(machine), "the job is cancelled")
        assert alice.server_ready
        alice.stop()
    finally:
        restart(machine, hub, f"rm {config}; systemctl restart jupyterhub")


# -- jupyterhub-ctl ----------------------------------------------------------------------------------------------------------------


def one_row(machine):
    """Return the only row of `jupyterhub-ctl sessions`, and what it says beside it."""
    said = ctl(machine, "sessions", "--json")
    (row,) = json.loads(said.stdout)
    return row, said.stderr


@slow
def test_root_sees_a_job_that_waits(held, alice):
    machine = held
    number = waiting(machine, alice)
    row, said = one_row(machine)
    assert (row["job"]["id"], row["job"]["state"], row["job"]["reason"], row["job"]["left"]) == (int(number), "PENDING", "PartitionDown", None)
    assert (row["memory"], row["job"]["memory"], said) == (None, 400 << 20, "")
    assert f"{number} PENDING (PartitionDown)" in ctl(machine, "sessions").stdout
    assert "jobs:      0 run, 1 wait\n" in ctl(machine, "status").stdout
    assert f"the server of alice is job {number}, which has not begun" in ctl(machine, "logs", "alice").stderr
    assert ctl(machine, "stop", "alice").stdout == f"stopped the server of alice (job {number})\n"
    assert jobs(machine) == ""


@slow
def test_root_sees_jobs_that_are_private(slurm, alice):
    slurm.sh("echo PrivateData=jobs >>/etc/slurm/slurm.conf; scontrol reconfigure")
    try:
        start(alice, "small")
        row, said = one_row(slurm)
        assert row["job"]["state"] == "RUNNING" and said == ""
    finally:
        slurm.sh("sed -i /PrivateData/d /etc/slurm/slurm.conf; scontrol reconfigure")


@slow
def test_owner_writes_into_roots_table(slurm, alice):
    """A comment with lines, marks and colours makes no row and reaches no terminal; nor does a number of somebody else's job."""
    start(alice, "small")
    number = jobs(slurm).split()[0]
    wild = "x\n1|root|RUNNING\n\x1b[31m" + f"jupyterhub:{'f' * 16}:80"
    slurm.run("scontrol", "update", f"JobId={number}", f"Comment={wild}", user="alice")
    row, _ = one_row(slurm)
    assert row["job"]["state"] is None and row["job"]["reason"] == "the job of that number has not the hub's comment"
    assert row["memory"] and "\x1b" not in ctl(slurm, "sessions").stdout


@slow
@pytest.mark.parametrize(
    "how, back, hint",
    [
        ("systemctl stop slurmctld", "systemctl start slurmctld", "scontrol ping"),
        ("pkill -STOP -x slurmctld", "pkill -CONT -x slurmctld", "scontrol ping"),
        ("systemctl stop munge", "systemctl start munge", "systemctl status munge"),
    ],
)
def test_root_and_a_slurm_that_does_not_answer(held, alice, how, back, hint):
    """No command waits for it longer than it must; what it could not be told, it is told later."""
    machine = held
    number = waiting(machine, alice)
    machine.sh(how)
    try:
        row, said = one_row(machine)
        assert row["job"]["id"] == int(number) and row["job"]["state"] is None
        assert "this is what the hub knows: Slurm says: " in said and hint in said
        assert re.search(rf"jobs:      0 run, 1 wait: Slurm says: .*{hint}", ctl(machine, "status").stdout)
        ((status, name, what, _, mend),) = verify(machine, "profiles")
        assert (status, name) == ("failed", "slurm") and "Slurm does not answer" in what and hint in mend
        stopped = ctl(machine, "stop", "alice", timeout=120).stdout
        assert stopped.startswith(f"stopped the server of alice (job {number}); the hub keeps the cancel, and delivers it when Slurm answers. Slurm says: ")
    finally:
        machine.sh(back)
    wait_for(lambda: machine.run("squeue", "--noheader", "--user=alice", check=False).stdout.strip() == "", "the job is over", timeout=90, every=1)


@slow
def test_memory_for_each_cpu(slurm, alice):
    """A profile without memory has the partition's default."""
    start(alice, "percpu")
    assert_lab_shows_memory(alice, 600)
    assert one_row(slurm)[0]["job"]["memory"] == 600 << 20


@slow
def test_node_that_does_not_answer(slurm, alice):
    """The starter is its user's, who may have halted it: the table comes all the same."""
    start(alice, "small")
    slurm.sh(f"kill -STOP $({STARTER})")
    try:
        row, said = one_row(slurm)
        assert (row["job"]["state"], row["memory"], said) == ("RUNNING", None, "")
    finally:
        slurm.sh(f"kill -CONT $({STARTER})")


@slow
def test_job_of_a_locked_account(held, hub, alice):
    """sudo does not let the hub cancel it any more, and root does; what else she has there is named."""
    machine = held
    number = waiting(machine, alice)
    other = machine.run("sbatch", "--parsable", "--partition=off", "--chdir=/", "--output=/dev/null", "--wrap=true", user="alice").stdout.strip()
    try:
        said = ctl(machine, "user", "lock", "alice", timeout=120).stdout
        assert f"stopped the server of alice (job {number}), whose cancel the hub could not deliver: root did" in said
        assert "scancel --user=alice" in said
        assert machine.sh("squeue --noheader --user=alice --format=%i") == other
    finally:
        ctl(machine, "user", "unlock", "alice")
        machine.sh("scancel --user=alice")
        alice.session = hub.login("alice", "secret").session  # the lock has ended her logins


@slow
def test_verify_knows_what_slurm_has(slurm):
    """Of the profiles of these tests, each that cannot be had; a program that is missing; all else is well."""
    found = {(status, what.partition(" in /etc/")[0]): what for status, _, what, _, _ in verify(slurm, "profiles")}
    assert set(found) == {("warning", "profile waiting"), ("failed", "profile lost"), ("failed", "profile huge")}
    assert found["warning", "profile waiting"].endswith("partition off is down")
    assert found["failed", "profile lost"].endswith("Slurm has no partition nowhere")
    assert found["failed", "profile huge"].endswith("memory = 900G, but the largest node of partition main is 16000 MB")
    slurm.sh("mv /usr/bin/sbatch /usr/bin/sbatch.away; cp /etc/jupyterhub/profiles.conf /root/; echo '[q]\nqos = low' >>/etc/jupyterhub/profiles.conf")
    try:
        ((status, name, what, _, mend),) = verify(slurm, "slurm")
        assert (status, name, what) == ("failed", "slurm", "Slurm is not installed: there is no sbatch") and "apt install slurm-client" in mend
        slurm.sh("mv /usr/bin/sbatch.away /usr/bin/sbatch")
        assert [what for _, _, what, _, _ in verify(slurm, "profiles") if "whether Slurm has the QOS low" in what]
    finally:
        slurm.sh("[ ! -e /usr/bin/sbatch.away ] || mv /usr/bin/sbatch.away /usr/bin/sbatch; cp /root/profiles.conf /etc/jupyterhub/")


@slow
def test_gpus(slurm, alice):
    """Granted by Slurm's count, and shown to the user's programs; who wants more than there are waits, or is refused."""
    form = alice.get("/hub/spawn").text
    assert 'name="gpu.gpus"' in form
    assert "The profile gpu has gpus 1 to 2, not 3" in failure(alice, "gpu", gpus="3")
    start(alice, "gpu", gpus="1")
    number = jobs(slurm).split()[0]
    assert re.search(r"GRES=gpu:fake:1\(IDX:[01]\)", slurm.sh(f"scontrol --details show job {number}"))
    kernel = alice.kernel()
    seen = "import os; sorted(f'{name}={value}' for name, value in os.environ.items() if 'GPU' in name or 'CUDA' in name)"
    assert re.search(r"'CUDA_VISIBLE_DEVICES=[01]'", kernel.execute(seen)), slurm.sh(f"tr '\\0' '\\n' </proc/$({STARTER})/environ")
    assert kernel.execute(f"os.environ['MEM_LIMIT'] == '{400 << 20}'") == "True"
    job = one_row(slurm)[0]["job"]
    assert (job["gpus"], job["memory"]) == (1, 400 << 20)
    other = slurm.run("sbatch", "--parsable", "--gres=gpu:fake:2", "--wrap=true", "--output=/dev/null", user="alice").stdout.strip()
    alice.stop()
    wait_for(lambda: other not in jobs(slurm), "both GPUs are free for others", timeout=30)
    held = slurm.run("sbatch", "--parsable", "--gres=gpu:fake:1", "--wrap=sleep 600", "--output=/dev/null", user="alice").stdout.strip()
    wait_for(lambda: f"{held} wrap RUNNING" in jobs(slurm), "one GPU is taken", timeout=30)
    ask_for(alice, "gpu", gpus="2")
    assert wait_for(lambda: re.search(r"waits: there is not enough room yet", where_it_stands(alice)), "the page says why it waits", timeout=30)
    slurm.run("scancel", held, user="alice")
    ready(alice)
    alice.get(alice.prefix)
    assert "'CUDA_VISIBLE_DEVICES=0,1'" in alice.kernel().execute(seen)


CROWD = [f"student{number}" for number in range(50)]
ROOM = 8  # CPUs in NODES
ALL_JOBS = "squeue --noheader --format=%T"


@pytest.fixture(scope="module")
def crowd(slurm, hub):
    """Users without servers."""
    slurm.sh("for name in " + " ".join(CROWD) + '; do useradd --create-home --groups users "$name"; echo "$name:secret"; done | chpasswd', timeout=120)
    return [hub.login(name, "secret") for name in CROWD]


def has_server(user):
    """Has the user a server, or one that starts or ends?"""
    return bool(user.hub_api("GET", f"/users/{user.name}").json()["servers"])


@slow
@pytest.mark.parametrize("private", [False, True])
def test_fifty_at_once(held, crowd, say, private):
    """All wait with a reason, and then run, or wait with another; the hub's pages answer within half a second, also where each owner has to be asked about his
    job. Not while servers start, as it is done on this machine, and not on nodes.
    """
    machine = held
    machine.sh("scancel --user=alice")
    if private:
        machine.sh("echo PrivateData=jobs >>/etc/slurm/slurm.conf; scontrol reconfigure")
    try:
        with Prober(crowd[0], "/hub/home", every=0.1) as page:
            with concurrent.futures.ThreadPoolExecutor(len(crowd)) as threads:
                list(threads.map(lambda user: ask_for(user, "waiting"), crowd))
            wait_for(lambda: machine.sh(ALL_JOBS).split() == ["PENDING"] * len(crowd), "all have jobs", timeout=120, every=1)
            assert all("waits: the partition is off" in where_it_stands(user) for user in crowd)
        say(f"/hub/home: {page.requests} times, median {statistics.median(page.times):.3f} s, longest {max(page.times):.3f} s")
        assert page.failures == [] and max(page.times) < 0.5
        let_go(machine)
        wait_for(lambda: sum(user.server_ready for user in crowd) == ROOM, "as many run as there is room for", timeout=120, every=1)
        states = [where_it_stands(user) for user in crowd if not user.server_ready]
        assert len(states) == len(crowd) - ROOM
        for words in states:
            assert re.match(r"Job \d+ waits: (other jobs come first|there is not enough room yet)\.", words)
    finally:
        machine.sh("scancel --state=PENDING --partition=off; scancel --partition=off")
        wait_for(lambda: machine.sh(ALL_JOBS) == "", "no job is left", timeout=120, every=1)
        wait_for(lambda: not any(has_server(user) for user in crowd), "the hub has noticed", timeout=120, every=1)
        machine.sh("sed -i /PrivateData/d /etc/slurm/slurm.conf; scontrol reconfigure")
