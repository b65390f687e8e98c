"""The signed repository, made by one command: apt installs and upgrades from it, and refuses what is not what was signed."""

import collections
import functools
import http.server
import pathlib
import re
import shutil
import subprocess
import threading

import harness
import pytest
from hubclient import Hub, Prober

PACKAGES = ("faketime", "unattended-upgrades")
pytestmark = pytest.mark.slow("tools/make-repository seldom changes; what it asks of aptly and apt is theirs")

TOP = pathlib.Path(__file__).resolve().parents[2]
URL = "http://127.0.0.1:8088"
VERSION = "dpkg-query -W -f '${Version}' jupyterhub"

Repository = collections.namedtuple("Repository", "folder codename publish dist")


asked = []  # paths


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; notes what was asked for."""

    def log_message(self, *_):
        asked.append(self.path)


@pytest.fixture(scope="module")
def repository(suite, bare_machine, build_sh, tmp_path_factory):
    """A repository made of the package, served to the machine; `publish(*options)` makes it anew from `dist`."""
    folder = tmp_path_factory.mktemp("repository")

    def publish(*options):
        return build_sh("--repository", folder, "--url", URL, *options)

    assert f"made a key to sign with, in {build_sh.config}/debianized-jupyterhub/signing-key" in publish()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 8088), functools.partial(Handler, directory=folder / "public")) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield Repository(folder / "public", suite[0].split(":")[1], publish, build_sh.tree / "dist")
        web.shutdown()


@pytest.fixture(scope="module")
def server(bare_machine, repository):
    """A server that was given the two files that docs/repository.md names."""
    bare_machine.add_user("alice")
    bare_machine.push(repository.folder / f"jupyterhub-{repository.codename}.sources", "/etc/apt/sources.list.d")
    bare_machine.push(TOP / "docs/examples/jupyterhub.pref", "/etc/apt/preferences.d")
    bare_machine.push(TOP / "docs/examples/52unattended-upgrades-jupyterhub", "/etc/apt/apt.conf.d")
    return bare_machine


@pytest.fixture(scope="module")
def alice(server):
    hub = Hub()
    harness.wait_for(hub.answers, "the hub answers", timeout=20, every=0.2)
    user = hub.login("alice", "secret")
    user.spawn()
    return user


@pytest.fixture(scope="module")
def kernel(alice):
    kernel = alice.kernel()
    kernel.execute("held = 42")
    return kernel


def update(machine, *before, check=True):
    """Read our repository's lists alone: the machine has no way to Debian's."""
    sources = machine.sh("echo /etc/apt/sources.list.d/jupyterhub-*.sources")
    ours = ("-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=-", "-o", "APT::Get::List-Cleanup=0")
    result = machine.run(*before, "apt-get", *ours, "-o", "APT::Update::Error-Mode=any", "update", check=check)
    return result.stdout + result.stderr


def next_version(repository, deb, tmp_path):
    """Put the package with a higher version in place of the one in dist/, and publish it; return the version."""
    (old,) = repository.dist.glob("*.deb")
    number, suffix = re.fullmatch(r".*\.(\d+)(\+.*)", old.name.split("_")[1]).groups()
    version = re.sub(r"\d+\+.*", f"{int(number) + 1}{suffix}", old.name.split("_")[1])
    shutil.move(harness.with_version(deb, version, tmp_path), repository.dist)
    old.unlink()
    repository.publish()
    return version


def test_key_is_for_its_owner_alone(repository, build_sh):
    key = build_sh.config / "debianized-jupyterhub/signing-key"
    assert key.stat().st_mode & 0o777 == 0o700


def test_lists_are_fetched_by_hash(server, repository):
    """A client that is just reading the lists while they are made anew gets those that belong together."""
    assert "Acquire-By-Hash: yes" in (repository.folder / f"dists/{repository.codename}/InRelease").read_text()
    update(server)
    assert any("/by-hash/SHA256/" in path or "/by-hash/SHA512/" in path for path in asked), asked


def test_apt_prefers_it_to_debians_own(server, deb):
    policy = server.sh("apt-cache policy jupyterhub")
    assert f"Candidate: {deb.name.split('_')[1]}\n" in policy
    assert re.search(rf"{re.escape(deb.name.split('_')[1])} 900\n +500 {URL} ", policy), policy
    assert re.search(r"\d 500\n +500 ", policy), "Debian's own jupyterhub is not in the lists"


def test_apt_update_and_install(server, deb):
    """As a person types it: what Debian's own mirrors would have, is in apt's lists and cache."""
    server.sh("apt-get update && apt-get -qq -y install jupyterhub", timeout=300)
    assert server.sh(VERSION) == deb.name.split("_")[1]


def test_apt_upgrade_keeps_running_notebooks(server, repository, deb, alice, kernel, tmp_path):
    version = next_version(repository, deb, tmp_path)
    with Prober(alice, f"{alice.prefix}api/status") as notebook:
        update(server)
        server.sh("apt-get -qq -y upgrade", timeout=300)
    assert server.sh(VERSION) == version
    assert notebook.failures == []
    assert kernel.execute("held") == "42"


def test_unattended_upgrade(server, repository, deb, alice, kernel, tmp_path):
    version = next_version(repository, deb, tmp_path)
    update(server)
    server.run("unattended-upgrade", timeout=300)
    assert server.sh(VERSION) == version
    assert kernel.execute("held") == "42"


def test_a_higher_version_of_debian_does_not_win(server, tmp_path):
    """A package of Debian's name with a version that no release of ours will reach."""
    root = tmp_path / "jupyterhub"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text("Package: jupyterhub\nVersion: 99\nArchitecture: all\nMaintainer: Debian\nDescription: Debian's\n")
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", root, tmp_path / "debians.deb"], check=True, stdout=subprocess.DEVNULL)
    server.push(tmp_path / "debians.deb", "/srv")
    server.sh("cd /srv && { dpkg-deb -f debians.deb; echo Filename: ./debians.deb; echo Size: $(stat -c %s debians.deb); } >Packages")
    server.write("/etc/apt/sources.list.d/debians.list", "deb [trusted=yes] file:/srv ./\n")
    server.sh("apt-get update")
    before = server.sh(VERSION)
    assert " 99 500" in server.sh("apt-cache policy jupyterhub")
    server.sh("apt-get -qq -y upgrade", timeout=300)
    assert server.sh(VERSION) == before
    server.sh("rm /etc/apt/sources.list.d/debians.list; apt-get update")


def test_tampered_package_is_refused(server, repository):
    version = server.sh(VERSION)
    (file,) = repository.folder.glob(f"pool/main/j/jupyterhub/jupyterhub_{version}_*.deb")
    content = file.read_bytes()
    file.rename(file.with_suffix(".away"))  # aptly's pool has the same file
    file.write_bytes(content[:-1000] + bytes(1000))
    server.sh("apt-get clean")
    result = server.run("apt-get", "-y", "--reinstall", "install", "jupyterhub", check=False, timeout=300)
    assert result.returncode == 100
    assert "Hash Sum mismatch" in result.stderr
    file.with_suffix(".away").rename(file)


def inrelease(repository):
    return repository.folder / f"dists/{repository.codename}/InRelease"


def test_tampered_list_is_refused(server, repository):
    file = inrelease(repository)
    content = file.read_text()
    file.write_text(content.replace("Label: jupyterhub", "Label: someone else's"))
    said = update(server, check=False)
    assert re.search(r"(BADSIG|manipulated)", said), said
    file.write_text(content)


def test_unsigned_repository_is_refused(server, repository):
    file = inrelease(repository)
    content = file.read_text()
    signature = file.with_name("Release.gpg")
    signature.rename(signature.with_suffix(".away"))
    file.unlink()
    assert re.search(r"E: The repository .* is (not|no longer) signed", update(server, check=False))
    signature.with_suffix(".away").rename(signature)
    file.write_text(content)


def test_anothers_key_is_refused(server, repository, tmp_path):
    gpg = ["gpg", "--batch", "--homedir", str(tmp_path), "--passphrase", "", "--pinentry-mode", "loopback", "--yes"]
    subprocess.run([*gpg, "--quick-generate-key", "Mallory", "ed25519", "sign", "never"], check=True, capture_output=True)
    file = inrelease(repository)
    content = file.read_text()
    subprocess.run([*gpg, "--output", file, "--clearsign", file.with_name("Release")], check=True, capture_output=True)
    subprocess.run(["gpgconf", "--homedir", tmp_path, "--kill", "gpg-agent"], check=True)
    said = update(server, check=False)
    assert re.search(r"(NO_PUBKEY|Missing key)", said), said
    file.write_text(content)


def test_expired_repository_is_refused(server, repository):
    """With --valid-for a repository that is no longer cared for, or an old copy of it, stops being believed."""
    repository.publish("--valid-for", "7")
    assert "E:" not in update(server)
    assert re.search(r"E: Release file .* is (expired|not valid)", update(server, "faketime", "+8 days", check=False))


def test_no_space_is_one_line_and_costs_nothing(build_sh, tmp_path):
    """On a file system of 10 MB; with room on it, the same command goes on."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "none", tmp_path], check=True)
    try:
        with pytest.raises(subprocess.CalledProcessError) as failure:
            build_sh("--repository", tmp_path / "repository")
        (line,) = failure.value.stderr.splitlines()
        assert "no space left on device" in line
        subprocess.run(["mount", "-o", "remount,size=1g", tmp_path], check=True)
        build_sh("--repository", tmp_path / "repository")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_same_version_with_another_content_is_refused(repository):
    (there,) = repository.dist.glob("*.deb")
    content = there.read_bytes()
    there.unlink()
    there.write_bytes(content + b"\n")
    with pytest.raises(subprocess.CalledProcessError) as failure:
        repository.publish()
    (line,) = failure.value.stderr.splitlines()
    assert "raise the version in debian/changelog" in line
