"""Logins that end when they are not used: JUPYTERHUB_LOGIN_IDLE of /etc/default/jupyterhub, off as shipped.

Nothing is kept for it. The login cookie has the time at which it was made in it and is made anew while it is used; a notebook server asks the hub about its
visitor's token, and the token's last activity is in the database.
"""

import functools
from datetime import datetime
from typing import Any

from jupyterhub import orm
from jupyterhub.handlers import BaseHandler
from jupyterhub.utils import utcnow
from sqlalchemy import func

from .durations import login_idle
from .handlers import in_place_of

# Seconds that a server keeps the hub's answer (HubAuth.cache_max_age): so long may have been worked there without the hub's knowledge.
UNKNOWN = 300
DAY = 86400


@functools.cache
def ending_when_idle(handler: type) -> type:
    """Return `handler`, a class of request handlers, as one for which idle logins are none; itself where that is off."""
    if not login_idle() or not issubclass(handler, BaseHandler):
        return handler
    return in_place_of(handler, type("IdleHandler", (Idle, handler), {}))


def _is_idle(last: datetime | None) -> bool:
    """Was a token (its last activity, UTC without a zone) not used for too long?"""
    return last is None or (utcnow(with_tz=False) - last).total_seconds() > login_idle() + UNKNOWN


class Idle(BaseHandler):
    """Knows no logins that were idle for too long, by cookie (a browser's at the hub) or token (the same browser's at a server)."""

    def _user_for_cookie(self, cookie_name: str, cookie_value: str | None = None) -> Any:
        user = super()._user_for_cookie(cookie_name, cookie_value)
        if user is None:
            return None

        def is_younger(seconds: float) -> bool:
            return self.get_secure_cookie(cookie_name, cookie_value, max_age_days=seconds / DAY) is not None

        if not is_younger(login_idle()) and not self._works_at_a_server(user):
            self.log.info("The login of %s was idle for too long", user.name)
            self.clear_cookie(cookie_name, path=self.hub.base_url)
            return None
        if not is_younger(login_idle() / 10):
            self.set_hub_cookie(user)
        return user

    def _works_at_a_server(self, user: Any) -> bool:
        """Return whether the user works at a notebook server, in the same browser."""
        session = self.get_session_cookie()
        newest = self.db.query(func.max(orm.APIToken.last_activity)).filter_by(user_id=user.id, session_id=session)
        return bool(session) and not _is_idle(newest.scalar())

    def get_token(self) -> orm.APIToken | None:
        if not hasattr(self, "_token_in_use"):
            token = super().get_token()
            # Only a visit to a server has a session; tokens for programs have their own end.
            if token is not None and token.session_id and _is_idle(token.last_activity or token.created):
                self.db.delete(token)
                self.db.commit()
                token = None
            self._token_in_use = token
        return self._token_in_use
