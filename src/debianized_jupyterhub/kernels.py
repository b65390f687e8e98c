"""Kernels of the notebook servers: the bundled one is always there, the machine's work as they are, and one that is broken says where.

src/jupyter/jupyter_server_config.json has notebook servers use these classes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from typing import Any

from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.paths import jupyter_runtime_dir
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager, ServerKernelManager
from tornado import web
from traitlets import TraitError, default

from . import kernelspecs, layers, leftovers, limits
from .kernel_environment import Harmless, login_variables

BUNDLED = os.path.join(sys.prefix, "share/jupyter/kernels", NATIVE_KERNEL_NAME)
BARE_KERNEL_NAME = f"{NATIVE_KERNEL_NAME}-bundled"  # the bundled one without the user's packages
PROOF = 30  # seconds within which a kernel with replaced packages has to answer
OWN_KERNEL_NAME, MACHINES_KERNEL_NAME = f"{NATIVE_KERNEL_NAME}-own", f"{NATIVE_KERNEL_NAME}-machine"
ADDED_NAMES = {OWN_KERNEL_NAME: " (your own)", MACHINES_KERNEL_NAME: " (the machine's)"}


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
        if layers.allowed() and layers.Layer(layers.bundle()).has_packages():
            folders[BARE_KERNEL_NAME] = BUNDLED
        return folders

    def _find_spec_directory(self, kernel_name: str) -> str | None:
        folders = self.find_kernel_specs()
        # Notebooks remember it, also once there are no packages to do without.
        return folders.get(NATIVE_KERNEL_NAME if kernel_name == BARE_KERNEL_NAME else kernel_name)

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return the kernel's specification. Raises NoSuchKernel, and BrokenKernel for a file that is none."""
        try:
            spec = super().get_kernel_spec(kernel_name)
            spec.argv = [kernelspecs.program(spec.argv, spec.resource_dir), *spec.argv[1:]]
        except (OSError, ValueError, TypeError, IndexError, TraitError) as error:
            raise BrokenKernel(f"The kernel cannot start: {self._find_spec_directory(kernel_name)}/kernel.json cannot be used ({error}).") from None
        spec.display_name += ADDED_NAMES.get(kernel_name, "")
        if kernel_name == BARE_KERNEL_NAME:
            spec.display_name = layers.WITHOUT
        return spec


class Trial(AsyncKernelManager):
    """A kernel of a layer, started to see whether it works."""

    python = ""

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        """Return the bundled kernel's command (list of str), with the layer's Python."""
        return [self.python, *super().format_kernel_cmd(extra_arguments)[1:]]


async def why_it_fails(python: str, env: dict[str, str]) -> str:
    """Start a kernel with the program `python`, run a cell, and end it; return the last line that it wrote if it does not answer, "" if it does."""
    file = os.path.join(jupyter_runtime_dir(), f"kernel-{uuid.uuid4()}.json")
    trial = Trial(transport="ipc", connection_file=file, kernel_spec_manager=BundledKernelSpecManager())
    trial.python = python
    with tempfile.TemporaryFile() as said:
        await trial.start_kernel(env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        client = trial.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=PROOF)
            await client.execute("1", silent=True, reply=True, timeout=PROOF)
        except (RuntimeError, TimeoutError) as error:
            said.seek(0)
            lines = said.read().decode(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), str(error))
        finally:
            client.stop_channels()
            await trial.shutdown_kernel(now=True)
    return ""


class CheckedKernelManager(ServerKernelManager):
    """Upstream's, but it talks to each kernel in a way that the kernel knows, and says why one cannot start.

    The bundled one and the administrator's environments have the user's packages.
    """

    _harmless = Harmless()

    @default("transport")
    def _transport_of_the_kernel(self) -> str:
        return kernelspecs.transport(self.kernel_spec.argv)

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        """Return the command (list of str) that starts the kernel."""
        return kernelspecs.with_library(super().format_kernel_cmd(extra_arguments))

    async def _async_pre_start_kernel(self, **options: Any) -> tuple[list[str], dict[str, Any]]:
        self._read_again()
        bundled = self.kernel_spec is not None and self.kernel_spec.resource_dir == BUNDLED
        variables = await self._harmless() if bundled else login_variables()
        options["env"] = {**options.get("env", os.environ), **variables}
        command, options = await super()._async_pre_start_kernel(**options)
        if not shutil.which(command[0], path=options.get("env", os.environ).get("PATH")):
            raise BrokenKernel(self._what_is_missing(command[0]))
        if pythons := leftovers.pythons_of(command[0]):
            raise BrokenKernel(self._what_has_gone(*pythons))
        if base := self._base(command[0]):
            command[0] = await self._python_with_packages(base, command[0], options["env"])
        return command, options

    @property
    def environment(self) -> dict[str, Any] | None:
        """The environment and revision (ctl/environment_build.py) that it was started with, whatever is current by now; None for a kernel of none."""
        about = self._kernel_spec.metadata if self._kernel_spec else {}
        if not isinstance(about.get("environment"), str) or not isinstance(about.get("revision"), int):
            return None
        return {"name": about["environment"], **{key: about.get(key) for key in ("revision", "python", "lock")}}

    def _read_again(self) -> None:
        """At a restart, start from the kernelspec as it is now: an environment may have another revision. Raises BrokenKernel."""
        try:
            self._kernel_spec = self.kernel_spec_manager.get_kernel_spec(self.kernel_name)
        except NoSuchKernel:
            raise BrokenKernel(f'The kernel "{self.kernel_name}" is no longer there: choose another one.') from None
        if self.provisioner:  # of the start before
            self.provisioner.kernel_spec = self._kernel_spec

    async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
        try:
            await super()._async_launch_kernel(kernel_cmd, **options)
        except OSError as error:
            if limit := limits.met_by(error):
                raise BrokenKernel(f"The kernel cannot start: {limit}.") from error
            raise

    def _base(self, python: str) -> layers.Base | None:
        """Return what packages of the user's lie over in this kernel, None where it has none."""
        if self.kernel_spec.resource_dir == BUNDLED:
            return layers.bundle()
        return layers.environment(os.path.dirname(os.path.dirname(python))) if is_the_machines(self.kernel_spec.resource_dir) else None

    async def _python_with_packages(self, base: layers.Base, python: str, env: dict[str, str]) -> str:
        """Return the Python of the user's layer, and put what it needs into `env`; where there is none, the kernel starts all the same. Raises BrokenKernel."""
        layer = layers.Layer(base)
        try:
            if self.kernel_name == BARE_KERNEL_NAME:
                raise layers.LayerError('this kernel is the one without them: choose "Python 3 (ipykernel)"')
            layer.prepare()
        except layers.LayerError as error:
            self.log.warning("A kernel without personal packages: %s", error)
            env[layers.REFUSAL] = f"Your own packages cannot be installed here: {error}."
            return python
        env.update(layer.variables(env))
        env.pop(layers.REFUSAL, None)
        await self._require_working(layer, env)
        return f"{layer.folder}/bin/python"

    async def _require_working(self, layer: layers.Layer, env: dict[str, str]) -> None:
        """Raise BrokenKernel if packages of the user's stand in for those below and no kernel starts with them; tried once for each set of packages."""
        suspects = layer.suspects()
        if not suspects or layer.is_known_good():
            return
        if reason := await why_it_fails(f"{layer.folder}/bin/python", env):
            named, name = ", ".join(layer.versions(suspects)), layer.base.name
            if name == layers.BUNDLED:
                raise BrokenKernel(
                    f"Your own packages keep this kernel from starting ({named}): {reason}\n"
                    f'Choose the kernel "{layers.WITHOUT}". `jupyterhub-packages reset` in a terminal removes your packages.'
                )
            raise BrokenKernel(
                f'Your own packages over the environment "{name}" keep its kernel from starting ({named}): {reason}\n'
                f"`jupyterhub-packages --kernel {name} reset` in a terminal removes them; until then choose another kernel."
            )
        layer.remember_good()

    def _what_is_missing(self, program: str) -> str:
        spec = self.kernel_spec
        start = f'The kernel "{spec.display_name}" cannot start:\n{program}, which'
        if is_the_machines(spec.resource_dir):
            return f"{start} it needs, is not installed. Please tell your administrator, and choose another kernel."
        return (  # in lines, since JupyterLab's dialog breaks none
            f"{start} {spec.resource_dir}/kernel.json names, is missing.\n"
            "Make that environment again, or delete the folder of that file and choose another kernel."
        )

    def _what_has_gone(self, environment: str, old: str, new: str) -> str:
        start = (
            f'The kernel "{self.kernel_spec.display_name}" cannot start:\n{environment} is an environment of Python {old}, and this machine has Python {new}.\n'
        )
        if is_the_machines(self.kernel_spec.resource_dir):
            return f"{start}Please tell your administrator, and choose another kernel."
        return f"{start}`jupyterhub-packages check` in a terminal says how to make it anew; until then choose another kernel."


class Kernels(AsyncMappingKernelManager):
    """Upstream's, but it says which environment a kernel has: JupyterLab notes that in notebooks (src/jupyter/environment-record)."""

    def kernel_model(self, kernel_id: str) -> dict[str, Any]:
        """Return what the API says of a kernel."""
        model: dict[str, Any] = super().kernel_model(kernel_id)
        kernel = self.get_kernel(kernel_id)
        return {**model, "environment": kernel.environment} if isinstance(kernel, CheckedKernelManager) else model
