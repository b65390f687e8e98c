"""People sign up, administrators authorize them."""

from typing import Any

from jupyterhub.app import JupyterHub
from nativeauthenticator import NativeAuthenticator
from nativeauthenticator.handlers import TEMPLATE_DIR
from nativeauthenticator.handlers import LoginHandler as NativeLoginHandler

from ..authenticator import SudoersPolicy
from . import Handlers, with_login


class NoTimer:
    """Stands in for the statsd client that JupyterHub 6 has no more."""

    def timer(self, name: str) -> "NoTimer":
        return self

    def start(self) -> "NoTimer":
        return self

    def stop(self, send: bool) -> None:
        pass


class LoginHandler(NativeLoginHandler):
    """The login page of NativeAuthenticator 1.3, with what JupyterHub 6 changed: no statsd, and errors on the form."""

    statsd = NoTimer()
    _more: dict = {}  # noqa: RUF012 (replaced, not changed)

    def _render(self, login_error: str | None = None, username: str | None = None, **namespace: Any) -> str:
        self._more = namespace
        return super()._render(login_error, username)

    def render_template(self, name: str, **namespace: Any) -> str:
        return super().render_template(name, **{**self._more, **namespace})


class SudoersNativeAuthenticator(SudoersPolicy, NativeAuthenticator):
    """Sign-up says who somebody is, sudoers whether they are welcome."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.parent:  # the hub; upstream adds its pages later, and not for those that show errors
            self.parent.template_paths = [*self.parent.template_paths, TEMPLATE_DIR]

    def get_handlers(self, app: JupyterHub) -> Handlers:
        return with_login(super().get_handlers(app), LoginHandler)
