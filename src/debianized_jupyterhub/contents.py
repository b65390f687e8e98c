"""Files of the notebook servers: links can be deleted; a name that is too long, a full disk and a file of somebody else's say so.

src/jupyter/jupyter_server_config.json has notebook servers use this class.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any

from jupyter_core.paths import jupyter_data_dir
from jupyter_server.services.contents.filemanager import FileContentsManager
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from tornado import web
from traitlets import Bool

from . import limits


def _too_long(path: str) -> web.HTTPError:
    name = max(path.split("/"), key=len)
    shown = f"{name[:30]}..." if len(name) > 30 else name
    return web.HTTPError(400, f"The name {shown} is too long. Most file systems take 255 bytes, and 'ü' is two; of a notebook's name 240.")


def _in_words(error: OSError, path: str, os_path: str) -> web.HTTPError | None:
    """Return what the user reads of an error with the file `path` (as the API has it; `os_path` on the machine), None where upstream says it as well."""
    if error.errno == errno.ENAMETOOLONG:
        return _too_long(path)
    if limit := limits.met_by(error, os_path):
        return web.HTTPError(507, f"{path}: {limit}.")
    # With notebooks, files come into it that the user did not ask for.
    if isinstance(error, PermissionError) and isinstance(error.filename, str) and error.filename.startswith(jupyter_data_dir()):
        return web.HTTPError(403, f"{path}: {limits.forbidden(error.filename, error.strerror or '')}")
    return None


class Contents(AsyncLargeFileManager):
    """Upstream's, with two faults less, and folders that are not empty can be deleted unless the site says otherwise."""

    always_delete_dir = Bool(True, config=True, help=FileContentsManager.always_delete_dir.help)

    @contextlib.contextmanager
    def _said_plainly(self, path: str) -> Iterator[None]:
        """Raise HTTPError with words of _in_words where something is in the way of the file `path`, or of one that is made of it (a checkpoint)."""
        try:
            yield
        except (OSError, web.HTTPError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            words = _in_words(cause, path, super()._get_os_path(path)) if isinstance(cause, OSError) else None
            if words is None:
                raise
            raise words from error

    def _get_os_path(self, path: str) -> str:
        os_path: str = super()._get_os_path(path)
        with self._said_plainly(path), contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            os.lstat(os_path)
        return os_path

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """Save the file that `model` describes; return its model without content. Raises HTTPError."""
        with self._said_plainly(path):
            return await super().save(model, path)

    async def get(self, path: str, *args: Any, **options: Any) -> dict[str, Any]:
        """Return the model of a file or folder. Raises HTTPError."""
        with self._said_plainly(path):
            return await super().get(path, *args, **options)

    async def trust_notebook(self, path: str) -> None:
        """Mark a notebook as one whose output may run in the browser. Raises HTTPError."""
        with self._said_plainly(path):
            await super().trust_notebook(path)

    async def rename_file(self, old_path: str, new_path: str) -> None:
        """Give a file or folder another name. Raises HTTPError."""
        with self._said_plainly(new_path):
            await super().rename_file(old_path, new_path)

    async def create_checkpoint(self, path: str) -> dict[str, Any]:
        """Keep a copy of a file; return its model. Raises HTTPError."""
        with self._said_plainly(path):
            return await super().create_checkpoint(path)

    async def delete_file(self, path: str) -> None:
        """Delete a file, a folder with all that is in it, or a link, wherever that leads. Raises HTTPError."""
        os_path = self._get_os_path(path)
        # Upstream finds no file where a link leads nowhere, and refuses one that leads to a folder.
        if os.path.islink(os_path) and (self.allow_hidden or not await self.is_hidden(path)):
            with self.perm_to_403():
                os.unlink(os_path)
        else:
            await super().delete_file(path)
