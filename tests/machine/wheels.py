"""Small packages, made by the tests, and the folders of a machine from which pip and R take them: there is no other index."""

import base64
import hashlib
import io
import pathlib
import subprocess
import tempfile
import zipfile

import harness

UV_LOCK = pathlib.Path(__file__).resolve().parents[2] / "src/environments/uv.txt"
INDEX = "/srv/index"
R_INDEX = "/srv/r"
R_PACKAGE = {
    "DESCRIPTION": "Package: answer\nVersion: 1.0\nTitle: Answer\nDescription: An answer.\nAuthor: A\nMaintainer: A <a@example.org>\nLicense: GPL-3\n",
    "NAMESPACE": "export(answer)\n",
    "R/answer.R": "answer <- function() 6 * 7\n",
}
PIP_CONF = f"[global]\nno-index = true\nfind-links = {INDEX}\n"


def wheel(name, version, files, requires=()):
    """Return a wheel (bytes) of the package `name` with the files (dict: path, text) that needs others (list of str)."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(f"Requires-Dist: {need}\n" for need in requires)
    texts = {**files, f"{info}/METADATA": metadata, f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    record = ""
    for path, text in texts.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for path, text in {**texts, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            zipped.writestr(path, text)
    return archive.getvalue()


def for_environments(deb, names, say):
    """Return a folder (Path) of the host with uv, and the wheels of `names` (str) and all that they need, for the Python of `deb` (Path)."""
    python = harness.python_of(deb)

    def make(new):
        pip = ["python3", "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", str(new)]
        platforms = [f"--platform=manylinux{name}_x86_64" for name in ("_2_28", "_2_17", "2014", "_2_12", "1")]
        subprocess.run([*pip, "--no-deps", "--require-hashes", "--requirement", str(UV_LOCK)], check=True)
        subprocess.run([*pip, f"--python-version={python}", *platforms, *names], check=True)

    key = hashlib.sha256(UV_LOCK.read_bytes() + " ".join(names).encode()).hexdigest()[:12]
    return harness.cached(harness.CACHE / "roots" / f"environments-{python}-{key}", f"fetching uv and {' '.join(names)}", make, say)


def offer(machine, name, version, files, requires=()):
    """Put a package into the machine's index, which /etc/pip.conf then names for all accounts."""
    machine.sh(f"mkdir -p {INDEX}")
    machine.write("/etc/pip.conf", PIP_CONF)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / f"{name}-{version}-py3-none-any.whl"
        file.write_bytes(wheel(name, version, files, requires))
        machine.push(file, INDEX)


def offer_to_r(machine):
    """Put the source of the package `answer` into an index for R; return the index's address."""
    for name, text in R_PACKAGE.items():
        machine.write(f"{R_INDEX}/answer/{name}", text)
    machine.write(f"{R_INDEX}/src/contrib/PACKAGES", "Package: answer\nVersion: 1.0\n")
    machine.sh(f"cd {R_INDEX}; tar czf src/contrib/answer_1.0.tar.gz answer")
    return f"file://{R_INDEX}"
