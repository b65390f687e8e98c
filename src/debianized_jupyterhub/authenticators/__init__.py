"""Other ways to log in than PAM, under sudoers' policy: docs/authenticators.md.

Each module needs its upstream, which is in the extra `auth` of setup.py.
"""

from collections.abc import Iterable

Handlers = Iterable[tuple[str, type]]


def with_login(handlers: Handlers, login: type) -> Handlers:
    """Return request handlers with another one for the login page."""
    return [(path, login if path == "/login" else handler) for path, handler in handlers]
