"""What is measured: a job for each combination of phase, mode, precision, ranks and batch size."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from src.backend import DEVICE_TARGETS
from src.errors import UserError
from src.overrides import apply_overrides, load_recipe, plain

PHASES = ("train", "infer")
MODES = ("graph", "eager")
PRECISIONS = {"fp32": "O0", "O2": "O2", "O3": "O3", "bf16": "bf16"}  # by name, their amp_level
HALF = ("O2", "O3")


@dataclass(frozen=True)
class Job:
    """One measurement, in processes of its own.

    Attributes:
        phase: train (a whole step: forward, loss, backward, mean over the ranks, update) or infer (batch in,
            probability out).
        mode: graph, or eager (PYNATIVE_MODE).
        precision: a key of `PRECISIONS`.
        ranks: number of processes.
        batch_size: of each rank.
        recipe: the settings, with batch size and precision.
        device_target, device_id: where.
        warmup, iterations: untimed and timed iterations; the first of the warm-up compiles.
        data_path: the data set whose pictures are taken; empty for random numbers.
        graph_kernels: see `backend.set_execution`.
        refused: why this cannot be measured; empty where nothing is known against it.
    """

    phase: str
    mode: str
    precision: str
    ranks: int
    batch_size: int
    recipe: dict[str, Any]
    device_target: str = "CPU"
    device_id: int = 0
    warmup: int = 3
    iterations: int = 20
    data_path: str = ""
    graph_kernels: bool = False
    refused: str = ""

    @property
    def name(self) -> str:
        return f"{self.phase}-{self.mode}-{self.precision}-ranks{self.ranks}-batch{self.batch_size}"

    def settings(self) -> dict[str, Any]:
        """Return what tells this job from the others of a benchmark."""
        kept = ("phase", "mode", "precision", "ranks", "batch_size")
        return {key: value for key, value in asdict(self).items() if key in kept}


def plan_jobs(recipe_name: str, config_file: str | None, overrides: Sequence[str], phases: Sequence[str],
              modes: Sequence[str], precisions: Sequence[str], batch_sizes: Sequence[int], device_num: int = 1,
              **further: Any) -> list[Job]:
    """Return the jobs of a benchmark, those with `refused` set that the recipe's rules exclude.

    With several ranks each is measured on one rank as well: weak scaling compares them.

    Args:
        recipe_name, config_file, overrides: as for `load_recipe`.
        phases, modes, precisions: of `PHASES`, `MODES` and `PRECISIONS`.
        batch_sizes: of each rank; empty for the recipe's own.
        device_num: number of ranks.
        further: the other fields of `Job`, the same for all.

    Raises:
        UserError: the recipe is wrong, or one of the lists has a value that there is not.
    """
    recipe = load_recipe(recipe_name, config_file, overrides)
    for option, values, known in (("--phases", phases, PHASES), ("--modes", modes, MODES),
                                  ("--precisions", precisions, tuple(PRECISIONS))):
        if not values or not set(values) <= set(known):
            raise UserError(f"{option}: found {','.join(values) or 'nothing'}, expected some of {','.join(known)}")
    _check_numbers(batch_sizes, device_num, further)
    jobs = []
    for phase, batch, precision, mode, ranks in itertools.product(
            phases, batch_sizes or [recipe["batch_size"]], precisions, modes, sorted({1, device_num})):
        settings, refused = plain(recipe), ""
        try:
            changed = {"batch_size": batch, "amp_level": PRECISIONS[precision]}
            settings = plain(apply_overrides(recipe, changed))
        except UserError as error:
            refused = str(error)
        if further.get("graph_kernels") and mode == "eager":
            refused = "graph kernels need graphs"
        jobs.append(Job(phase, mode, precision, ranks, batch, settings, refused=refused, **further))
    return jobs


def _check_numbers(batch_sizes: Sequence[int], device_num: int, further: Mapping[str, Any]) -> None:
    for option, value, least in (("--warmup", further.get("warmup", 1), 1), ("--device_num", device_num, 1),
                                 ("--iterations", further.get("iterations", 1), 1),
                                 *(("--batch_sizes", size, 1) for size in batch_sizes)):
        if value < least:
            raise UserError(f"{option}: found {value}, expected {least} or more")
    target = further.get("device_target", "CPU")
    if target not in DEVICE_TARGETS:
        raise UserError(f"unknown device target {target!r}: expected one of {', '.join(DEVICE_TARGETS)}")
    if further.get("graph_kernels") and target == "CPU":
        raise UserError("--graph_kernels: found device target CPU, expected Ascend or GPU: MindSpore fuses the "
                        "operators of graphs there alone; leave it out")
