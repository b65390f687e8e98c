"""Kernels of other languages: Debian's packages work as apt installs them, each over a transport that it knows; one that is broken says so.

All kernels of docs/kernels.md: test_all_kernels.py.
"""

import json
import threading

import pytest
from harness import wait_for
from hubclient import HubError, with_server
from wheels import offer_to_r

pytestmark = pytest.mark.slow("Debian's kernels, and R with 50 packages; test_lab has users' own and broken ones each time")

# With what they recommend, R's alone would bring 1300 packages.
PACKAGES = ("--no-install-recommends", "xeus-gp", "r-cran-irkernel", "python3-minimal")
CTL = "/usr/sbin/jupyterhub-ctl"
TREE = "/opt/venvs/jupyterhub-servers/current"
SITES = "/usr/local/share/jupyter/kernels"


@pytest.fixture(scope="module")
def alice(machine, hub):
    return with_server(machine, hub, "alice")


@pytest.fixture
def kernel(alice, request):
    """A kernel whose name is the test's parameter."""
    kernel = alice.kernel(request.param)
    yield kernel
    kernel.shutdown()


@pytest.fixture
def sites_kernel(machine):
    """A function that installs a kernel for all users: its kernel.json (str) under the name `new`, and a program (str) beside it."""

    def install(spec, program=""):
        machine.write(f"{SITES}/new/kernel.json", spec)
        machine.write(f"{SITES}/new/kernel.py", program)

    yield install
    machine.sh(f"rm -r {SITES}/new")


def test_kernels_are_offered(alice):
    listed = alice.api("GET", "/kernelspecs").json()
    assert listed["default"] == "python3"
    assert {"python3", "ir", "xeus-gp"} == set(listed["kernelspecs"])


@pytest.mark.parametrize("kernel, answer", [("xeus-gp", "42"), ("ir", "[1] 42")], indirect=["kernel"])
def test_cell(alice, kernel, answer):
    """Also after a restart, which keeps the connection."""
    assert answer in kernel.execute("6 * 7")  # GP writes in colours
    alice.api("POST", f"/kernels/{kernel.id}/restart")
    kernel.close()
    kernel.connect()
    assert answer in kernel.execute("6 * 7")  # GP writes in colours


@pytest.mark.parametrize("kernel", ["ir"], indirect=True)
def test_plot_in_r(kernel):
    kernel.execute("plot(1:10)")
    assert "image/png" in kernel.shown


@pytest.mark.parametrize("kernel", ["ir"], indirect=True)
def test_users_install_packages_in_r(machine, alice, kernel):
    """Into their own library, which was not there, without a question; from the source, of a folder."""
    kernel.execute(f"install.packages('answer', repos = '{offer_to_r(machine)}')", timeout=60)
    assert kernel.execute("answer::answer()") == "[1] 42"
    assert machine.sh("ls -d ~alice/R/*/*/answer && stat -c %U ~alice/R").endswith("alice")
    another = alice.kernel("ir")
    assert another.execute("answer::answer()") == "[1] 42"
    another.shutdown()


# -- Who can listen ----------------------------------------------------------------------------------------------------------------


def ports(machine, program):
    """Return the addresses (list of str) at which alice's kernel listens whose command has `program` in it."""
    (pid,) = machine.sh(f"pgrep -u alice -f {program}").split()
    return [line.split()[3] for line in machine.sh("ss -Htlnp").splitlines() if f"pid={pid}," in line]


@pytest.mark.parametrize("kernel, program, number", [("ir", "IRkernel::main", 0), ("xeus-gp", "bin/xeus-gp", 5)], indirect=["kernel"])
def test_kernels_have_ports_only_where_they_know_nothing_else(machine, kernel, program, number):
    """R talks over files of the user's; xeus-gp would end at once."""
    kernel.execute("6 * 7")
    listening = ports(machine, program)
    assert len(listening) == number and all(address.startswith("127.0.0.1:") for address in listening)


def test_verify_names_the_kernels_that_others_can_read(machine):
    found = [row for row in json.loads(machine.run(CTL, "verify", "kernels", "--json").stdout) if row["name"] == "kernels"]
    assert [(row["status"], row["what"]) for row in found] == [("warning", "kernels that talk over ports of 127.0.0.1: PARI/GP (xeus-gp)")]


# Subscribes to all that is published at the addresses in argv, and tells whether the word came.
SUBSCRIBE = """
import sys, zmq
context, sockets = zmq.Context(), []
for address in sys.argv[1:]:
    sockets.append(context.socket(zmq.SUB))
    sockets[-1].connect(f"tcp://{address}")
    sockets[-1].subscribe(b"")
open("/tmp/listening", "w").close()
def hears(socket):
    while socket.poll(3000):
        if b"secret" in b"".join(socket.recv_multipart()):
            return True
print(any(map(hears, sockets)))
context.destroy(0)
"""


@pytest.mark.parametrize("kernel", ["xeus-gp"], indirect=True)
def test_what_the_documentation_says_of_ports_is_so(machine, kernel):
    """Another account reads what a cell prints. Should this fail one day, the warnings can go."""
    machine.add_user("mallory", groups=())
    kernel.execute("6 * 7")
    machine.sh("rm -f /tmp/listening")
    heard = []
    command = (f"{TREE}/bin/python", "-c", SUBSCRIBE, *ports(machine, "bin/xeus-gp"))
    mallory = threading.Thread(target=lambda: heard.append(machine.run(*command, user="mallory").stdout.strip()))
    mallory.start()
    wait_for(lambda: machine.sh("ls /tmp | grep listening || true"), "mallory listens")
    kernel.execute('for(i = 1, 20, print("secret"); system("sleep 0.1"))')
    mallory.join()
    assert heard == ["True"]


# -- Which program is meant --------------------------------------------------------------------------------------------------------

RUN_BY = f"""
import os, sys
os.environ["RUN_BY"] = sys.executable
os.execv("{TREE}/bin/python", ["python", "-m", "ipykernel_launcher", "-f", sys.argv[1]])
"""


@pytest.mark.parametrize("name", ["python", "python3"])
def test_python_of_the_machines_kernels_is_the_machines(alice, sites_kernel, name):
    """As in Debian's python3-octave-kernel; not the notebook server's own."""
    sites_kernel(json.dumps({"argv": [name, f"{SITES}/new/kernel.py", "{connection_file}"], "display_name": "New", "language": "python"}), RUN_BY)
    kernel = alice.kernel("new")
    assert kernel.execute("import os; print(os.environ['RUN_BY'])") == "/usr/bin/python3"
    kernel.shutdown()


@pytest.mark.parametrize(
    "spec, words",
    [
        ('{"argv": ["/opt/old/kernel"], "display_name": "Old"}', 'The kernel "Old" cannot start:\n/opt/old/kernel, which it needs, is not installed.'),
        ('{"argv": [', f"The kernel cannot start: {SITES}/new/kernel.json cannot be used"),
        ('{"argv": []}', "it names no program"),
    ],
)
def test_broken_kernel_says_what_is_wrong(alice, sites_kernel, spec, words):
    """And hides no other."""
    sites_kernel(spec)
    with pytest.raises(HubError) as error:
        alice.kernel("new")
    assert words in error.value.text
    assert "ir" in alice.api("GET", "/kernelspecs").json()["kernelspecs"]


def test_what_a_newer_debian_leaves_behind_is_named(machine, alice):
    """A user's environment of a Python, and library of an R, that are gone; the commands themselves: test_distribution_upgrade.py."""
    machine.sh("mkdir -p ~/old/bin; ln -s /usr/bin/python3 ~/old/bin/python; echo version = 3.11.2 >~/old/pyvenv.cfg", user="alice")
    machine.sh("mkdir -p ~/R/x86_64-pc-linux-gnu-library/4.2/answer; touch ~/R/x86_64-pc-linux-gnu-library/4.2/answer/DESCRIPTION", user="alice")
    spec = json.dumps(
        {"argv": ["/home/alice/old/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "Old", "language": "python"}
    )
    machine.write("/home/alice/.local/share/jupyter/kernels/old/kernel.json", spec)
    with pytest.raises(HubError) as error:
        alice.kernel("old")
    assert 'The kernel "Old" cannot start:\n/home/alice/old is an environment of Python 3.11, and this machine has Python 3.' in error.value.text
    check = machine.run("jupyterhub-packages", "check", user="alice", check=False)
    assert check.returncode == 1
    environment, library = check.stdout.splitlines()
    assert environment.startswith("/home/alice/old: an environment of Python 3.11, and this machine has 3.")
    assert library.startswith("/home/alice/R/x86_64-pc-linux-gnu-library/4.2: packages of R 4.2, and this machine has ")
    assert check.stderr == "jupyterhub-packages: see above; your packages fit, but what is named there is used no longer\n"
