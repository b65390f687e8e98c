"""Checks: are the package's files as they were installed, and can what they are run by run them?"""

import json
import os
import re
import time
from pathlib import Path

from ... import environments as made
from ... import kernelspecs, paths
from ...lines import joined
from ...paths import DEFAULTS, LIBEXEC
from ..command import output
from ..common import default_setting
from .check import Failed, Findings, Warned, check, once

VENV, TREES = Path(paths.VENV), Path(paths.TREES)
SBOM = Path("/usr/share/jupyterhub/sbom.cdx.json")  # written when the package was built
READ = 30  # seconds for all files of the package
REINSTALL = "apt-get install --reinstall jupyterhub (or the .deb it came from)"


@once
def altered() -> list[str] | None:
    """Return the package's files that are not as dpkg installed them (list of str), without configuration files; None where reading them takes too long."""
    code, lines = output("dpkg", "--verify", "jupyterhub", timeout=READ)
    if code == 124:
        return None
    return [line.split(maxsplit=1)[1] for line in lines.splitlines() if re.match(r"(missing|[?.5]{9})\s+/", line)]


@check("package-files", limit=READ + 1)
def package_files() -> Findings:
    """dpkg's own list of checksums."""
    found = altered()
    if found is None:
        yield Warned(f"the package's files were not compared: reading them takes more than {READ} s", "the disk is slow", "dpkg --verify jupyterhub")
    elif found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        yield Failed(f"{found[0]}{more}: missing or not as installed", "the software is not the one that was tested", REINSTALL)


@check("server-files", needs=["folders", "package-files"])
def server_files() -> Findings:
    """The hub and new notebook servers run from a tree of hard links to the files of the installed version."""
    current = TREES / "current"
    try:
        same = os.path.samefile(current / "pyvenv.cfg", VENV / "pyvenv.cfg")
    except OSError:
        same = False
    if not same:
        name = os.readlink(current) if current.is_symlink() else "not there"
        raise Failed(
            f"{current} ({name}) is not the tree of the installed version",
            "hub and notebook servers do not start, or start with another version",
            # One that is there is that of an upgrade's old version: see debian/jupyterhub.postinst.
            "apt-get -f install" if current.exists() else f"{LIBEXEC}/server-tree add",
        )
    code, said = output(str(current / "bin/python"), "-IS", "-c", "")
    if code != 0:
        raise Failed(
            f"{current}/bin/python does not run: {joined(said)}",
            "no notebook server starts",
            "apt-get install --reinstall python3-minimal 'python3.*-minimal'",
        )
    yield f"of {os.readlink(current)}"


@check("node", needs=["folders", "package-files"])
def node() -> Findings:
    """The proxy is run by Debian's Node."""
    package = json.loads((VENV / "lib/node_modules/configurable-http-proxy/package.json").read_text())
    numbers = re.findall(r"\d+", package.get("engines", {}).get("node", ""))
    wanted = int(numbers[0]) if numbers else 0
    code, said = output("/usr/bin/node", "--version")
    found = re.match(r"v(\d+)\.", said)
    mend = "apt-get install --reinstall nodejs"
    if code != 0 or not found:
        raise Failed(f"/usr/bin/node does not run: {joined(said)}", "the proxy will not start again", mend)
    if int(found[1]) < wanted:
        raise Failed(f"/usr/bin/node is {said}, the proxy needs {wanted} or later", "the proxy will not start again", mend)
    yield said


@check("java")
def java() -> Findings:
    """The Java that the site names for Spark."""
    home = default_setting("JUPYTERHUB_JAVA_HOME")
    if home and not os.access(f"{home}/bin/java", os.X_OK):
        yield Failed(
            f"JUPYTERHUB_JAVA_HOME={home} in {DEFAULTS}: there is no program {home}/bin/java",
            "Spark does not start in notebooks",
            "name a folder that has it, or none for Debian's default-jre; then systemctl restart jupyterhub",
        )


@check("kernels")
def kernels() -> Findings:
    """Kernels for all users: those that cannot start, and those that talk over ports, where every account can listen."""
    found = [kernel for kernel in kernelspecs.installed() if not made.is_ours(kernel.file.parent)]
    for kernel in found:
        if kernel.wrong:
            remedy = f"install its program, or remove {kernel.file.parent} (dpkg -S {kernel.file} names its package)"
            yield Failed(f"{kernel.file}: {kernel.wrong}", "that kernel does not start", remedy)
    if names := [kernel.name for kernel in found if kernel.open_to_all and not kernel.wrong]:
        yield Warned(
            f"kernels that talk over ports of 127.0.0.1: {', '.join(names)}",
            "every account of the machine can read what their cells print",
            "remove them where users do not trust each other; /usr/share/doc/jupyterhub/kernels.md has the others",
        )
    yield f"the bundled one{''.join(f', {kernel.name}' for kernel in found)}"


@check("environments")
def environments() -> Findings:
    """Kernels that the administrator has made: can they start?"""
    found = made.existing()
    for each in found:
        if problem := each.problem():
            yield Failed(f"the environment {each.name}: {problem[0]}", "its kernel does not start", f"jupyterhub-ctl environment {problem[1]}")
        elif version := each.outlived():
            what = f"the environment {each.name} is of Python {version}, which was the package's"
            yield Warned(what, "`apt autoremove` ends its kernel, in which %pip fails now", f"jupyterhub-ctl environment upgrade {each.name}")
    for name, command in made.missing():
        yield Warned(f"the environment {name} of the configuration's backup is not there", "notebooks that need its kernel do not run", command)
    yield ", ".join(each.name for each in found) or "none"


@check("clock")
def clock() -> Findings:
    """A clock before the package's date makes certificates, cookies and tokens invalid."""
    built = SBOM.stat().st_mtime if SBOM.exists() else 0
    now = time.time()
    if now < built:
        day = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now))
        yield Failed(
            f"the clock says {day} UTC, the installed package is younger than that",
            "cookies, tokens and certificates are valid at the wrong times",
            "set the clock: timedatectl set-ntp true",
        )
        return
    in_container = output("systemd-detect-virt", "--quiet", "--container")[0] == 0  # then the clock is the host's
    if not in_container and output("timedatectl", "show", "--property=NTPSynchronized", "--value")[1] == "no":
        yield Warned("the clock is not synchronised", "it may drift away from that of the browsers", "timedatectl set-ntp true")
