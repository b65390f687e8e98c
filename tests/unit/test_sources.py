"""The sources are in order: shell and Python are clean, the table of suites can be read."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]


def git_files():
    """Every file of the project that git has or would take, as paths below TOP."""
    command = ["git", "-c", f"safe.directory={TOP}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (TOP / name).is_file()]


def is_shell(name):
    """Does it say so in its first line, or is it one of debhelper's fragments?"""
    with open(TOP / name, "rb") as file:
        first = file.readline(80).decode(errors="replace")
    return first.startswith("#!") and ("sh\n" in first or "bash" in first)


def is_python(name):
    if name.endswith(".py"):
        return True
    with open(TOP / name, "rb") as file:
        first = file.readline(80)
    return first.startswith(b"#!") and b"python" in first


SHELL = [name for name in git_files() if is_shell(name)]


def check(*command):
    """Run a checker; what it complains about is the failure."""
    result = subprocess.run(command, cwd=TOP, check=False, capture_output=True, text=True)
    if result.returncode != 0:
        pytest.fail(result.stdout + result.stderr, pytrace=False)


@pytest.mark.parametrize("name", SHELL)
def test_shell_is_clean(name):
    # The modules of build.sh make sense with it only. Others source settings, whose variables are for other programs.
    check("shellcheck", "--external-sources", *(["--check-sourced"] if name == "build.sh" else []), name)


def test_shell_files_are_found():
    assert {"build.sh", "tests/run", ".ci/run"} <= set(SHELL)


def test_shell_has_one_format():
    """Its settings are in .editorconfig."""
    check("shfmt", "-d", *SHELL, *[name for name in git_files() if name.startswith("tools/build/")])


RUFF = (sys.executable, "-m", "ruff")  # its settings are in pyproject.toml, as codespell's are


def test_all_python_is_known_to_ruff():
    """Programs without .py in their names have to be listed in pyproject.toml."""
    known = subprocess.run([*RUFF, "check", "--show-files"], cwd=TOP, capture_output=True, text=True, check=True).stdout.splitlines()
    python = {str(TOP / name) for name in git_files() if is_python(name)}
    assert {str(TOP / name) for name in ("setup.py", "src/libexec/spawner-gate", "tests/machine/harness.py")} <= python
    assert python - set(known) == set()


def test_python_is_clean():
    check(*RUFF, "check", "--no-cache", "--output-format=concise")


def test_python_has_one_format():
    check(*RUFF, "format", "--no-cache", "--diff")


# The programs one by one: two of them are called as modules are that others import.
@pytest.mark.parametrize(
    "name", ["src/debianized_jupyterhub", *(name for name in git_files() if name.startswith("src/") and not name.endswith(".py") and is_python(name))]
)
def test_types_fit(name, cache):
    check(sys.executable, "-m", "mypy", "--cache-dir", cache.mkdir("mypy") / TOP.name, name)


def test_functions_are_short():
    """At most 40 lines; of how many branches, ruff has the say (C901)."""
    functions = (
        (file, node)
        for file in (TOP / "src/debianized_jupyterhub").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert not [f"{file.name}: {node.name}()" for file, node in functions if node.end_lineno - node.lineno >= 40]


def test_no_code_is_dead():
    """Of what the package contains or is made with: what only tests call is dead, too."""
    names = [name for name in git_files() if is_python(name) and not name.startswith(("docs/", "tests/"))]
    check(sys.executable, "-m", "vulture", *names)


def test_words_are_spelled_right():
    check(sys.executable, "-m", "codespell_lib")


PATCHES = [name for name in git_files() if name.startswith("debian/patches/") and name.endswith(".patch")]


def check_header(text):
    """Assert that a patch has the fields of debian/patches/README, in the form of DEP-3: name, colon, text, further lines of it with a blank first."""
    header = text[: text.index("\n--- ") + 1]
    assert re.fullmatch(r"([A-Z][A-Za-z-]*: \S.*\n( \S.*\n)*)+\n?", header), f"the header is not one of DEP-3:\n{header}"
    fields = {key: value.strip() for key, value in re.findall(r"(?m)^([A-Z][A-Za-z-]*): (.*\n(?: .*\n)*)", header)}
    assert {"Description", "Author", "Forwarded", "Last-Update"} <= fields.keys()
    assert "\n" in fields["Description"], "the Description is its first line only"
    assert re.fullmatch(r".+ <\S+@\S+>", fields["Author"])
    assert re.fullmatch(r"no|not-needed|https://\S+", fields["Forwarded"])
    assert fields["Forwarded"] != "no" or re.search(r"\n \.\n Not forwarded: \S+", fields["Description"]), "the reason is missing"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", fields["Last-Update"])


@pytest.mark.parametrize("name", PATCHES)
def test_patch_says_why_it_is_there(name):
    check_header((TOP / name).read_text())


@pytest.mark.parametrize(
    "old, new",
    [
        ("Description", "Reason"),
        ("Forwarded: no\n", ""),
        ("Forwarded: no\n", "Forwarded: soon\n"),
        ("Author", "Writer"),
        ("Last-Update: 20", "Last-Update: 2"),
        (" Not forwarded:", " Upstream:"),
        ("Description: ", "Some words\nDescription: "),
    ],
)
def test_patch_that_does_not_say_it_is_found(old, new):
    text = (TOP / "debian/patches/python/jupyter-server-nodelay.patch").read_text()
    assert old in text
    with pytest.raises(AssertionError):
        check_header(text.replace(old, new, 1))


def test_slow_tests_say_why():
    """tests/conftest.py refuses others when it has them all."""
    check(sys.executable, "-m", "pytest", "-c", "tests/pytest.ini", "--rootdir", "tests", "--collect-only", "-qqq", "tests")


def test_commands_that_name_a_slow_topic_ask_for_it():
    """Another one would test nothing."""
    slow = {file.name for file in (TOP / "tests/machine").glob("test_*.py") if re.search(r"^pytestmark = .*slow", file.read_text(), re.MULTILINE)}
    named = [
        (name, number, line)
        for name in git_files()
        if is_shell(name) or name.startswith("docs/")
        for number, line in enumerate((TOP / name).read_text(errors="replace").splitlines(), 1)
        if re.search(r"/run\b|pytest", line) and not line.startswith("<!--") and any(f"tests/machine/{topic}" in line for topic in slow)
    ]
    assert named
    assert [each for each in named if "--slow" not in each[2]] == []


def test_table_of_suites():
    """Four columns; each suite and suffix once; the npm lock exists; a newer suite of a distribution has a higher version."""
    rows = [line.split() for line in (TOP / "tools/suites").read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert all(len(row) == 4 for row in rows), rows
    for column in (0, 1):
        assert len({row[column] for row in rows}) == len(rows)
    for suite, suffix, lock, tested in rows:
        assert suite.split(":")[0] in ("debian", "ubuntu") and suffix.startswith("+") and tested in ("yes", "no")
        assert (TOP / "npm" / lock / "package-lock.json").is_file(), f"{suite} wants npm/{lock}"
    assert "debian:trixie" in [row[0] for row in rows if row[3] == "yes"]


def test_changelog_counts_up():
    """In the scheme of CONTRIBUTING.md: the version of JupyterHub that setup.py bundles, and a count."""
    released = re.findall(r"(?m)^jupyterhub \((\S+)\) unstable; urgency=", (TOP / "debian/changelog").read_text())
    assert released and all(re.fullmatch(r"\d+(\.\d+){3}", version) for version in released), released
    assert released == sorted(set(released), key=lambda version: [int(part) for part in version.split(".")], reverse=True)
    assert f'"jupyterhub=={released[0].rpartition(".")[0]}"' in (TOP / "setup.py").read_text()
    assert set(re.findall(r"(?m)^jupyterhub \((\S+)\)", (TOP / "debian/jupyterhub.NEWS").read_text())) <= set(released)


@pytest.mark.parametrize("older, newer", [("+deb12", "+deb13"), ("+ubuntu24.04", "+ubuntu26.04")])
def test_a_newer_suite_sorts_higher(older, newer):
    text = (TOP / "tools/suites").read_text()
    assert older in text and newer in text
    subprocess.run(["dpkg", "--compare-versions", f"6.1.1.1{older}", "lt", f"6.1.1.1{newer}"], check=True)


def test_no_archive_is_named():
    """Registries and mirrors are the site's business: no host name of one stands in the sources."""
    hosts = ["deb" + ".debian.org", "pypi" + ".org", "pythonhosted" + ".org", "npmjs" + ".org", "archive" + ".ubuntu.com"]
    found = [f"{name}: {host}" for name in git_files() for host in hosts if host in (TOP / name).read_text(errors="replace")]
    assert not found
