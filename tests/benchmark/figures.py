"""What is measured. Each function takes a contender whose machine is up, from inside its network, and returns {figure: value}.

Times are seconds, sizes bytes, smaller is better; of requests and bytes per second larger is better (LARGER_IS_BETTER).
"""

import contextlib
import gzip
import math
import re
import socket
import statistics
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import requests
from contenders import PATIENCE
from harness import wait_for
from hubclient import BASE, HubError, HubUser, Kernel

USERS = ["user01", "user02", "user03", "user04"]
CROWD = [f"user{number:02}" for number in range(1, 51)]
SETTLED = 4  # seconds after which a server that nobody uses has done all that it does at its start
CELLS = 30
MANY = 5000  # users of a large hub
COUNT = f"WITH RECURSIVE count(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM count WHERE n < {MANY})"
OF_MANY = "(SELECT id FROM users WHERE name LIKE 'many%')"
FILL = (
    f"{COUNT} INSERT INTO users (name, admin, created, cookie_id) SELECT 'many' || n, 0, CURRENT_TIMESTAMP, 'cookie' || n FROM count",
    f"INSERT INTO user_role_map (user_id, role_id, managed_by_auth) SELECT id, (SELECT id FROM roles WHERE name = 'user'), 0 FROM users WHERE id IN {OF_MANY}",
)
EMPTY = (f"DELETE FROM user_role_map WHERE user_id IN {OF_MANY}", "DELETE FROM users WHERE name LIKE 'many%'")
LARGER_IS_BETTER = {"proxy, requests a second", "proxy, bytes a second"}


# -- Pieces of a visit -------------------------------------------------------------------------------------------------------------


def login_form(user):
    """Open the login form, and return the browser that has it."""
    browser = HubUser(BASE, user)
    browser.get("/hub/login")
    return browser


def log_in(browser, patience=PATIENCE):
    """Send the form, wait on the page that says the server is starting, as far as the server's API; raise HubError for an error page.

    A page that asks to try again later (429) is an error page.
    """
    data = {"username": browser.name, "password": "secret", "_xsrf": browser.xsrf("/hub/")}
    answer = browser.request("POST", "/hub/login", data=data, timeout=patience)
    if "/hub/login" in answer.url:
        raise HubError(answer)
    if "/spawn-pending/" in answer.url:
        browser._progress(patience)
    cookie = f"jupyterhub-user-{urllib.parse.quote(browser.name)}"
    where = browser.prefix
    while cookie not in browser.session.cookies:
        answer = browser.request("GET", where, allow_redirects=False)
        assert answer.is_redirect, f"{where} does not lead to the server of {browser.name}"
        where = urllib.parse.urljoin(where, answer.headers["Location"]).removeprefix(BASE)
    browser.get(f"{browser.prefix}api/status")


def lab_page(browser):
    """Load JupyterLab's page, and what it names; return the bytes that come over the network."""
    address = f"{browser.prefix}lab"
    page = browser.get(address).text
    names = re.findall(r'<(?:script|link)[^>]*(?:src|href)="([^"]+)"', page)
    transferred = len(gzip.compress(page.encode()))
    for name in [*names, f"{browser.prefix}lab/api/settings", f"{browser.prefix}api/contents?content=1", f"{browser.prefix}api/kernelspecs"]:
        with browser.get(urllib.parse.urljoin(address, name), stream=True) as answer:
            transferred += sum(len(chunk) for chunk in answer.raw.stream(1 << 16, decode_content=False))
    return transferred


def stop(browser):
    """Stop the server as the home page's button does; return the seconds until it is gone."""
    browser.get("/hub/home")
    headers = {"X-XSRFToken": browser.xsrf("/hub/"), "Referer": f"{BASE}/hub/home"}
    path = f"/hub/api/users/{browser.name}"
    started = time.monotonic()
    answer = browser.request("DELETE", f"{path}/server", headers=headers)
    if answer.status_code != 204:
        wait_for(lambda: not browser.request("GET", path, headers=headers).json()["servers"], "the server is gone", timeout=PATIENCE, every=0.02)
    return time.monotonic() - started


# -- Figures -----------------------------------------------------------------------------------------------------------------------


def hub_start(contender):
    """From `systemctl start` of hub and proxy to the login page."""
    contender.stop_hub()
    started = time.monotonic()
    contender.start_hub()
    # Not more often: a proxy that is up before its hub answers each question with an error, which costs the machine work.
    wait_for(_login_page, "the login page", timeout=PATIENCE, every=0.05)
    return {"hub start to login page": time.monotonic() - started}


def many_users(contender):
    """The hub's start with as many users in its database as a university has, and with those of the other figures."""
    few = hub_start(contender)["hub start to login page"]
    contender.stop_hub()
    contender.sql(*FILL)
    try:
        many = hub_start(contender)["hub start to login page"]
    finally:
        contender.stop_hub()
        contender.sql(*EMPTY)
        contender.start_hub()
    return {f"hub start with {MANY} users": many, f"hub start, {MANY} users to few": many / few}


def _login_page():
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{BASE}/hub/login", timeout=5).status_code == 200
    return False


def server_start(contender):
    """A user logs in and does nothing: how long, how much CPU, how much memory?"""
    user = contender.next_user()
    browser = login_form(user)
    cpu, started = contender.cpu_seconds(), time.monotonic()
    log_in(browser)
    seconds = time.monotonic() - started
    time.sleep(SETTLED)
    cpu = contender.cpu_seconds() - cpu
    memory = [(process.name, contender.pss(process.pid)) for process in contender.processes_for(user)]
    contender.details["PSS of one idle user"] = memory
    return {
        "login to the server's API": seconds,
        "CPU seconds per server start": cpu,
        "PSS of one idle user": sum(pss for _, pss in memory),
        "stop of a server": stop(browser),
    }


def memory(contender):
    """Hub and proxy, with nobody there."""
    pss = {process.inside: contender.pss(process.pid) for process in contender.processes() if process.inside in (contender.hub_pid(), contender.proxy_pid())}
    return {"PSS of the hub": pss[contender.hub_pid()], "PSS of the proxy": pss[contender.proxy_pid()]}


def notebook(contender):
    """A user logs in, JupyterLab's page comes, a notebook is opened and a cell is run."""
    browser = login_form(contender.next_user())
    started = time.monotonic()
    log_in(browser)
    page = time.monotonic()
    transferred = lab_page(browser)
    loaded = time.monotonic()
    kernel = {"type": "notebook", "name": "", "path": "a.ipynb", "kernel": {"name": "python3"}}
    kernel = Kernel(browser, browser.api("POST", "/sessions", json=kernel).json()["kernel"]["id"])
    assert kernel.execute("6 * 7") == "42"
    first = time.monotonic()
    cells = []
    for _ in range(CELLS):
        before = time.monotonic()
        kernel.execute("6 * 7")
        cells.append(time.monotonic() - before)
    kernel.shutdown()
    stop(browser)
    return {
        "login to first cell's result": first - started,
        "page load": loaded - page,
        "page load, bytes": transferred,
        "page to first cell's result": first - loaded,
        "warm cell": statistics.median(cells),
    }


def four_users(contender):
    """Four users log in at once: until the last has a server."""
    browsers = [login_form(user) for user in USERS]
    started = time.monotonic()
    with ThreadPoolExecutor(len(browsers)) as threads:
        list(threads.map(log_in, browsers))
    seconds = time.monotonic() - started
    with ThreadPoolExecutor(len(browsers)) as threads:
        list(threads.map(stop, browsers))
    return {"four users at once": seconds}


def crowd(contender):
    """Fifty users log in within 30 s; meanwhile somebody else opens the login page every half a second."""
    waits, errors, pages, done = [], [], [], threading.Event()
    first = time.monotonic()

    def visit(number, name):
        time.sleep(max(0, first + number * 30 / len(CROWD) - time.monotonic()))
        started = time.monotonic()
        try:
            browser = login_form(name)
            log_in(browser)
        except (AssertionError, requests.RequestException) as error:
            errors.append(f"{name}: {error}")
        else:
            waits.append(time.monotonic() - started)
            return browser

    def leave(browser):
        try:
            stop(browser)
        except (AssertionError, requests.RequestException) as error:
            errors.append(f"{browser.name} stops the server: {error}")

    def look():
        while not done.wait(0.5):
            started = time.monotonic()
            try:
                requests.get(f"{BASE}/hub/login", timeout=60).raise_for_status()
            except requests.RequestException as error:
                errors.append(f"the login page: {error}")
            pages.append(time.monotonic() - started)

    with ThreadPoolExecutor(len(CROWD) + 1) as threads:
        looking = threads.submit(look)
        browsers = [browser for browser in threads.map(visit, range(len(CROWD)), CROWD) if browser]
        everybody = time.monotonic() - first
        done.set()
        looking.result()
        memory = sum(contender.pss(process.pid) for process in contender.processes())
        list(threads.map(leave, browsers))
    contender.details["errors of fifty users"] = errors
    return {
        "fifty users, without a server": len(CROWD) - len(waits),
        "fifty users, until all have a server": everybody,
        "fifty users, median wait": statistics.median(waits or [math.nan]),
        "fifty users, longest wait": max(waits, default=math.nan),
        "fifty users, login page meanwhile, median": statistics.median(pages),
        "fifty users, login page meanwhile, longest": max(pages),
        "fifty users, PSS of all processes": memory,
    }


def proxy(contender, seconds=2):
    """Small answers on four connections, and large ones on one."""
    wait_for(_backend_answers, "the backend answers through the proxy", timeout=PATIENCE)
    small, large = 100, 16 << 20
    with ThreadPoolExecutor(4) as threads:
        counts = list(threads.map(lambda _: _requests(small, seconds), range(4)))
    requests_a_second = sum(counts) / seconds
    bytes_a_second = _requests(large, seconds) * large / seconds
    return {"proxy, requests a second": requests_a_second, "proxy, bytes a second": bytes_a_second}


def _backend_answers():
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{BASE}/services/backend/2", timeout=5).content == bytes(2)
    return False


def _requests(size, seconds):
    """Ask for `size` bytes again and again on one connection; return how often within `seconds`, the last one in proportion."""
    address = urllib.parse.urlsplit(BASE)
    request = f"GET /services/backend/{size} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: keep-alive\r\n\r\n".encode()
    count, deadline = 0, time.monotonic() + seconds
    with socket.create_connection((address.hostname, address.port)) as connection, connection.makefile("rb") as answers:
        while True:
            started = time.monotonic()
            connection.sendall(request)
            while answers.readline().strip():
                pass
            left = size
            while left:
                left -= len(answers.read1(min(left, 1 << 16)))
            now = time.monotonic()
            if now > deadline:
                return count + max(0, deadline - started) / (now - started)
            count += 1


FIGURES = {function.__name__.replace("_", "-"): function for function in (hub_start, server_start, memory, notebook, four_users, proxy, many_users, crowd)}
