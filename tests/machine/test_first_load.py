"""The first page of JupyterLab through nginx: bytes on the wire, and requests that reach the user's server. tests/first-load prints them."""

import re

import offloader
import pytest
from harness import wait_for

pytestmark = pytest.mark.slow("test_browser has the page each time; the bytes change with the locks and the examples alone")

PACKAGES = ("nginx", "openssl")
# A file of JupyterLab, of an extension or of a theme, in the log of a notebook server.
STATIC = re.compile(r" GET (/user/alice/(?:static|lab/extensions|lab/api/themes)/\S+)")

# What many pages in the web say: nothing but passing on.
PLAIN = """\
server {
    listen 8443 ssl http2;  # as nginx of Debian 12 wants it; later ones only warn
    ssl_certificate     /etc/ssl/certs/jupyterhub.pem;
    ssl_certificate_key /etc/ssl/private/jupyterhub.key;
    gzip off;
    location / {
        proxy_pass http://127.0.0.1:8000;
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $jupyterhub_connection;
        proxy_set_header X-Forwarded-Proto $scheme;
    }
}
"""


class Load:
    """One load of JupyterLab's page, watched: bytes on the wire and bytes of content, headers in the first; files that the server was asked for."""

    def __init__(self, machine, page):
        self.wire = self.content = self.requests = self.finished = 0
        page.goto("about:blank")
        devtools = page.context.new_cdp_session(page)
        devtools.on("Network.responseReceived", self._request)
        devtools.on("Network.dataReceived", self._data)
        devtools.on("Network.loadingFinished", self._finished)
        devtools.send("Network.enable")
        before = len(self._asked(machine))
        page.goto("user/alice/lab")
        page.locator(".jp-Launcher").first.wait_for(timeout=60_000)
        before_last = -1  # until it asks for nothing more; a page that waits for messages is never idle
        while before_last != self.finished:
            before_last = self.finished
            page.wait_for_timeout(2000)
        devtools.detach()
        self.static = self._asked(machine)[before:]

    def _request(self, event):
        self.requests += 1

    def _data(self, event):
        self.content += event["dataLength"]

    def _finished(self, event):
        self.finished += 1
        self.wire += event["encodedDataLength"]

    @staticmethod
    def _asked(machine):
        return STATIC.findall(machine.journal("-t", "jupyterhub-singleuser", "-o", "cat"))

    def __str__(self):
        return f"{self.requests:4} requests, {self.wire / 1e6:6.2f} MB on the wire, {len(self.static):3} of them for files from the user's server"


@pytest.fixture(scope="module")
def loads(machine, hub, browser, say):
    """First and second load, as Load objects, by the name of what is before the hub: "plain" and "nginx"."""
    machine.write("/etc/jupyterhub/jupyterhub_config.d/50-debug.py", 'c = get_config()\nc.Spawner.args = ["--debug"]\n')  # it logs what it is asked for
    machine.add_user("alice")
    browser.trust(offloader.self_signed(machine))
    machine.write("/etc/nginx/conf.d/plain.conf", PLAIN)
    offloader.start(machine, offloader.NGINX)
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    hub.login("alice", "secret").spawn()
    loads = {}
    for name, base in (("plain", f"{offloader.BASE}:8443"), ("nginx", offloader.BASE)):
        page = browser.page(f"{base}/")
        page.goto("hub/login")
        page.get_by_label("Username:").fill("alice")
        page.get_by_label("Password:").fill("secret")
        # To the hub's own page: JupyterLab's first load is still to come.
        page.evaluate("document.querySelector('form').action = '/hub/login?next=%2Fhub%2Fhome'")
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/hub/home")
        loads[name] = [Load(machine, page), Load(machine, page)]
        page.close()
    content = loads["plain"][0].content
    for name, (first, second) in loads.items():
        for which, load in (("first", first), ("second", second)):
            say(f"{name} {which:6} {load}, {100 * load.wire / content:5.1f} % of the uncompressed {content / 1e6:.2f} MB")
    return loads


def test_the_measure_sees_what_is_to_be_saved(loads):
    """Plain proxying: every byte, and every file from the user's server."""
    first, _ = loads["plain"]
    assert first.wire > 5e6 and first.wire > 0.9 * first.content
    assert len(first.static) > 20


def test_first_load(loads):
    assert loads["nginx"][0].wire <= 0.30 * loads["plain"][0].content


def test_second_load(loads):
    assert loads["nginx"][1].wire <= 0.05 * loads["plain"][0].content


def test_no_file_comes_from_the_users_server(loads):
    assert [load.static for load in loads["nginx"]] == [[], []]
