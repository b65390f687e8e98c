"""How jupyterhub-ctl talks to the running hub: its REST API, with a token that the hub makes at each start and only root can read."""

import http.client
import json
import urllib.parse
from collections.abc import Iterator
from typing import Any

from .. import files, state, units
from ..paths import CTL_FILE
from .command import properties
from .common import Failure, HubDown, require_root


class HubRefused(Failure):
    """The hub answered with an error; `status` (int) is that of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Hub:
    """The REST API of this machine's hub, as the service jupyterhub-ctl: services.py has what it may.

    `package` (str) is the package's version that it was started from. Raises NotRoot and HubDown when it is made.
    """

    def __init__(self) -> None:
        require_root()
        access = _access()
        self.package = access["package"]
        self._url, self._token = urllib.parse.urlsplit(access["url"]), access["token"]

    def request(self, method: str, path: str, **query: object) -> tuple[int, Any]:
        """Return (status as int, answer as parsed JSON or None); raise HubDown, or HubRefused for a status of 400 and above."""
        target = self._url.path.rstrip("/") + path + (f"?{urllib.parse.urlencode(query)}" if query else "")
        headers = {"Authorization": f"token {self._token}", "Accept": "application/jupyterhub-pagination+json"}
        # No proxy of the environment. The hub answers DELETE when the server has ended, or after 10 s.
        connection = http.client.HTTPConnection(self._url.hostname or "127.0.0.1", self._url.port, timeout=30 if method == "DELETE" else 10)
        try:
            connection.request(method, target, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise HubDown(f"the hub does not answer ({error}): `systemctl status jupyterhub` says why") from None
        finally:
            connection.close()
        try:
            parsed = json.loads(body) if body else None
        except ValueError:
            parsed = None
        if answer.status >= 400:
            said = parsed.get("message") if isinstance(parsed, dict) else None
            raise HubRefused(answer.status, f"the hub answers {answer.status} to {method} {path}: {said or answer.reason}")
        return answer.status, parsed

    def users(self, **query: object) -> Iterator[dict[str, Any]]:
        """Yield the models (dict) of all users, of those with a running server for state="active"."""
        offset: int | None = 0
        while offset is not None:
            _, page = self.request("GET", "/users", offset=offset, limit=200, **query)
            yield from page["items"]
            following = page["_pagination"]["next"]
            offset = following["offset"] if following else None

    def count_users(self) -> int:
        """Return how many users (int) the hub knows."""
        return self.request("GET", "/users", limit=1)[1]["_pagination"]["total"]

    def user(self, name: str, **query: object) -> dict[str, Any] | None:
        """Return the model (dict) of one user, None for one that the hub does not know."""
        try:
            return self.request("GET", f"/users/{urllib.parse.quote(name, safe='')}", **query)[1]
        except HubRefused as refusal:
            if refusal.status != 404:
                raise
            return None

    def accounts(self) -> list[dict[str, Any]]:
        """Return what the hub has of all users, in short (list of dict): user_pages.py."""
        return self.request("GET", "/accounts")[1]

    def account(self, name: str) -> dict[str, Any] | None:
        """Return all that the hub has of one user (dict), None for one that it does not know."""
        return self.request("GET", "/accounts", of=name)[1]


def _access() -> dict[str, str]:
    """Return what the running hub has written down for us (dict); raise HubDown."""
    down = "the hub does not run: `systemctl start jupyterhub`, and `systemctl status jupyterhub` says why it does not"
    try:
        access = json.loads(files.read(CTL_FILE))
        return {key: str(access[key]) for key in ("url", "token", "package")}
    except FileNotFoundError:
        now = state.of_unit(properties(units.HUB, "ActiveState", "StatusText"))
        raise HubDown(f"the hub of this machine stands by, {now.line}: give the command there" if now.name == state.STANDBY else down) from None
    except OSError as error:  # the folder is the hub's, which could have put anything in the file's place
        raise HubDown(f"{CTL_FILE}: {error.strerror}: `systemctl restart jupyterhub`") from None
    except (ValueError, KeyError, TypeError):
        raise HubDown(f"{CTL_FILE} is damaged: `systemctl restart jupyterhub`") from None
