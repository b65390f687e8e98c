"""The format of backups: what was saved comes back, and an archive that is not whole says so before anything is restored."""

import dataclasses
import gzip
import io
import json
import os
import tarfile

import pytest

from debianized_jupyterhub import archive


def made(folder, **more):
    """Save a folder with a file, a link and a folder in it; return (archive's Path, Manifest)."""
    place = folder / "etc"
    (place / "sub").mkdir(parents=True)
    (place / "settings").write_text("c.x = 1\n")
    (place / "settings").chmod(0o640)
    (place / "link").symlink_to("settings")
    entries = archive.entries([str(place)], lambda path: False)
    manifest = archive.Manifest(version="1", created="2026-11-25T00:00:00Z", label="manual", host="h", places=[str(place)], entries=entries, **more)
    file = folder / "backup.tar.gz"
    archive.write(file, manifest, None)
    return file, manifest


def rewritten(file, change):
    """Write the archive anew, with its members (dict of name: bytes) as `change` has left them."""
    with tarfile.open(file) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    change(members)
    with tarfile.open(file, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def with_manifest(**fields):
    """Return a change for `rewritten` that sets fields of the manifest."""

    def change(members):
        members["manifest.json"] = json.dumps(json.loads(members["manifest.json"]) | fields).encode()

    return change


def test_what_was_saved_comes_back(tmp_path):
    file, manifest = made(tmp_path)
    into = tmp_path / "into"
    into.mkdir()
    assert archive.read(file, into) == manifest == archive.unpacked(into) == archive.manifest_of(file)
    assert (into / f"files{tmp_path}/etc/settings").read_text() == "c.x = 1\n"
    kinds = {os.path.basename(entry.path): (entry.kind, entry.target) for entry in manifest.entries}
    assert kinds == {"etc": ("folder", ""), "sub": ("folder", ""), "settings": ("file", ""), "link": ("link", "settings")}
    assert {entry.mode for entry in manifest.entries if entry.kind == "file"} == {0o640}


def test_sockets_and_pipes_are_left_out(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert [entry.kind for entry in archive.entries([str(tmp_path)], lambda path: False)] == ["folder"]


def test_missing_place_is_no_error(tmp_path):
    assert archive.entries([str(tmp_path / "nothing")], lambda path: False) == []


def changed_file(members):
    name = next(name for name in members if name.startswith("files"))
    members[name] = b"c.x = 2\n"


def lost_file(members):
    del members[next(name for name in members if name.startswith("files"))]


def without_entries(members):
    manifest = json.loads(members["manifest.json"])
    del manifest["entries"]
    members["manifest.json"] = json.dumps(manifest).encode()


DAMAGED = {
    "a changed file": (changed_file, "is not what was saved"),
    "a missing file": (lost_file, "is missing"),
    "a file too many": (lambda members: members.update(stranger=b""), "stranger is not in its manifest"),
    "no manifest first": (lambda members: members.update({"manifest.json": members.pop("manifest.json")}), "is no backup"),
    "another program's": (with_manifest(package="other"), "is no backup"),
    "no list of files": (without_entries, "its manifest is not one of format"),
    "half a manifest": (lambda members: members.update({"manifest.json": members["manifest.json"][:99]}), "is no backup"),
    "an unknown field": (with_manifest(colour="red"), "its manifest is not one of format"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_archive_is_named(tmp_path, what):
    change, said = DAMAGED[what]
    file, _ = made(tmp_path)
    rewritten(file, change)
    with pytest.raises(archive.ArchiveError, match=said) as error:
        archive.read(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_newer_format_is_told_apart(tmp_path):
    file, _ = made(tmp_path)
    rewritten(file, with_manifest(format=archive.FORMAT + 1))
    with pytest.raises(archive.NewerFormat, match="from version 1"):
        archive.manifest_of(file)


@pytest.mark.parametrize("path", ["/elsewhere/file", "{place}/../../file", "{place}x/file"])
def test_entry_outside_of_its_places_is_refused(tmp_path, path):
    file, manifest = made(tmp_path)
    entry = dataclasses.asdict(manifest.entries[0]) | {"path": path.format(place=manifest.places[0])}
    rewritten(file, with_manifest(entries=[entry]))
    with pytest.raises(archive.ArchiveError, match="outside of what a backup holds"):
        archive.read(file)


@pytest.mark.parametrize("part", [0, 0.3, 0.9])
def test_cut_off_archive_is_named(tmp_path, part):
    file, _ = made(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(archive.ArchiveError):
        archive.read(file)


@pytest.mark.parametrize("position", range(20, 200, 15))
def test_flipped_bytes_are_damage(tmp_path, position):
    """Also at the beginning, where they may keep gzip or JSON from being read at all."""
    file, _ = made(tmp_path)
    content = bytearray(file.read_bytes())
    content[position : position + 4] = b"XXXX"
    file.write_bytes(content)
    with pytest.raises(archive.ArchiveError, match="is damaged"):
        archive.read(file)


@pytest.mark.parametrize("content", [b"", b"text", gzip.compress(b"text")])
def test_other_files_are_no_backups(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(archive.ArchiveError):
        archive.manifest_of(tmp_path / "file")


def with_database(folder):
    """Save a database of 3 bytes and nothing else; return the archive's Path."""
    (folder / "hub.sqlite").write_bytes(b"\0\1\2")
    with open(folder / "hub.sqlite", "rb") as stream:
        sha256 = archive.digest(stream)
    manifest = archive.Manifest("1", "2026-11-25T00:00:00Z", "manual", "h", [], [], database="sqlite", database_sha256=sha256)
    archive.write(folder / "backup.tar.gz", manifest, folder / "hub.sqlite")
    return folder / "backup.tar.gz"


def test_database_comes_back(tmp_path):
    file = with_database(tmp_path)
    (tmp_path / "into").mkdir()
    assert archive.read(file, tmp_path / "into").database == "sqlite"
    assert (tmp_path / "into/database").read_bytes() == b"\0\1\2"


@pytest.mark.parametrize(
    ("change", "said"), [(lambda members: members.pop("database"), "database is missing"), (lambda members: members.update(database=b""), "is not what")]
)
def test_damaged_database_is_named(tmp_path, change, said):
    file = with_database(tmp_path)
    rewritten(file, change)
    with pytest.raises(archive.ArchiveError, match=said):
        archive.read(file)


def test_link_in_place_of_a_file_is_refused(tmp_path):
    """Else what is unpacked after it could go wherever the link points to."""
    file = with_database(tmp_path)
    with tarfile.open(file) as tar:
        text = tar.extractfile("manifest.json").read()
    with tarfile.open(file, "w:gz") as tar:
        info = tarfile.TarInfo("manifest.json")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
        link = tarfile.TarInfo("database")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(archive.ArchiveError, match="database is not in its manifest"):
        archive.read(file, tmp_path)
