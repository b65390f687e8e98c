"""Dockerfile.build and Dockerfile.run, built and run by Debian's Buildah: no daemon, and no registry of images.

Buildah lives in a root of its own in the cache, so that it need not be on the host. Its base image is made by mmdebstrap.
"""

import contextlib
import datetime
import hashlib
import json
import os
import pathlib
import resource
import shutil
import subprocess

import harness
import pytest
from hubclient import Hub

pytestmark = pytest.mark.slow("builds the package once more")
TOP = pathlib.Path(__file__).resolve().parents[2]
BUILDAH = "buildah,ca-certificates,netavark"  # which looks for netavark even where it sets up no network
# The kernel's limits may forbid containers, but not this: see engine_build in build.sh.
CHROOT = "--isolation=chroot"
# What a host may have to say about mirrors and proxies.
SETTINGS = ("etc/resolv.conf", "etc/hosts", "etc/pip.conf", "root/.npmrc", "root/.config/pip/pip.conf")
# A folder would lose its owners.
IMPORT = """
    tar -C /base --numeric-owner -cf /var/lib/containers/base.tar .
    container=$(buildah from scratch)
    buildah add -q "$container" /var/lib/containers/base.tar /
    buildah commit -q --rm "$container" "$1"
"""
ENTER = 'root=$1; shift; mount -t proc proc "$root/proc"; exec chroot "$root" "$@"'


class Builder:
    """A Debian with Buildah in the root `root` (Path), and the sources in /tree; images and cache end with it."""

    def __init__(self, root):
        self.root = root
        authorities = os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt"
        for source, target in [(authorities, "etc/ssl/certs/ca-certificates.crt"), *((f"/{name}", name) for name in SETTINGS)]:
            with contextlib.suppress(FileNotFoundError):
                (root / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, root / target)
        # Its defaults are above what a host without CAP_SYS_RESOURCE lets it set.
        limits = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
        ours = [f"{name}={soft}:{hard}" for name, (soft, hard) in zip(limits, map(resource.getrlimit, limits.values()), strict=True)]
        (root / "etc/containers/containers.conf").write_text(f"[containers]\ndefault_ulimits = {json.dumps(ours)}\n")
        shutil.copytree(TOP, root / "tree", ignore=shutil.ignore_patterns(".git", "dist", "__pycache__", ".ruff_cache"))
        own = {"HOME": "/root", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt", "LANG": "C.UTF-8"}
        others = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy") or name.startswith("PIP_")}
        self._environment = {**others, **own}

    def start(self, *argv, stdout=subprocess.PIPE):
        """Start a command in the root (subprocess.Popen), its messages to `stdout` (a file); it and all of its children end when it is killed."""
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", f"cd /; {ENTER}", "sh", str(self.root), *argv]
        return subprocess.Popen(command, env=self._environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.STDOUT, text=True)

    def run(self, *argv, check=True):
        """Run a command in the root; return (exit code, what it said); raise AssertionError with the end of that if it fails."""
        process = self.start(*argv)
        said, _ = process.communicate()
        assert not check or process.returncode == 0, f"exit code {process.returncode}: {' '.join(argv)}\n{said[-5000:]}"
        return process.returncode, said.strip()


@pytest.fixture(scope="module")
def builder(site, suite, say):
    def buildah(root):
        harness.mmdebstrap(root, "trixie", f"--include={BUILDAH}")

    def base(root):
        components = ["--components=main,universe"] if suite[0].startswith("ubuntu:") else []
        harness.mmdebstrap(root, suite[0].partition(":")[2], "--include=apt", *components)

    week = datetime.date.today().strftime("%G-%V")
    roots = harness.CACHE / "roots"
    buildah_root = harness.cached(
        roots / f"buildah-{week}.{hashlib.sha256(BUILDAH.encode()).hexdigest()[:8]}", "making a root with Debian's Buildah", buildah, say
    )
    base_root = harness.cached(roots / f"image-{suite[0].replace(':', '.')}-{week}", f"making the base image of {suite[0]}", base, say)
    directory = site.directory / "docker-files"
    for sub in ("upper", "containers"):
        (directory / sub).mkdir(parents=True)
    with harness.overlay(directory, [buildah_root], directory / "upper") as root:
        for sub in ("var/lib/containers", "base"):
            (root / sub).mkdir(parents=True, exist_ok=True)
        # Its layers are overlays again, and those lie on no overlay.
        subprocess.run(["mount", "--bind", directory / "containers", root / "var/lib/containers"], check=True)
        subprocess.run(["mount", "--bind", "-o", "ro", base_root, root / "base"], check=True)
        for name in ("dev", "sys"):
            subprocess.run(["mount", "--rbind", "--make-rslave", f"/{name}", root / name], check=True)
        builder = Builder(root)
        # As build.sh names the one that it makes where no registry answers.
        builder.image = f"localhost/debianized-jupyterhub-base:{suite[0].replace(':', '-')}-{week}"
        builder.run("sh", "-euc", IMPORT, "sh", builder.image)
        yield builder
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def package(builder, suite, say):
    """The .deb that Dockerfile.build makes (path in the builder); of all kinds the smallest."""
    say("building with Dockerfile.build")
    builder.run("/tree/build.sh", suite[0], "--engine", "buildah", "--extras", "none")
    (deb,) = (builder.root / "tree/dist").glob("jupyterhub_*.deb")
    return deb


@pytest.fixture(scope="module")
def image(builder, package, suite):
    """The name of the image that Dockerfile.run makes, by the command in its head but for the engine."""
    arguments = {"BASE": builder.image, "SUFFIX": suite[1], "USER_NAME": "dora", "USER_UID": "1234", "USER_GID": "1234"}
    options = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    builder.run("buildah", "bud", "-q", CHROOT, "-f", "/tree/Dockerfile.run", *options, "-t", "jupyterhub", "/tree")
    return "localhost/jupyterhub"


@pytest.fixture(scope="module")
def command(builder, image):
    """What starts a container of the image, without its command: a working container, and the image's entry point in it."""
    _, config = builder.run("buildah", "inspect", "--type", "image", image)
    builder.run("buildah", "from", "-q", "--name", "hub", image)
    # Other engines write the container's name into its /etc/hosts; Buildah, made for steps of a build, does not.
    return ["buildah", "run", CHROOT, "--hostname=localhost", "hub", "--", *json.loads(config)["OCIv1"]["config"]["Entrypoint"]]


def test_dockerfile_build(package):
    """A whole package, with what lies beside it."""
    beside = {path.name.removeprefix(package.stem) for path in package.parent.glob(f"{package.stem}*")}
    assert beside == {".deb", ".changes", ".build", ".buildinfo", ".cdx.json"}
    said = subprocess.run(["dpkg-deb", "--contents", package], check=True, capture_output=True, text=True).stdout
    assert "./usr/sbin/jupyterhub-launcher" in said


def test_no_password_no_hub(builder, command):
    # Buildah may end before it has passed on the last words of a command: let that one not be the last.
    end = command.index("--") + 1
    code, said = builder.run(
        *command[:end], "sh", "-c", '"$@"; code=$?; sleep 2; exit $code', "sh", *command[end:], "/usr/sbin/jupyterhub-launcher", check=False
    )
    assert code != 0
    assert "run-in-image: no password for dora: give -e JUPYTERHUB_PASSWORD" in said


def test_dockerfile_run(builder, command, tmp_path):
    """dora logs in and runs a cell; her account is that of the build arguments."""
    hub, log = Hub(), tmp_path / "log"
    entry = command.index("hub")
    start = [*command[:entry], "--env=JUPYTERHUB_PASSWORD=s3cret words", *command[entry:], "/usr/sbin/jupyterhub-launcher"]
    with harness.loopback(), open(log, "w") as stdout:
        process = builder.start(*start, stdout=stdout)
        try:
            harness.wait_for(lambda: process.poll() is not None or hub.answers(), "the hub answers", timeout=90, every=0.5)
            assert process.poll() is None, "the hub ended"
            dora = hub.login("dora", "s3cret words")
            assert dora.run_cell("import os; print(os.getuid(), os.getgid(), os.getcwd())") == "1234 1234 /home/dora"
            dora.stop()
        except BaseException:
            print(log.read_text()[-5000:])
            raise
        finally:
            process.kill()
            process.wait()
