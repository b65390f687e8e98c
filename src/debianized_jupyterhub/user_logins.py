"""The logins of a user, in a list, and how they end, all at once.

JupyterHub keeps no list: its login cookie is the same in all browsers of a user. So each login is noted in a table of its own, for those who want to know
whether it was theirs (user_pages.py); what ends them is another cookie.
"""

import time
from datetime import timedelta
from typing import Any

from jupyterhub import orm
from jupyterhub.utils import isoformat, utcnow
from sqlalchemy import Column, DateTime, ForeignKey, Integer, Table, Unicode, func, select

MOST = 50  # logins of a user that are listed; the oldest go

# JupyterHub makes it at its start, and removes rows with their user.
LOGINS = Table(
    "debianized_logins",
    orm.Base.metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("session_id", Unicode(255), nullable=False),  # JupyterHub's, of the browser
    Column("at", DateTime, nullable=False),  # UTC
    Column("address", Unicode(64), nullable=False),
    Column("browser", Unicode(255), nullable=False),  # what it says of itself
)
_ended: dict[str, float] = {}  # names of users: when their logins were ended, time.monotonic()


def listing(db: Any, user: orm.User, days: float) -> list[dict[str, Any]]:
    """Return the logins that may still count, since they are younger than `days`; the newest first.

    Each has `at` and `used` (ISO 8601; `used` is of notebook servers, None for never), `address`, `browser` and `session` (str).
    """
    used = dict(db.query(orm.APIToken.session_id, func.max(orm.APIToken.last_activity)).filter_by(user_id=user.id).group_by(orm.APIToken.session_id).all())
    since = utcnow(with_tz=False) - timedelta(days=days)
    rows = db.execute(select(LOGINS).where(LOGINS.c.user_id == user.id, LOGINS.c.at > since).order_by(LOGINS.c.id.desc()))
    return [
        {"at": isoformat(row.at), "used": isoformat(used.get(row.session_id)), "address": row.address, "browser": row.browser, "session": row.session_id}
        for row in rows
    ]


def note(db: Any, user: orm.User, session: str, address: str, browser: str) -> None:
    """Note a login; an earlier one of the same browser is over."""
    columns = {"session_id": session[:255], "address": address[:64], "browser": browser[:255]}
    db.execute(LOGINS.delete().where(LOGINS.c.user_id == user.id, LOGINS.c.session_id == columns["session_id"]))
    db.execute(LOGINS.insert().values(user_id=user.id, at=utcnow(with_tz=False), **columns))
    newest = select(LOGINS.c.id).where(LOGINS.c.user_id == user.id).order_by(LOGINS.c.id.desc()).offset(MOST)
    if old := list(db.execute(newest).scalars()):
        db.execute(LOGINS.delete().where(LOGINS.c.id.in_(old)))
    db.commit()


def of_programs(user: orm.User) -> list[orm.APIToken]:
    """Return the user's tokens that neither a browser nor a notebook server has."""
    return [token for token in user.api_tokens if not token.session_id and not (token.note or "").startswith("Server at ")]


def end(db: Any, user: orm.User, tokens: bool = False) -> int:
    """End the logins of a user at the hub and at notebook servers, and with `tokens` all tokens, too; return how many logins were in the list."""
    ending = [token for token in user.api_tokens if tokens or token.session_id]
    for row in [*ending, *db.query(orm.OAuthCode).filter_by(user_id=user.id)]:
        db.delete(row)
    _ended[user.name] = time.monotonic()
    return forget(db, user)


def forget(db: Any, user: orm.User) -> int:
    """Make the user's login cookies worthless, and forget the list of logins; return how many were in it."""
    user.cookie_id = orm.new_token()
    count = db.execute(LOGINS.delete().where(LOGINS.c.user_id == user.id)).rowcount
    db.commit()
    return count


def ended_since(name: str, moment: float) -> bool:
    """Return whether the user's logins were ended after a moment of time.monotonic(): a login that began before may build on what holds no more."""
    return _ended.get(name, moment) > moment
