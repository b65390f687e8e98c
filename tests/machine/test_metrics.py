"""Metrics are for Prometheus alone, by a token; health is for everybody. The dashboard fits what is exported. With Debian's: test_prometheus.py."""

import json
import pathlib
import re

import pytest
import requests
from harness import wait_for
from hubclient import BASE

EXAMPLES = pathlib.Path(__file__).parents[2] / "docs/examples"
TOKEN_FILE = "/etc/jupyterhub/metrics.token"
METRICS = "/hub/metrics"


def restart(machine, hub):
    machine.run("systemctl", "restart", "jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


def metrics(token=None):
    return requests.get(BASE + METRICS, headers={"Authorization": f"Bearer {token}"} if token else {}, timeout=10, allow_redirects=False)


@pytest.mark.parametrize("address", [BASE, "http://127.0.0.1:8081"])
def test_health(hub, address):
    """8081 is the hub itself: it answers whether or not Node does."""
    assert requests.get(f"{address}/hub/health", timeout=10).status_code == 200


def test_health_without_hub(machine, hub):
    """Notebooks can be reached through the proxy; the hub is another question, with another answer."""
    machine.run("systemctl", "stop", "jupyterhub")
    try:
        assert [requests.request(method, f"{BASE}/hub/health", timeout=10).status_code for method in ("GET", "HEAD")] == [200, 200]
        assert requests.get("http://127.0.0.1:8081/hub/health", timeout=10).status_code == 503
        for address in (BASE, "http://127.0.0.1:8081"):
            answer = requests.get(f"{address}/hub/ready", timeout=10)
            assert (answer.status_code, answer.json()) == (503, {"state": "stopped", "reason": "The hub does not run."})
        assert requests.get(f"{BASE}/user/alice/hub/health", timeout=10).status_code == 503
    finally:
        machine.run("systemctl", "start", "jupyterhub")
    assert requests.head(f"{BASE}/hub/ready", timeout=10).status_code == 200


def test_health_without_node(machine, hub):
    machine.sh("systemctl kill --signal=STOP jupyterhub-proxy")
    try:
        assert requests.get("http://127.0.0.1:8081/hub/health", timeout=10).status_code == 200
    finally:
        machine.sh("systemctl kill --signal=CONT jupyterhub-proxy")


def test_metrics_are_not_for_everybody(machine, hub):
    machine.add_user("alice")
    assert metrics().status_code == 403
    alice = hub.login("alice", "secret")
    assert alice.session.get(BASE + METRICS, timeout=10).status_code == 403
    assert metrics("0" * 64).status_code == 403


@pytest.fixture(scope="module")
def token(machine, hub):
    """The token, made as docs/monitoring.md says."""
    machine.sh(f"umask 077; openssl rand -hex 32 >{TOKEN_FILE}; systemd-tmpfiles --create jupyterhub.conf")
    assert machine.sh(f"stat -c '%a %U:%G' {TOKEN_FILE}") == "640 root:jupyterhub"
    restart(machine, hub)
    return machine.sh(f"cat {TOKEN_FILE}")


def test_token_reads_metrics_and_nothing_else(token):
    answer = metrics(token)
    assert answer.status_code == 200 and "jupyterhub_running_servers" in answer.text
    for path in ("/users", "/services", "/info", "/groups"):
        assert requests.get(f"{BASE}/hub/api{path}", headers={"Authorization": f"Bearer {token}"}, timeout=10).status_code == 403


def test_dashboard_names_metrics_that_exist(hub, token):
    alice = hub.login("alice", "secret")
    alice.spawn()
    alice.stop()
    exported = set(re.findall(r"^([a-zA-Z_:]\w*)", metrics(token).text, re.MULTILINE))
    dashboard = json.loads((EXAMPLES / "grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    named = {name for expression in expressions for name in re.findall(r"\b(?:jupyterhub|process)_\w+", expression)}
    assert len(expressions) >= 6 and named and named <= exported, named - exported


def test_old_token_ends_with_the_file(machine, hub, token):
    machine.sh(f"openssl rand -hex 32 >{TOKEN_FILE}")
    restart(machine, hub)
    assert metrics(token).status_code == 403
    assert metrics(machine.sh(f"cat {TOKEN_FILE}")).status_code == 200
    machine.sh(f"cp {TOKEN_FILE} /root/last; rm {TOKEN_FILE}")
    restart(machine, hub)
    assert metrics(machine.sh("cat /root/last")).status_code == 403


@pytest.mark.parametrize(
    "make, said", [("echo short", "a token is one line of 32 characters or more"), ("install -m 600 /dev/null {file} && echo", "Permission denied")]
)
def test_wrong_token_file_is_named(machine, hub, make, said):
    machine.sh(f"umask 022; {make.format(file=TOKEN_FILE)} >{TOKEN_FILE}")
    assert machine.run("systemctl", "restart", "jupyterhub", check=False).returncode != 0
    assert f"{TOKEN_FILE}: {said}" in machine.journal("-u", "jupyterhub", "-n", "30")
    assert "Traceback" not in machine.journal("-u", "jupyterhub", "-n", "10")
    machine.sh(f"rm {TOKEN_FILE}")
    restart(machine, hub)
