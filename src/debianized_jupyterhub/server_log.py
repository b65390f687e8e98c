"""The log of a notebook server, where it goes to the journal."""

from tornado.log import LogFormatter

from .journal import Prioritized


class Formatter(Prioritized, LogFormatter):
    """Jupyter's own, with priorities."""
