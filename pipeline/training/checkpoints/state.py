"""The state of a trainer at a step, as tensors in host memory and JSON, and back.

It has what a step changes: the trained parameters, AdamW's moments, and the rows of metrics. The rest follows from the
stage itself: frozen parameters are those of the parent, the learning rate, the order of samples and the random numbers
are functions of the step. A state is taken only at a step with a row of metrics, where the sums of the metrics are
empty. Tensors are whole, so that any number of workers can go on, with DDP or FSDP2.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from model.errors import ArtifactError
from pipeline.training.loop import StageTrainer
from pipeline.training.parallel import from_full, named_trained, to_full

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
"""The files of a checkpoint."""


@dataclass(frozen=True)
class Snapshot:
    """The state after `step` steps.

    weights: by parameter name. optimizer: by 'KEY/PARAMETER', where KEY is AdamW's, e.g. 'exp_avg'. state: JSON.
    """

    step: int
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    state: dict[str, Any]

    def write_weights(self, target: Path) -> None:
        """Write the trained parameters as safetensors."""
        save_file(self.weights, target)

    def write_optimizer(self, target: Path) -> None:
        """Write the optimizer's state as safetensors."""
        save_file(self.optimizer, target)

    def write_state(self, target: Path) -> None:
        """Write the position and the rows of metrics as JSON; numbers are read back with all their bits."""
        target.write_text(json.dumps(self.state, indent=1) + "\n", encoding="utf-8")


class HostMemory:
    """Buffers for a snapshot in host memory, pinned if the model is on a GPU. Each snapshot uses them again."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def copy(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """Copy a whole tensor; from a GPU without waiting, so the caller must synchronise before it reads the copy."""
        buffer = self._buffers.get(name)
        if buffer is None:
            buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.device.type == "cuda")
            self._buffers[name] = buffer
        return buffer.copy_(value, non_blocking=True)


def capture(trainer: StageTrainer, memory: HostMemory, keep: bool) -> Snapshot | None:
    """The trainer's state; None on workers that do not `keep` it. Every worker must call this.

    Waits for the device once. The snapshot is valid until the next one is made in the same memory.
    """
    weights: dict[str, torch.Tensor] = {}
    optimizer: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for name, parameter in named_trained(trainer.model).items():
            # Whole tensors exist one at a time: FSDP2 gathers each, and only one worker copies it to its host.
            value = to_full(parameter)
            if keep:
                weights[name] = memory.copy(name, value)
            for key, moment in _moments(trainer, parameter):
                value = to_full(moment)
                if keep:
                    optimizer[f"{key}/{name}"] = memory.copy(f"{key}/{name}", value)
    if trainer.device.type == "cuda":
        torch.cuda.synchronize(trainer.device)
    notes = trainer.total_notes()
    if not keep:
        return None
    state = {
        "step": trainer.done,
        "samples": trainer.order.seen(trainer.done),
        "rows": list(trainer.log.rows),
        "guidance_left_out": notes,
    }
    return Snapshot(trainer.done, weights, optimizer, state)


def restore(trainer: StageTrainer, folder: Path, rank: int) -> dict[str, Any]:
    """Bring a trainer into the state of a checkpoint's folder and return its JSON. Files are memory-mapped.

    Raises ArtifactError if the checkpoint has other parameters than the trainer, FileNotFoundError if a file is gone.
    """
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    parameters = named_trained(trainer.model)
    trainer.optimizer.state.clear()
    with torch.no_grad():
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            if set(file.keys()) != set(parameters):
                odd = sorted(set(file.keys()) ^ set(parameters))
                raise ArtifactError(
                    f"{folder} has other parameters than {trainer.row.name} trains, the first is {odd[0]}; remove the "
                    "folder, or run the step with the code that wrote it"
                )
            for name, parameter in parameters.items():
                parameter.copy_(from_full(file.get_tensor(name), parameter))
        with safe_open(folder / OPTIMIZER, framework="pt") as file:
            for entry in file.keys():  # noqa: SIM118 - safe_open is no dict
                key, _, name = entry.partition("/")
                parameter = parameters[name]
                trainer.optimizer.state[parameter][key] = _moment(file.get_tensor(entry), parameter)
    trainer.done = int(state["step"])
    trainer.log.restore(state["rows"])
    # The notes are those of all workers; they are summed again at the end, so one worker has them.
    trainer.notes = Counter(state["guidance_left_out"] if rank == 0 else {})
    return state


def _moments(trainer: StageTrainer, parameter: torch.nn.Parameter) -> Iterator[tuple[str, torch.Tensor]]:
    """AdamW's tensors of a parameter, in a fixed order; none before its first gradient."""
    return iter(sorted(trainer.optimizer.state.get(parameter, {}).items()))


def _moment(full: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor:
    """An entry of the optimizer's state, on the parameter's device and in its memory layout."""
    if full.dim() == 0 and parameter.dim() > 0:  # the number of updates: the fused AdamW has it on the device
        return full.to(parameter.device, copy=True)
    # The fused AdamW reads parameter, gradient and moments in one order of memory, so the layouts must be equal.
    return torch.zeros_like(parameter).copy_(from_full(full, parameter))
