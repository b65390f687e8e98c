"""The commands of README.md and docs/ do what the pages say: every block without a mark is run from the text, in the order of the pages."""

import pathlib
import re
import sys

import offloader
import pytest
from harness import wait_for
from hubclient import Hub

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import blocks

PACKAGES = ("jq", "nginx", "openssl")
README = [block for block in blocks.ALL if block.page == "README.md" and not block.why_not]
DOCS = [block for block in blocks.ALL if block.page != "README.md" and not block.why_not]
# What a reader fills in.
PLACEHOLDERS = {
    r"YOUR\.HOST\.NAME": offloader.HOST,
    r"backup FILE": "backup /root/mine.tar.gz",
    r"restore (FILE|NAME)": "restore /root/mine.tar.gz",
    r"\bNAME\b": "alice",
}
# An editor that changes nothing; pages of its own need no keys; apt asks nobody.
ENVIRONMENT = "export EDITOR=true VISUAL=true PAGER=cat SYSTEMD_PAGER= SYSTEMD_COLORS=0 DEBIAN_FRONTEND=noninteractive"


@pytest.fixture(scope="module")
def server(bare_machine, deb):
    """A server without the package, where apt says yes to everything."""
    bare_machine.push(deb)
    bare_machine.write("/etc/apt/apt.conf.d/yes", 'APT::Get::Assume-Yes "true";\n')
    bare_machine.write("/usr/local/bin/editor", "#!/bin/sh\n", 0o755)
    bare_machine.write("/root/password-file", "secret\n", 0o600)
    return bare_machine


def follow(machine, commands):
    """Run a block's commands as root in /root, as typed; each must succeed. Passwords are asked of standard input."""
    for placeholder, value in PLACEHOLDERS.items():
        commands = re.sub(placeholder, value, commands)
    machine.run("bash", "-euo", "pipefail", "-c", f"cd /root; {ENVIRONMENT}\n{commands}", input="secret\n", timeout=300)


def one_by_one(block):
    """Return the block's commands (list of str), which may go over several lines."""
    return re.findall(r"(?:.*\\\n)*.+\n", block.text)


def name(block):
    return f"{block.page}:{block.line}"


def test_readme_word_for_word(server, tmp_path):
    """From a fresh machine to a notebook over TLS. The account is there already, as an administrator's would be."""
    server.add_user("alice", groups=())
    for command in [command for block in README for command in one_by_one(block)]:
        follow(server, command)
        if server.sh("systemctl is-active jupyterhub || true") == "active":  # a reader is slower than the hub's start
            wait_for(Hub().answers, "the hub answers", timeout=30, every=0.2)
    server.sh("systemctl start jupyterhub")  # the last line stops it
    authority = tmp_path / "authority.pem"
    authority.write_text(server.sh(f"cat {offloader.CERTIFICATE}") + "\n")
    hub = Hub(offloader.BASE, str(authority))
    wait_for(hub.answers, "the hub answers", timeout=30, every=0.2)
    assert hub.login("alice", "secret").run_cell("5 * 4") == "20"


@pytest.mark.slow("all blocks of docs/; README's are followed each time")
@pytest.mark.parametrize("block", DOCS, ids=name)
def test_block(server, block):
    """The hub runs, and alice has a server, before each of them."""
    hub = Hub()
    server.sh("systemctl start jupyterhub; jupyterhub-ctl online")
    wait_for(hub.answers, "the hub answers", timeout=30, every=0.2)
    hub.login("alice", "secret").spawn()
    server.sh("rm -f /root/mine.tar.gz" if "backup FILE" in block.text else ":")
    follow(server, block.text)
