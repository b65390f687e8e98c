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


@pytest.mark.parametrize("content", [b"", b"text", gzip.compress(b"text", mtime=0)])
def test_other_files_are_no_backups(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(archive.ArchiveError):
        archive.manifest_of(tmp_path / "file")


def test_fifo_is_no_backup(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(archive.ArchiveError, match="is no backup"):
        archive.manifest_of(tmp_path / "fifo")


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


# -- Where a restore may write -----------------------------------------------------------------------------------------------------


def with_entries(*entries, places=()):
    """Return a change for `rewritten` that adds places, and entries (path, kind) with an empty file for each file."""

    def change(members):
        manifest = json.loads(members["manifest.json"])
        for path, kind in entries:
            sha256 = archive.digest(io.BytesIO()) if kind == "file" else ""
            manifest["entries"].append({"path": path, "kind": kind, "mode": 0o644, "owner": "root", "group": "root", "sha256": sha256, "target": "/etc"})
            if kind == "file":
                members[f"files{path}"] = b""
        manifest["places"] += places
        members["manifest.json"] = json.dumps(manifest).encode()

    return change


@pytest.mark.parametrize(
    ("entries", "places", "said"),
    [
        ([("{place}/link/file", "file")], [], "link/file is in no folder of the backup"),
        ([("{place}/new/file", "file")], [], "new/file is in no folder of the backup"),
        ([("{place}/twice", "link"), ("{place}/twice/file", "file")], [], "twice/file is in no folder"),
        ([("{place}/device", "device")], [], "is of kind 'device'"),
        ([("{place}//sub/file", "file")], [], "is outside of what a backup holds"),
        ([], ["{place}/../../cron.d"], "is outside of what a backup holds"),
        ([], ["etc/cron.d"], "is outside of what a backup holds"),
        ([], [7], "its manifest is not one of format"),
    ],
)
def test_manifest_that_leads_elsewhere_is_refused(tmp_path, entries, places, said):
    file, manifest = made(tmp_path)
    place = manifest.places[0]
    filled = [(path.format(place=place), kind) for path, kind in entries]
    rewritten(file, with_entries(*filled, places=[each.format(place=place) if isinstance(each, str) else each for each in places]))
    with pytest.raises(archive.ArchiveError, match=said):
        archive.manifest_of(file)


def test_places_of_others(tmp_path):
    """A file of the hub's own is told apart; a folder or link in such a place is none."""
    file, manifest = made(tmp_path)
    own = manifest.places[0]
    assert archive.check_places(file, manifest, [own]) == []
    assert archive.check_places(file, manifest, [str(tmp_path)]) == []  # below it
    with pytest.raises(archive.ArchiveError, match=f"holds {own}, which is no place of this machine's hub"):
        archive.check_places(file, manifest, [f"{own}x", "/etc/jupyterhub"])
    rewritten(file, with_entries(("/srv/secret", "file"), places=["/srv/secret", "/srv/nothing"]))
    assert archive.check_places(file, archive.manifest_of(file), [own]) == ["/srv/secret", "/srv/nothing"]


def test_links_that_come_while_it_is_saved_are_not_followed(tmp_path):
    _, manifest = made(tmp_path)
    place = tmp_path / "etc"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/settings").write_text("c.x = 1\n")
    (place / "settings").unlink()
    (place / "settings").symlink_to(tmp_path / "elsewhere/settings")
    with pytest.raises(OSError, match="it is a link"):
        archive.write(tmp_path / "other.tar.gz", manifest, None)
