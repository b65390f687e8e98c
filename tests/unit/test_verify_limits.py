"""Checks of `jupyterhub-ctl verify` end in their time, and one that hangs hides no other; which settings of notebook servers have no effect by their place."""

import pathlib
import subprocess
import threading
import time

import pytest

from debianized_jupyterhub import server_settings
from debianized_jupyterhub.ctl.verify import check


def test_what_is_quick_is_as_if_called():
    assert check.within(5, lambda: 42) == 42
    with pytest.raises(KeyError, match="gone"):
        check.within(5, lambda: {}["gone"])


def test_what_hangs_is_left_alone():
    never = threading.Event()
    with pytest.raises(TimeoutError, match=r"not done after 0 s"):
        check.within(0.1, never.wait)
    never.set()


def hangs():
    threading.Event().wait()
    yield "never said"


def test_a_check_that_hangs_hides_no_other(monkeypatch):
    """It is an error, what builds on it is skipped, and the others are done."""
    monkeypatch.setattr(check, "ALL", 20)
    checks = [check.Check("slow", hangs, (), 0.1), check.Check("above", list, ("slow",)), check.Check("other", list)]
    assert [(result.name, result.status) for result in check.run(checks)] == [("slow", "error"), ("above", "skipped"), ("other", "passed")]


def test_all_checks_together_have_a_time(monkeypatch):
    monkeypatch.setattr(check, "ALL", 0.3)
    started = time.monotonic()
    assert {result.status for result in check.run([check.Check(name, hangs, (), 60) for name in "abcd"])} == {"error"}
    assert time.monotonic() - started < 30


def test_children_of_what_hangs_end():
    with pytest.raises(TimeoutError):
        check.within(0.3, lambda: subprocess.run(["sleep", "1000"], check=False))
    child = subprocess.Popen(["sleep", "1000"])
    check.end_children()
    assert child.wait(10) == -9


@pytest.mark.parametrize(
    "name, guess",
    [("jupyter_server_conf.py", "jupyter_server_config.py"), ("jupyter_notebok_config.json", "jupyter_notebook_config.json")],
)
def test_file_that_nothing_reads(tmp_path, name, guess):
    for known in ("jupyter_server_config.py", "jupyter_nbconvert_config.py", "jupyterhub_config.py", "README", name):
        (tmp_path / known).write_text("")
    (found,) = server_settings._misnamed(tmp_path)
    assert found.file.endswith(name) and guess in found.mend and found.spoils


def test_what_others_than_root_can_change(tmp_path):
    (tmp_path / "labconfig").mkdir(mode=0o755)
    (tmp_path / "page.json").write_text("{}")
    (tmp_path / "labconfig").chmod(0o777)
    assert server_settings.open_to_others((str(tmp_path),)) == [str(tmp_path / "labconfig")]
    assert server_settings.open_to_others((str(pathlib.Path("/nowhere")),)) == []
