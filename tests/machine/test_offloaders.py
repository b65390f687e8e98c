"""The examples of web servers before the hub: each is installed by its own recipe and then carries everything that a user does."""

import base64
import contextlib
import json
import re
import socket
import ssl
import threading
import time
import xml.etree.ElementTree

import offloader
import pytest
import requests
import websocket
from cases import further
from harness import wait_for
from hubclient import BASE, Hub, HubError, HubUser, page_text

PACKAGES = ("apache2", "caddy", "faketime", "haproxy", "libapache2-mod-qos", "nginx", "openssl", "sslscan")
AWAY = "Open notebooks keep running"
# https://ssl-config.mozilla.org/guidelines/6.0.json, intermediate
INTERMEDIATE = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"} | {
    f"ECDHE-{key}-{cipher}" for key in ("ECDSA", "RSA") for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
}


@pytest.fixture(scope="module")
def authority(machine, hub, tmp_path_factory):
    """File on the host with the self-signed certificate, which the machine's web servers show."""
    machine.add_user("alice")
    machine.sh(f"systemctl disable --quiet --now {' '.join(server.name for server in offloader.ALL)}; cp /etc/haproxy/haproxy.cfg /root")
    file = tmp_path_factory.mktemp("tls") / "authority.pem"
    file.write_text(offloader.self_signed(machine))
    return str(file)


def start(machine, server):
    """Put an off-loader in place of the last one; HAProxy's example is added to its file, so take that back first."""
    machine.sh("cp /root/haproxy.cfg /etc/haproxy/")
    offloader.start(machine, server)


OFTEN = [server for server in offloader.ALL if server.name in ("haproxy", "nginx")]  # that of the README, and the one that differs most from it
SERVERS = further(offloader.ALL, OFTEN, "further web servers, by recipes of the same form")


@pytest.fixture(scope="module", params=SERVERS, ids=lambda server: server.name)
def server(request, machine, authority):
    """Each of the off-loaders in turn, running."""
    start(machine, request.param)
    return request.param


@pytest.fixture(scope="module")
def tls(server, authority):
    """The hub, seen through the off-loader."""
    return Hub(offloader.BASE, authority)


@pytest.fixture(scope="module")
def alice(tls):
    """A user who has come through the off-loader."""
    return logged_in(tls)


def ask(hub, path, method="GET", **options):
    """Request one path, as it is written, without following redirects."""
    session = requests.Session()
    session.trust_env = False
    return session.request(method, f"{hub.base}{path}", verify=hub.verify, allow_redirects=False, timeout=10, **options)


def ask_raw(hub, path):
    """Send a path that no client library would, over TLS; return status (int) and body (str)."""
    context = ssl.create_default_context(cafile=hub.verify)
    with context.wrap_socket(socket.create_connection((offloader.HOST, 443), timeout=10), server_hostname=offloader.HOST) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {offloader.HOST}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2].decode(errors="replace")


def logged_in(hub):
    """Return the user, with a server."""
    user = hub.login("alice", "secret")
    user.spawn()
    return user


def works(hub):
    """Log in, start a server, run a cell; return the user."""
    user = hub.login("alice", "secret")
    assert user.run_cell("6 * 7") == "42"
    return user


# -- Each of them ------------------------------------------------------------------------------------------------------------------


def test_passes_its_servers_own_check(machine, server):
    check = machine.run("sh", "-c", server.check)
    assert "deprecated" not in check.stdout + check.stderr


def test_login_spawn_and_a_cell(tls):
    works(tls)


def test_cookies_that_log_in_are_for_tls_alone(alice):
    """What X-Scheme is for."""
    assert {cookie.name for cookie in alice.session.cookies if not cookie.secure} == {"_xsrf"}


def test_http_is_sent_to_https(server, authority):
    answer = ask(Hub(f"http://{offloader.HOST}"), "/hub/login?next=%2Fhub%2Fhome")
    assert (answer.status_code, answer.headers["Location"]) in [(status, f"{offloader.BASE}/hub/login?next=%2Fhub%2Fhome") for status in (301, 308)]


@pytest.mark.parametrize("path", ["/hub/login", "/hub/metrics", "/hub/static/css/style.min.css"])
def test_browsers_are_told_to_stay_with_https(tls, path):
    assert ask(tls, path).headers["Strict-Transport-Security"] == "max-age=63072000"


@pytest.mark.parametrize("path", ["/hub/metrics", "/jupyter/hub/metrics", "/hub/x/../metrics", "/user/..\\hub\\metrics", "//hub//metrics/"])
def test_metrics_are_closed(tls, path):
    """However the path is written: the hub's own proxy takes `..` and backslashes for what browsers take them for."""
    status, page = ask_raw(tls, path)
    assert status == 403
    assert "JupyterHub" not in page, "the hub has seen the request"


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/hub/static/../../../../../../etc/passwd", "/user/alice/static/lab/..%2f..%2f..%2fpyvenv.cfg", "/hub/login%00", "/%00"]
)
def test_paths_lead_nowhere_else(machine, tls, path):
    status, page = ask_raw(tls, path)
    assert status in (302, 400, 404)
    assert "root:" not in page and "home =" not in page and "Traceback" not in page
    assert "Traceback" not in machine.journal("-u", "jupyterhub", "-n", "30")


def test_names_of_files_arrive_as_they_are(alice):
    name = "a b%2Fü#?&+.txt"
    path = requests.utils.quote(name, safe="")
    alice.api("PUT", f"/contents/{path}", json={"type": "file", "format": "text", "content": "words"})
    assert alice.get(f"{alice.prefix}files/{path}").text == "words"
    alice.api("DELETE", f"/contents/{path}")


def test_a_large_file_is_taken(machine, alice):
    size = 64 * 2**20
    alice.api("PUT", "/contents/large.bin", json={"type": "file", "format": "base64", "content": base64.b64encode(bytes(size)).decode()})
    assert machine.sh("stat --format=%s /home/alice/large.bin; rm /home/alice/large.bin") == str(size)


def test_progress_of_a_spawn_is_not_held_back(alice):
    """The events come while the server starts, not all at its end."""
    alice.stop()

    def progress():
        with contextlib.suppress(HubError):  # nothing is starting yet
            return alice.get("/hub/api/users/alice/server/progress", params={"_xsrf": alice.xsrf("/hub/")}, stream=True)

    spawn = threading.Thread(target=alice.get, args=("/hub/spawn",))  # answers once the server is there
    spawn.start()
    with wait_for(progress, "alice's server is starting") as stream:
        events = [(time.monotonic(), line) for line in stream.iter_lines(decode_unicode=True) if line]
    spawn.join()
    assert '"ready": true' in events[-1][1]
    assert events[-1][0] - events[0][0] > 0.1
    alice.get(alice.prefix)  # where the page leads: the new server does not know its visitor yet


@pytest.mark.slow("waits for two minutes")
def test_a_silent_cell_is_waited_for(alice):
    """Longer than any of the servers' own timeouts, which are 50 s or 60 s."""
    kernel = alice.kernel()
    assert kernel.execute("import time; time.sleep(100); 'done'", timeout=150) == "'done'"
    kernel.shutdown()


def test_clients_cannot_forge_their_address(machine, tls):
    ask(tls, "/hub/forged", headers={"X-Forwarded-For": "192.0.2.7", "X-Real-IP": "192.0.2.7", "Forwarded": "for=192.0.2.7;proto=https"})
    wait_for(lambda: "/hub/forged" in machine.journal("-u", "jupyterhub", "-n", "20"), "the request is in the hub's log")
    assert "192.0.2.7" not in machine.journal("-u", "jupyterhub", "-n", "20")


def test_old_form_is_explained(tls):
    """Two tabs with the login form: whoever has logged in and out in one sees in the other what to do, and it works."""
    user = HubUser(tls.base, "alice", tls.verify)
    user.get("/hub/login")
    old = {"username": "alice", "password": "secret", "_xsrf": user.xsrf("/hub/")}
    user.request("POST", "/hub/login", params={"next": "/hub/home"}, data=old)
    time.sleep(1.1)  # a token is the visitor and the time in seconds, signed: within one second the old form would be the new one
    user.get("/hub/logout")
    answer = user.session.post(f"{tls.base}/hub/login", data=old)
    assert answer.status_code == 403 and "Login form invalid or expired. Try again." in page_text(answer)
    again = user.request("POST", "/hub/login", params={"next": "/hub/home"}, data={**old, "_xsrf": user.xsrf("/hub/")})
    assert again.url.endswith("/hub/home")


def test_page_while_the_hub_is_away(machine, hub, tls, alice):
    """Without the hub there is a page that says so, and notebooks go on; the same without hub and proxy."""
    kernel = alice.kernel()
    machine.sh("systemctl stop jupyterhub")
    for path in ("/hub/login", "/", "/user/nobody/lab"):
        answer = ask(tls, path)
        assert answer.status_code == 503 and AWAY in page_text(answer), path
        assert answer.headers["Content-Type"].startswith("text/html")
    assert kernel.execute("'on'") == "'on'"
    assert alice.get(f"{alice.prefix}api/status").status_code == 200

    machine.sh("systemctl stop jupyterhub-proxy")
    for method in ("GET", "POST"):
        answer = ask(tls, "/hub/login", method)
        assert answer.status_code == 503 and AWAY in page_text(answer)
    machine.sh("systemctl start jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    kernel.connect()
    assert kernel.execute("'still'") == "'still'"
    kernel.shutdown()


def test_reasons_of_the_hub_are_not_replaced(machine, tls):
    """A 503 of the hub's own says what is wrong, and that page is shown."""
    machine.sh("systemctl stop jupyterhub-spawner.socket")
    with pytest.raises(AssertionError, match="Logging in is temporarily unavailable"):
        tls.login("alice", "secret")
    machine.sh("systemctl start jupyterhub-spawner.socket")


def test_tls_is_mozillas_intermediate_profile(machine, server, suite):
    report = xml.etree.ElementTree.fromstring(machine.sh(f"sslscan --xml=- {offloader.HOST}:443", timeout=120)).find("ssltest")
    enabled = {f"{protocol.get('type')} {protocol.get('version')}" for protocol in report.findall("protocol") if protocol.get("enabled") == "1"}
    assert enabled == {"tls 1.2", "tls 1.3"}
    assert {cipher.get("cipher") for cipher in report.findall("cipher")} <= INTERMEDIATE
    assert {cipher.get("strength") for cipher in report.findall("cipher")} <= {"strong", "acceptable"}
    assert not [bug for bug in report.findall("heartbleed") if bug.get("vulnerable") != "0"]
    if suite[0] != "debian:bookworm":  # its OpenSSL has no compression, and sslscan there nothing to say of it
        assert report.find("compression").get("supported") == "0"


def test_logins_are_limited_and_pages_are_not(server, tls):
    """20 colleagues behind one address get in; what guesses passwords does not. The last test: the count is for a while."""
    attempts = [ask(tls, "/hub/login", "POST", data={"username": "nobody", "password": "guess"}).status_code for _ in range(80)]
    if server.limits:
        assert set(attempts[:20]) == {403} and attempts[-20:].count(429) >= 15  # one is let through each 6 s
        slow_down = [ask(tls, "/hub/login", "POST") for _ in range(3)]
        assert any(answer.status_code == 429 and "Wait a minute" in page_text(answer) for answer in slow_down)
    else:
        assert set(attempts) == {403}
    assert ask(tls, "/hub/login").status_code == 200


# -- What goes wrong with certificates and headers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nginx(machine, hub, authority):
    """The hub behind nginx."""
    start(machine, offloader.NGINX)
    return Hub(offloader.BASE, authority)


def test_wrong_host_name_is_refused(nginx):
    with pytest.raises(requests.exceptions.SSLError, match=r"doesn't match|not valid for"):
        ask(Hub("https://127.0.0.1", nginx.verify), "/hub/login")


def test_unknown_authority_is_refused(nginx):
    with pytest.raises(requests.exceptions.SSLError, match="self-signed certificate"):
        ask(Hub(nginx.base), "/hub/login")


def test_expired_certificate_is_refused(machine, nginx, tmp_path):
    """nginx starts with it and says nothing: browsers refuse it."""
    machine.sh(f"tar -Pcf /root/tls.tar {offloader.CERTIFICATE} {offloader.KEY}")
    expired = tmp_path / "expired.pem"
    expired.write_text(offloader.self_signed(machine, before="faketime 2020-01-01"))
    machine.sh("nginx -t && systemctl restart nginx")
    with pytest.raises(requests.exceptions.SSLError, match="certificate has expired"):
        ask(Hub(nginx.base, str(expired)), "/hub/login")
    machine.sh("tar -Pxf /root/tls.tar; systemctl restart nginx")
    assert ask(nginx, "/hub/login").status_code == 200


@pytest.mark.parametrize(
    "header, said, logged",
    [
        ("Host", "403 Forbidden.*Cross origin websockets not allowed", f"Origin: {offloader.BASE}, Host: 127.0.0.1:8000"),
        ("Upgrade", '400 Bad Request.*Can "Upgrade" only to "WebSocket"', ""),
    ],
)
def test_missing_header_is_told(machine, nginx, header, said, logged):
    """What docs/off-loader.md says of each: pages work, kernels do not connect."""
    machine.sh(f"sed -i '/proxy_set_header {header} /d' /etc/nginx/sites-available/jupyterhub; systemctl restart nginx")
    user = logged_in(nginx)
    with pytest.raises(websocket.WebSocketBadStatusException, match=f"(?s){said}"):
        user.kernel()
    assert logged in machine.journal("-t", "jupyterhub-singleuser", "-n", "20")
    start(machine, offloader.NGINX)
    works(nginx)


# -- What jupyterhub-ctl verify says of it ---------------------------------------------------------------------------------------------

CTL = "/usr/sbin/jupyterhub-ctl"
RESTART = "systemctl reset-failed nginx 2>/dev/null || true; systemctl restart nginx"  # also more often than systemd wants
ENABLED = "/etc/nginx/sites-available/jupyterhub"
TRUSTED = "/etc/ssl/certs/$(openssl x509 -noout -hash -in " + offloader.CERTIFICATE + ").0"


def verify(machine, *arguments, **options):
    """Return the results of `jupyterhub-ctl verify --json` (dict: name to result) for what depends on the public address."""
    return {result["name"]: result for result in json.loads(machine.run(CTL, "verify", "--json", "public-url", *arguments, check=False, **options).stdout)}


@pytest.fixture(scope="module")
def public(machine, nginx):
    """The machine's settings name nginx's address, and its authority is one of those that the machine trusts."""
    machine.sh(
        f"sed -i 's,^JUPYTERHUB_PUBLIC_URL=.*,JUPYTERHUB_PUBLIC_URL={offloader.BASE}/,' /etc/default/jupyterhub; ln -sf {offloader.CERTIFICATE} {TRUSTED}"
    )
    machine.sh("systemctl disable -q apache2 caddy haproxy; systemctl enable -q nginx")  # as on a machine that has one alone
    yield
    machine.sh(f"sed -i 's,^JUPYTERHUB_PUBLIC_URL=.*,JUPYTERHUB_PUBLIC_URL=,' /etc/default/jupyterhub; rm {TRUSTED}")


def test_verify_goes_through_the_public_address(machine, nginx, public):
    """With the steps of a user, which need no change of the hub."""
    logged_in(nginx).stop()
    found = verify(machine, "--user", "alice", input="secret\n")
    assert {result["status"] for result in found.values()} == {"passed"}, found
    assert found["public-url"]["what"] == f"{offloader.BASE}/hub/login"
    assert "POST /hub/login" in machine.sh("tail -n 50 /var/log/nginx/access.log")


def other_certificate(before="", names=(offloader.HOST,)):
    """A function that has nginx show another certificate."""

    def change(machine):
        offloader.self_signed(machine, before=before, names=names)
        machine.sh(f"ln -sf {offloader.CERTIFICATE} {TRUSTED}; {RESTART}")

    return change


def shell(script):
    return lambda machine: machine.sh(f"{script}; ! systemctl is-active -q nginx || ({RESTART})")


@pytest.mark.parametrize(
    "change, check, status, words",
    [
        pytest.param(
            shell("systemctl stop nginx"), "public-address", "failed", ["nginx.service does not run (inactive)", "systemctl start nginx"], id="stopped"
        ),
        pytest.param(
            shell(f"sed -i s/:8000/:8001/ {ENABLED}"),
            "public-url",
            "failed",
            ["does not reach the hub: it answers 50", "http://127.0.0.1:8000"],
            id="leads nowhere",
        ),
        pytest.param(
            shell(f"sed -i '/X-Forwarded-Proto/d; /X-Scheme/d' {ENABLED}"),
            "public-url",
            "warning",
            ["browsers use https", "X-Forwarded-Proto"],
            id="says no https",
        ),
        pytest.param(other_certificate(names=("elsewhere.example.org",)), "certificate", "failed", ["elsewhere.example.org", "localhost"], id="other name"),
        pytest.param(other_certificate(before="faketime 2020-01-01"), "certificate", "failed", ["localhost:443 ended on 2020-12-31"], id="ended"),
        pytest.param(other_certificate(before="faketime -f -355d"), "certificate", "warning", ["localhost:443 ends on"], id="ends soon"),
        pytest.param(shell(f"rm {TRUSTED}"), "certificate", "warning", ["does not trust the certificate", "self-signed"], id="not trusted"),
    ],
)
def test_verify_names_what_browsers_meet(machine, nginx, public, change, check, status, words):
    machine.sh(f"tar -Pcf /root/site.tar {offloader.CERTIFICATE} {offloader.KEY} {ENABLED}")
    try:
        change(machine)
        found = verify(machine)
    finally:
        machine.sh(f"rm -f {TRUSTED}; tar -Pxf /root/site.tar; ln -sf {offloader.CERTIFICATE} {TRUSTED}; {RESTART}")
    wrong = {name: result for name, result in found.items() if result["status"] not in ("passed", "skipped")}
    assert list(wrong) == [check] and wrong[check]["status"] == status, wrong
    said = " ".join(wrong[check].values())
    assert [word for word in words if word not in said] == [], said


def test_verify_names_websockets_that_do_not_get_through(machine, nginx, public):
    machine.sh(f"cp {ENABLED} /root/site; sed -i '/proxy_set_header Upgrade /d' {ENABLED}; {RESTART}")
    found = verify(machine, "--user", "alice", input="secret\n")
    machine.sh(f"cp /root/site {ENABLED}; {RESTART}")
    assert (found["spawn"]["status"], found["cell"]["status"]) == ("passed", "failed")
    assert "websocket is refused" in found["cell"]["what"] and "off-loader.md" in found["cell"]["mend"]


# -- Files that nginx hands out itself ---------------------------------------------------------------------------------------------


def scripts(user):
    """Return the paths of the scripts in the page of JupyterLab."""
    return re.findall(r'<script [^>]*src="([^"]+\.js[^"]*)"', user.get(f"{user.prefix}lab").text)


@pytest.fixture(scope="module")
def script(nginx):
    """Path of JupyterLab's main script."""
    (path,) = scripts(logged_in(nginx))
    return path


def test_scripts_are_compressed_and_kept(nginx, script):
    answer = ask(nginx, script, headers={"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert int(answer.headers["Content-Length"]) < 0.5 * len(answer.content)
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert "javascript" in answer.headers["Content-Type"]


def test_scripts_are_those_of_the_package(machine, nginx, script):
    file = script.rpartition("/")[2].partition("?")[0]
    plain = ask(nginx, script, headers={"Accept-Encoding": "identity"})
    assert plain.text.encode() == machine.sh(f"cat /opt/venvs/jupyterhub/share/jupyter/lab/static/{file}").encode()
    assert ask(nginx, script, headers={"Accept-Encoding": "gzip"}).content == plain.content


def test_scripts_need_no_server(machine, nginx, script):
    """They are public, the same for all, and there while hub and proxy are not."""
    machine.sh("systemctl stop jupyterhub-proxy")
    assert ask(nginx, script).status_code == 200
    machine.sh("systemctl start jupyterhub")
    wait_for(nginx.answers, "the hub answers", timeout=20, every=0.2)


def test_what_the_package_does_not_have_comes_from_the_users_server(machine, nginx, script):
    """A server of an earlier version asks for names that only its own tree has; so does an extension of the user's own."""
    user = logged_in(nginx)
    machine.sh("mkdir -p ~/.local/share/jupyter/labextensions/own/static; echo words >~/.local/share/jupyter/labextensions/own/static/own.js", user="alice")
    assert user.get(f"{user.prefix}lab/extensions/own/static/own.js").text == "words\n"


def test_an_older_server_gets_its_own_files(machine, nginx, script):
    """What it asks for is in its own tree alone, and comes through it."""
    trees = "/opt/venvs/jupyterhub-servers"
    user = logged_in(nginx)
    machine.sh(f"mkdir -p {trees}/later; ln -sfn later {trees}/.next; mv -T {trees}/current /root/current; mv -T {trees}/.next {trees}/current")
    try:
        answer = user.session.get(f"{nginx.base}{script}", headers={"Accept-Encoding": "gzip"})
        assert answer.status_code == 200 and "Content-Encoding" not in answer.headers
    finally:
        machine.sh(f"mv -T /root/current {trees}/current; rmdir {trees}/later")
    assert ask(nginx, script, headers={"Accept-Encoding": "gzip"}).headers["Content-Encoding"] == "gzip"


# -- Below a path ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def below_a_path(machine, hub, authority):
    """The hub at /jupyter/, by the one line that docs/off-loader.md gives; for the tests from here on."""
    Hub().login("alice", "secret").stop()
    setting = "JUPYTERHUB_BIND_URL=http://127.0.0.1:8000/jupyter/"
    assert f"\n    {setting}\n" in offloader.page(machine)
    machine.sh(f"cp -p /etc/default/jupyterhub /root/; echo {setting} >>/etc/default/jupyterhub; systemctl restart jupyterhub-proxy")
    wait_for(Hub(f"{BASE}/jupyter").answers, "the hub answers below its path", timeout=20, every=0.2)
    yield Hub(f"{offloader.BASE}/jupyter", authority)
    machine.sh("cp -p /root/jupyterhub /etc/default/; systemctl restart jupyterhub-proxy")
    wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)


@pytest.mark.parametrize("server", SERVERS)
def test_below_a_path(machine, below_a_path, server):
    """The examples need no change for it."""
    start(machine, server)
    user = works(below_a_path)
    assert {cookie.path for cookie in user.session.cookies} == {"/jupyter/", "/jupyter/hub/", "/jupyter/user/alice/"}
    assert user.get("/").url == f"{offloader.BASE}/jupyter/user/alice/lab"
    style = re.search(r'href="(/jupyter/hub/static/[^"]*\.css[^"]*)"', ask(below_a_path, "/hub/login").text)[1]
    assert ask(Hub(offloader.BASE, below_a_path.verify), style).status_code == 200
    assert ask(below_a_path, "/hub/metrics").status_code == 403


def test_page_while_the_hub_below_a_path_is_away(machine, below_a_path):
    machine.sh("systemctl stop jupyterhub")
    answer = ask(below_a_path, "/hub/login")
    assert answer.status_code == 503 and AWAY in page_text(answer)
    machine.sh("systemctl start jupyterhub")
    wait_for(below_a_path.answers, "the hub answers", timeout=20, every=0.2)
