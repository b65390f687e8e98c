"""verify --user: what a user does, through the address that browsers use, with the time that each step takes."""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from html import unescape
from typing import TYPE_CHECKING, Any

import click

from ... import accounts
from ..common import NoSuchUser
from .check import FAILED, PASSED, SKIPPED, Result
from .services import public_address, setting

if TYPE_CHECKING:
    from requests import Response

STEPS = ("login", "spawn", "cell", "stop")
TIMEOUT = 60  # seconds for each step


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


def journey(name: str, password: str, found: Iterable[Result]) -> list[Result]:
    """Return the results (list of check.Result) of the user's steps; `found` are those of the machine: without its login page there is no way."""
    if any(result.name == "login-page" and result.status != PASSED for result in found):
        return [Result(step, SKIPPED, "not looked at: login-page comes first") for step in STEPS]
    if setting("subdomain_host"):
        return [Result(step, SKIPPED, "not looked at: with JUPYTERHUB_SUBDOMAIN_HOST the way goes over names in DNS, use a browser") for step in STEPS]
    visitor = Visitor(name)
    acts: list[Callable[[], str | None]] = [partial(visitor.log_in, password), visitor.start, visitor.run_a_cell, visitor.stop]
    steps = iter(zip(STEPS, acts, strict=True))
    results = []
    try:
        for step, act in steps:
            started = time.monotonic()
            said = act()
            results.append(Result(step, PASSED, said or f"{time.monotonic() - started:.2f} s"))
    except Exception as error:  # noqa: BLE001 (whatever went wrong, it goes to the administrator)
        mend = getattr(error, "mend", "journalctl -u jupyterhub -n 30; journalctl -t jupyterhub-singleuser -n 30")
        what = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {' '.join(str(error).split())}"
        results.append(Result(step, FAILED, f"{name}: {what}", f"{name} cannot work", mend))
        results += [Result(later, SKIPPED, f"not looked at: {step} comes first") for later, _ in steps]
    finally:
        visitor.clean_up()
    return results


def _words(answer: Response) -> str:
    """Return what a page tells a person (str)."""
    try:
        return answer.json()["message"]
    except (ValueError, KeyError, TypeError):
        pass
    error = re.search(r'(?s)class="login_error[^>]*>(.*?)</p>', answer.text) or re.search(r'(?s)<div class="error">(.*?)</div>', answer.text)
    text = error[1] if error else re.sub(r"(?is)<(script|style|head|nav|form).*?(</\1>|$)", " ", answer.text)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", text)).split())[:300] or f"status {answer.status_code}"


class Visitor:
    """A browser with its cookies. What it starts, it also ends."""

    def __init__(self, name: str) -> None:
        import requests

        host, port, self.path = public_address()
        self.origin = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.name, self.quoted = name, urllib.parse.quote(name, safe="@")
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy between us and the machine
        self.started = False
        self.kernel: str | None = None

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
        answer = self.session.request(method, self.origin + path, headers=headers, timeout=TIMEOUT, **options)
        if answer.status_code >= 400:
            raise Refused(f"{answer.status_code}: {_words(answer)}", "journalctl -u jupyterhub -n 30")
        return answer

    def hub_api(self, method: str, path: str) -> Response:
        """Call the hub's REST API about this user."""
        return self.call(method, f"{self.path}/hub/api/users/{self.quoted}{path}")

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
        self.started = True
        self.hub_api("POST", "/server")
        with self.session.get(f"{self.origin}{self.path}/hub/api/users/{self.quoted}/server/progress", stream=True, timeout=TIMEOUT) as stream:
            for line in stream.iter_lines():
                event = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if event.get("failed"):
                    raise Refused(event["message"], f"journalctl -t jupyterhub-singleuser _UID=$(id -u {self.name}) -n 30")
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
        line = websocket.create_connection(url.replace("http", "ws", 1), cookie=cookies, origin=self.origin, timeout=TIMEOUT)
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

    def stop(self) -> str | None:
        """Stop the server that start() started."""
        if not self.started:
            return "not stopped: it ran before"
        self.hub_api("DELETE", "/server")
        deadline = time.monotonic() + TIMEOUT
        while self.hub_api("GET", "").json()["servers"]:
            if time.monotonic() > deadline:
                raise Refused(f"it does not stop within {TIMEOUT} s", f"loginctl terminate-user {self.name} ends all sessions of {self.name}")
            time.sleep(0.1)
        self.started = False
        return None

    def clean_up(self) -> None:
        """End what is left of ours after a failure."""
        for left, end in ((self.kernel, self._end_kernel), (self.started, self.stop)):
            try:
                if left:
                    end()
            except Exception as error:  # noqa: BLE001 (a failure is on its way already)
                click.echo(f"jupyterhub-ctl: something of {self.name} may be left: {error}", err=True)
