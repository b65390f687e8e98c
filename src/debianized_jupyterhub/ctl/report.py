"""jupyterhub-ctl report: what somebody who helps must know, in one file, without secrets."""

import io
import json
import os
import re
import tarfile
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from .. import accounts, units
from ..paths import (
    CONFIG,
    CTL_FILE,
    DEFAULTS,
    LOGIN_SERVICE,
    SESSION_SERVICE,
    STATE,
    SUDOERS,
)
from .check_config import hub_environment
from .command import output
from .common import FULL, Failure, NoSpace, require_root
from .verify import results

MASK = "REDACTED"
# Of configuration all that is text; of the hub's state and homes nothing.
FILES = (DEFAULTS, CONFIG, f"/etc/pam.d/{LOGIN_SERVICE}", f"/etc/pam.d/{SESSION_SERVICE}", SUDOERS)
IDENTIFIERS = ("jupyterhub-launcher", "jupyterhub-spawner", "jupyterhub-singleuser")
# systemd's words about the units, what they say themselves, what others do for them.
JOURNAL = " + ".join(
    [f"{key}={unit}" for unit in units.ALL for key in ("UNIT", "_SYSTEMD_UNIT")] + [f"SYSLOG_IDENTIFIER={name}" for name in IDENTIFIERS]
).split()

# What looks like a secret by its name: the value goes, up to the end of the line or of the string.
_NAME = r"(?!(?-i:NOPASSWD:))[\w.-]*(?:passw(?:or)?d|passphrase|secret|token|api_?key|private_?key|client_?secret|credential|crypt_?key|auth_?key)[\w.-]*"
_ASSIGNED = re.compile(rf"""(?ix) ( \b{_NAME} ["'\]]* \s* [:=]+ \s* (?:[bru]*["'])? ) (?!\s|["']|None\b|True\b|False\b|//) [^\s"',;&}})\]]+ """)
_QUOTED = re.compile(rf"""(?ixs) ( \b{_NAME} ["'\]]* \s* [:=]+ \s* [\[({{]* \s* [bru]* (\"\"\"|'''|"|') ) .*? \2 """)
# And by its form: passwords in URLs, headers, tokens of 32 characters and more.
_IN_URL = re.compile(r"(\b[\w+.-]+://[^\s/:@'\"]*:)[^\s/'\"]+(?=@)")
_HEADER = re.compile(r"(?i)(\b(?:authorization|cookie|set-cookie|x-xsrftoken)\b[\"']?\s*[:=]\s*[\"']?)[^\n\"']+")
_SCHEME = re.compile(r"(?i)\b((?:bearer|basic|token) )[\w+/=.~-]{8,}")
_LONG = re.compile(r"(?<![\w/.-])(?=[A-Za-z_-]*\d)[A-Za-z0-9_+-]{32,}={0,2}(?![\w/.])")
_KEY = re.compile(r"(?s)-----BEGIN [^-]*PRIVATE KEY-----.*?(?:-----END [^-]*PRIVATE KEY-----|\Z)")


def known_secrets() -> set[str]:
    """Return the secrets of this installation (set of str) that have a place of their own: wherever they turn up, they are masked."""
    found = {value for name, value in hub_environment().items() if re.fullmatch(_NAME, name, re.IGNORECASE)}
    for path in [*Path(STATE).glob("cookie_secret*"), *Path(CONFIG).glob("*token*")]:
        if path.is_file():
            found.update(path.read_text(errors="replace").split())
    if os.path.exists(CTL_FILE):
        found.add(json.loads(Path(CTL_FILE).read_text())["token"])
    return {secret for secret in found if len(secret) >= 6}


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` without what is, or looks like, a secret."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK).replace(urllib.parse.quote(secret, safe=""), MASK)
    text = _KEY.sub(MASK, text)
    for pattern in (_IN_URL, _HEADER):
        text = pattern.sub(rf"\1{MASK}", text)
    text = _QUOTED.sub(rf"\1{MASK}\2", text)
    for pattern in (_ASSIGNED, _SCHEME):
        text = pattern.sub(rf"\1{MASK}", text)
    return _LONG.sub(MASK, text)


def contents() -> Iterator[tuple[str, str]]:
    """Yield (name in the archive, text not yet redacted)."""
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
        "changed-files.txt": ["dpkg", "--verify", "jupyterhub"],
        "var-opt-jupyterhub.txt": ["ls", "-la", STATE],
        "journal.txt": ["journalctl", "--no-pager", "--output=short-iso", "--since=-7d", "--lines=5000", *JOURNAL],
    }
    for name, command in commands.items():
        yield name, output(*command, timeout=60)[1] + "\n"
    for top in FILES:
        path = Path(top)
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix in ("", ".py", ".json", ".yaml", ".yml", ".toml", ".cfg", ".conf", ".env", ".txt", ".ini"):
                try:
                    yield str(file).lstrip("/"), file.read_text()
                except UnicodeDecodeError:
                    continue  # a picture, a keytab


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
def report(file: Path | None) -> None:
    """Collect diagnostics for support, secrets masked, in one archive, FILE (default: in the current folder).

    Versions, all of `verify`, units, the journal of the last 7 days and the configuration. What is, or looks like, a password, token or key
    is masked; users' names are not. Look through it before you give it away.
    """
    require_root()
    file = file or Path(time.strftime("jupyterhub-report-%Y%m%d-%H%M%S.tar.gz"))
    if os.path.lexists(file):
        raise Failure(f"{file} is there already: name another file")
    new = file.with_name(f".{file.name}.new")
    secrets = known_secrets()
    try:
        with (
            open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as stream,
            tarfile.open(fileobj=stream, mode="w:gz") as archive,
        ):
            for name, text in contents():
                body = redact(text, secrets).encode()
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
