"""Reading where another account can write: no link is followed, nothing is waited for."""

import os
import socket

import pytest

from debianized_jupyterhub import files


@pytest.fixture
def folder(tmp_path):
    """A folder with a file, and with everything that is none, by its name."""
    (tmp_path / "file").write_text("content")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/file").write_text("below")
    (tmp_path / "linked").symlink_to("sub")
    os.mkfifo(tmp_path / "fifo")
    os.mknod(tmp_path / "device", 0o020666, os.makedev(1, 5))  # /dev/zero
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    with open(tmp_path / "large", "wb") as stream:
        stream.truncate(10 << 30)
    return tmp_path


def test_file_is_read(folder):
    assert files.read(folder / "file") == b"content"
    assert files.read(folder / "sub/file", below=folder) == b"below"
    assert files.read(folder / "file", below=folder / "file") == b"content"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("link", "it is a link"),
        ("dangling", "it is a link"),
        ("fifo", "it is no regular file"),
        ("device", "it is no regular file"),
        ("socket", "it is no regular file"),
        ("sub", "it is no regular file"),
        ("large", "it has more than 65536 bytes"),
        ("nothing", "No such file"),
        ("linked/file", "Not a directory"),
    ],
)
def test_what_is_no_small_file_is_named(folder, name, said):
    with pytest.raises(OSError, match=said) as error:
        files.read(folder / name, below=folder)
    assert error.value.filename == str(folder / name)


def test_walk_follows_no_link(folder):
    found = {str(path.relative_to(folder)) for path, _ in files.walk(folder)}
    assert found == {".", "sub/file", *os.listdir(folder)}
    assert [path.name for path, _ in files.walk(folder / "linked")] == ["linked"]
    assert list(files.walk(folder / "nothing")) == []


@pytest.mark.parametrize("path", ["/etc/default", "/usr/lib/../bin", "/bin", "/etc/nothing/at/all"])
def test_etc_is_roots_alone(path):
    assert files.is_roots_alone(path)


def test_folder_that_others_write_to(tmp_path):
    assert not files.is_roots_alone("/tmp")
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    (tmp_path / "theirs/mine").mkdir()
    (tmp_path / "through").symlink_to("theirs/mine")
    (tmp_path / "circle").symlink_to("circle")
    for name in ("theirs", "theirs/mine", "through", "circle", "theirs/nothing"):
        assert not files.is_roots_alone(tmp_path / name)
