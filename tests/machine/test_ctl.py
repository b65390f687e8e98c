"""jupyterhub-ctl as a command: help, completion, exit codes, and what it prints where. Its subjects have topics of their own."""

import json
import re

import pytest

CTL = "/usr/sbin/jupyterhub-ctl"
CONFIG_D = "/etc/jupyterhub/jupyterhub_config.d"
PACKAGES = ("bash-completion", "man-db")


def commands(machine):
    """The commands that --help lists, as {name: description}."""
    listed = machine.sh(f"{CTL} --help").partition("Commands:\n")[2]
    return dict(re.findall(r"^  ([a-z-]+) +(.+)$", listed, re.MULTILINE))


def complete(machine, line):
    """What Tab offers at the end of `line`, in a shell with Debian's bash-completion."""
    script = """
        . /usr/share/bash-completion/bash_completion
        . /usr/share/bash-completion/completions/jupyterhub-ctl
        COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        [ "${1% }" = "$1" ] || { COMP_WORDS+=(""); COMP_CWORD=$((COMP_CWORD + 1)); }
        set -- $(complete -p jupyterhub-ctl)
        while [ "$1" != -F ]; do shift; done
        "$2" jupyterhub-ctl
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    return machine.run("bash", "-c", script, "bash", line).stdout.split()


def test_help_describes_every_command(machine):
    assert all(commands(machine).values())
    for name in commands(machine):
        assert f"Usage: jupyterhub-ctl {name}" in machine.sh(f"{CTL} {name} --help")


def test_manual_has_every_command_and_exit_code(machine):
    manual = machine.sh("MANWIDTH=100 man jupyterhub-ctl | col -b")
    for name in commands(machine):
        assert re.search(rf"^ +{name}\b", manual, re.MULTILINE), name
    code = "from debianized_jupyterhub.ctl import common as c; print(*{f.exit_code for f in [c.Failure, *c.Failure.__subclasses__()]})"
    codes = machine.run("/opt/venvs/jupyterhub/bin/python", "-c", code).stdout.split()
    assert len(codes) > 8
    for code in [*codes, "0", "2"]:
        assert re.search(rf"^ +{code} +\S", manual.partition("EXIT STATUS")[2], re.MULTILINE), code


def test_completion(machine):
    assert set(complete(machine, "jupyterhub-ctl ")) == set(commands(machine))
    assert complete(machine, "jupyterhub-ctl check-c") == ["check-config"]
    assert "--json" in complete(machine, "jupyterhub-ctl check-config --")


def test_needs_root(machine):
    machine.add_user("alice")
    for name in commands(machine):
        refused = machine.run(CTL, name, user="alice", check=False)
        assert refused.returncode in (2, 4), name  # 2: an argument is missing, which is said first
        if refused.returncode == 4:
            assert refused.stderr == f"jupyterhub-ctl: needs root: sudo jupyterhub-ctl {name}\n"
        assert refused.stdout == ""


@pytest.mark.parametrize("arguments", [["frobnicate"], ["--frobnicate"], ["check-config", "--frobnicate"], ["check-config", "more"]])
def test_wrong_usage_is_named(machine, arguments):
    refused = machine.run(CTL, *arguments, check=False)
    assert refused.returncode == 2
    assert re.search(r"(frobnicate|more)", refused.stderr)


# -- check-config ------------------------------------------------------------------------------------------------------------------


def check_config(machine, text=None):
    """Problems (list of dict) with `text` as a configuration file."""
    if text is not None:
        machine.write(f"{CONFIG_D}/50-test.py", text, 0o640)
        machine.run("chgrp", "jupyterhub", f"{CONFIG_D}/50-test.py")
    try:
        done = machine.run(CTL, "check-config", "--json", check=False)
    finally:
        machine.run("rm", "-f", f"{CONFIG_D}/50-test.py")
    problems = json.loads(done.stdout)
    assert done.returncode == (5 if any(problem["kind"] == "fatal" for problem in problems) else 0), done.stderr
    return problems


def test_the_shipped_configuration_is_good(machine):
    assert check_config(machine) == []
    assert machine.run(CTL, "check-config").stdout == ""


def test_the_hubs_account_may_check_in_its_unit(machine):
    """As ExecStartPre= of the hub does."""
    unit = "-qP --wait --uid=jupyterhub -p EnvironmentFile=/etc/jupyterhub/proxy.env -p NoNewPrivileges=yes"
    assert machine.sh(f"systemd-run {unit} {CTL} check-config") == ""


@pytest.mark.parametrize(
    "text, line, kind, words",
    [
        ("c = get_config()\nc = (\n", 2, "fatal", "SyntaxError: '(' was never closed"),
        ("c = get_config()\n\n1 / 0\n", 3, "fatal", "ZeroDivisionError: division by zero"),
        ("import no_such_module\n", 1, "fatal", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit('enough')\n", 1, "fatal", "SystemExit: enough"),
        ("c = get_config()\nc.JupyterHub.hub_port = 'high'\n", 2, "fatal", "hub_port"),
        ("c = get_config()\nc.Spawner.start_timeout = 'long'\n", 2, "fatal", "start_timeout"),
        ("c = get_config()\nc.JupyterHub.spawner_class = 'none.Such'\n", 2, "fatal", "none.Such"),
        ("c = get_config()\nc.JupyterHub.internal_ssl = True\n", 2, "fatal", "c.JupyterHub.internal_ssl does not work with jupyterhub-proxy.service"),
        (
            "c = get_config()\nc.JupyterHub.subdomain_host = 'https://a.b'\n",
            2,
            "fatal",
            "write JUPYTERHUB_SUBDOMAIN_HOST=https://a.b into /etc/default/jupyterhub",
        ),
        ("c = get_config()\nc.Spawner.defualt_url = '/tree'\n", 2, "unknown", "did you mean c.Spawner.default_url?"),
        ("c = get_config()\nc.Spawner.admin_users = {'a'}\n", 2, "unknown", "did you mean c.Authenticator.admin_users?"),
        ("c = get_config()\nc.Spawnr.default_url = '/tree'\n", 2, "unknown", "did you mean c.Spawner.default_url?"),
        ("c = get_config()\nc.DummyAuthenticator.password = 'x'\n", 2, "note", "DummyAuthenticator is not in use"),
    ],
)
def test_problem_is_named_with_file_and_line(machine, text, line, kind, words):
    (problem,) = check_config(machine, text)
    assert problem["file"] == f"{CONFIG_D}/50-test.py"
    assert (problem["line"], problem["kind"]) == (line, kind)
    assert words in f"{problem['what']}: {problem['mend']}"


def test_setting_that_is_a_class_by_mistake_is_named(machine):
    (problem,) = check_config(machine, "c = get_config()\nc.spawner = 5\n")
    assert (problem["kind"], problem["what"]) == ("unknown", "c.spawner has no effect: there is no class spawner")
    assert problem["mend"] == "did you mean c.Spawner?"


def test_what_the_configuration_prints_does_no_harm(machine):
    assert check_config(machine, "print('hello')\nimport os\nos.system('echo hello')\n") == []


def test_unreadable_file_is_named(machine):
    machine.sh(f"echo >{CONFIG_D}/60-private.py; chmod 600 {CONFIG_D}/60-private.py")
    (problem,) = check_config(machine)
    assert problem["kind"] == "fatal" and "60-private.py" in f"{problem['file']} {problem['what']}"
    machine.sh(f"rm {CONFIG_D}/60-private.py")


def test_the_services_settings_count(machine):
    """/etc/default/jupyterhub is part of what the hub reads."""
    machine.sh("cp -p /etc/default/jupyterhub /root/default; echo JUPYTERHUB_LOGLEVEL=LOUD >>/etc/default/jupyterhub")
    (problem,) = check_config(machine)
    assert problem["kind"] == "fatal" and "JUPYTERHUB_LOGLEVEL=LOUD" in problem["what"]
    machine.sh("cp -p /root/default /etc/default/jupyterhub")


def test_settings_of_notebook_servers_are_looked_at(machine):
    """A file that they leave out is a failure, a misspelt setting a warning; neither is the hub's trouble, whose account may ask before it starts."""
    machine.write("/etc/jupyter/jupyter_server_config.py", "c.ServerApp.terminals_enabled = (\n")
    machine.write("/usr/local/etc/jupyter/jupyter_lab_config.py", "c.LabApp.extension_manger = 'pypi'\n")
    unit = "-qP --wait --uid=jupyterhub -p EnvironmentFile=/etc/jupyterhub/proxy.env"
    try:
        done = machine.run(CTL, "check-config", check=False)
        assert machine.sh(f"systemd-run {unit} {CTL} check-config") == ""
        machine.sh("rm /etc/jupyter/jupyter_server_config.py")
        misspelt = machine.run(CTL, "check-config", "--json")
    finally:
        machine.sh("rm -f /etc/jupyter/jupyter_server_config.py /usr/local/etc/jupyter/jupyter_lab_config.py")
    assert done.returncode == 5 and "start without the settings of /etc/jupyter/jupyter_server_config.py" in done.stderr
    assert "failed\t/etc/jupyter/jupyter_server_config.py\t1\tSyntaxError" in done.stdout
    (problem,) = json.loads(misspelt.stdout)
    assert (problem["kind"], problem["line"]) == ("unknown", 1) and problem["mend"] == "did you mean c.LabApp.extension_manager?"


def test_the_units_environment_counts(machine):
    """So do drop-ins of the unit and the proxy's token."""
    machine.write("/etc/systemd/system/jupyterhub.service.d/env.conf", '[Service]\nEnvironment="SITE=main campus"\n')
    machine.run("systemctl", "daemon-reload")
    text = "import os\nassert os.environ['SITE'] == 'main campus'\nassert len(os.environ['CONFIGPROXY_AUTH_TOKEN']) == 64\n"
    assert check_config(machine, text) == []
    machine.sh("rm -r /etc/systemd/system/jupyterhub.service.d; systemctl daemon-reload")


def test_output_for_programs_and_for_people(machine):
    """One line a row with tabs where it is piped, a table on a terminal (script makes one)."""
    machine.write(f"{CONFIG_D}/50-test.py", "c = get_config()\nc.Spawner.defualt_url = '/tree'\n")
    piped = machine.run(CTL, "check-config").stdout
    assert piped.count("\n") == 1 and "\x1b" not in piped
    assert piped.split("\t")[:3] == ["warning", f"{CONFIG_D}/50-test.py", "2"]
    shown = machine.run("script", "-qec", f"{CTL} check-config", "/dev/null").stdout
    assert "how to fix it" in shown and "\t" not in shown
    machine.run("rm", f"{CONFIG_D}/50-test.py")
