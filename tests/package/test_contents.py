"""What is in the .deb and what is not; who owns it and who may read it."""

import os.path

import pytest

VENV = "/opt/venvs/jupyterhub"

PRESENT = [
    "/usr/bin/jupyterhub-packages",
    "/usr/sbin/jupyterhub",
    "/usr/sbin/jupyterhub-ctl",
    "/usr/sbin/jupyterhub-backup",
    "/usr/sbin/jupyterhub-launcher",
    "/usr/libexec/jupyterhub/login-check",
    "/usr/libexec/jupyterhub/job-starter",
    "/usr/libexec/jupyterhub/session-helper",
    "/usr/libexec/jupyterhub/spawner-gate",
    "/usr/libexec/jupyterhub/sudospawner",
    "/usr/libexec/jupyterhub/configurable-http-proxy",
    "/usr/lib/systemd/system/jupyterhub.service",
    "/usr/lib/systemd/system/jupyterhub-proxy.service",
    "/usr/lib/systemd/system/jupyterhub-spawner.socket",
    "/usr/lib/systemd/system/jupyterhub-spawner@.service",
    "/usr/lib/systemd/system/jupyterhub-login.socket",
    "/usr/lib/systemd/system/jupyterhub-sessions.socket",
    "/usr/lib/systemd/system/jupyterhub-sessions@.service",
    "/usr/lib/systemd/system/jupyterhub-login.service",
    "/usr/lib/systemd/system/jupyterhub-egress.service",
    "/usr/lib/systemd/system/jupyterhub-egress-refresh.timer",
    "/usr/lib/systemd/system/nftables.service.d/jupyterhub-egress.conf",
    "/usr/lib/sysusers.d/jupyterhub.conf",
    "/usr/lib/tmpfiles.d/jupyterhub.conf",
    "/usr/share/doc/jupyterhub/copyright",
    "/usr/share/doc/jupyterhub/examples/nginx-jhub.conf",  # not compressed
    "/usr/share/jupyterhub/pages/away.html",
    "/usr/share/bash-completion/completions/jupyterhub-ctl",
    "/etc/jupyterhub/jupyterhub_config.d",
    f"{VENV}/bin/python",
    f"{VENV}/bin/jupyterhub",
    f"{VENV}/bin/jupyterhub-singleuser",
    f"{VENV}/share/jupyter/lab/static/index.html",
    f"{VENV}/share/jupyter/kernels/python3/kernel.json",
    f"{VENV}/share/jupyter/labextensions/jupyterhub-message/message.js",
    f"{VENV}/share/jupyter/labextensions/jupyterhub-environment-record/environment-record.js",
    f"{VENV}/share/jupyter/labextensions/jupyterhub-patient-cells/patient-cells.js",
    f"{VENV}/share/jupyter/labextensions/jupyterhub-without-packages/without-packages.js",
    f"{VENV}/lib/node_modules/configurable-http-proxy/bin/configurable-http-proxy",
]

ABSENT = [
    "/.cache/",
    "/.npm/",
    "/root/",
    "/home/",
    "/tmp/",
    "/usr/local/",
    "/var/cache/",
    "/direct_url.json",
    "/bin/pip",
    "/site-packages/wheel/",
    "/node_modules/.cache/",
    "/requirements.local.txt",
    ".map",
    ".pyx",
]

CONFFILES = [
    "/etc/default/jupyterhub",
    "/etc/jupyterhub/jupyterhub_config.py",
    "/etc/needrestart/conf.d/jupyterhub.conf",
    "/etc/profile.d/jupyterhub.sh",
    "/etc/pam.d/jupyterhub",
    "/etc/pam.d/jupyterhub-sudospawner",
    "/etc/sudoers.d/jupyterhub",
]

VERSIONS = [
    "jupyterhub-6.1.1",
    "jupyterlab-4.6.6",
    "notebook-7.6.5",
    "sudospawner-1.0.0",
    "pamela-1.2.0",
    "ipywidgets-",
    "pip-26.3",
    "debianized_jupyterhub-",
]

# Upper bounds in bytes, by the extras that the package was built with.
SIZES = {"none": 60_000_000, "default": 100_000_000}
DEFAULT_EXTRAS = ["numpy-", "pandas-", "matplotlib-", "ipympl-"]


@pytest.mark.parametrize("path", PRESENT)
def test_present(package, path):
    assert package.has(path)


@pytest.mark.parametrize("part", ABSENT)
def test_absent(package, part):
    """Parts that end in a slash or hold one are looked for anywhere in a path, others at its end."""
    hits = [path for path, entry in package.entries.items() if (part in f"{path}/" if "/" in part else path.endswith(part) and entry.kind == "f")]
    assert not hits[:5]


@pytest.mark.parametrize("path", CONFFILES)
def test_conffile(package, path):
    assert path in package.conffiles


def test_everything_in_etc_is_a_conffile(package):
    in_etc = {path for path, entry in package.entries.items() if path.startswith("/etc/") and entry.kind != "d"}
    assert in_etc == set(package.conffiles)


@pytest.mark.parametrize("name", VERSIONS + DEFAULT_EXTRAS)
def test_bundled_version(package, name):
    site = f"{VENV}/lib/{package.python}/site-packages/"
    hits = [path for path in package.entries if path.startswith(site + name) and path.endswith(".dist-info")]
    assert len(hits) == 1
    assert name.endswith("-") or hits[0] == f"{site}{name}.dist-info"


def test_all_belongs_to_root(package):
    assert {entry.owner for entry in package.entries.values()} == {"root:root"}


def test_nothing_is_writable_by_others(package):
    assert [path for path, entry in package.entries.items() if entry.kind != "l" and entry.mode & 0o022] == []


def test_nothing_is_setuid(package):
    assert [path for path, entry in package.entries.items() if entry.mode & 0o6000] == []


@pytest.mark.parametrize(
    "path, mode",
    [
        ("/etc/jupyterhub", 0o750),
        ("/etc/jupyterhub/jupyterhub_config.d", 0o750),
        ("/etc/jupyterhub/jupyterhub_config.py", 0o640),
        ("/etc/sudoers.d/jupyterhub", 0o440),
        ("/etc/default/jupyterhub", 0o644),
        ("/usr/bin/jupyterhub-packages", 0o755),
        ("/usr/sbin/jupyterhub-launcher", 0o755),
        ("/usr/libexec/jupyterhub/spawner-gate", 0o755),
    ],
)
def test_mode(package, path, mode):
    assert oct(package.entries[path].mode) == oct(mode)


def test_links_lead_somewhere(package):
    """Relative and absolute links below our folders; only Python itself is another package's."""

    def target(path, entry):
        return os.path.normpath(os.path.join(os.path.dirname(path), entry.target))

    links = {path: target(path, entry) for path, entry in package.entries.items() if entry.kind == "l"}
    dangling = {path: to for path, to in links.items() if to not in package.entries and not to.startswith("/usr/bin/python3")}
    assert not dangling


def test_every_module_is_compiled(package):
    """A missing .pyc costs every server's start; one that looks at times is stale once dpkg has set them."""
    site = f"{VENV}/lib/{package.python}/site-packages/"
    tag = package.python.replace("python3.", "cpython-3")
    missing = []
    for path in package.entries:
        if path.startswith(site) and path.endswith(".py"):
            folder, _, name = path.rpartition("/")
            if f"{folder}/__pycache__/{name[:-3]}.{tag}.pyc" not in package.entries:
                missing.append(path)
    assert not missing[:5], len(missing)
    flags = {int.from_bytes(head[4:8], "little") for path, head in package.head.items() if path.endswith(".pyc")}
    assert flags == {0b01}  # PEP 552: hash-based, unchecked


def test_no_build_path_leaks(package):
    assert package.leaks == []


def test_size(package):
    limit = SIZES.get(os.environ.get("EXTRAS") or "default")
    if not limit:
        pytest.skip("no bound for these extras")
    assert package.file.stat().st_size <= limit
