"""Whole tensors from those of a trained model, and back: plain tensors, and FSDP2's, of which a worker has a part."""

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def named_trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by the names of the model without any wrapper; under FSDP2 they are DTensors.

    The order and the names are the same on every worker, and at any number of workers. Not while a step runs.
    """
    reshard(model)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def reshard(model: nn.Module) -> None:
    """Free whole parameters that FSDP2 keeps after a forward pass without a backward pass; else do nothing."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def to_full(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor, without a gradient, on its device. Every worker must call this for a DTensor.

    A plain tensor is returned as it is, not copied. Use for parameters and for the optimizer's moments.
    """
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def from_full(full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor in the form of `like`: on its device, in its number format and memory layout, sharded as it is.

    Every worker has the same `full` and takes its own part, so nothing is sent. Typical use:
    `parameter.data.copy_(from_full(full, parameter))`. Raises ValueError if the shapes differ.
    """
    if full.shape != like.shape:
        raise ValueError(f"a tensor of shape {tuple(full.shape)} does not fit one of shape {tuple(like.shape)}")
    full = full.detach().to(like.device, like.dtype)
    if isinstance(like, DTensor):
        return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like, requires_grad=False).copy_(full)


def full_state(model: nn.Module, keep: bool = True) -> dict[str, torch.Tensor]:
    """The whole weights by name, on the CPU, for `save_pretrained(state_dict=...)`. Every worker must call this.

    A parameter with two names (a tied head) is one tensor under both. keep: False on workers that do not save: the
    result is then empty, and only one parameter at a time is whole.
    """
    reshard(model)
    whole: dict[int, torch.Tensor] = {}
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in whole:
            full = to_full(tensor)
            whole[id(tensor)] = full.cpu().contiguous() if keep else full.new_empty(0)
        if keep:
            state[name] = whole[id(tensor)]
    return state


__all__ = ["from_full", "full_state", "named_trained", "reshard", "to_full"]
