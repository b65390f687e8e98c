"""Debian's Prometheus scrapes the hub as docs/monitoring.md says, and knows the expressions of the dashboard."""

import json
import pathlib

import pytest
import requests
from harness import wait_for

pytestmark = pytest.mark.slow("the example seldom changes; test_metrics has names and token each time")
PACKAGES = ("prometheus",)
EXAMPLES = pathlib.Path(__file__).parents[2] / "docs/examples"
TOKEN_FILE = "/etc/jupyterhub/metrics.token"


@pytest.fixture(scope="module")
def token(machine, hub):
    """The token, made as docs/monitoring.md says."""
    machine.sh(f"umask 077; openssl rand -hex 32 >{TOKEN_FILE}; systemd-tmpfiles --create jupyterhub.conf; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    return machine.sh(f"cat {TOKEN_FILE}")


def test_prometheus_scrapes_it(machine, hub, token):
    """Debian's Prometheus with the example, and the token where the documentation puts it."""
    machine.write("/etc/prometheus/prometheus.yml", (EXAMPLES / "prometheus.yml").read_text())
    machine.sh(f"install -m 640 -g prometheus {TOKEN_FILE} /etc/prometheus/jupyterhub.token")
    machine.run("promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    machine.run("systemctl", "restart", "prometheus")

    def ask(query):
        try:
            answer = requests.get("http://127.0.0.1:9090/api/v1/query", params={"query": query}, timeout=10).json()
        except requests.RequestException:
            return []
        return answer["data"]["result"]

    wait_for(lambda: [row for row in ask('up{job="jupyterhub"}') if row["value"][1] == "1"], "Prometheus has scraped the hub", timeout=60, every=1)
    dashboard = json.loads((EXAMPLES / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "5m")
            answer = requests.get("http://127.0.0.1:9090/api/v1/query", params={"query": query}, timeout=10).json()
            assert answer["status"] == "success", (query, answer)
