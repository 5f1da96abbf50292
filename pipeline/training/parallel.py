"""Parallelism and precision, put around the model from outside.

In this order: torch.compile per block, activation checkpointing per block, then DDP or FSDP2. The model's parameters
keep their names. Gradients are summed over the workers, not averaged: each worker's loss is its share of the global
batch's mean (`loop`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import GradBucket, HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from pipeline.training.config import StageConfig
from pipeline.training.execution import Execution
from pipeline.training.tensors import from_full, full_state, named_trained, reshard, to_full
from pipeline.training.watch.metrics import world_size

RECOMPILES = 64
"""Versions of a block that torch.compile keeps: with and without gradients, masks, guidance, and one row or many."""


def parallelize(model: AgeVlmForConditionalGeneration, config: StageConfig, execution: Execution) -> nn.Module:
    """The module to call in place of the model; `model` stays the one that holds the parameters.

    Make the optimizer after this: FSDP2 replaces the parameters by DTensors, in fp32 for every precision.
    """
    sharded = is_sharded(config, execution)
    if execution.compile:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILES)
    for block in blocks(model):
        # Their forward methods are replaced, not the modules, so that no name changes, and so that the hooks of FSDP2
        # stay outside: it gathers a block once for its backward pass, also when that computes the block again.
        if execution.compile:
            block.forward = torch.compile(block.forward)
        if execution.activation_checkpointing:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if sharded:
        return _shard(model, config)
    # The layout in which convolutions are fastest, on CPUs and on tensor cores. FSDP2 takes contiguous weights only;
    # the pixels have this layout too, and convolutions follow them. `plain_layout` undoes it.
    model.model.vision_tower.to(memory_format=torch.channels_last)
    if world_size() == 1:
        return model
    # Buffers (rotary frequencies) never change, so there is no need to broadcast them at each step.
    replicated = DistributedDataParallel(model, forward_sync_buffers=False, gradient_as_bucket_view=True)
    replicated.register_comm_hook(None, _sum_over_workers)
    return replicated


def is_sharded(config: StageConfig, execution: Execution) -> bool:
    """True if FSDP2 holds the parameters. It keeps the fp32 masters of bf16 parameters, in a single process too."""
    return execution.parallel == "fsdp" or config.precision == "bf16_parameters"


def blocks(model: AgeVlmForConditionalGeneration) -> list[nn.Module]:
    """The blocks of the encoder, and the layers of the language model with those of cross-attention, in order."""
    encoder = [block for stage in model.model.vision_tower.trunk.stages for block in stage.blocks]
    return [*encoder, *model.model.language_model.layers]


def plain_layout(model: AgeVlmForConditionalGeneration) -> None:
    """Put the encoder's weights back into the layout that safetensors writes."""
    if not isinstance(model, FSDPModule):
        model.model.vision_tower.to(memory_format=torch.contiguous_format)


def autocast(config: StageConfig, device: torch.device) -> AbstractContextManager[Any]:
    """The context of a forward pass. Losses are computed in fp32 in every precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if config.precision == "bf16" else nullcontext()


@dataclass(frozen=True)
class _OnHost:
    """A tensor that FSDP2 does not move to the device: the model reads sizes from it."""

    tensor: torch.Tensor


def call(module: nn.Module, inputs: Mapping[str, torch.Tensor], **options: Any) -> Any:
    """The model's output. `inputs` on the CPU reach the model there, so that it need not wait for its device."""
    given: dict[str, Any] = dict(inputs)
    if isinstance(module, FSDPModule):
        given = {name: _OnHost(value) if value.device.type == "cpu" else value for name, value in given.items()}
    return module(**given, **options)


@contextmanager
def gradient_sync(module: nn.Module, enabled: bool) -> Iterator[None]:
    """Reduce gradients over the workers in this block's backward passes, or leave them to a later one."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(enabled)
        yield
        return
    waits = isinstance(module, DistributedDataParallel) and not enabled
    with module.no_sync() if waits else nullcontext():  # type: ignore[operator]
        yield


def clip_gradients(parameters: Sequence[nn.Parameter], clip_norm: float) -> torch.Tensor:
    """Clip the gradient to a norm, in place, and return its norm before; the host does not wait for the device."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return norm.detach()


def _sum_over_workers(_: Any, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    summed: torch.futures.Future[torch.Tensor] = work.get_future().then(lambda future: future.value()[0])
    return summed


def _shard(model: AgeVlmForConditionalGeneration, config: StageConfig) -> nn.Module:
    """FSDP2 around each block, and around the model for what is in no block."""
    device = model.device
    if not dist.is_initialized():  # a single process
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh(device.type, (world_size(),))
    half = torch.bfloat16 if config.precision == "bf16_parameters" else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=None if half is None else torch.float32)
    units: list[nn.Module] = [*blocks(model), model]
    for unit in units:
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other way to leave out the division
    model.register_forward_pre_hook(_from_host, with_kwargs=True)  # after FSDP2's own
    return model


def _from_host(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {name: value.tensor if isinstance(value, _OnHost) else value for name, value in kwargs.items()}


__all__ = [
    "autocast", "blocks", "call", "clip_gradients", "from_full", "full_state", "gradient_sync", "is_sharded",
    "named_trained", "parallelize", "plain_layout", "reshard", "to_full",
]  # fmt: skip
