"""Kernels of the notebook servers: the bundled one is always there, the machine's work as they are, and one that is broken says where.

src/jupyter/jupyter_server_config.json has notebook servers use these classes.
"""

import os
import shutil
import sys
from typing import Any

from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpec, KernelSpecManager
from jupyter_server.services.kernels.kernelmanager import ServerKernelManager
from tornado import web
from traitlets import TraitError, default

from . import kernelspecs
from .kernel_environment import Harmless, login_variables

OWN_KERNEL_NAME, MACHINES_KERNEL_NAME = f"{NATIVE_KERNEL_NAME}-own", f"{NATIVE_KERNEL_NAME}-machine"
ADDED_NAMES = {OWN_KERNEL_NAME: " (your own)", MACHINES_KERNEL_NAME: " (the machine's)"}
BUNDLED = os.path.join(sys.prefix, "share/jupyter/kernels", NATIVE_KERNEL_NAME)


class BrokenKernel(web.HTTPError):
    """A kernel that cannot be started. Its text is the answer of the API, which tells nothing of other exceptions."""

    def __init__(self, reason: str) -> None:
        super().__init__(500, reason)

    def __str__(self) -> str:
        return str(self.get_message())


def is_the_machines(folder: str) -> bool:
    """Is the kernelspec in `folder` one for all users, which only the administrator can change?"""
    return folder.startswith(kernelspecs.SYSTEM)


class BundledKernelSpecManager(KernelSpecManager):
    """Upstream's, but kernels with the bundled one's name, ``python3``, stand beside it instead of hiding it or being hidden.

    ``python -m ipykernel install --user`` takes that name unless it is given another, and Debian's python3-ipykernel has it.
    """

    def find_kernel_specs(self) -> dict[str, str]:
        """Return the folders of the kernels, by the kernels' names."""
        folders = super().find_kernel_specs()
        if NATIVE_KERNEL_NAME not in folders:  # the site allows others alone
            return folders
        own = os.path.join(self.user_kernel_dir, NATIVE_KERNEL_NAME)
        if folders[NATIVE_KERNEL_NAME] == own:
            folders[NATIVE_KERNEL_NAME] = BUNDLED
            folders[OWN_KERNEL_NAME] = own
        for place in reversed(kernelspecs.SYSTEM):
            folder = os.path.join(place, NATIVE_KERNEL_NAME)
            if os.path.isfile(f"{folder}/kernel.json"):
                folders[MACHINES_KERNEL_NAME] = folder
        return folders

    def _find_spec_directory(self, kernel_name: str) -> str | None:
        return self.find_kernel_specs().get(kernel_name)

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return the kernel's specification. Raises NoSuchKernel, and BrokenKernel for a file that is none."""
        try:
            spec = super().get_kernel_spec(kernel_name)
            spec.argv = [kernelspecs.program(spec.argv, spec.resource_dir), *spec.argv[1:]]
        except (OSError, ValueError, TypeError, IndexError, TraitError) as error:
            raise BrokenKernel(f"The kernel cannot start: {self._find_spec_directory(kernel_name)}/kernel.json cannot be used ({error}).") from None
        spec.display_name += ADDED_NAMES.get(kernel_name, "")
        return spec


class CheckedKernelManager(ServerKernelManager):
    """Upstream's, but it talks to each kernel in a way that the kernel knows, and where a kernel's program is missing the error says so."""

    _harmless = Harmless()

    @default("transport")
    def _transport_of_the_kernel(self) -> str:
        return kernelspecs.transport(self.kernel_spec.argv)

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        """Return the command (list of str) that starts the kernel."""
        return kernelspecs.with_library(super().format_kernel_cmd(extra_arguments))

    async def _async_pre_start_kernel(self, **options: Any) -> tuple[list[str], dict[str, Any]]:
        bundled = self.kernel_spec is not None and self.kernel_spec.resource_dir == BUNDLED
        variables = await self._harmless() if bundled else login_variables()
        options["env"] = {**options.get("env", os.environ), **variables}
        command, options = await super()._async_pre_start_kernel(**options)
        if not shutil.which(command[0], path=options.get("env", os.environ).get("PATH")):
            raise BrokenKernel(self._what_is_missing(command[0]))
        return command, options

    def _what_is_missing(self, program: str) -> str:
        spec = self.kernel_spec
        start = f'The kernel "{spec.display_name}" cannot start:\n{program}, which'
        if is_the_machines(spec.resource_dir):
            return f"{start} it needs, is not installed. Please tell your administrator, and choose another kernel."
        return (  # in lines, since JupyterLab's dialog breaks none
            f"{start} {spec.resource_dir}/kernel.json names, is missing.\n"
            "Make that environment again, or delete the folder of that file and choose another kernel."
        )
