"""Kernels of the notebook servers: the bundled one is always there, and one that is broken says where.

src/jupyter/jupyter_server_config.json has notebook servers use these classes.
"""

import os
import shutil
import sys
from typing import Any

from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpec, KernelSpecManager
from jupyter_server.services.kernels.kernelmanager import ServerKernelManager
from tornado import web

from .kernel_environment import Harmless, login_variables

OWN_KERNEL_NAME = f"{NATIVE_KERNEL_NAME}-own"
BUNDLED = os.path.join(sys.prefix, "share/jupyter/kernels", NATIVE_KERNEL_NAME)


class BundledKernelSpecManager(KernelSpecManager):
    """Upstream's, but a kernel that a user has installed as ``python3`` stands beside the bundled one instead of hiding it.

    ``python -m ipykernel install --user`` takes that name unless it is given another.
    """

    def find_kernel_specs(self) -> dict[str, str]:
        """Return the folders of the kernels, by the kernels' names."""
        folders = super().find_kernel_specs()
        own = os.path.join(self.user_kernel_dir, NATIVE_KERNEL_NAME)
        if folders.get(NATIVE_KERNEL_NAME) == own:
            folders[NATIVE_KERNEL_NAME] = BUNDLED
            folders[OWN_KERNEL_NAME] = own
        return folders

    def _find_spec_directory(self, kernel_name: str) -> str | None:
        return self.find_kernel_specs().get(kernel_name)

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return the kernel's specification. Raises NoSuchKernel."""
        spec = super().get_kernel_spec(kernel_name)
        if kernel_name == OWN_KERNEL_NAME:
            spec.display_name += " (your own)"
        return spec


class BrokenKernel(web.HTTPError):
    """A kernel that cannot be started. Its text is the answer of the API, which tells nothing of other exceptions."""

    def __init__(self, reason: str) -> None:
        super().__init__(500, reason)

    def __str__(self) -> str:
        return str(self.log_message)


class CheckedKernelManager(ServerKernelManager):
    """Upstream's, but where a kernel's program is missing the error says which and where it is named."""

    _harmless = Harmless()

    async def _async_pre_start_kernel(self, **options: Any) -> tuple[list[str], dict[str, Any]]:
        bundled = self.kernel_spec is not None and self.kernel_spec.resource_dir == BUNDLED
        variables = await self._harmless() if bundled else login_variables()
        options["env"] = {**options.get("env", os.environ), **variables}
        command, options = await super()._async_pre_start_kernel(**options)
        if not shutil.which(command[0], path=options.get("env", os.environ).get("PATH")):
            spec = self.kernel_spec
            raise BrokenKernel(
                # In lines, since JupyterLab's dialog breaks none.
                f'The kernel "{spec.display_name}" cannot start:\n{command[0]}, which {spec.resource_dir}/kernel.json names, is missing.\n'
                "Make that environment again, or delete the folder of that file and choose another kernel."
            )
        return command, options
