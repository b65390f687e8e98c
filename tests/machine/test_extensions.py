"""What JupyterLab has beside notebooks: its extensions are listed, and a language server of the machine helps with code."""

import json

import pytest

PACKAGES = ("python3-pylsp",)
PYLSP = {"argv": ["/usr/bin/pylsp"], "languages": ["python"], "mime_types": ["text/x-python"], "version": 2}
SETTING = {"LanguageServerManager": {"language_servers": {"pylsp": PYLSP}}}


@pytest.fixture(scope="module")
def alice(machine, hub):
    machine.sh("mkdir -p /etc/jupyter/jupyter_server_config.d")
    machine.write("/etc/jupyter/jupyter_server_config.d/pylsp.json", json.dumps(SETTING))
    machine.add_user("alice")
    alice = hub.login("alice", "secret")
    alice.spawn()
    yield alice
    machine.sh("rm /etc/jupyter/jupyter_server_config.d/pylsp.json")


def test_extensions_are_listed(alice):
    listed = {extension["name"]: extension["enabled"] for extension in alice.get(f"{alice.prefix}lab/api/extensions").json()}
    for name in ("@jupyter-widgets/jupyterlab-manager", "@jupyter-notebook/lab-extension", "jupyterlab_pygments"):
        assert listed[name]


def test_language_server_answers(alice):
    assert "pylsp" in alice.get(f"{alice.prefix}lsp/status").json()["sessions"]
    socket = alice.websocket("lsp/ws/pylsp")
    socket.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"processId": None, "rootUri": None, "capabilities": {}}}))
    while (answer := json.loads(socket.recv())).get("id") != 1:
        pass
    assert answer["result"]["capabilities"]["hoverProvider"]
    socket.close()
