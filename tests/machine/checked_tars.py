"""Files as `jupyterhub-ctl environment archive` and `index export` write them, changed by somebody."""

import io
import json
import tarfile


def repacked(archive, folder, change):
    """Return a copy of such a file (Path) whose members (dict of bytes by name) `change` has changed."""
    with tarfile.open(archive) as old:
        members = {member.name: old.extractfile(member).read() for member in old}
    change(members)
    with tarfile.open(folder / "bad.tar", "w") as new:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            new.addfile(entry, io.BytesIO(content))
    return folder / "bad.tar"


def says(**changes):
    """Return a function that changes the manifest."""

    def change(members):
        members["manifest.json"] = json.dumps({**json.loads(members["manifest.json"]), **changes}).encode()

    return change
