"""Log in with the password of a directory, as a local account."""

import asyncio

from ldap3.core.exceptions import LDAPException
from ldapauthenticator import LDAPAuthenticator
from tornado import web

from ..authenticator import SudoersPolicy


class SudoersLDAPAuthenticator(SudoersPolicy, LDAPAuthenticator):
    """The directory says who somebody is, sudoers whether they are welcome."""

    async def authenticate(self, handler: web.RequestHandler, data: dict) -> dict | None:
        """Ask the directory in a thread of its own, for upstream's code waits for the answer and the hub must not.

        Raises HTTPError 503 where the directory cannot be asked.
        """
        try:
            return await asyncio.to_thread(asyncio.run, super().authenticate(handler, data))
        except LDAPException as error:
            self.log.error("The directory %s cannot be asked: %s", self.server_address, error)
            raise web.HTTPError(503, "Your password cannot be checked now: the directory is out of reach. Try again later.") from None
