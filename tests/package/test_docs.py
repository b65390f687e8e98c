"""What installed files say of other files is true: links between pages, and paths."""

import functools
import gzip
import os.path
import re

import pytest

DOC = "/usr/share/doc/jupyterhub"
# Paths of ours, in text: folders that belong to the package alone, units, examples, pages.
OURS = re.compile(
    r"(?<![\w./:-])/(?:usr/share/(?:doc/)?jupyterhub|usr/libexec/jupyterhub|usr/s?bin/jupyterhub|usr/lib/(?:systemd/system|sysusers\.d|tmpfiles\.d)/jupyterhub"
    r"|opt/venvs/jupyterhub/|etc/(?:default|pam\.d|sudoers\.d|profile\.d|needrestart/conf\.d)/)[\w@./*-]*"
)
# Made on the machine, by the package, its users or other packages: no part of the .deb.
OTHERS = re.compile(r"/etc/(default/(?!jupyterhub)|pam\.d/(?!jupyterhub)|sudoers\.d/(?!jupyterhub)|profile\.d/(?!jupyterhub))|/opt/venvs/jupyterhub/\.\.\.")


def texts(package):
    """Yield (path, text) of the installed files that are not the bundled software's: configuration, programs, units, man pages, documentation."""
    for path, content in package.head.items():
        if path.startswith("/opt/") or path.endswith((".png", ".cdx.json", "/components.txt.gz")):
            continue
        yield path, (gzip.decompress(content) if path.endswith(".gz") else content).decode(errors="replace")


@functools.cache
def exists(package, path):
    """Is there such a file or folder in the package? A `*` stands for any part of a name, and the last part may be the start of a name."""
    pattern = re.compile(re.escape(path.rstrip("/")).replace(r"\*", "[^/]*") + r"(?:$|/)")
    return any(pattern.match(entry) for entry in package.entries)


def test_named_paths_exist(either, package):
    """Pages are about the hub's machine on a node, too."""
    wrong = []
    for path, text in texts(either):
        there = package if path.startswith("/usr/share/doc/") else either
        for named in OURS.findall(text.replace("\\-", "-")):  # man pages write hyphens so
            named = named.rstrip(".-")
            if not OTHERS.match(named) and not exists(there, named):
                wrong.append(f"{path}: {named}")
    assert not wrong


def test_named_pages_exist(either):
    """Names of pages without a folder, as `configuration.md` or `components.txt.gz`."""
    pages = {os.path.basename(path) for path in either.entries if path.startswith("/usr/share/doc/")} | {"CONTRIBUTING.md"}
    wrong = []
    for path, text in texts(either):
        wrong += [f"{path}: {name}" for name in re.findall(r"(?<![\w/-])([\w-]+\.(?:md|txt)\.gz|[\w-]+\.md)\b", text) if name not in pages]
    assert not wrong


def test_links_of_pages_lead_somewhere(either):
    pages = [path for path, _ in texts(either) if path.startswith(DOC) and path.endswith(".md")]
    assert len(pages) > 10
    wrong = []
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)", either.head[page].decode()):
            if "://" not in target and not exists(either, os.path.normpath(os.path.join(os.path.dirname(page), target))):
                wrong.append(f"{page}: {target}")
    assert not wrong


@pytest.mark.parametrize("path", [f"{DOC}/README.md", f"{DOC}/images/login.png", f"{DOC}/configuration.md"])
def test_pages_can_be_read_as_they_are(package, path):
    assert package.has(path)
