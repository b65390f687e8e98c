"""The hub of this package, which src/libexec/jupyterhub starts: JupyterHub with services and notices of its own.

They are added here and not in the configuration, so that a site that assigns `services`, `load_roles` or `template_vars` there does
not take them away.
"""

import asyncio
import gc
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from jupyterhub import orm
from jupyterhub.app import JupyterHub
from jupyterhub.auth import Authenticator
from jupyterhub.crypto import CryptKeeper
from jupyterhub.log import CoroutineLogFormatter
from jupyterhub.objects import Hub as HubAddress
from jupyterhub.proxy import ConfigurableHTTPProxy
from jupyterhub.spawner import Spawner
from jupyterhub.utils import url_path_join
from sqlalchemy.exc import SQLAlchemyError
from tornado.ioloop import PeriodicCallback
from tornado.log import app_log
from tornado.netutil import bind_sockets
from traitlets import default

from . import culling, journal, lease, moving, outage, ports, profiles, services, state, watchdog
from .authenticator import SudoersPAMAuthenticator, SudoersPolicy
from .culler import Culler
from .database import in_short
from .endings import noted
from .handlers import MessageSocket, announcement, closed_while_offline
from .http_server import IDLE_NODE, HubServer, NodesServer, OpenServer
from .idle_logins import ending_when_idle
from .incoming import Application
from .paths import CTL_FILE, DEFAULTS, HUB_SOCKET
from .record import recorded
from .spawner import GateSpawner, remove_stale_sockets
from .stricter_handlers import WrongLoginsHandler, hardened
from .user_pages import AccountsHandler, LogoutEverywhere, with_logins


class Formatter(journal.Prioritized, CoroutineLogFormatter):
    """JupyterHub's own, with priorities."""


class Hub(JupyterHub):
    """JupyterHub with the services of services.py, reachable for root's jupyterhub-ctl, with notices.py on its pages, at the sockets of ports.py."""

    _log_formatter_cls = Formatter if journal.takes_errors() else CoroutineLogFormatter
    _servers: tuple[HubServer, ...] = ()
    _for_nodes: NodesServer | None = None
    last_error = journal.LastError()
    held: lease.Lease | None = None  # on the database
    _unreachable = ""  # why nodes do not reach this hub; it is said once

    # Settings of JupyterHub's that are added to here.
    db_kwargs: dict[str, Any]
    load_roles: list[dict[str, Any]]
    services: list[dict[str, Any]]
    last_activity_interval: int
    template_vars: dict[str, Any]
    tornado_settings: dict[str, Any]
    handlers: list[tuple]

    @default("classes")
    def _own_classes(self) -> list[type]:
        # All authenticators that are installed would be imported at each start, for --help-all alone.
        return [Spawner, Authenticator, CryptKeeper]

    async def init_role_creation(self) -> None:
        self._own = services.wanted()
        own_roles = [{"name": name, "scopes": scopes, "services": [name]} for name, (_, scopes) in self._own.items()]
        self.load_roles = [*self.load_roles, *own_roles]
        await super().init_role_creation()

    async def init_users(self) -> None:
        authenticator = self.authenticator
        if isinstance(authenticator, SudoersPAMAuthenticator) and authenticator.delete_invalid_users:
            listed = map(authenticator.normalize_username, authenticator.admin_users | authenticator.allowed_users)
            await authenticator.find_gone({name for (name,) in self.db.query(orm.User.name)}.union(listed))
        await super().init_users()

    def init_services(self) -> None:
        # JupyterHub would keep the tokens of all earlier starts.
        for name in self._own:
            if service := orm.Service.find(self.db, name):
                for token in service.api_tokens:
                    self.db.delete(token)
        self.db.commit()
        self.services = [*self.services, *(spec for spec, _ in self._own.values())]
        super().init_services()
        self.last_activity_interval = min(self.last_activity_interval, culling.activity_interval())
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

    def cannot_work(self, proxy: Any) -> list[tuple[str, str, str]]:
        """Return what the settings ask of the package's proxy that it cannot do: (setting of JupyterHub, what is wrong, how to fix it), lines of text."""
        if not isinstance(proxy, ConfigurableHTTPProxy) or proxy.should_start or not proxy.api_url.startswith("http+unix:"):
            return []
        found = []
        if self.internal_ssl:
            what = "c.JupyterHub.internal_ssl does not work with jupyterhub-proxy.service: hub, proxy and servers meet at unix sockets, without certificates"
            found.append(("internal_ssl", what, "remove it: no other account can listen there"))
        if self.subdomain_host != os.environ.get("JUPYTERHUB_SUBDOMAIN_HOST", ""):
            what = "c.JupyterHub.subdomain_host does not work here: jupyterhub-proxy.service must have it, too"
            setting = f"JUPYTERHUB_SUBDOMAIN_HOST={self.subdomain_host}"
            found.append(("subdomain_host", what, f"write {setting} into {DEFAULTS} in its place, then `systemctl restart jupyterhub-proxy`"))
        return found

    def init_proxy(self) -> None:
        super().init_proxy()
        if impossible := self.cannot_work(self.proxy):
            raise SystemExit(": ".join(impossible[0][1:]))
        if self.has_jobs():
            from .jobs import without_traceback  # here, since hubs without jobs of Slurm do without

            # The file is read at each request and may be changed at any time: a hub that restarts at night does not stay down for it.
            for file, line, what, mend in profiles.mistakes():
                self.log.error("%s: %s: %s", f"{file}:{line}" if line else file, what, mend)
            self.log.addFilter(without_traceback)
        # A proxy of the site's own, or one with certificates of ours, takes TCP: docs/architecture.md, "Sockets".
        ours = isinstance(self.proxy, ConfigurableHTTPProxy) and not self.internal_ssl
        kept = ours and not self.proxy.should_start and self.proxy.api_url.startswith("http+unix:")
        GateSpawner.on_unix_sockets = kept or (ours and self.proxy.should_start)
        if self.has_jobs() and (place := profiles.address()):
            if not ours:
                raise SystemExit(f"{profiles.ADDRESS}: only the proxy of the package reaches servers on other machines: leave it empty in {DEFAULTS}")
            from .certificates import Certificates

            self.spawner_class.certificates = Certificates(*place)
        if kept:
            address = f"http+unix://{quote(HUB_SOCKET, safe='')}{self.hub.base_url}"
            self.proxy.hub = HubAddress(base_url=self.hub.base_url, bind_url=address, routespec=self.hub.routespec, public_host=self.hub.public_host)

    def listen_at_given_sockets(self) -> bool:
        """Listen at the sockets that jupyterhub-ports.service keeps; see ports.py. Returns False where there is no such service."""
        address = urlsplit(self.hub.bind_url)
        if not os.path.isdir("/run/systemd/system") or address.scheme != "http" or self.internal_ssl:
            return False
        to_proxy = HubServer(self.tornado_application, xheaders=True, trusted_downstream=self.trusted_downstream_ips)
        servers = {"api": to_proxy} if self.proxy.hub is self.hub else {"front": to_proxy, "api": OpenServer(self.tornado_application)}
        for name, server in servers.items():
            server.add_socket(ports.take(name, (address.hostname or "", address.port or 80)))
        self._servers = tuple(servers.values())
        return True

    async def shutdown_cancel_tasks(self, sig: signal.Signals | None = None) -> None:
        state.enter(state.STOPPED, "The hub is stopping.")
        await asyncio.gather(*(server.drain() for server in self._servers))
        await super().shutdown_cancel_tasks(sig)

    async def cleanup(self) -> None:
        try:
            await super().cleanup()
        except SQLAlchemyError as error:  # a hub without its database would never end
            self.log.error("What was not in the database yet is lost: %s", in_short(error))
        if self.held:
            self.held.leave()

    async def initialize(self, *arguments: Any, **options: Any) -> None:
        self.log.addFilter(self.last_error)
        with outage.explained(self):
            await super().initialize(*arguments, **options)

    def init_db(self) -> None:
        self.lookout = outage.Lookout(self)
        self.db_kwargs = lease.named(self.db_url, outage.with_deadlines(self.db_url, self.db_kwargs))
        outage.wait_for(self.db_url, self.db_kwargs, self.log)
        self._lock = lease.lock(self.db_url)
        self.held = lease.wait_for(self.db_url, self.db_kwargs, self.log)
        super().init_db()
        if self.held:
            self.held.guard(self.db.get_bind())
        for log in (self.log, app_log, logging.getLogger("asyncio")):
            log.addFilter(outage.Brief(self))

    def has_jobs(self) -> bool:
        """Return whether servers may be jobs of Slurm's."""
        return issubclass(self.spawner_class, GateSpawner) and self.spawner_class.in_jobs

    async def init_spawners(self) -> int:
        self.up = asyncio.Event()  # what goes on with starts waits for it
        if self.has_jobs():
            from .jobs import go_on_with_starts

            go_on_with_starts(self)
        return await super().init_spawners()

    async def _listen_for_nodes(self) -> None:
        """Listen for servers on other machines, which show a certificate of ours. Where that cannot be now, all else goes on, and it is tried again."""
        certificates = self.spawner_class.certificates
        if self._for_nodes:
            return
        try:
            address, *_ = await asyncio.to_thread(ports.for_nodes, certificates.host, certificates.port, profiles.ADDRESS)
            listener = await asyncio.to_thread(self._socket_for_nodes, address)
        except (ports.Refused, OSError) as error:
            if str(error) != self._unreachable:
                self.log.error("Servers that run as jobs cannot reach this hub: %s", error)
            self._unreachable = str(error)
            return
        self._for_nodes = NodesServer(self.tornado_application, ssl_options=certificates.server, idle_connection_timeout=IDLE_NODE)
        self._for_nodes.add_socket(listener)
        self._servers = (*self._servers, self._for_nodes)

    @staticmethod
    def _socket_for_nodes(address: tuple[str, int]) -> socket.socket:
        if os.path.isdir("/run/systemd/system"):
            return ports.take("jobs", address)
        return bind_sockets(address[1], address[0])[0]

    async def start(self) -> None:
        with outage.explained(self):
            await super().start()
        if self.has_jobs() and self.spawner_class.certificates:
            await self._listen_for_nodes()
            self._again_and_again("nodes", self._listen_for_nodes, 30)
            self._again_and_again("certificates", self.spawner_class.certificates.renewed, 86400)
        remove_stale_sockets(self.db)
        moving.settle(self.db)
        self.up.set()
        if self.has_jobs():
            from .job_records import Left, Undelivered
            from .jobs import look_at_ends

            self._again_and_again("cancels", Undelivered(self).deliver, 10)
            self._again_and_again("left servers", Left(self).end, 10)
            self._again_and_again("ends of jobs", partial(look_at_ends, self), 30)
        culler = Culler(self, jobs=self.has_jobs())
        self._again_and_again("culler", culler.look, culler.interval)
        if isinstance(self.authenticator, SudoersPolicy) and self.authenticator.account_interval > 0:
            self._again_and_again("accounts", self.authenticator.look_at_accounts, self.authenticator.account_interval)
        gc.freeze()  # what was made until now is there to stay
        gc.enable()
        self._alive = watchdog.watch()
        state.ready("READY=1")

    def _again_and_again(self, name: str, look: Callable[[], Coroutine], seconds: int) -> None:
        """Have `look` called each so many `seconds`, until the hub ends."""
        self._periodic_callbacks[name] = PeriodicCallback(look, seconds * 1000)
        self._periodic_callbacks[name].start()

    def init_tornado_settings(self) -> None:
        keys = {"announcement", *(key for key in self.template_vars if key.startswith("announcement_"))}
        self.template_vars = {**self.template_vars, **{key: partial(announcement, self.template_vars.get(key)) for key in keys}}
        # Notebook servers take it over for theirs.
        cookies = {"samesite": "Lax", **self.tornado_settings.get("cookie_options", {})}
        self.tornado_settings = {**self.tornado_settings, "cookie_options": cookies}
        self.template_vars["administrators"] = lambda _user: self._administrators
        super().init_tornado_settings()

    def init_tornado_application(self) -> None:
        self.tornado_settings["static_handler_class"] = hardened(self.tornado_settings["static_handler_class"])
        self.tornado_application = Application(self.handlers, self.trusted_downstream_ips, **self.tornado_settings)

    def _administrators(self) -> list[str]:
        """Return the names of the hub's administrators, for its admin page."""
        return [name for (name,) in self.db.query(orm.User.name).filter(orm.User.admin).order_by(orm.User.name)]

    def init_handlers(self) -> None:
        super().init_handlers()
        self.handlers.insert(0, (url_path_join(self.hub_prefix, "logout-everywhere"), LogoutEverywhere))
        for ours in (hardened, noted, closed_while_offline, with_logins, recorded, ending_when_idle, outage.outspoken):
            self.handlers = [(pattern, ours(handler), *rest) for pattern, handler, *rest in self.handlers]
        self.handlers.insert(0, (url_path_join(self.hub_prefix, "message"), MessageSocket))
        self.handlers.insert(0, (url_path_join(self.hub_prefix, "api/wrong-logins"), outage.outspoken(WrongLoginsHandler)))
        self.handlers.insert(0, (url_path_join(self.hub_prefix, "api/accounts"), outage.outspoken(hardened(AccountsHandler))))
        self.handlers.insert(0, (url_path_join(self.hub_prefix, "ready"), hardened(outage.Ready)))
        self._periodic_callbacks["message"] = PeriodicCallback(MessageSocket.look, 1000)
        self._periodic_callbacks["message"].start()
