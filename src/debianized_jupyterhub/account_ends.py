"""Ends what a user of the hub has, once the account is gone or another one of the same name: logins, tokens, running servers.

The hub keeps in a table of its database who the account of each user was (identity.py). SudoersPolicy asks at logins, at starts and for those who are
logged in; `look` asks for all, now and then, so that a server without visitors ends, too.
"""

import asyncio
import functools
import logging
from collections.abc import Collection, Iterable
from typing import Any

from jupyterhub import orm
from jupyterhub.spawner import SpawnException
from jupyterhub.utils import maybe_future
from sqlalchemy import Column, ForeignKey, Table, Unicode, select

from . import record, user_logins
from .identity import Identity, of_machine
from .login_check import LoginCheckError, ask
from .standing import Standing, Standings

log = logging.getLogger("jupyterhub.accounts")
PENDING = 180  # seconds for a server that is just being started or stopped
AT_A_TIME = 100  # accounts in one question
PATIENCE = 30  # seconds for its answer


class Facts(orm.JSONDict):
    """Identity.facts() as JSON."""

    cache_ok = True  # else SQLAlchemy warns in the journal


# JupyterHub makes it at its start, and removes a row with its user.
KEPT = Table(
    "debianized_accounts",
    orm.Base.metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("machine", Unicode(64), nullable=False),  # identity.of_machine()
    Column("facts", Facts, nullable=False),  # {} for an account that is gone
)


async def stop_server(hub: Any, spawner: Any, by: record.Actor) -> None:
    """Stop a server as the button on the hub's page does. What keeps it from ending is in the log."""
    spawner.stopped_by = by
    spawner._stop_pending = True
    try:
        await hub.proxy.delete_user(spawner.user, spawner.name)
        await spawner.user.stop(spawner.name)
    except SpawnException:
        pass  # our spawner has said why
    except Exception:
        log.exception("Cannot stop %s", spawner._log_name)
    finally:
        spawner._stop_pending = False


async def forget_password(authenticator: Any, user: orm.User) -> None:
    """Forget a password that the authenticator keeps itself: it is that of the one before."""
    # It would also take the name out of the site's settings.
    allowed = set(authenticator.allowed_users)
    await maybe_future(authenticator.delete_user(user))
    authenticator.allowed_users = allowed


class Accounts:
    """Who the accounts of the users of `hub` (jupyterhub.app.JupyterHub) are; `standings` knows how they stand."""

    def __init__(self, hub: Any, standings: Standings) -> None:
        self._hub, self._standings = hub, standings
        self._new: dict[str, Identity] = {}  # of logins by which a user comes to the hub
        self._ending: set[asyncio.Task] = set()

    # -- What is kept

    @functools.cached_property
    def _machine(self) -> str:
        return of_machine()

    def _kept(self, names: Collection[str]) -> dict[str, Identity | None]:
        """Return who the accounts of these users were, None for one that was gone; those of whom nothing is known are left out."""
        query = select(orm.User.name, KEPT.c.facts).join(KEPT, KEPT.c.user_id == orm.User.id)
        # What a restored database knows of another machine's accounts says nothing here.
        rows = self._hub.db.execute(query.where(KEPT.c.machine == self._machine, orm.User.name.in_(names)))
        return {name: Identity.kept(facts) for name, facts in rows}

    def _keep(self, user: orm.User, identity: Identity | None) -> None:
        self._hub.db.execute(KEPT.delete().where(KEPT.c.user_id == user.id))
        self._hub.db.execute(KEPT.insert().values(user_id=user.id, machine=self._machine, facts=identity.facts() if identity else {}))
        self._hub.db.commit()

    def keep_new(self, user: orm.User) -> None:
        """Keep who the account of a user is who has just come to the hub by a login."""
        if identity := self._new.pop(user.name, None):
            self._keep(user, identity)

    # -- What follows

    async def judge(self, name: str, standing: Standing, *, logging_in: bool = False, starting: Any = None) -> str:
        """Return why the user's logins, tokens and servers end now, "" if they do not; by how the account stands.

        Who is `logging_in` has them ended before the login; else pages do not wait for that. The spawner that is `starting` is left to its caller.
        """
        user = orm.User.find(self._hub.db, name)
        if user is None:
            if logging_in and standing.identity:
                self._new[name] = standing.identity
            return ""
        kept = self._kept([name])
        reason, now = _compared(kept, name, standing, logging_in)
        if reason:
            await self._end(user, reason, standing.identity, was=kept.get(name), wait=logging_in, besides=starting)
        elif now != kept.get(name):
            self._keep(user, now)
        return reason

    def home_is_gone(self, name: str, standing: Standing) -> bool:
        """Return whether a home folder that was there is not there any more."""
        before = self._kept([name]).get(name)
        return bool(before and before.home and standing.identity and standing.identity.missing)

    async def _end(self, user: orm.User, reason: str, now: Identity | None, *, was: Identity | None, wait: bool, besides: Any) -> None:
        name = user.name
        spawners = self._hub.users[user].spawners
        ending = [spawner for spawner in spawners.values() if spawner is not besides and (spawner.active or spawner.pending)]
        tokens = len(user.api_tokens)
        self._forget(user, [*ending, besides])
        if was:  # else nobody has ever come by that account, and a sign-up may wait for it
            await forget_password(self._hub.authenticator, user)
        self._keep(user, now)
        if was or tokens or ending:
            servers = f", {len(ending)} running server(s)" if ending else ""
            record.write("account-ended", f"What {name} had at the hub ends (logins, {tokens} token(s){servers}): {reason}", user=name, reason=reason)
        task = asyncio.ensure_future(self._stop(ending, reason))
        self._ending.add(task)  # asyncio itself keeps no hold of it
        task.add_done_callback(self._ending.discard)
        if wait:
            await asyncio.shield(task)

    def _forget(self, user: orm.User, besides: list[Any]) -> None:
        """Make the hub's user what one is who has never been there; the spawners `besides` are in use."""
        db, spawners = self._hub.db, self._hub.users[user].spawners
        codes = db.query(orm.OAuthCode).filter_by(user_id=user.id)
        for row in [*user.api_tokens, *codes, *user.shares, *user.share_codes, *user.shared_with_me]:
            db.delete(row)
        user.admin, user.groups, user.roles = False, [], [orm.Role.find(db, "user")]
        user.encrypted_auth_state = user.user_info = None
        in_use = [spawner.name for spawner in besides if spawner]
        for name, spawner in user.orm_spawners.items():
            if name not in in_use:
                spawners.pop(name, None)
                db.delete(spawner)
        user_logins.forget(db, user)

    async def _stop(self, spawners: list[Any], reason: str) -> None:
        async def stop(spawner: Any) -> None:
            for _ in range(PENDING):
                if not spawner.pending:
                    break
                await asyncio.sleep(1)
            if spawner.active:
                await stop_server(self._hub, spawner, record.Actor("", "", "", f"because the account is gone or another one: {reason}"))

        await asyncio.gather(*map(stop, spawners))

    # -- All of them

    async def look(self) -> None:
        """Look whether the accounts of running servers are still there and still the same; where accounts are in local files alone, those of all users."""
        running = {user.name for user in list(self._hub.users.values()) if user.active}
        if await self._look_at(running):
            await self._look_at([name for (name,) in self._hub.db.query(orm.User.name) if name not in running])

    async def _look_at(self, names: Iterable[str]) -> bool:
        """Look at these; return whether no directory could know of others."""
        names, certain = list(names), True
        for start in range(0, max(len(names), 1), AT_A_TIME):
            try:
                answer = await ask({"action": "accounts", "users": names[start : start + AT_A_TIME]}, PATIENCE)
            except LoginCheckError as error:
                log.info("Whether accounts are still there cannot be found out now: %s", error)
                return False
            certain = answer["certain"]
            kept = self._kept(list(answer["accounts"]))
            for name, found in answer["accounts"].items():
                standing = self._standings.seen(name, {"known": found is not None, "certain": certain, **(found or {})})
                reason, now = _compared(kept, name, standing)
                if reason or now != kept.get(name):
                    await self.judge(name, standing)
                    await asyncio.sleep(0)  # requests are answered in between: the first look of a large hub, or a restored one, keeps everybody
        return certain


def _compared(kept: dict[str, Identity | None], name: str, standing: Standing, logging_in: bool = False) -> tuple[str, Identity | None]:
    """Return why an account is another one than what is `kept` of it, "" if it is not, and what to keep then."""
    before, now = kept.get(name), standing.identity
    if standing.gone:
        return ("" if name in kept and before is None else standing.reason), None
    if before is None or now is None:
        return "", now or before
    return before.why_another(now, logging_in), before.updated(now)
