"""The hub of this package, which src/libexec/jupyterhub starts: JupyterHub with services and notices of its own.

They are added here and not in the configuration, so that a site that assigns `services`, `load_roles` or `template_vars` there does
not take them away.
"""

import gc
import json
import os
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jupyterhub import orm
from jupyterhub.app import JupyterHub
from jupyterhub.utils import url_path_join
from tornado.ioloop import PeriodicCallback

from . import services
from .handlers import MessageSocket, announcement, closed_while_offline
from .paths import CTL_FILE


class Hub(JupyterHub):
    """JupyterHub with the services of services.py, reachable for root's jupyterhub-ctl, and with notices.py on its pages."""

    # Settings of JupyterHub's that are added to here.
    load_roles: list[dict[str, Any]]
    services: list[dict[str, Any]]
    last_activity_interval: int
    template_vars: dict[str, Any]
    handlers: list[tuple]

    async def init_role_creation(self) -> None:
        self._own = services.wanted()
        own_roles = [{"name": name, "scopes": scopes, "services": [name]} for name, (_, scopes) in self._own.items()]
        self.load_roles = [*self.load_roles, *own_roles]
        await super().init_role_creation()

    def init_services(self) -> None:
        # JupyterHub would keep the tokens of all earlier starts.
        for name in self._own:
            if service := orm.Service.find(self.db, name):
                for token in service.api_tokens:
                    self.db.delete(token)
        self.db.commit()
        self.services = [*self.services, *(spec for spec, _ in self._own.values())]
        super().init_services()
        self.last_activity_interval = min(self.last_activity_interval, services.activity_interval())
        self._open_to_root()

    def _open_to_root(self) -> None:
        """Write down for jupyterhub-ctl, which reads it as root, where this hub listens and the token for it; it changes with each start."""
        token = self._service_map[services.CTL].orm.new_api_token(note="made at the hub's start")
        access = {"url": self.hub.api_url, "token": token, "package": version("debianized-jupyterhub")}
        new = Path(CTL_FILE).with_suffix(".new")
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            json.dump(access, stream)
        new.rename(CTL_FILE)

    async def start(self) -> None:
        await super().start()
        gc.freeze()  # what was made until now is there to stay
        gc.enable()

    def init_tornado_settings(self) -> None:
        keys = {"announcement", *(key for key in self.template_vars if key.startswith("announcement_"))}
        self.template_vars = {**self.template_vars, **{key: partial(announcement, self.template_vars.get(key)) for key in keys}}
        super().init_tornado_settings()

    def init_handlers(self) -> None:
        super().init_handlers()
        self.handlers = [(pattern, closed_while_offline(handler), *rest) for pattern, handler, *rest in self.handlers]
        self.handlers.insert(0, (url_path_join(self.hub_prefix, "message"), MessageSocket))
        self._periodic_callbacks["message"] = PeriodicCallback(MessageSocket.look, 1000)
        self._periodic_callbacks["message"].start()
