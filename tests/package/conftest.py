"""The .deb files, each read once."""

import collections
import io
import re
import subprocess
import tarfile

import pytest

Entry = collections.namedtuple("Entry", "kind mode owner size target")
METADATA = ("/RECORD", "/METADATA", "/package.json", "/third-party-licenses.json")  # what the bundled components say of themselves
BUILD_FOLDER = re.compile(rb"(?<![\w.-])/build/jupyterhub\b")  # build.sh and Dockerfile.build build there


class Package:
    """Contents and control information of a .deb; paths begin with /."""

    def __init__(self, file):
        self.file = file
        self.entries, self.head, self.leaks = {}, {}, []
        self._read_files()
        self.control = self._read_control()
        self.conffiles = self.control.get("conffiles", "").split()

    def _read_files(self):
        process = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", self.file], stdout=subprocess.PIPE)
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            for member in tar:
                path = member.name.removeprefix(".").rstrip("/") or "/"
                kind = "d" if member.isdir() else "l" if member.issym() else "f"
                self.entries[path] = Entry(kind, member.mode, f"{member.uname}:{member.gname}", member.size, member.linkname)
                if member.isfile():
                    content = tar.extractfile(member).read()
                    if not path.startswith("/opt/") or path.endswith((".pyc", *METADATA)):
                        self.head[path] = content[:16] if path.endswith(".pyc") else content
                    if b"/build/jupyterhub" in content and BUILD_FOLDER.search(content):  # the former is quick, and all of it is read
                        self.leaks.append(path)
        assert process.wait() == 0

    def _read_control(self):
        data = subprocess.run(["dpkg-deb", "--ctrl-tarfile", self.file], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return {member.name.removeprefix("./"): tar.extractfile(member).read().decode() for member in tar if member.isfile()}

    def has(self, path):
        return path in self.entries

    def field(self, name):
        found = re.search(rf"(?m)^{name}: (.*(?:\n .*)*)", self.control["control"])
        return found.group(1) if found else ""

    @property
    def depends(self):
        """Alternatives and versions as they stand, one string for each dependency."""
        return [part.strip() for part in self.field("Depends").split(",")]

    @property
    def python(self):
        """Name of the Python it is for, e.g. python3.13."""
        (name,) = [part for part in self.depends if re.fullmatch(r"python3\.\d+", part)]
        return name


@pytest.fixture(scope="session")
def package(deb):
    return Package(deb)


@pytest.fixture(scope="session")
def node(node_deb):
    return Package(node_deb)


@pytest.fixture(params=["package", "node"])
def either(request):
    """Each of the two, for what is true of both."""
    return request.getfixturevalue(request.param)
