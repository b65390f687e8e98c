"""Checks: configuration, units, ports, and whether each part answers the others."""

import asyncio
import http.client
import os
import pwd
import socket
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ... import accounts, database_url, defaults, gate, login_check, notices, units
from ... import server_settings as server_settings_files
from ... import state as hub_state
from ...lines import joined
from ...paths import DEFAULTS, JOBS_CA, PROXY_API, PROXY_ENV, SESSION_SERVICE
from ...settings_check import Problem
from ...sockets import listeners
from .. import check_config
from ..command import output, properties
from ..common import default_setting
from ..hub import Hub
from ..processes import session_of
from .check import Failed, Finding, Findings, Warned, check, once

TIMEOUT = 4  # seconds; the hub answers within milliseconds unless it hangs
READ = 14  # seconds for configuration files, which may run anything; less than check.LIMIT, so that it is said what waits
SETTLED = 3  # seconds
START = 6  # seconds for a start of the hub, which takes two
RESTART = "systemctl restart jupyterhub"


@once
def configuration_read() -> tuple[list[Problem], dict[str, Any]]:
    """Return check_config.read(), which takes most of a second, once."""
    return check_config.read(timeout=READ)


@once
def server_settings_read() -> list[Problem]:
    """Return check_config.of_servers(), which takes seconds where there is something to read, once."""
    return check_config.of_servers(timeout=READ)


def setting(name: str) -> Any:
    """Return a setting of the hub (FACTS of settings_check.py); where it cannot be read, what the package has set."""
    shipped = {"bind_url": defaults.BIND_URL, "hub_ip": "127.0.0.1", "hub_port": 8081}
    shipped |= {"db_url": database_url.SHIPPED, "cookie_secret_file": defaults.COOKIE_SECRET, "subdomain_host": "", "public_url": ""}
    shipped |= {"account_service": "", "refused_shells": ["false", "nologin"]}
    value = configuration_read()[1].get(name)
    return shipped[name] if value in (None, "") else value


@check("configuration", needs=["folders", "package-files", "secrets"])
def configuration() -> Findings:
    """As the hub would read it at its next start."""
    for problem in configuration_read()[0]:
        if problem.fatal:
            yield Failed(str(problem), "the hub will not start again", problem.mend)


@check("settings", needs=["configuration"])
def settings() -> Findings:
    """Settings that nothing knows; what JupyterHub itself warns of."""
    for problem in configuration_read()[0]:
        if not problem.fatal:
            finding = Failed if problem.kind == "unknown" else Warned
            yield finding(str(problem), "what was meant does not happen", problem.mend)


@check("server-settings", needs=["folders", "package-files"])
def server_settings() -> Findings:
    """Those of all notebook servers and kernels, in /etc/jupyter: a server leaves out what is wrong, and says so to its user's log alone."""
    for path in server_settings_files.open_to_others():
        mend = f"chown root: {path}; chmod go-w {path}"
        yield Failed(f"{path} can be changed by others than root", "who can do that runs code as each user who starts a server", mend)
    for problem in server_settings_read():
        why = {"ignored": "notebook servers start without what is in it", "value": "notebook servers start without it, or not at all"}
        finding = Warned if problem.kind == "note" else Failed
        yield finding(str(problem), why.get(problem.kind, "what was meant does not happen"), problem.mend)


# -- Ports -------------------------------------------------------------------------------------------------------------------------


def program_of(inodes: set[str]) -> str:
    """Return "NAME (pid N)" for the process that has a socket of `inodes` (set of str) open."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) in wanted:
                return f"{(link.parents[1] / 'comm').read_text().strip()} (pid {link.parts[2]})"
        except OSError:
            continue
    return "a process that has gone"


def proxy_port() -> int:
    """Return the TCP port (int) that browsers reach."""
    return urllib.parse.urlsplit(setting("bind_url")).port or 80


@check("ports", needs=["accounts", "configuration"])
def ports() -> Findings:
    """Does another program have the port of the proxy or of the hub?"""
    for port, account, mend in (
        (proxy_port(), accounts.PROXY, f"stop it, or set another port in JUPYTERHUB_BIND_URL in {DEFAULTS}; then systemctl start jupyterhub"),
        (setting("hub_port"), accounts.HUB, "stop it, then systemctl start jupyterhub"),
    ):
        uids, inodes = listeners(port)
        ours = {pwd.getpwnam(name).pw_uid for name in (accounts.PORTS, account)}
        if uids - {*ours, 0} or (uids == {0} and not program_of(inodes).startswith("systemd ")):
            owners = ", ".join(accounts.user_name(uid) for uid in sorted(uids - ours))
            what = f"port {port} is taken by another program: {program_of(inodes)} of {owners}"
            yield Failed(what, f"{account} cannot start, or is not what browsers reach", mend)


# -- Units -------------------------------------------------------------------------------------------------------------------------


def unit_findings(unit: str) -> Iterator[Finding]:
    """Yield what is wrong with a unit that must run now and after the next boot."""
    state = properties(unit, "LoadState", "LoadError", "ActiveState", "SubState", "UnitFileState", "Result", "NeedDaemonReload", "DropInPaths")
    if not state:
        raise Failed("systemd does not answer", "nothing can be started", "systemctl status")
    if state["LoadState"] == "masked" or state["UnitFileState"].startswith("masked"):
        raise Failed(f"{unit} is masked", "it does not start", f"systemctl unmask {unit}; systemctl enable --now {unit}")
    # What is below /usr/lib is the distribution's or the package's.
    drop_ins = [path for path in state["DropInPaths"].split() if not path.startswith("/usr/lib/")]
    changed = f"; it is changed by {', '.join(drop_ins)}" if drop_ins else ""
    if state["LoadState"] in ("bad-setting", "error", "not-found"):
        error = _newest_error(unit, of_systemd=True) or state["LoadError"].partition(" ")[2].strip('"') or state["LoadState"]
        raise Failed(
            f"systemd cannot use {unit}: {error}{changed}", "it does not start", f"systemd-analyze verify {unit} names the line; then systemctl daemon-reload"
        )
    if state["ActiveState"] != "active":
        mend = f"systemctl start {unit}; if it does not start: journalctl -u {unit} -n 30"
        why = f": {said}" if state["Result"] != "success" and (said := last_error(unit)) else ""
        what = f"{unit} does not run ({state['ActiveState']}, {state['SubState']}, result {state['Result']}){changed}{why}"
        yield Failed(what, "nobody can log in", mend)
    elif state["UnitFileState"] not in ("enabled", "static"):  # static: others bring it with them
        yield Failed(f"{unit} is {state['UnitFileState']}: it runs, but does not start at boot", "after a reboot nobody can log in", f"systemctl enable {unit}")
    if state["NeedDaemonReload"] == "yes":
        yield Warned(f"{unit} was changed on the disk", "systemd still has the earlier one", "systemctl daemon-reload")


def last_error(unit: str) -> str:
    """Return the last error of a unit's own processes in the journal of this boot, one line; else what systemd said of it; "" if there is none."""
    return _newest_error(unit, of_systemd=False) or _newest_error(unit, of_systemd=True)


def _newest_error(unit: str, of_systemd: bool) -> str:
    match = (f"UNIT={unit}", "_PID=1") if of_systemd else (f"_SYSTEMD_UNIT={unit}",)
    code, said = output("journalctl", "-b", "-q", "-o", "cat", "-p", "err", "-n", "1", *match, timeout=5)
    return joined(said)[:300] if code == 0 else ""


@check(units.PORTS, needs=["accounts", "package-files", "ports"])
def ports_unit() -> Findings:
    """Keeps the ports of hub and proxy."""
    return unit_findings(units.PORTS)


@check(units.SPAWNER, needs=["accounts", "folders", "package-files"])
def spawner_unit() -> Findings:
    """The hub's way to sudo."""
    return unit_findings(units.SPAWNER)


@check(units.LOGIN, needs=["accounts", "folders", "package-files"])
def login_unit() -> Findings:
    """The hub's way to PAM."""
    return unit_findings(units.LOGIN)


@check(units.SESSIONS, needs=["accounts", "package-files"])
def sessions_unit() -> Findings:
    """The hub's way to end servers whose accounts are gone."""
    return unit_findings(units.SESSIONS)


@check(units.PROXY, needs=["accounts", "package-files", "node", units.PORTS, "configuration"])
def proxy_unit() -> Findings:
    """The one port for browsers."""
    return unit_findings(units.PROXY)


@check(units.HUB, needs=[units.PROXY, "configuration", "secrets", "database", "groups"])
def hub_unit() -> Findings:
    """The hub itself; one that is on its way, after a restart of the proxy, say, gets the time for it."""
    deadline = time.monotonic() + START
    while properties(units.HUB, "ActiveState", "SubState") == {"ActiveState": "activating", "SubState": "start"} and time.monotonic() < deadline:
        time.sleep(0.2)
    return unit_findings(units.HUB)


# -- Answers -----------------------------------------------------------------------------------------------------------------------


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        # The socket itself: by its name it could be a link to another's.
        inode = os.open(self._path, os.O_PATH | os.O_NOFOLLOW)
        try:
            self.sock.connect(f"/proc/self/fd/{inode}")
        finally:
            os.close(inode)


def get(connection: http.client.HTTPConnection, path: str, **headers: str) -> tuple[int, str]:
    """Send one GET request; return (status as int, body as str)."""
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


@check("spawner-socket", needs=[units.SPAWNER])
def spawner_socket() -> None:
    """Ask for a process that there is none of: the gate must say so."""
    nobody = int(Path("/proc/sys/kernel/pid_max").read_text())
    try:
        asyncio.run(gate.ask("poll", pid=nobody, started="", timeout=TIMEOUT))
    except gate.GateError as error:
        raise Failed(str(error), "no server starts or stops", f"journalctl -t jupyterhub-spawner -n 20; systemctl restart {units.SPAWNER}") from None


@check("login-socket", needs=[units.LOGIN])
def login_socket() -> None:
    """Ask for an account that is there."""
    try:
        answer = asyncio.run(login_check.ask({"action": "account", "user": "root", "groups": []}, TIMEOUT))
    except login_check.LoginCheckError as error:
        mend = f"journalctl -u {units.LOGIN_CHECK} -n 20; systemctl restart {units.LOGIN}"
        raise Failed(str(error), "nobody can log in", mend) from None
    if not answer["account"]:
        raise Failed(f"{units.LOGIN_CHECK} does not know the account root", "nobody can log in", "getent passwd root; see /etc/nsswitch.conf")


@check("proxy-api", needs=[units.PROXY, "secrets"])
def proxy_api() -> Findings:
    """The hub tells the proxy its routes through a socket, with the token of proxy.env."""
    mend = "systemctl restart jupyterhub-proxy"
    token = check_config.hub_environment().get("CONFIGPROXY_AUTH_TOKEN", "")
    if not token:
        raise Failed(f"{PROXY_ENV} has no CONFIGPROXY_AUTH_TOKEN", "hub and proxy do not start again", f"rm {PROXY_ENV}; {mend}")
    try:
        status, _ = get(_UnixConnection(PROXY_API), "/api/routes", Authorization=f"token {token}")
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"the proxy does not answer at {PROXY_API}: {error}", "no server can be reached", mend) from None
    if status == 403:
        raise Failed(f"the running proxy does not take the token of {PROXY_ENV}", "hub and proxy will not understand each other", mend)
    yield f"status {status}"


@check("hub", needs=[units.HUB])
def hub() -> Findings:
    """Does the hub itself answer, at its own port, and can it be used?"""
    base = urllib.parse.urlsplit(setting("bind_url")).path.rstrip("/")
    host, port = setting("hub_ip") or "127.0.0.1", setting("hub_port")
    try:
        status, _ = get(http.client.HTTPConnection(host, port, timeout=TIMEOUT), f"{base}/hub/ready")
    except (OSError, http.client.HTTPException) as error:
        what = f"the hub does not answer at {host}:{port} ({error})"
        raise Failed(what, "nobody can log in or start a server", f"journalctl -u jupyterhub -n 30; then {RESTART}") from None
    now = hub_state.of_unit(properties(units.HUB, "ActiveState", "StatusText"))
    if now.name == hub_state.STANDBY:
        yield Warned(f"the hub stands by: {now.line}", "on this machine nobody can log in now", "nothing is wrong; it serves when the other one has ended")
        if default_setting("JUPYTERHUB_JOBS_ADDRESS") and not os.path.lexists(JOBS_CA):
            bring = "on the other machine: jupyterhub-ctl backup --without-database - | ssh root@THIS jupyterhub-ctl restore -"
            yield Warned(f"{JOBS_CA} is not there", "if this hub takes over, notebook servers of jobs cannot be reached", bring)
    elif now.name == hub_state.DEGRADED:
        yield Warned(f"the hub is degraded: {now.line}", "nobody can log in or start a server", "the hub goes on by itself when that is fixed")
    elif status not in (200, 404):  # the latter: a hub from before that address
        yield Failed(f"the hub answers with status {status}", "it is not well", f"journalctl -u jupyterhub -n 30; then {RESTART}")


def stands_by() -> bool:
    """Return whether the hub waits for the other one of a pair to end."""
    return hub_state.of_unit(properties(units.HUB, "ActiveState", "StatusText")).name == hub_state.STANDBY


def public_address() -> tuple[str, int, str]:
    """Return (host, port, path) at which this machine reaches the proxy."""
    url = urllib.parse.urlsplit(setting("bind_url"))
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(url.hostname or "", url.hostname)
    return host, proxy_port(), url.path.rstrip("/")


@check("servers", needs=["hub"])
def servers() -> Findings:
    """Are there notebook servers that the hub does not know?"""
    found = server_sessions()
    if unknown := found.keys() - known_sessions():
        time.sleep(SETTLED)  # the hub hears of a server a moment after its session was opened
        unknown &= server_sessions().keys() - known_sessions()
    for session in sorted(unknown):
        pid, owner, since = found[session]
        what = f"a notebook server of {owner} runs that the hub does not know: process {pid}, since {since}"
        why = "its user cannot reach it from the hub; where the account is gone, it belongs to whoever has the uid next"
        yield Warned(what, why, f"systemctl stop session-{session}.scope")
    yield f"{len(found)} run"


def known_sessions() -> set[str]:
    """Return the ids of the sessions of all servers that the hub knows (set of str)."""
    if stands_by():
        return set()  # the one that serves knows servers of its own machine alone
    pids = [(server.get("state") or {}).get("pid") for user in Hub().users(state="active") for server in user["servers"].values()]
    return {session_id(session_of(pid)) for pid in pids if pid}


def session_id(scope: str | None) -> str:
    return (scope or "").rpartition("/session-")[2].removesuffix(".scope")


def server_sessions() -> dict[str, tuple[int, str, str]]:
    """Return the sessions in which notebook servers run: by id, the server's pid (int), its account (the uid, if it has no name) and since when."""
    pids = {session_id(session_of(pid)): pid for pid in sorted(int(path.name) for path in Path("/proc").glob("[0-9]*")) if is_server(pid)}
    pids.pop("", None)
    if not pids:
        return {}
    found = {}
    wanted = [f"--property={name}" for name in ("Id", "Service", "User", "Timestamp")]
    for block in output("loginctl", "show-session", *wanted, *pids)[1].split("\n\n"):
        about = {key: value for key, equals, value in (line.partition("=") for line in block.splitlines()) if equals}
        # What users call jupyterhub-singleuser themselves is in others.
        if about.get("Service") == SESSION_SERVICE:
            found[about["Id"]] = pids[about["Id"]], accounts.user_name(int(about["User"])), about["Timestamp"]
    return found


def is_server(pid: int) -> bool:
    """Return whether a process is a notebook server, and not one that it has started."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return len(words) > 1 and words[1].endswith(b"/jupyterhub-singleuser")


@check("host-names", needs=["hub", "proxy-api"])
def host_names() -> Findings:
    """A host name for each user, where JUPYTERHUB_SUBDOMAIN_HOST says so: does the proxy know, do they lead anywhere?"""
    host = urllib.parse.urlsplit(setting("subdomain_host")).hostname
    pid = properties(units.PROXY, "MainPID").get("MainPID", "")
    by_host = b"--host-routing" in Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
    if by_host != bool(host):
        raise Failed(f"the running proxy has another JUPYTERHUB_SUBDOMAIN_HOST than {DEFAULTS}", "pages are not found", "systemctl restart jupyterhub-proxy")
    if not host:
        yield "one name for all users"
        return
    try:
        socket.getaddrinfo(f"name-of-a-user.{host}", None)
    except OSError as error:
        yield Warned(f"no user's server is found below {host} ({error.strerror})", "servers cannot be opened", f"have *.{host} in DNS")


@check("login-page", needs=["hub", "proxy-api"])
def login_page() -> Findings:
    """As a browser gets it, through the proxy."""
    if text := notices.OFFLINE.read():
        raise Warned(f"the hub is offline: {text}", "nobody new can log in", "jupyterhub-ctl online, when the maintenance is over")
    host, port, base = public_address()
    try:
        named = {"Host": urllib.parse.urlsplit(setting("subdomain_host")).netloc} if setting("subdomain_host") else {}
        status, page = get(http.client.HTTPConnection(host, port, timeout=TIMEOUT), f"{base}/hub/login", **named)
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"{host}:{port} does not answer ({error})", "browsers see nothing", "systemctl restart jupyterhub-proxy") from None
    if status != 200 or ("<form" not in page and "/hub/oauth_login" not in page):
        yield Failed(f"http://{host}:{port}{base}/hub/login answers with status {status}", "nobody can log in", f"{RESTART}: it sets the proxy's routes again")
