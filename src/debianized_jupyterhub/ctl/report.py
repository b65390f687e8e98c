"""jupyterhub-ctl report: what somebody who helps must know, in one file, without secrets."""

import contextlib
import io
import itertools
import json
import os
import stat
import tarfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import click

from .. import accounts, egress, files, units
from ..paths import (
    CONFIG,
    CTL_FILE,
    DEFAULTS,
    LOGIN_SERVICE,
    SESSION_SERVICE,
    STATE,
    SUDOERS,
    USER_RULES,
)
from .check_config import hub_environment
from .command import output
from .common import FULL, Failure, NoSpace, pristine, require_new, require_root
from .redaction import is_secret_name, redact, redact_forms, redact_python
from .verify import results
from .verify.services import configuration_read

# Of configuration all that is text; of the hub's state and homes nothing.
FILES = (DEFAULTS, CONFIG, f"/etc/pam.d/{LOGIN_SERVICE}", f"/etc/pam.d/{SESSION_SERVICE}", SUDOERS, USER_RULES)
IDENTIFIERS = ("jupyterhub-launcher", "jupyterhub-spawner", "jupyterhub-singleuser")
# systemd's words about the units, what they say themselves, what others do for them.
JOURNAL = " + ".join(
    [f"{key}={unit}" for unit in (*units.ALL, units.LOGIN_CHECK) for key in ("UNIT", "_SYSTEMD_UNIT")] + [f"SYSLOG_IDENTIFIER={name}" for name in IDENTIFIERS]
).split()

PYTHON, LINES = (".py",), (".env", ".conf", ".cfg", ".ini")  # what redaction.py understands: Python; lines of NAME=VALUE
KEPT = (".json", ".yaml", ".yml", ".toml", ".txt", "")  # text too, which is kept back; anything else is a picture, a keytab
LARGEST = 1 << 20  # bytes of a file that is shown


def known_secrets() -> set[str]:
    """Return the secrets of this installation that have a place of their own: wherever they turn up, they are masked."""
    found = {value for name, value in hub_environment().items() if is_secret_name(name)}
    folders = {STATE: "cookie_secret", CONFIG: "token"}
    for path in [path for folder, name in folders.items() for path in Path(folder).glob(f"*{name}*")]:
        with contextlib.suppress(OSError):  # what is no file there has no secret
            found.update(files.read(path).decode(errors="replace").split())
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found.add(str(json.loads(files.read(CTL_FILE))["token"]))
    password = urllib.parse.urlsplit(str(configuration_read()[1].get("db_url", ""))).password
    if password:
        found |= {password, urllib.parse.unquote(password)}
    return found


def configuration(secrets: set[str]) -> Iterator[tuple[str, str]]:
    """Yield (name in the archive, text as it is shown) of the files of the configuration, and add to `secrets` what they hold."""
    shipped = pristine()
    for top in FILES:
        for path, status in files.walk(top):
            if stat.S_ISDIR(status.st_mode) or path.suffix not in (*PYTHON, *LINES, *KEPT):
                continue
            try:
                text = files.read(path, below=top, limit=LARGEST).decode()
            except UnicodeDecodeError:
                continue
            except OSError as error:
                yield str(path).lstrip("/"), f"not shown: {error.strerror}\n"
                continue
            if shipped(str(path)):
                shown = text
            elif path.suffix in PYTHON:
                shown = redact_forms(redact_python(text, secrets), secrets)
            elif path.suffix in LINES or top != CONFIG:
                shown = redact(text, secrets)
            else:
                shown = f"not shown ({len(text)} characters): of files like this one it cannot be told what is a secret\n"
            yield str(path).lstrip("/"), shown


def contents() -> Iterator[tuple[str, str]]:
    """Yield (name in the archive, text not yet redacted) of what programs say."""
    yield "verify.json", json.dumps([result.as_dict() for result in results()], indent=2)
    packages = ["jupyterhub", "nodejs", "python3", "systemd", "sudo", "libpam-modules", "nginx", "apache2", "haproxy", "caddy", "sssd", "postgresql"]
    commands = {
        "versions.txt": ["dpkg-query", "--show", "--showformat=${Package} ${Version} ${db:Status-Status}\\n", *packages],
        "system.txt": ["uname", "-a"],
        "os-release.txt": ["cat", "/etc/os-release"],
        "units.txt": ["systemctl", "status", "--no-pager", "--lines=0", *units.ALL],
        "units-as-loaded.txt": ["systemctl", "cat", "--no-pager", *units.ALL],
        "sessions.txt": ["loginctl", "list-sessions", "--no-pager"],
        "disk.txt": ["df", "-h"],
        "inodes.txt": ["df", "-i"],
        "memory.txt": ["cat", "/proc/meminfo"],
        "ports.txt": ["ss", "-Hltnp"],
        "sudo.txt": ["sudo", "-n", "-l", "-U", accounts.HUB],
        "egress.txt": ["nft", "list", "table", *egress.TABLE],
        "environments.txt": ["/usr/sbin/jupyterhub-ctl", "environment", "list"],
        "index.txt": ["/usr/sbin/jupyterhub-ctl", "index", "list"],
        "changed-files.txt": ["dpkg", "--verify", "jupyterhub"],
        "var-opt-jupyterhub.txt": ["ls", "-la", STATE],
        "journal.txt": ["journalctl", "--no-pager", "--output=short-iso", "--since=-7d", "--lines=5000", *JOURNAL],
    }
    for name, command in commands.items():
        yield name, output(*command, timeout=60)[1] + "\n"


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
def report(file: Path | None) -> None:
    """Collect diagnostics for support, secrets masked, in one archive, FILE (default: in the current folder).

    Versions, all of `verify`, units, the journal of the last 7 days and the configuration. What is, or looks like, a password, token or key
    is masked, and so is each text in Python that is no plain value of a setting; users' names are not. Look through it before you give it away.
    """
    require_root()
    file = file or Path(time.strftime("jupyterhub-report-%Y%m%d-%H%M%S.tar.gz"))
    require_new(file)
    new = file.with_name(f".{file.name}.new")
    secrets = known_secrets()
    try:
        new.unlink(missing_ok=True)  # of one that was interrupted
        with (
            open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as stream,
            tarfile.open(fileobj=stream, mode="w:gz") as archive,
        ):
            shown = list(configuration(secrets))
            secrets = {secret for secret in secrets if len(secret) >= 6}
            for name, text in itertools.chain(shown, ((name, redact(text, secrets)) for name, text in contents())):
                body = text.encode()
                entry = tarfile.TarInfo(f"{file.name.partition('.')[0]}/{name}")
                entry.size, entry.mtime, entry.mode = len(body), int(time.time()), 0o600
                archive.addfile(entry, io.BytesIO(body))
        new.rename(file)
    except OSError as error:
        raise (NoSpace if error.errno in FULL else Failure)(f"cannot write {file}: {error.strerror}: name another file") from None
    finally:
        new.unlink(missing_ok=True)
    click.echo(f"jupyterhub-ctl: {file} is written. Look through it before you give it away: tar -xzf {file}", err=True)
    click.echo(str(file))
