"""Files of the notebook servers: links can be deleted, and a name that is too long says so.

src/jupyter/jupyter_server_config.json has notebook servers use this class.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any

from jupyter_server.services.contents.filemanager import FileContentsManager
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from tornado import web
from traitlets import Bool


def _too_long(path: str) -> web.HTTPError:
    name = max(path.split("/"), key=len)
    shown = f"{name[:30]}..." if len(name) > 30 else name
    return web.HTTPError(400, f"The name {shown} is too long. Most file systems take 255 bytes, and 'ü' is two; of a notebook's name 240.")


@contextlib.contextmanager
def _names_fit(path: str) -> Iterator[None]:
    """Raise HTTPError 400 that says so where a name of `path`, or one that is made of it (of a checkpoint), is too long."""
    try:
        yield
    except (OSError, web.HTTPError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError) or cause.errno != errno.ENAMETOOLONG:
            raise
        raise _too_long(path) from error


class Contents(AsyncLargeFileManager):
    """Upstream's, with two faults less, and folders that are not empty can be deleted unless the site says otherwise."""

    always_delete_dir = Bool(True, config=True, help=FileContentsManager.always_delete_dir.help)

    def _get_os_path(self, path: str) -> str:
        os_path: str = super()._get_os_path(path)
        with _names_fit(path), contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            os.lstat(os_path)
        return os_path

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """Save the file that `model` describes; return its model without content. Raises HTTPError."""
        with _names_fit(path):
            return await super().save(model, path)

    async def delete_file(self, path: str) -> None:
        """Delete a file, a folder with all that is in it, or a link, wherever that leads. Raises HTTPError."""
        os_path = self._get_os_path(path)
        # Upstream finds no file where a link leads nowhere, and refuses one that leads to a folder.
        if os.path.islink(os_path) and (self.allow_hidden or not await self.is_hidden(path)):
            with self.perm_to_403():
                os.unlink(os_path)
        else:
            await super().delete_file(path)
