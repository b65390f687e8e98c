"""debian/patches/python: each still keeps what it changes working, and still matters.

That they apply is seen at every build, which fails where one does not.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import re
import socket
import subprocess
import textwrap
import time

import pytest
import requests
from harness import wait_for
from hubclient import BASE

PATCHES = pathlib.Path(__file__).parents[2] / "debian/patches/python"
PYTHON = "/opt/venvs/jupyterhub/bin/python"
SITE = "/opt/venvs/jupyterhub/lib/python3.*/site-packages"

COUNT_PARSERS = """
import lark
made = []
init = lark.Lark.__init__
lark.Lark.__init__ = lambda self, *a, **k: (made.append(a), init(self, *a, **k))[1]
import rfc3987_syntax
print(len(made))
"""

# What the import of a module costs without each of these patches: how often it calls a function.
COSTLY = {
    "aiohttp-no-ssl-at-import": ("aiohttp", "ssl.create_default_context"),
    "jupyter-builder-semver-lazy": ("jupyter_builder.jupyterlab_semver", "re._compiler.compile"),
    "rfc3986-validator-lazy": ("rfc3986_validator", "re._compiler.compile"),
}

# What each of these patches keeps out of a notebook server that nobody has asked for anything.
NEEDLESS = {
    "aiohttp-system-resolver": "aiodns",
    "ipython-not-in-servers": "IPython",
    "isoduration-arrow-lazy": "arrow",
    "jupyterhub-singleuser-imports": "sqlalchemy",
    "jupyterlab-httpx-lazy": "httpx",
    "jupyterlab-server-requests-lazy": "requests",
    "rfc3987-syntax-lazy": "lark",
}


@pytest.fixture(scope="module")
def upstream(machine, tmp_path_factory):
    """A folder inside with the patched modules as upstream has them: the patches taken back."""
    folder = tmp_path_factory.mktemp("upstream")
    for name in (*NEEDLESS, *COSTLY, "jupyterhub-start-imports", "jupyterlab-registry-lazy"):
        patch = PATCHES / f"{name}.patch"
        for changed in re.findall(r"(?m)^\+\+\+ b/(\S+)", patch.read_text()):
            file, package = folder / changed, changed.split("/")[0]
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():  # which another patch has changed, too
                file.write_text(machine.run("sh", "-c", f"cat {SITE}/{changed}").stdout)
            machine.sh(f"mkdir -p /opt/upstream; test -e /opt/upstream/{package} || cp -r {SITE}/{package} /opt/upstream/")
        subprocess.run(["patch", "--quiet", "--reverse", "--strip=1", f"--directory={folder}", f"--input={patch}"], check=True)
    for file in folder.rglob("*.py"):
        machine.write(f"/opt/upstream/{file.relative_to(folder)}", file.read_text())
    machine.sh("find /opt/upstream -name __pycache__ -prune -exec rm -r {} +")  # unchecked: it would win
    return "/opt/upstream"


# Does all that a server does before it answers requests, and prints the modules that it has then.
LOADED = """
import sys, jupyterhub.singleuser
from jupyter_server.serverapp import ServerApp
ServerApp.instance().initialize(["--allow-root", "--no-browser", "--port=8999"])
print("loaded:", *sys.modules)
"""


def loaded(machine, before=""):
    """Return the modules (list of str) of a server with all of the package's extensions, after the Python statement `before`."""
    return machine.run(PYTHON, "-c", f"{before}{LOADED}").stdout.partition("loaded:")[2].split()


@pytest.fixture(scope="module")
def modules(machine):
    modules = loaded(machine)
    assert {"jupyterlab.labapp", "notebook.app", "notebook_shim", "jupyter_lsp.manager", "jupyter_server_terminals"} <= set(modules)
    return modules


@pytest.fixture(scope="module")
def upstreams_modules(machine, upstream):
    return loaded(machine, f"import sys; sys.path.insert(0, {upstream!r})")


@pytest.mark.slow("upstreams change with tools/update-locks alone")
@pytest.mark.parametrize("module", NEEDLESS.values())
def test_server_does_without(modules, module):
    assert module not in modules


@pytest.mark.slow("upstreams change with tools/update-locks alone")
@pytest.mark.parametrize("patch, module", NEEDLESS.items())
def test_patch_still_matters(upstreams_modules, patch, module):
    """Upstream's own code imports it: if it does no longer, drop the patch."""
    assert module in upstreams_modules


COUNT_CALLS = """
import importlib, ssl, re._compiler, sys
module, function = sys.argv[1:]
import logging  # which compiles some of its own
owner, name = function.rsplit(".", 1)
calls, original = [], getattr(sys.modules[owner], name)
setattr(sys.modules[owner], name, lambda *a, **k: (calls.append(a), original(*a, **k))[1])
importlib.import_module(module)
print(len(calls))
"""


@pytest.mark.slow("upstreams change with tools/update-locks alone")
@pytest.mark.parametrize("patch", COSTLY)
def test_import_is_cheap_and_patch_still_matters(machine, upstream, patch):
    ours = int(machine.run(PYTHON, "-c", COUNT_CALLS, *COSTLY[patch]).stdout)
    theirs = int(machine.run(PYTHON, "-c", f"import sys; sys.path.insert(0, {upstream!r}){COUNT_CALLS}", *COSTLY[patch]).stdout)
    assert ours <= 1
    assert theirs > ours


def test_aiohttp_still_checks_certificates(machine):
    """One that nobody has signed is refused, unless the caller wants no check; a name is found in /etc/hosts."""
    code = """
        import asyncio, ssl, subprocess, aiohttp
        from aiohttp import web
        make = "openssl req -x509 -newkey rsa:2048 -nodes -keyout /tmp/k.pem -out /tmp/c.pem -subj /CN=localhost -addext subjectAltName=DNS:localhost"
        subprocess.run(make.split(), check=True, stderr=subprocess.DEVNULL)
        async def main():
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain("/tmp/c.pem", "/tmp/k.pem")
            app = web.Application()
            app.router.add_get("/", lambda _: asyncio.sleep(0, web.Response(text="answered")))
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "localhost", 9443, ssl_context=context).start()
            async with aiohttp.ClientSession() as client:
                try:
                    await client.get("https://localhost:9443/")
                except aiohttp.ClientConnectorCertificateError:
                    print("refused")
                async with client.get("https://localhost:9443/", ssl=False) as answer:
                    print(await answer.text())
        asyncio.run(main())
    """
    assert machine.run(PYTHON, "-c", textwrap.dedent(code)).stdout.split() == ["refused", "answered"]


@pytest.mark.slow("upstreams change with tools/update-locks alone")
@pytest.mark.parametrize(
    "version, wanted, fits", [("1.2.3", "^1.1.0", "True"), ("1.2.3", "~1.1.0", "False"), ("4.6.6", "4.5.0 - 4.6.0", "False"), ("2.0.0", ">= 1.0.0 <3", "True")]
)
def test_versions_of_npm_packages_are_still_compared(machine, upstream, version, wanted, fits):
    """As upstream compares them."""
    code = "; from jupyter_builder.jupyterlab_semver import satisfies; print(satisfies(sys.argv[1], sys.argv[2], True))"
    for start in ("import sys", f"import sys; sys.path.insert(0, {upstream!r})"):
        assert machine.run(PYTHON, "-c", start + code, version, wanted).stdout.strip() == fits


@pytest.mark.parametrize("text, uri, reference", [("http://example.org/a?b#c", True, True), ("/a/b", False, True), ("http://a b/", False, False)])
def test_uris_are_still_checked(machine, text, uri, reference):
    code = "import sys, rfc3986_validator as r; print(*(bool(r.validate_rfc3986(sys.argv[1], kind)) for kind in ('URI', 'URI_reference')))"
    assert machine.run(PYTHON, "-c", code, text).stdout.split() == [str(uri), str(reference)]


# The hub's modules and settings, as a start has them. Prints how often the metadata of all packages was read, and the modules that are loaded then.
HUB = """
import importlib.metadata, os, sys
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # as src/libexec/jupyterhub
sought, all_of_them = [], importlib.metadata.entry_points
importlib.metadata.entry_points = lambda **which: sought.append(which) or all_of_them(**which)
from debianized_jupyterhub.app import Hub
hub = Hub()
hub.classes, hub.authenticator_class, hub.spawner_class, hub.proxy_class
print(len(sought), *sys.modules)
"""


def test_hub_starts_with_what_it_needs(machine):
    sought, *modules = machine.run(PYTHON, "-c", HUB).stdout.split()
    assert int(sought) == 1 and not {"alembic", "ldapauthenticator", "oauthenticator"} & set(modules)


@pytest.mark.slow("upstreams change with tools/update-locks alone")
def test_hubs_imports_patch_still_matters(machine, upstream):
    sought, *modules = machine.run(PYTHON, "-c", f"import sys; sys.path.insert(0, {upstream!r}); {HUB}").stdout.split()
    assert int(sought) > 3 and "alembic" in modules


def test_newest_migration_is_the_one_that_alembic_names(machine):
    code = """
        from alembic.config import Config
        from alembic.script import ScriptDirectory
        from jupyterhub import dbutil, orm
        with dbutil._temp_alembic_ini("sqlite://") as ini:
            print(orm._newest_revision(), *ScriptDirectory.from_config(Config(ini)).get_heads())
    """
    ours, theirs = machine.run(PYTHON, "-c", textwrap.dedent(code)).stdout.split()
    assert ours == theirs


def test_kernels_of_ipython_are_found_where_ipython_has_them(machine):
    code = """
        import os, sys
        from jupyter_client.kernelspec import KernelSpecManager
        from IPython.paths import get_ipython_dir
        for os.environ["IPYTHONDIR"] in ("", "/srv/ipython", "~/elsewhere"):
            os.environ["IPYTHONDIR"] or os.environ.pop("IPYTHONDIR")
            assert KernelSpecManager().kernel_dirs[-1] == os.path.join(get_ipython_dir(), "kernels")
    """
    machine.run(PYTHON, "-c", textwrap.dedent(code))


@pytest.mark.parametrize("duration, valid", [("P3Y6M4DT12H30M5S", True), ("P0003-06-04T12:30:05", True), ("3 years", False)])
def test_durations_are_still_parsed(machine, duration, valid):
    code = "import sys, isoduration; isoduration.parse_duration(sys.argv[1])"
    assert (machine.run(PYTHON, "-c", code, duration, check=False).returncode == 0) == valid


# A web server that answers every request with the text in its first argument, and its address.
SERVE = """
import asyncio, http.server, logging, os, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(sys.argv[1].encode())
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}"
"""


@pytest.mark.parametrize("proxy", ["", "os.environ['http_proxy'] = address; address = 'http://pypi.example'"])
def test_extension_manager_still_asks_pypi(machine, proxy):
    """Also through the proxy that the environment names."""
    code = f"""{SERVE}{proxy}
from jupyterlab.extensions.pypi import PyPIExtensionManager
manager = PyPIExtensionManager()
print(asyncio.run(manager._fetch_package_metadata("name", "1.0", address))["summary"])
"""
    assert machine.run(PYTHON, "-c", code, '{"info": {"summary": "found"}}').stdout.strip() == "found"


def test_lists_of_blocked_extensions_are_still_fetched(machine):
    code = f"""{SERVE}
from jupyterlab_server.listings_handler import ListingsHandler, fetch_listings
ListingsHandler.blocked_extensions_uris = {{address}}
fetch_listings(logging.getLogger())
print(ListingsHandler.blocked_extensions[0]["name"])
"""
    assert machine.run(PYTHON, "-c", code, '{"blocked_extensions": [{"name": "bad"}]}').stdout.strip() == "bad"


@pytest.mark.slow("upstreams change with tools/update-locks alone")
def test_rfc3987_patch_still_matters_for_its_parsers(machine, upstream):
    code = f"import sys; sys.path.insert(0, {upstream!r}){COUNT_PARSERS}"
    assert int(machine.run(PYTHON, "-c", code).stdout) > 0


def test_rfc3987_builds_no_parser_at_import(machine):
    assert machine.run(PYTHON, "-c", COUNT_PARSERS).stdout.strip() == "0"


@pytest.mark.parametrize("iri, valid", [("http://example.org/ü?x=1#y", True), ("urn:isbn:0451450523", True), ("not an iri", False)])
def test_rfc3987_still_checks(machine, iri, valid):
    code = "import sys, rfc3987_syntax as r; print(r.is_valid_syntax('iri', sys.argv[1]), r.is_valid_syntax_iri(sys.argv[1]))"
    assert machine.run(PYTHON, "-c", code, iri).stdout.split() == [str(valid)] * 2


def test_rfc3987_is_what_jsonschema_uses(machine):
    code = "import jsonschema; print(jsonschema.FormatChecker().conforms('not an iri', 'iri'))"
    assert machine.run(PYTHON, "-c", code).stdout.strip() == "False"


# What jupyterlab.labapp does when a server starts.
COUNT_PROGRAMS = """
import sys
run = []
sys.addaudithook(lambda event, args: run.append(args[1]) if event == "subprocess.Popen" else None)
from jupyterlab.commands import AppOptions, _AppHandler
handler = _AppHandler(AppOptions())
print(len(run))
assert handler.registry.startswith("http")
print(len(run))
"""


def test_jupyterlab_asks_yarn_only_for_what_it_needs(machine):
    assert machine.run(PYTHON, "-c", COUNT_PROGRAMS).stdout.split() == ["0", "1"]


@pytest.mark.slow("upstreams change with tools/update-locks alone")
def test_jupyterlab_patch_still_matters(machine, upstream):
    code = f"import sys; sys.path.insert(0, {upstream!r}){COUNT_PROGRAMS}"
    assert machine.run(PYTHON, "-c", code).stdout.split() == ["1", "1"]


def accepted_without_nagle(pid, port):
    """Return how many of the connections that a process (pid of the host) has accepted at `port` have TCP_NODELAY set.

    Its sockets are looked at through copies of its file descriptors: pidfd_getfd(2).
    """
    libc, pidfd, found = ctypes.CDLL(None, use_errno=True), os.pidfd_open(pid), 0
    for entry in os.listdir(f"/proc/{pid}/fd"):
        fd = libc.syscall(438, pidfd, int(entry), 0)
        if fd < 0:
            continue
        try:
            with socket.socket(fileno=fd) as connection:
                if connection.family == socket.AF_INET and connection.getsockname()[1] == port:
                    found += bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        except OSError:  # no socket: closed with the attempt
            with contextlib.suppress(OSError):
                os.close(fd)
    os.close(pidfd)
    return found


@pytest.fixture(scope="module")
def alice(machine, hub):
    """A user without a server."""
    machine.add_user("alice")
    return hub.login("alice", "secret")


@pytest.mark.slow("upstreams change with tools/update-locks alone")
def test_kernel_websockets_do_not_wait_for_acknowledgements(machine, hub, alice):
    """Where a server listens at a port, as with internal_ssl; a unix socket has nothing to wait for."""
    config = "/etc/jupyterhub/jupyterhub_config.d/80-tcp.py"
    code = "from debianized_jupyterhub.spawner import GateSpawner\nclass Tcp(GateSpawner):\n    on_unix_sockets = False\nc.JupyterHub.spawner_class = Tcp\n"
    machine.write(config, code)
    machine.sh("systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    alice.spawn()
    machine.sh(f"rm {config}; systemctl restart jupyterhub")
    wait_for(hub.answers, "the hub answers", timeout=20)
    inside = machine.sh("pgrep --uid alice --full bin/jupyterhub-singleuser")
    (pid,) = [int(p.name) for p in pathlib.Path("/proc").glob("[0-9]*") if is_process(p, machine, inside)]
    kernel = alice.kernel()
    port = int(kernel.execute("import os; print(os.environ['JUPYTERHUB_SERVICE_URL'].split(':')[2].split('/')[0])"))
    assert accepted_without_nagle(pid, port) == 1
    kernel.close()
    wait_for(lambda: accepted_without_nagle(pid, port) == 0, "the websocket is gone, and was the only one")


@pytest.mark.parametrize("headers", [{"Connection": "close"}, {}])
def test_quick_answer_is_not_lost(hub, headers):
    """A request with a body, as a reverse proxy sends it (RFC 9112, 9.6): the server closes its end before the proxy has closed its own."""
    form = "username=nobody&password=guess"
    answers = [requests.post(f"{BASE}/hub/login", data=form, headers=headers, timeout=20).status_code for _ in range(300)]
    assert set(answers) == {403}  # the form has no _xsrf


def test_page_that_connects_again_is_not_mixed_up_with_its_old_connection(alice):
    """Both end at once, the old one last, as it can be when the proxy restarts."""
    alice.spawn()
    kernel = alice.kernel()
    kernel.execute("x = 42")
    old = kernel.socket
    kernel.connect()
    assert kernel.execute("x") == "42"
    for socket_ in (kernel.socket, old):
        socket_.sock.close()
        time.sleep(0.3)
    kernel.connect()
    assert kernel.execute("x", timeout=20) == "42"
    assert kernel.execute("x + 1", timeout=20) == "43"


def is_process(path, machine, inside):
    """Is this folder of the host's /proc the machine's process with the pid `inside`?"""
    with contextlib.suppress(OSError):
        if os.readlink(path / "ns/pid") == os.readlink(f"/proc/{machine.leader}/ns/pid"):
            return re.search(r"(?m)^NSpid:.*\t(\d+)$", (path / "status").read_text())[1] == inside
    return False


@pytest.mark.slow("upstreams change with tools/update-locks alone")
def test_servers_collect_garbage_once_they_are_up(machine, hub):
    """A server's own words: what its user's configuration runs in it."""
    machine.add_user("bob")
    code = 'open("/home/bob/gc", "w").write(f"{gc.isenabled()} {gc.get_freeze_count() > 10000}")'
    config = f"import gc, threading\nassert not gc.isenabled()\nthreading.Timer(8, lambda: {code}).start()\n"
    machine.run("sh", "-c", "mkdir ~/.jupyter; cat >~/.jupyter/jupyter_server_config.py", user="bob", input=config)
    bob = hub.login("bob", "secret")
    bob.spawn()
    assert wait_for(lambda: machine.sh("cat /home/bob/gc || true"), "the server has told", timeout=60) == "True True"


def test_other_programs_collect_garbage_as_ever(machine):
    assert machine.run(PYTHON, "-c", "import gc, jupyterhub.singleuser; print(gc.isenabled())").stdout.strip() == "True"


@pytest.mark.parametrize("extension, collects", [("0", "True"), ("", "False")])
def test_servers_without_the_extension_never_stop_collecting_garbage(machine, extension, collects):
    code = "import gc, sys; sys.argv[0] = 'jupyterhub-singleuser'; import jupyterhub.singleuser; print(gc.isenabled())"
    environment = [f"JUPYTERHUB_SINGLEUSER_EXTENSION={extension}"] if extension else []
    assert machine.run("env", *environment, PYTHON, "-c", code).stdout.strip() == collects


@pytest.mark.slow("upstreams change with tools/update-locks alone")
def test_rfc3987_has_the_names_of_upstream(machine, upstream):
    code = "import sys; sys.path.insert(0, {!r}); from rfc3987_syntax import syntax_parser; print(type(syntax_parser).__name__)"
    for tree in ("/nonexistent", upstream):
        assert machine.run(PYTHON, "-c", code.format(tree)).stdout.strip() == "Lark"


def test_what_scopes_imports_late_is_a_module(machine):
    """Before its first use, and the module itself afterwards."""
    code = """
        import types, jupyterhub.scopes as scopes
        print(isinstance(scopes.orm, types.ModuleType), "User" in dir(scopes.orm))
        scopes.orm.User
        import jupyterhub.orm
        print(scopes.orm is jupyterhub.orm)
    """
    assert machine.run(PYTHON, "-c", textwrap.dedent(code)).stdout.split() == ["True"] * 3


IMPORT_ALL = """
import importlib, importlib.metadata, json, os
os.chdir("/")
bundled = importlib.metadata.packages_distributions()
failed = {}
for name, distributions in bundled.items():
    if name.isidentifier():
        try:
            importlib.import_module(name)
        except BaseException as error:
            # What needs a framework that is not bundled is none of ours.
            if not isinstance(error, ModuleNotFoundError) or error.name.partition(".")[0] in bundled:
                failed[name] = f"{distributions}: {error!r}"
print("failed:", json.dumps(failed))
"""


def test_everything_bundled_can_be_imported(machine):
    """What debian/prune takes away nobody misses."""
    said = machine.run(PYTHON, "-c", IMPORT_ALL, timeout=300).stdout
    assert json.loads(said.rpartition("failed:")[2]) == {}
