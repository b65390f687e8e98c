"""Log in with PAM; who may is decided by sudoers alone."""

import pwd

from jupyterhub.auth import PAMAuthenticator
from jupyterhub.utils import maybe_future
from tornado import web

from .gate import GateError, ask


class SudoersPolicy:
    """Mix-in: a user is allowed if sudo's policy lets the hub spawn for them.

    That is the alias JUPYTER_USERS in /etc/sudoers.d/jupyterhub, so the rule for
    logging in and the rule for spawning cannot disagree. `allowed_users` and
    `allowed_groups`, where a site sets them, narrow it further.
    """

    def check_allow_config(self) -> None:
        """Skip JupyterHub's warning that no rule is set: there always is one, in sudoers."""

    async def check_allowed(self, username: str, authentication: dict | None = None) -> bool:
        """Return True or raise HTTPError: 403 with the reason, 503 where sudo cannot be asked."""
        try:
            answer = await ask("allowed", user=username)
        except GateError as error:
            self.log.error("Cannot ask sudo whether %s may log in: %s", username, error)
            raise web.HTTPError(503, f"Logins are out of order. {error}") from None
        if not answer["allowed"]:
            reason = answer["reason"]
        elif not await self._site_allows(username, authentication):
            reason = "allowed_users and allowed_groups in the hub's configuration do not admit the account"
        else:
            return True
        self.log.warning("%s may not log in: %s", username, reason)
        raise web.HTTPError(
            403,
            f"The account {username} may not use notebooks on this server."
            " Ask your administrator to admit it.",
        )

    async def _site_allows(self, username: str, authentication: dict | None) -> bool:
        """Return whether upstream's own allow rules, where there are any, admit the user."""
        if not (self.allowed_users or getattr(self, "allowed_groups", None)):
            return True
        return await maybe_future(super().check_allowed(username, authentication))


class SudoersPAMAuthenticator(SudoersPolicy, PAMAuthenticator):
    """PAM says who somebody is, sudoers whether they are welcome."""

    def normalize_username(self, username: str) -> str:
        """Return the account's name as the system spells it.

        JupyterHub lower-cases names, which would turn one account into another
        where names differ only in case. NSS knows: a directory that ignores case
        answers with its own spelling.
        """
        try:
            username = pwd.getpwnam(username).pw_name
        except (KeyError, ValueError):  # ValueError: a NUL byte
            pass
        return self.username_map.get(username, username)
