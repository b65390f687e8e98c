"""Slurm on the tests' machines, and notebook servers that are its jobs."""

import json
import time

from hubclient import HubError

# For a topic that installs slurmd: without a slurm.conf it would look for one for a minute and a half before its installation goes on.
BEFORE_PACKAGES = "printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d"
SERVER = "pgrep --uid alice --full bin/jupyterhub-singleuser"
STARTER = "pgrep --uid alice --full libexec/jupyterhub/job-starter"
STATE = "/var/lib/slurm/slurmctld"
# Machines on hybrid cgroups have no controllers: resources are granted by Slurm's count.
CONF = """
ClusterName=test
SlurmUser=slurm
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdSpoolDir=/var/lib/slurm/slurmd
SlurmdParameters=config_overrides
MpiDefault=none
KillWait=5
SchedulerParameters=sched_interval=2,bf_interval=2
"""


def configure(machine, controller, more, state=STATE):
    """Make a machine one of a cluster; nothing is started but munge.

    `controller` is the host of slurmctld, which keeps its state in the folder `state`; `more` are lines of slurm.conf (str): nodes, partitions.
    """
    machine.write("/etc/slurm/slurm.conf", f"{CONF}SlurmctldHost={controller}\nStateSaveLocation={state}\n{more}")
    machine.write("/etc/slurm/cgroup.conf", "CgroupPlugin=disabled\n")
    machine.write("/etc/munge/munge.key", "of all machines of a test".ljust(64, "."), 0o400)
    machine.sh(f"chown munge: /etc/munge/munge.key; install -d -o slurm {state}; install -d /var/lib/slurm/slurmd; systemctl restart munge")


def ask_for(user, profile, **chosen):
    """Send the form for the start of a server; return the page that follows."""
    user.get("/hub/spawn")
    data = {"profile": profile, **{f"{profile}.{key}": value for key, value in chosen.items()}}
    return user.request("POST", "/hub/spawn", params={"_xsrf": user.xsrf("/hub/")}, data=data)


def start(user, profile, **chosen):
    """Start a server by the form, and wait until it is ready."""
    if "/spawn-pending/" in ask_for(user, profile, **chosen).url:
        ready(user)
    return user.get(user.prefix)


def ready(user, timeout=40):
    """Wait until the user's server is ready; raise HubError with the reason if its start fails."""
    deadline = time.monotonic() + timeout
    while not user.server_ready:
        assert time.monotonic() < deadline, "the server is not ready"
        user.get(f"/hub/spawn-pending/{user.name}")  # once it has failed, the page says so
        time.sleep(0.2)


def failure(user, profile, timeout=40, **chosen):
    """Ask for a server that does not start; return what the page says."""
    try:
        ask_for(user, profile, **chosen)
        ready(user, timeout)
    except HubError as refused:
        return refused.text
    raise AssertionError(f"a server of the profile {profile} has started")


def where_it_stands(user):
    """Return the first words of the page of a start about the job."""
    path = f"/hub/api/users/{user.name}/server/progress"
    with user.get(path, params={"_xsrf": user.xsrf("/hub/")}, stream=True, headers={"Accept": "text/event-stream"}) as stream:
        for line in stream.iter_lines(decode_unicode=True):
            message = json.loads(line[5:]).get("message", "") if line.startswith("data:") else ""
            if message.startswith("Job "):
                return message
    return ""
