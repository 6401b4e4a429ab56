"""The environment that a launcher gives a rank, kept apart from what surrounds us by chance.

A notebook or an agent may itself run inside a job of torchrun, Slurm or MPI, whose variables then
name ranks that will never come, or settings that would change weights. So the variables count only
where `--ranks` asks for several processes and all of them are there and agree. Otherwise they are
taken out before torch and accelerate read them. This module imports neither.
"""

from collections.abc import MutableMapping, Sequence

RANK_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""What torchrun, and so `accelerate launch`, sets for each process it starts."""
_OF_A_JOB = (
    *RANK_VARIABLES,
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_NAME",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "NODE_RANK",
    "NPROC",
    "FORK_LAUNCHED",
)
_PREFIXES = (
    "ACCELERATE_",
    "TORCHELASTIC_",
    "PARALLELISM_CONFIG_",
    "FSDP_",
    "MEGATRON_LM_",
    "PMI_",
    "OMPI_COMM_WORLD_",
    "PET_",
    "MV2_COMM_WORLD_",
)
_KEPT = ("ACCELERATE_USE_CPU",)
_NOTHING = ("", "0", "no", "none", "false", "off", "n", "f")
_CHANGING = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (*_NOTHING, "1"),
    "ACCELERATE_DYNAMO_BACKEND": _NOTHING,
    "ACCELERATE_USE_DEEPSPEED": _NOTHING,
    "ACCELERATE_USE_FSDP": _NOTHING,
    "ACCELERATE_USE_MEGATRON_LM": _NOTHING,
    "ACCELERATE_USE_PARALLELISM_CONFIG": _NOTHING,
    "ACCELERATE_FP8_FORMAT": _NOTHING,
}
"""Variables that would change weights, each with the values that change nothing."""
_THREADS = "OMP_NUM_THREADS"


class LauncherError(ValueError):
    """The environment asks for something that cannot be honoured; the text says what to do."""


def refuse_changes(environ: MutableMapping[str, str]) -> None:
    """Refuse settings of a launcher that would change the weights of a checkpoint.

    A training run is described by its specification alone, so that it can be repeated.

    Raises:
        LauncherError: one is set; it is named.
    """
    for name, harmless in _CHANGING.items():
        value = environ.get(name, "").strip()
        if value.lower() not in harmless:
            message = (
                f"{name}={value!r} would change the weights, and no specification says so: unset "
                "it (or, with accelerate launch, the option or default_config.yaml that sets it). "
                "The step is `batch` cells, `micro_batch` at a time, in the specification"
            )
            raise LauncherError(message)


def settle(environ: MutableMapping[str, str], ranks: int | None) -> bool:
    """Return whether this process is one rank of several; the environment is made to say the same.

    Args:
        environ: the environment, changed in place: what does not count is taken out.
        ranks: how many processes were asked for; None is one.

    Raises:
        LauncherError: several were asked for, and the launcher's variables name another number, or
            do not agree.
    """
    # A value that is no number counts as none.
    if environ.get(_THREADS, "1") == "" or not _is_count(environ.get(_THREADS, "1")):
        del environ[_THREADS]
    several = ranks is not None and ranks > 1 and all(environ.get(n) for n in RANK_VARIABLES)
    if several and ranks:
        _check(environ, ranks)
    for name in list(environ):
        of_a_job = name in _OF_A_JOB or name.startswith("TORCHELASTIC_")
        if name in _KEPT or not (of_a_job or name.startswith(_PREFIXES)):
            continue
        if not (several and of_a_job):
            del environ[name]
    return several


def named_ranks(environ: MutableMapping[str, str]) -> int:
    """Return how many processes the launcher's variables name, 1 where they are not all there."""
    if not all(environ.get(name) for name in RANK_VARIABLES):
        return 1
    value = environ["WORLD_SIZE"]
    return int(value) if _is_count(value) else 1


def _check(environ: MutableMapping[str, str], ranks: int) -> None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    values = [environ[name] for name in names]
    if all(value.isascii() and value.isdigit() for value in values):
        rank, world, local_rank, local_world, _ = map(int, values)
        if rank < world == ranks and local_rank < local_world <= world and local_rank <= rank:
            return
        if world != ranks:
            raise LauncherError(too_few(ranks, world))
    said = ", ".join(f"{name}={value!r}" for name, value in zip(names, values, strict=True))
    message = (
        f"--ranks {ranks}, but the launcher's variables do not agree ({said}): start the ranks "
        "with accelerate launch, or leave --ranks out to use one process"
    )
    raise LauncherError(message)


def too_few(ranks: int, present: int, module: str = "lingshu_model.train") -> str:
    """Return what to do where there is another number of processes than asked for."""
    launch = f"accelerate launch --multi_gpu --num_processes {ranks} -m {module}"
    return (
        f"--ranks {ranks}, but there are {present} processes. GPUs: `{launch} … --ranks {ranks}`; "
        "CPU: the same with ACCELERATE_USE_CPU=true in the environment"
    )


def ranks_in(arguments: Sequence[str]) -> int | None:
    """Return the value of `--ranks` on a command line; None where it is not there or no number."""
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--ranks":
            value = value or next(iter(arguments[index + 1 :]), "")
            return int(value) if _is_count(value) else None
    return None


def _is_count(value: str) -> bool:
    return value.isascii() and value.isdigit() and int(value) > 0
