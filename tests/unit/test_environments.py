"""What jupyterhub-ctl environment does before and after uv: ctl/environment.py, ctl/environment_build.py, environments.py."""

import io
import json
import stat
import tarfile

import pytest
from click import testing

from debianized_jupyterhub import environments
from debianized_jupyterhub.ctl import checked_tar, environment, environment_archive, environment_build, uv
from debianized_jupyterhub.ctl.common import BadArchive


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty folder (Path) of environments."""
    for module in (environments, uv):
        monkeypatch.setattr(module, "ROOT", tmp_path / "environments")
    for module in (environments, environment):
        monkeypatch.setattr(module, "KERNELS", tmp_path / "kernels")
    monkeypatch.setattr(uv, "require_root", lambda: None)
    monkeypatch.setattr(environments, "ENVIRONMENTS", str(tmp_path / "environments"))
    monkeypatch.setattr(environment, "require_root", lambda: None)
    return tmp_path / "environments"


def test_nobody_else_can_hold_the_lock(root):
    with environment._at_work():
        assert stat.S_IMODE((root / ".lock").stat().st_mode) == 0o600


def test_no_password_is_in_the_lock_that_users_can_read(tmp_path):
    """Nor in the backup's. uv writes those of addresses into its lock; an option may be indented, or go over two lines."""
    file = tmp_path / "lock.txt"
    file.write_text(
        "# --hash= of https://u:secret@host\n--index-url \\\n    https://u:secret@host/simple\n  --extra-index-url https://u:secret@host\n"
        "answer @ https://u:secret@host/a@1/answer-1.0.whl \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n    # via x\nextra==1.0 --hash=sha256:3\n"
    )
    lock = environment_build.lock_text([file, file])
    assert lock == "answer @ https://host/a@1/answer-1.0.whl \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\nextra==1.0 --hash=sha256:3\n"


def made(root, *numbers):
    """Return an environment with these revisions, the last of which is current."""
    it = environments.Environment("work")
    for number in numbers:
        (root / f"work/{number}").mkdir(parents=True)
        (root / f"work/{number}" / environments.RECORD).write_text("{}")
    it.switch(it.revisions()[-1])
    return it


@pytest.mark.parametrize(
    "keep, gone, said",
    [(3, [], "revision 1 is kept for `rollback`"), (2, [2], "revision 1 is kept for `rollback`; removed: 2"), (1, [1, 2, 3], "removed: 1, 2, 3")],
)
def test_revision_before_is_kept_for_rollback(root, keep, gone, said):
    """Revision 1 was gone back to from 3, which is no good; then 4 was made: it is 1 that the way back leads to."""
    it = made(root, 1, 2, 3, 4)
    before = it.revisions()[0]
    pruned = it.prune(keep, before)
    assert [revision.number for revision in pruned] == gone
    assert environment._rest(before, pruned) == said


@pytest.mark.parametrize(
    "asked, arguments, is_new",
    [("answer<3\n", [], False), ("answer<3\n", ["FILE"], False), ("answer\n", ["FILE"], True), ("answer<3\n", ["--python", "/usr/bin/python3"], True)],
)
def test_upgrade_to_the_same_packages(root, tmp_path, monkeypatch, asked, arguments, is_new):
    """What was asked for by another file, or another interpreter, holds from then on, also where nothing else changes today."""
    it = made(root, 1)
    revision = it.current.folder
    (revision / environments.RECORD).write_text(json.dumps({"python": "3.13.5", "interpreter": None, "input": "requirements.txt"}))
    (revision / "lock.txt").write_text("answer==2.0 --hash=sha256:1\n")
    (revision / "input").mkdir()
    (revision / "input/requirements.txt").write_text("answer<3\n")
    (tmp_path / "requirements.txt").write_text(asked)
    told = []
    monkeypatch.setattr(environment, "build", lambda *given: told.append(given[3]("answer==2.0 --hash=sha256:1\n")))
    monkeypatch.setattr(environment, "version_of", lambda python: "3.13.5")
    monkeypatch.setattr(environment.uv, "bound_cache", lambda: None)
    command = ["upgrade", "work", *(each.replace("FILE", str(tmp_path / "requirements.txt")) for each in arguments)]
    done = testing.CliRunner().invoke(environment.environment, command)
    assert (done.exit_code, told) == (0, [is_new]), done.output


def test_upgrade_with_a_bad_setting_changes_nothing(root, monkeypatch):
    made(root, 1)
    monkeypatch.setattr(environment, "default_setting", lambda *_: "all")
    monkeypatch.setattr(environment, "build", lambda *_: pytest.fail("it has begun"))
    done = testing.CliRunner().invoke(environment.environment, ["upgrade", "work"])
    assert done.exit_code == 1 and "JUPYTERHUB_ENVIRONMENT_REVISIONS=all in " in done.output


@pytest.mark.parametrize("numbers", [(), (1,)])
def test_switch_that_was_cut_off_leaves_nothing(root, numbers):
    """Else the name of a first revision could never be used again."""
    (root / "work/2").mkdir(parents=True)
    if numbers:
        made(root, *numbers).offer()
    (root / "work/.current.new").symlink_to("2")
    with environment._at_work():
        assert sorted(path.name for path in root.glob("work/*")) == (["1", "current"] if numbers else [])
        assert (root / "work").exists() == bool(numbers)


@pytest.mark.parametrize(
    "text, other",
    [
        ("-r base.txt\n", "base.txt"),
        ("answer\n  --constraint=more/versions.txt\n", "more/versions.txt"),
        ("-r /srv/base.txt\n-c https://host/c\n--requirement=/b\nanswer-c\n", None),
    ],
)
def test_upgrade_of_a_file_that_names_others(root, monkeypatch, text, other):
    """They are not beside the copy that is kept."""
    revision = made(root, 1).current.folder
    (revision / environments.RECORD).write_text(json.dumps({"python": "3.13.5", "interpreter": None, "input": "requirements.txt"}))
    (revision / "input").mkdir()
    (revision / "input/requirements.txt").write_text(text)
    begun = []
    monkeypatch.setattr(environment, "build", lambda *_: begun.append(True))
    monkeypatch.setattr(environment, "version_of", lambda python: "3.13.5")
    monkeypatch.setattr(environment.uv, "bound_cache", lambda: None)
    done = testing.CliRunner().invoke(environment.environment, ["upgrade", "work"])
    assert (done.exit_code, bool(begun)) == ((1, False) if other else (0, True)), done.output
    assert f"that names {other}, which is not kept: `jupyterhub-ctl environment upgrade work FILE`" in done.output or not other


@pytest.mark.parametrize(
    "about, missing", [({}, "architecture"), (dict.fromkeys([*environment_archive.SOURCE, "python", "suite", "architecture"], "x"), "lock.txt")]
)
def test_manifest_of_an_archive_that_lacks_something(tmp_path, about, missing):
    manifest = json.dumps({"format": checked_tar.FORMAT, "files": {}, **about}).encode()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        entry = tarfile.TarInfo(checked_tar.MANIFEST)
        entry.size = len(manifest)
        archive.addfile(entry, io.BytesIO(manifest))
    with pytest.raises(BadArchive, match=rf"a.tar is damaged, or no archive of an environment \({missing} is missing in its manifest\)"):
        environment_archive.unpack(tmp_path / "a.tar", tmp_path)


@pytest.mark.parametrize("interpreter, option", [(None, ""), ("/opt/python 3.11/bin/python3", " --python '/opt/python 3.11/bin/python3'")])
def test_note_has_the_command_that_makes_it_again(root, tmp_path, monkeypatch, interpreter, option):
    """With its interpreter: the wheels of its lock are for that one's version."""
    monkeypatch.setattr(environments, "CONFIG", str(tmp_path))
    it = made(root, 1)
    it.folder.chmod(0o755)
    (it.current.folder / environments.RECORD).write_text(json.dumps({"python": "3.11.2", "interpreter": interpreter}))
    (it.current.folder / "lock.txt").write_text("answer==1.0 --hash=sha256:1\n")
    it.write_note()
    it.current_link.unlink()
    assert environments.missing() == [("work", f"jupyterhub-ctl environment add work {tmp_path}/environments/work.txt{option}")]
