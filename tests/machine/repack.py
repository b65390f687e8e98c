"""A higher version of the package, made from the package itself: what an upgrade is tested with."""

import re
import shutil
import subprocess

VENV = "opt/venvs/jupyterhub"


def repack(deb, work, change=None, suffix=".1"):
    """Return the path of a .deb in `work` (pathlib.Path) that is `deb` with `suffix` added to its version.

    `change(tree)`, if given, alters the unpacked package first; `tree` is a pathlib.Path.
    """
    tree = work / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^(Version: .*?)(\+|$)", rf"\g<1>{suffix}\2", control.read_text(), count=1))
    (tree / "DEBIAN/md5sums").unlink(missing_ok=True)
    if change:
        change(tree)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, work], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    (new,) = work.glob("jupyterhub_*.deb")
    return new


def site_packages(tree):
    """Return the folder of the unpacked package's Python modules."""
    (site,) = (tree / VENV).glob("lib/python3.*/site-packages")
    return site


def add_migration(tree):
    """Let the package's JupyterHub need one migration more: an empty table `of_the_upgrade`."""
    versions = site_packages(tree) / "jupyterhub/alembic/versions"
    texts = [path.read_text() for path in versions.glob("*.py")]
    revisions = {re.search(r"^revision = ['\"](\w+)", text, re.MULTILINE)[1] for text in texts}
    (head,) = revisions - {found for text in texts for found in re.findall(r"^down_revision = ['\"](\w+)", text, re.MULTILINE)}
    (versions / "of_the_upgrade.py").write_text(
        f"import sqlalchemy as sa\nfrom alembic import op\n\nrevision = 'ffffffffffff'\ndown_revision = '{head}'\n\n\n"
        "def upgrade():\n    op.create_table('of_the_upgrade', sa.Column('id', sa.Integer, primary_key=True))\n"
    )
