"""verify --user: what a user does, through the address that browsers use, with the time that each step takes.

Each step has its time, and what it has started is ended however the whole ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import select
import signal
import ssl
import sys
import time
import urllib.parse
import uuid
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ... import accounts
from ...lines import one_line
from ...server_settings import IPYTHON
from ..command import output
from ..common import NoSuchUser
from ..sudoers import MEDIATOR
from . import people, public
from .check import FAILED, PASSED, SKIPPED, WARNING, Finding, Result, end_children, within
from .services import public_address, setting

if TYPE_CHECKING:
    from requests import Response

# Seconds for each step. What they have left behind is ended within CLEAN_UP more.
STEPS = {"account": 10, "login": 15, "spawn": 30, "cell": 25, "stop": 15}
CLEAN_UP = 15
TIMEOUT = 60  # seconds for one request; its step ends before
JOURNAL = "journalctl -t jupyterhub-singleuser -n 30"


class Refused(Exception):
    """The hub or a server said no; the text is what the page tells its user."""

    def __init__(self, words: str, mend: str) -> None:
        super().__init__(words)
        self.mend = mend


def ask_password(name: str) -> str:
    """Return the password of account `name` (str), from the terminal or the first line of stdin; raise NoSuchUser."""
    if not accounts.exists(name):
        raise NoSuchUser(f"this machine knows no user {name!r}: `getent passwd` lists its users")
    if sys.stdin.isatty():
        return click.prompt(f"Password of {name}", hide_input=True, err=True)
    return sys.stdin.readline().rstrip("\n")


def journey(name: str, password: str, found: Collection[Result], until: float, timeout: float | None = None) -> list[Result]:
    """Return the results (list of check.Result) of the user's steps, at the time `until` (time.monotonic()) or before.

    `found` are those of the machine: without its login page there is no way. Each step may take `timeout` seconds; None for those of STEPS.
    """
    if any(result.name == "login-page" and result.status != PASSED for result in found):
        return [Result(step, SKIPPED, "not looked at: login-page comes first") for step in STEPS]
    if setting("subdomain_host"):
        return [Result(step, SKIPPED, "not looked at: with JUPYTERHUB_SUBDOMAIN_HOST the way goes over names in DNS, use a browser") for step in STEPS]
    visitor = Visitor(name, {result.name: result.status for result in found})
    acts: list[Callable[[], str | None]] = [visitor.account, partial(visitor.log_in, password), visitor.start, visitor.run_a_cell, visitor.stop]
    steps = iter(zip(STEPS, acts, strict=True))
    results = []
    try:
        for step, act in steps:
            result = _step(step, act, timeout or STEPS[step], until - CLEAN_UP, visitor)
            results.append(result)
            if result.status == FAILED:
                results += [Result(later, SKIPPED, f"not looked at: {step} comes first") for later, _ in steps]
    finally:
        visitor.clean_up(until)
        end_children()
    return results


def _step(step: str, act: Callable[[], str | None], limit: float, until: float, visitor: Visitor) -> Result:
    """Return what came of one step, within `limit` seconds and before `until` (time.monotonic())."""
    started, name = time.monotonic(), visitor.name
    seconds = min(limit, max(1.0, until - started))
    try:
        said = within(seconds, act)
    except TimeoutError:
        what, mend = visitor.what_hangs(step)
        return Result(step, FAILED, f"{name}: {what} within {seconds:.0f} s", f"{name} cannot work", mend)
    except Exception as error:  # noqa: BLE001 (whatever went wrong, it goes to the administrator)
        mend = getattr(error, "mend", f"journalctl -u jupyterhub -n 30; {JOURNAL}")
        what = str(error) if isinstance(error, Refused | Finding) else f"{type(error).__name__}: {one_line(error)}"
        return Result(step, FAILED, what if isinstance(error, Finding) else f"{name}: {what}", f"{name} cannot work", mend)
    return Result(step, PASSED, said or f"{time.monotonic() - started:.2f} s")


def _words(answer: Response) -> str:
    """Return what a page tells a person (str)."""
    try:
        return answer.json()["message"]
    except (ValueError, KeyError, TypeError):
        pass
    error = re.search(r'(?s)class="login_error[^>]*>(.*?)</p>', answer.text) or re.search(r'(?s)<div class="error">(.*?)</div>', answer.text)
    text = error[1] if error else re.sub(r"(?is)<(script|style|head|nav|form).*?(</\1>|$)", " ", answer.text)
    return one_line(unescape(re.sub(r"<[^>]*>", " ", text)), 300) or f"status {answer.status_code}"


class Visitor:
    """A browser with its cookies. What it starts, it also ends."""

    def __init__(self, name: str, found: dict[str, str]) -> None:
        import requests

        host, port, self.path = public_address()
        self.origin = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        trusted = ssl.get_default_verify_paths()  # what the machine trusts, not what comes with requests
        self.trusted: str | bool = trusted.capath or trusted.cafile or True
        if public.public_url() and found.get("public-url") in (PASSED, WARNING):
            self.origin = public.origin()
            if found.get("certificate") != PASSED:  # that check has said so
                self.trusted = False
                warnings.simplefilter("ignore")  # urllib3's, at each request
        self.name, self.quoted = name, urllib.parse.quote(name, safe="@")
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy between us and the machine
        self.started = False
        self.kernel: str | None = None
        self.before: set[int] = set()  # servers that ran already

    @property
    def server(self) -> str:
        """The path of the user's server."""
        return f"{self.path}/user/{self.quoted}/"

    def call(self, method: str, path: str, **options: Any) -> Response:
        """Send a request; return the answer, raise Refused for a status of 400 and above."""
        headers = {"Referer": self.origin + path}
        for cookie in self.session.cookies:
            if cookie.name == "_xsrf" and cookie.value and path.startswith(urllib.parse.unquote(cookie.path)):
                headers["X-XSRFToken"] = cookie.value
        answer = self.session.request(method, self.origin + path, headers=headers, timeout=TIMEOUT, verify=self.trusted, **options)
        if answer.status_code >= 400:
            raise Refused(f"{answer.status_code}: {_words(answer)}", "journalctl -u jupyterhub -n 30")
        return answer

    def hub_api(self, method: str, path: str) -> Response:
        """Call the hub's REST API about this user."""
        return self.call(method, f"{self.path}/hub/api/users/{self.quoted}{path}")

    def account(self) -> None:
        """Ask the system whether the account may be used; raise a Finding if not."""
        if finding := people.why_not(self.name):
            raise finding

    def log_in(self, password: str) -> None:
        """Fill in the login form."""
        self.call("GET", f"{self.path}/hub/login")
        token = next(cookie.value for cookie in self.session.cookies if cookie.name == "_xsrf")
        data = {"username": self.name, "password": password, "_xsrf": token}
        try:
            answer = self.call("POST", f"{self.path}/hub/login", params={"next": f"{self.path}/hub/home"}, data=data)
        except Refused as refusal:
            if "Invalid username or password" in str(refusal):
                # The page says the same for an account that is not admitted, to everybody.
                refusal.mend = (
                    f"journalctl -u jupyterhub -n 5 has the reason: a wrong password (passwd {self.name} sets a new one), or an account that "
                    f"is not admitted (usermod -aG users {self.name}, or visudo /etc/sudoers.d/jupyterhub)"
                )
            else:
                refusal.mend = "journalctl -u jupyterhub -n 5 has the reason"
            raise
        if "/hub/home" not in answer.url:
            raise Refused(f"the hub leads to {answer.url}: {_words(answer)}", "journalctl -u jupyterhub -n 30")

    def start(self) -> str | None:
        """Start the server, unless it runs: then that one is taken, and left as it is."""
        if self.hub_api("GET", "").json()["servers"].get(""):
            return "it ran before, and is left running"
        self.before = set(servers_of(self.name))
        self.started = True
        self.hub_api("POST", "/server")
        with self.session.get(
            f"{self.origin}{self.path}/hub/api/users/{self.quoted}/server/progress", stream=True, timeout=TIMEOUT, verify=self.trusted
        ) as stream:
            for line in stream.iter_lines():
                event = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if event.get("failed"):
                    raise Refused(event["message"], self.journal())
                if event.get("ready"):
                    return None
        raise Refused("the hub does not say that the server is ready", "journalctl -u jupyterhub -n 30")

    def run_a_cell(self) -> None:
        """Have a fresh kernel multiply, over the websocket."""
        import requests
        import websocket

        self.call("GET", self.server)  # the server's own cookies, by way of the hub
        self.kernel = self.call("POST", f"{self.server}api/kernels", json={}).json()["id"]
        url = f"{self.origin}{self.server}api/kernels/{self.kernel}/channels"
        cookies = self.session.prepare_request(requests.Request("GET", url)).headers["Cookie"]
        trust = {} if self.trusted else {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
        try:
            line = websocket.create_connection(url.replace("http", "ws", 1), cookie=cookies, origin=self.origin, timeout=TIMEOUT, sslopt=trust)
        except websocket.WebSocketException as error:
            by = f"a web server in front of the hub has to pass websockets on: {public.EXAMPLES}; {JOURNAL}"
            raise Refused(f"the kernel's websocket is refused: {one_line(error, 200)}", by) from None
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": uuid.uuid4().hex, "username": "", "version": "5.3"}
        content = {"code": "6 * 7", "silent": False, "store_history": False, "allow_stdin": False}
        line.send(json.dumps({"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}))
        result = None
        while result is None:
            message = json.loads(line.recv())
            if message["msg_type"] in ("execute_result", "error") and message["parent_header"].get("msg_id") == header["msg_id"]:
                result = message["content"].get("data", {}).get("text/plain") or " ".join(message["content"]["traceback"])
        line.close()
        if result != "42":
            raise Refused(f"6 * 7 is {result!r}", "journalctl -t jupyterhub-singleuser -n 30")
        self._end_kernel()

    def _end_kernel(self) -> None:
        kernel, self.kernel = self.kernel, None
        self.call("DELETE", f"{self.server}api/kernels/{kernel}")

    def journal(self) -> str:
        """Return the command that shows what the user's servers have to say."""
        return f"journalctl -t jupyterhub-singleuser _UID=$(id -u {self.name}) -n 30"

    def what_hangs(self, step: str) -> tuple[str, str]:
        """Return (what was not done, how to find out why) for a step that took too long."""
        if step == "cell" and self.kernel:
            found = startup_files(self.name)
            files = f" (it runs {', '.join(found)} first)" if found else ""
            look = f"look for what waits in {' and '.join(found)}" if found else "look for what waits in the user's IPython configuration"
            return f"the kernel started and does not answer{files}", f"{look}; {self.journal()}"
        what, mend = {
            "account": ("the account phase of PAM is not done", "a directory service that does not answer? time getent passwd NAME"),
            "login": ("the hub does not answer the login", "journalctl -u jupyterhub -u jupyterhub-login -n 30"),
            "spawn": ("the server started and does not answer", f"look for what waits in ~/.jupyter and /etc/jupyter; {self.journal()}"),
            "cell": ("the server does not start the kernel", self.journal()),
            "stop": ("the server does not end", f"loginctl terminate-user {self.name} ends all sessions of {self.name}"),
        }[step]
        return what, mend.replace("NAME", self.name)

    def stop(self) -> str | None:
        """Stop the server that start() started."""
        if not self.started:
            return "not stopped: it ran before"
        self.hub_api("DELETE", "/server")
        while self.hub_api("GET", "").json()["servers"]:
            time.sleep(0.1)
        self.started = False
        return None

    def clean_up(self, until: float) -> None:
        """End what is left of ours after a failure, before `until` (time.monotonic())."""
        if self.kernel and not self.started:
            with contextlib.suppress(Exception):
                within(until - time.monotonic(), self._end_kernel)
        if self.kernel and not self.started:
            click.echo(f"jupyterhub-ctl: a kernel in the server of {self.name} may be left: its page `Running` shows it", err=True)
        if self.started:
            with contextlib.suppress(Exception):
                within(until - CLEAN_UP / 2 - time.monotonic(), self.stop)
            # The hub may be what hangs, or it knows no more of a server that was about to start.
            end_servers(set(servers_of(self.name)) - self.before, until)


def servers_of(name: str) -> Iterator[int]:
    """Yield the process ids of the account's notebook servers, with those that are about to become one, whatever the hub knows of them."""
    uid = pwd.getpwnam(name).pw_uid
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == uid and (b"/jupyterhub-singleuser\0" in (said := (folder / "cmdline").read_bytes()) or MEDIATOR.encode() in said):
                yield int(folder.name)


def end_servers(pids: Iterable[int], until: float) -> None:
    """End processes, gently first; those that still run at the time `until` (time.monotonic()) are killed."""
    with contextlib.ExitStack() as stack:
        running: dict[int, int] = {}
        for pid in pids:
            with contextlib.suppress(OSError):
                running[pid] = os.pidfd_open(pid)
                stack.callback(os.close, running[pid])
        for number in (signal.SIGTERM, signal.SIGKILL):
            for handle in running.values():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
            deadline = time.monotonic() + max(0.5, (until - time.monotonic()) / 2)
            while running and time.monotonic() < deadline:
                ended = select.select(list(running.values()), [], [], 0.1)[0]  # a pidfd can be read once its process has ended
                running = {pid: handle for pid, handle in running.items() if handle not in ended}


def startup_files(name: str) -> list[str]:
    """Return what a kernel of the account runs before anything else: files of IPython's startup folders (list of str), looked for as the account."""
    account = pwd.getpwnam(name)
    become = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups", "--"]
    folders = [f"{account.pw_dir}/.ipython/profile_default/startup", *(f"{folder}/startup" for folder in IPYTHON)]
    listed = output(*become, "find", *folders, "-maxdepth", "1", "-name", "*.*py", timeout=4)[1].splitlines()
    # Names of the user's: nothing in them that a terminal would obey.
    return sorted("".join(c if c.isprintable() else "?" for c in line) for line in listed if line.startswith("/"))[:5]
