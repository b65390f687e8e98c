"""What the other topics rely on: a machine is a real one, and on its own."""

import subprocess

import pytest
from harness import CommandFailed, TimedOut


def test_boots_without_a_failed_unit(bare_machine):
    assert bare_machine.sh("systemctl is-system-running; systemctl --failed --no-legend --plain") == "running"


def test_has_no_network_but_loopback(bare_machine):
    """And neither has the test, while it is inside."""
    links = subprocess.run(["ip", "-o", "link", "show", "up"], check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(links) == 1 and ": lo:" in links[0]


def test_has_what_a_small_server_has(bare_machine):
    assert bare_machine.run("sh", "-c", "command -v node python3", check=False).stdout == ""
    bare_machine.sh("command -v sudo sshd loginctl apt-get")


def test_commands_run_as_whom_they_are_asked_to(bare_machine):
    bare_machine.add_user("carol")
    assert bare_machine.sh("id -un; id -Gn; pwd; echo $HOME", user="carol") == "carol\ncarol users\n/home/carol\n/home/carol"


def test_errors_are_noticed(bare_machine):
    with pytest.raises(CommandFailed, match="exit code 2"):
        bare_machine.run("ls", "/nowhere")
    with pytest.raises(TimedOut, match="sleep 9"):
        bare_machine.run("sleep", "9", timeout=1)


@pytest.mark.parametrize("how", ["power_off", "kill"])
def test_disk_and_journal_survive(bare_machine, how):
    bare_machine.write("/etc/kept", how)
    bare_machine.sh(f"logger before-{how}; journalctl --sync")
    getattr(bare_machine, how)()
    assert f"before-{how}" in bare_machine.journal()
    bare_machine.boot()
    assert bare_machine.sh("cat /etc/kept") == how
