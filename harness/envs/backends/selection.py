"""Which backend steps a rank's environments: what the settings say, or what is fastest for them here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.envs.backends import BACKENDS
from harness.envs.backends.base import Backend, Vector
from harness.envs.inspection import close_spare
from harness.envs.settings import EnvSettings
from harness.errors import BadInput
from harness.registry import named_class

if TYPE_CHECKING:
    from harness.distributed.transports.base import Communicator


def backend_of(name: str) -> Backend:
    return named_class(name, BACKENDS, "env.backend", Backend)()


def check_backend(settings: EnvSettings) -> None:
    """BadInput where `env.backend` asks for what this environment, or this machine, does not have."""
    refused = None if settings.backend == "auto" else backend_of(settings.backend).refuses(settings)
    if refused is not None:
        raise BadInput(refused)


def choose_backend(settings: EnvSettings, count: int, cores: int, device: str = "cpu") -> EnvSettings:
    """The settings with `backend` and `double_buffer` as they are to be for a rank of `count` environments, whose
    policy acts on `device`."""
    name: str = settings.backend
    if name == "auto":
        name = next(each for each in BACKENDS if backend_of(each).preferred(settings, count, cores))
    buffered: str = settings.double_buffer
    if buffered == "auto":
        buffered = "on" if backend_of(name).double_buffered(settings, count, cores, device) else "off"
    return settings.model_copy(update={"backend": name, "double_buffer": buffered})


def agree_on_backend(settings: EnvSettings, communicator: Communicator, cores: int, device: str = "cpu") -> EnvSettings:
    """What rank 0 chooses, on all ranks; collective."""
    fewest = int(communicator.agree({"cores": cores}, "min")["cores"])
    share = -(-settings.count // communicator.size)
    chosen = choose_backend(settings, share, fewest, device) if communicator.rank == 0 else None
    return communicator.broadcast_object(chosen)


def make_vector(settings: EnvSettings, count: int, first: int, cores: int) -> Vector:
    """`settings` as `choose_backend` gives them; `first`: the global index of this rank's first environment."""
    check_backend(settings)
    backend = backend_of(settings.backend)
    if not backend.takes_spare:
        close_spare()
    return backend.make(settings, count, first, cores)
