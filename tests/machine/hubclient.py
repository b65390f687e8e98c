"""JupyterHub as a browser sees it: pages, cookies and XSRF tokens, and kernels over their websocket.

Everything goes to 127.0.0.1:8000, which is the machine's inside `with machine.network():`, or to another `base`: the address of an
off-loader, and the path that the hub's pages are below (https://localhost/jupyter). `verify` is the file of the authority that has signed
its certificate.
"""

import contextlib
import html
import json
import re
import threading
import time
import urllib.parse
import uuid

import requests
import websocket

BASE = "http://127.0.0.1:8000"


class HubError(AssertionError):
    """The hub or a server answered with an error; carries what the page tells the user."""

    def __init__(self, response):
        self.status, self.text = response.status_code, page_text(response)
        super().__init__(f"{response.request.method} {response.url}: {self.status}: {self.text}")


class KernelError(AssertionError):
    """A cell raised an exception; the message is the traceback."""


def page_text(response):
    """Return the words of a page (or the message of a JSON answer), as a person reads them."""
    with contextlib.suppress(ValueError):
        return str(response.json().get("message", response.text))
    main = re.sub(r"(?is)<(script|style|head|nav|noscript)\b.*?</\1>", " ", response.text)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", main)).split())


def conversation(response):
    """Return the id (str) of the login that waits for the answer to a page's question; None where it asks nothing."""
    found = re.search(r'name="conversation" value="([^"]+)"', response.text)
    return found and found[1]


class Hub:
    """The hub, seen by somebody who has not logged in."""

    def __init__(self, base=BASE, verify=True):
        self.base, self.verify = base, verify

    def answers(self):
        """Is the hub there and ready (not only its proxy)?"""
        with contextlib.suppress(requests.RequestException):
            status = self.ready().status_code
            if status == 404:  # a package from before that address; there, health is the hub's to say
                status = requests.get(f"{self.base}/hub/health", timeout=5, verify=self.verify).status_code
            return status == 200
        return False

    def ready(self):
        """Return what /hub/ready answers."""
        return requests.get(f"{self.base}/hub/ready", timeout=5, verify=self.verify)

    def login(self, user, password, *answers):
        """Fill in the login form, and answer what else is asked; return a HubUser, or raise HubError with what the page says."""
        visitor = HubUser(self.base, user, self.verify)
        form = visitor.session.get(f"{self.base}/hub/login", timeout=60)
        if 'name="_xsrf"' not in form.text:  # it is there while the hub is offline, too, with status 503
            raise HubError(form)
        data = {"username": user, "password": password, "_xsrf": visitor.xsrf("/hub/")}
        # Where the form leads to is the spawner: look at the login alone.
        answer = visitor.send_login(data)
        for said in answers:
            if not conversation(answer):
                break
            answer = visitor.send_login({"username": user, "_xsrf": data["_xsrf"], "conversation": conversation(answer), "answer": said})
        if "/hub/home" not in answer.url:
            raise HubError(answer)
        return visitor


def with_server(machine, hub, name):
    """Make an account whose owner has logged in and has a running server; return the HubUser."""
    machine.add_user(name)
    user = hub.login(name, "secret")
    user.spawn()
    return user


class HubUser:
    """A browser with its cookies, logged in as `name`."""

    def __init__(self, base, name, verify=True):
        self.base, self.name = base, name
        self.path = urllib.parse.urlsplit(base).path
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy between us and the machine
        self.session.verify = verify

    @property
    def prefix(self):
        """Path of the user's server, below the base."""
        return f"/user/{urllib.parse.quote(self.name, safe='@')}/"

    def request(self, method, path, **options):
        """Request a path, follow redirects, raise HubError for a status of 400 and above."""
        response = self.session.request(method, f"{self.base}{path}", timeout=options.pop("timeout", 60), **options)
        response.encoding = "utf-8"  # as the pages themselves say, and no header
        if response.status_code >= 400:
            raise HubError(response)
        return response

    def send_login(self, data):
        """Send the login form's fields `data` (dict); return the page that follows. A question may come with 403."""
        url, params = f"{self.base}/hub/login", {"next": f"{self.path}/hub/home"}
        response = self.session.post(url, params=params, data=data, timeout=60)
        response.encoding = "utf-8"
        if response.status_code >= 400 and not conversation(response):
            raise HubError(response)
        return response

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def xsrf(self, path):
        """Return the XSRF token that pages below `path` send back."""
        path = f"{self.path}{path}"
        paths = {path, path.rstrip("/"), urllib.parse.quote(path)}
        for cookie in self.session.cookies:
            if cookie.name == "_xsrf" and cookie.path in paths:
                return cookie.value
        raise AssertionError(f"no XSRF cookie for {path} among {[(cookie.name, cookie.path) for cookie in self.session.cookies]}")

    def hub_api(self, method, path, **options):
        """Call the hub's REST API as its own pages do."""
        self.get("/hub/home")
        headers = {"X-XSRFToken": self.xsrf("/hub/"), "Referer": f"{self.base}/hub/home"}
        return self.request(method, f"/hub/api{path}", headers=headers, **options)

    def api(self, method, path, **options):
        """Call the REST API of the user's own server."""
        headers = {"X-XSRFToken": self.xsrf(self.prefix), "Referer": f"{self.base}{self.prefix}lab"}
        return self.request(method, f"{self.prefix}api{path}", headers=headers, **options)

    def websocket(self, path):
        """Open a websocket of the user's own server (websocket.WebSocket), as JupyterLab does."""
        path = f"{self.prefix}{path}"
        request = requests.Request("GET", f"{self.base}{path}")
        return websocket.create_connection(
            f"{self.base.replace('http', 'ws', 1)}{path}",
            cookie=self.session.prepare_request(request).headers.get("Cookie", ""),
            origin=self.base.removesuffix(self.path),
            sslopt={"ca_certs": self.session.verify} if isinstance(self.session.verify, str) else None,
            header={"X-XSRFToken": self.xsrf(self.prefix)},
            timeout=60,
        )

    # The server

    @property
    def server_ready(self):
        """Does the hub list the user's server as ready?"""
        servers = self.hub_api("GET", f"/users/{urllib.parse.quote(self.name)}").json()["servers"]
        return bool(servers.get("", {}).get("ready"))

    def spawn(self, timeout=60):
        """Start the server as "Start My Server" does, wait on the progress page, and open what it leads to (the returned response)."""
        page = self.get("/hub/spawn")
        if "/spawn-pending/" in page.url:
            try:
                self._progress(timeout)
            except HubError as error:
                if error.status == 400:  # it has failed before it was asked; then the page loads itself anew
                    self.failed_start(page.url.removeprefix(self.base))
                raise
        return self.get(self.prefix)

    def failed_start(self, path, timeout=20):
        """Look at the page of a start until it says why that failed: raise HubError with it. For a moment it is the page of a server that stops."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.get(path)
            time.sleep(0.1)
        raise AssertionError(f"{path} does not say within {timeout} s that the start has failed")

    def _progress(self, timeout):
        """Read the events of the "your server is starting up" page until it is ready; raise HubError when the spawn fails."""
        path = f"/hub/api/users/{urllib.parse.quote(self.name)}/server/progress"
        deadline = time.monotonic() + timeout
        with self.get(path, params={"_xsrf": self.xsrf("/hub/")}, stream=True, headers={"Accept": "text/event-stream"}) as stream:
            for line in stream.iter_lines(decode_unicode=True):
                event = json.loads(line[len("data:") :]) if line.startswith("data:") else {}
                if event.get("ready"):
                    return
                if event.get("failed"):
                    stream.status_code, stream._content = 500, json.dumps(event).encode()
                    raise HubError(stream)
                if time.monotonic() > deadline:
                    raise AssertionError(f"the server of {self.name} was not ready within {timeout} s, last: {event}")
        raise AssertionError(f"the hub closed the progress of {self.name}'s server without saying ready")

    def stop(self, timeout=30):
        """Stop the server, as the home page's button does; return when it is gone."""
        self.hub_api("DELETE", f"/users/{urllib.parse.quote(self.name)}/server")
        deadline = time.monotonic() + timeout
        while self.hub_api("GET", f"/users/{urllib.parse.quote(self.name)}").json()["servers"]:
            assert time.monotonic() < deadline, f"the server of {self.name} did not stop within {timeout} s"
            time.sleep(0.1)

    def kernel(self, name="python3"):
        """Start a kernel on the user's server and connect to it."""
        return Kernel(self, self.api("POST", "/kernels", json={"name": name}).json()["id"])

    def run_cell(self, code, timeout=60):
        """Run a cell in a kernel of its own, on a server that is started if there is none; return and raise what Kernel.execute does."""
        self.spawn()
        kernel = self.kernel()
        try:
            return kernel.execute(code, timeout)
        finally:
            kernel.shutdown()


class Kernel:
    """A running kernel, and the websocket that JupyterLab would have to it."""

    def __init__(self, user, id):
        self.user, self.id, self.session_id, self.shown = user, id, uuid.uuid4().hex, set()
        self.connect()

    def connect(self):
        """Open the websocket; also to connect again."""
        self.socket = self.user.websocket(f"api/kernels/{self.id}/channels?session_id={self.session_id}")

    def execute(self, code, timeout=60, allow_stdin=False):
        """Run a cell; return what it prints and its result, as text. Raises KernelError, or what the websocket raises if it breaks.

        With `allow_stdin` it may ask with input(), as in JupyterLab; nobody answers. `shown` then has the formats (set of str) of what it shows.
        """
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": self.session_id, "username": "", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": allow_stdin, "stop_on_error": True}
        message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content, "buffers": []}
        self.socket.settimeout(timeout)
        self.socket.send(json.dumps(message))
        output, error, self.shown = [], None, set()
        deadline = time.monotonic() + timeout
        while True:
            if time.monotonic() > deadline:  # a silent kernel's server still pings
                raise TimeoutError(f"no end of the cell after {timeout} s: {code}")
            kind, frame = self.socket.recv_data(control_frame=True)
            answer = json.loads(frame) if kind == websocket.ABNF.OPCODE_TEXT else {}  # binary frames carry buffers, of widgets
            if (answer.get("parent_header") or {}).get("msg_id") != header["msg_id"] or answer["channel"] != "iopub":  # xeus: null
                continue
            kind, content = answer["msg_type"], answer["content"]
            if kind == "stream":
                output.append(content["text"])
            elif kind in ("execute_result", "display_data"):
                output.append(content["data"].get("text/plain", ""))
                self.shown |= set(content["data"])
            elif kind == "error":
                error = KernelError(re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(content["traceback"])))
            elif kind == "status" and content["execution_state"] == "idle":
                if error:
                    raise error
                return "".join(output).strip()

    def close(self):
        """Close the websocket; the kernel goes on."""
        self.socket.close()

    def shutdown(self):
        """Close the websocket and end the kernel."""
        self.close()
        self.user.api("DELETE", f"/kernels/{self.id}")


class Prober:
    """Asks for one path every 50 ms in the background: what does a user notice while something restarts?

        with Prober(user, "/user/alice/api/status") as probe:
            machine.sh("systemctl restart jupyterhub")
        assert probe.failures == [] and probe.longest_gap < 2.5

    Every request is a new connection with the user's cookies, and follows no redirect: only status 200 is a success.
    """

    def __init__(self, user, path, every=0.05):
        self.url, self.every, self._verify = f"{user.base}{path}", every, user.session.verify
        self._cookie = user.session.prepare_request(requests.Request("GET", self.url)).headers.get("Cookie", "")
        self.requests, self.failures, self.longest_gap = 0, [], 0.0
        self.times = []  # seconds that each answer took
        self._stop = threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._probe, daemon=True)  # a new thread inherits the network of its maker
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._stop.set()
        self._thread.join()
        assert self.requests, f"nothing was asked of {self.url}"

    def _probe(self):
        last_success = time.monotonic()
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                answer = requests.get(self.url, headers={"Cookie": self._cookie}, allow_redirects=False, timeout=10, verify=self._verify)
                failure = None if answer.status_code == 200 else f"status {answer.status_code}"
            except requests.RequestException as error:
                failure = str(error)
            self.requests += 1
            now = time.monotonic()
            self.times.append(now - started)
            self.longest_gap = max(self.longest_gap, now - last_success)  # seconds without a success, until now
            if failure:
                self.failures.append(failure)
            else:
                last_success = now
            self._stop.wait(max(0, self.every - (time.monotonic() - started)))
