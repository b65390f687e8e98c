"""The first password that somebody uses is theirs."""

from typing import Any

from firstuseauthenticator import FirstUseAuthenticator
from firstuseauthenticator.firstuseauthenticator import CustomLoginHandler
from jupyterhub.app import JupyterHub
from jupyterhub.handlers import LoginHandler as HubsLoginHandler

from ..authenticator import SudoersPolicy
from . import Handlers, with_login


class LoginHandler(CustomLoginHandler):
    """The login page of FirstUseAuthenticator 1.1, with JupyterHub 6's errors, which it cannot show."""

    def _render(self, login_error: str | None = None, username: str | None = None, **namespace: Any) -> str:
        error = self.custom_login_error or login_error
        return HubsLoginHandler._render(self, error, username, **namespace)


class SudoersFirstUseAuthenticator(SudoersPolicy, FirstUseAuthenticator):
    """The first password says who somebody is, sudoers whether they are welcome."""

    def get_handlers(self, app: JupyterHub) -> Handlers:
        return with_login(super().get_handlers(app), LoginHandler)
