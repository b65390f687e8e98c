"""Who gets in, and what they find: login, spawn, kernel, cell, stop."""

import pytest
import websocket
from hubclient import HubError, KernelError

PASSWORDS = {"alice": "al1ce-Sesame!", "bob": "b0b-Sesame!"}
WRONG = "wr0ng-Sesame!"
RUNNING = "pgrep -u alice -f 'jupyterhub-singleuser|ipykernel' || true"  # server and kernels


@pytest.fixture(scope="module", autouse=True)
def accounts(machine):
    """alice is a member of `users`, bob is not."""
    machine.add_user("alice", PASSWORDS["alice"])
    machine.add_user("bob", PASSWORDS["bob"], groups=())


@pytest.fixture(scope="module")
def alice(hub):
    return hub.login("alice", PASSWORDS["alice"])


@pytest.fixture(scope="module")
def page(alice):
    """The page that alice's spawn led to."""
    return alice.spawn()


@pytest.fixture(scope="module")
def kernel(alice, page):
    kernel = alice.kernel()
    yield kernel
    kernel.close()


def test_member_spawns_and_finds_jupyterlab(alice, page):
    assert page.url.endswith("/user/alice/lab")
    assert "JupyterLab" in page.text
    assert alice.server_ready


def test_cell_runs(kernel):
    assert kernel.execute("5 * 4") == "20"


def test_kernel_is_the_users(machine, kernel):
    assert kernel.execute("import getpass, os; print(getpass.getuser(), os.getcwd())") == "alice /home/alice"


def test_exception_is_seen(kernel):
    with pytest.raises(KernelError, match="ZeroDivisionError"):
        kernel.execute("1 / 0")


@pytest.mark.parametrize("module", ["numpy", "pandas", "matplotlib", "ipympl", "ipywidgets"])
def test_module_is_there(kernel, module):
    assert kernel.execute(f"import {module}; {module}.__version__")


def test_plot_as_widget(kernel):
    code = "%matplotlib widget\nimport matplotlib.pyplot as plt\nfigure = plt.figure(); plt.plot([1, 2]); type(figure.canvas).__module__"
    assert "ipympl" in kernel.execute(code)


def test_terminal_runs_as_the_user(alice, page):
    assert alice.api("POST", "/terminals").json()["name"] == "1"


def test_wrong_password_is_refused(hub):
    with pytest.raises(HubError, match="Invalid username or password") as refused:
        hub.login("alice", WRONG)
    assert refused.value.status == 403


def test_unknown_user_is_refused_alike(hub):
    with pytest.raises(HubError, match="Invalid username or password") as refused:
        hub.login("nobody-here", WRONG)
    assert refused.value.status == 403


def test_non_member_is_refused_alike(hub):
    """The reason is in the journal, see below: on the page it would say that the password is right."""
    with pytest.raises(HubError, match="Invalid username or password") as refused:
        hub.login("bob", PASSWORDS["bob"])
    assert refused.value.status == 403


def test_non_member_gets_in_once_a_member(machine, hub):
    """One setting for login and spawn: membership is enough, no restart."""
    machine.run("usermod", "--append", "--groups", "users", "bob")
    bob = hub.login("bob", PASSWORDS["bob"])
    bob.spawn()
    bob.stop()


def test_reason_is_in_the_journal(machine):
    assert "bob may not log in: JUPYTER_USERS" in machine.journal("-u", "jupyterhub")


@pytest.mark.parametrize("password", [*PASSWORDS.values(), WRONG])
def test_password_is_nowhere_in_the_logs(machine, password):
    assert machine.written(password) == ""


def test_stop(machine, alice, page):
    """Kernels end first, and as Python programs do: what they have yet to write is written."""
    alice.kernel().execute("file = open('last-words.txt', 'w'); file.write('not lost')")
    alice.stop()
    assert not alice.server_ready
    assert machine.sh(RUNNING) == ""
    assert machine.sh("cat ~alice/last-words.txt") == "not lost"


def test_stop_with_a_kernel_that_does_not_listen(machine, alice):
    alice.spawn()
    deaf = "import signal, time; [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]; time.sleep(600)"
    with pytest.raises(websocket.WebSocketTimeoutException):
        alice.kernel().execute(deaf, timeout=2)
    alice.stop()
    assert machine.sh(RUNNING) == ""
