"""What PAM says of Python and the dynamic linker (/etc/environment and the like): kept from the notebook server, and given to its kernels.

libexec/sudospawner puts it aside, for with a PYTHONHOME or some PYTHONPATH no server would start.
"""

import asyncio
import json
import logging
import os
import sys

log = logging.getLogger("jupyterhub.kernels")
TIMEOUT = 30  # seconds for an import


def login_variables() -> dict[str, str]:
    """Return the variables that PAM has set for the user's sessions, by name."""
    return dict(json.loads(os.environ.get("JUPYTERHUB_LOGIN_VARIABLES", "{}")))


class Harmless:
    """The variables with which the bundled kernel starts; found out once, at the first kernel."""

    def __init__(self) -> None:
        self._found: dict[str, str] | None = None
        self._turn = asyncio.Lock()

    async def __call__(self) -> dict[str, str]:
        """Return them by name. A line in the journal names each of the others."""
        async with self._turn:
            if self._found is None:
                self._found = await self._try()
        return self._found

    async def _try(self) -> dict[str, str]:
        wanted = login_variables()
        if not wanted or await _complaint(wanted) is None:
            return wanted
        harmless: dict[str, str] = {}
        for name, value in wanted.items():
            if (complaint := await _complaint({**harmless, name: value})) is None:
                harmless[name] = value
            else:
                log.warning("%s=%s keeps the bundled kernel from starting, which does without it: %s (see /etc/environment)", name, value, complaint)
        return harmless


async def _complaint(variables: dict[str, str]) -> str | None:
    """Return the last line of what the bundled kernel says that cannot start with `variables`; None where it can."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "import ipykernel.kernelapp"),
        env={**os.environ, **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await asyncio.wait_for(process.communicate(), TIMEOUT)
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"no answer after {TIMEOUT} s"
    return None if process.returncode == 0 else (said.decode(errors="replace").strip().splitlines() or [f"exit status {process.returncode}"])[-1]
