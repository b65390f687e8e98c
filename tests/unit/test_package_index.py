"""ctl/index.py, ctl/index_build.py: what a list of packages may have, and what a lock allows."""

import pytest

from debianized_jupyterhub.ctl import index, index_build
from debianized_jupyterhub.ctl.common import Failure


def test_list_is_read(tmp_path):
    (tmp_path / "list.txt").write_text("# what we use\npandas<3  # the old numbers\n\nscikit-learn[examples]>=1; python_version > '3'\n")
    assert index.read(tmp_path / "list.txt") == ["pandas<3", "scikit-learn[examples]>=1; python_version > '3'"]


@pytest.mark.parametrize("line", ["-r more.txt", "./x.whl", "x @ https://example.org/x.whl", "x==1 --hash=sha256:00", "pandas numpy", "--index-url=x"])
def test_what_is_no_package_is_named(tmp_path, line):
    (tmp_path / "list.txt").write_text(f"pandas\n{line}\n")
    with pytest.raises(Failure, match=r"list\.txt:2: .* is not the name of a package"):
        index.read(tmp_path / "list.txt")


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_empty_list(tmp_path, text):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(Failure, match="names no packages"):
        index.read(tmp_path / "list.txt")


LOCK = """\
# comment==1
Typing_Extensions==4.16.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via x
torch==2.1+cpu --hash=sha256:cc
--find-links x
"""


def test_lock():
    """Names as they are compared; hashes of each file; what is no package is left out."""
    assert index_build.locked(LOCK) == {("typing-extensions", "4.16.0"): {"aa", "bb"}, ("torch", "2.1+cpu"): {"cc"}}
