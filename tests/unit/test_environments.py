"""What jupyterhub-ctl environment does before and after uv: ctl/environment.py, ctl/environment_build.py, environments.py."""

import stat

import pytest

from debianized_jupyterhub import environments
from debianized_jupyterhub.ctl import environment, environment_build


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty folder (Path) of environments."""
    for module in (environments, environment):
        monkeypatch.setattr(module, "ROOT", tmp_path / "environments")
        monkeypatch.setattr(module, "KERNELS", tmp_path / "kernels")
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
