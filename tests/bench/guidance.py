"""The cost of the guidance loss: one cross-attention layer at the paper's width, with every row guided and with none.

Run: `python -m tests.bench guidance`. Every variant is timed in the same process, alternating, so that a busy machine
slows all of them alike; the figure is the ratio of the fastest runs.

Shapes: B rows, T = 128 query tokens, S = 576 cells, D = 2048, 32 query heads, 8 key heads.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from model.agevlm import cross_attention
from model.agevlm.attention_map import MapQuery, naive_query_averaged_map, query_averaged_map
from model.agevlm.configuration_agevlm import AgeVlmConfig
from model.agevlm.cross_attention import CrossAttentionLayer, ImageContext
from model.agevlm.guidance import guidance_loss, rows_that_count

LEAN_TIME, LEAN_BYTES = 1.15, 1.10  # what the lean way may cost, times the unguided layer
Run = Callable[[], None]


class Case:
    """The layer with its inputs; every call runs forward and backward once."""

    def __init__(self, rows: int, tokens: int, device: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        config = AgeVlmConfig.paper()
        config.text_config._attn_implementation = "sdpa"
        text, cells = config.text_config, config.vision_config.num_cells
        self.layer = CrossAttentionLayer(text, index=0).to(device=device, dtype=dtype).train()
        self.hidden_BTD = torch.randn(rows, tokens, text.hidden_size, device=device, dtype=dtype, requires_grad=True)
        self.visual_BSD = torch.randn(rows, cells, text.hidden_size, device=device, dtype=dtype, requires_grad=True)
        self.key_mask_BS = torch.ones(rows, cells, dtype=torch.bool, device=device)
        self.key_mask_BS[:, : cells // 4] = False  # a quarter is padding, as in photographs
        mask_BS = torch.zeros(rows, cells, dtype=torch.bool, device=device)
        mask_BS[:, cells // 2 : cells // 2 + 60] = True
        query_BT = torch.ones(rows, tokens, dtype=torch.bool, device=device)
        self.target_BS, query_BT = rows_that_count(mask_BS, query_BT, None, None, self.key_mask_BS)
        self.query = MapQuery.from_masks(query_BT, self.key_mask_BS, cells)
        self.cuda = device == "cuda"

    def forward(self, guided: bool) -> torch.Tensor:
        """The layer's output and, if guided, eq. 3, as one scalar."""
        image = ImageContext(self.key_mask_BS, None, self.query if guided else None)
        out_BTD, map_BS = self.layer(self.hidden_BTD, self.visual_BSD, image)
        total = out_BTD.float().mean()
        if map_BS is not None:
            total = total + guidance_loss(map_BS, self.target_BS)[0].mean()
        return total

    def run(self, guided: bool) -> None:
        """Forward and backward."""
        self.layer.zero_grad(set_to_none=True)
        self.hidden_BTD.grad = self.visual_BSD.grad = None
        self.forward(guided).backward()
        if self.cuda:
            torch.cuda.synchronize()

    def saved_bytes(self, guided: bool) -> int:
        """Bytes that autograd keeps for the backward pass; a tensor kept twice counts once, parameters do not."""
        kept: dict[int, int] = {}
        own = {p.untyped_storage().data_ptr() for p in self.layer.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            total = self.forward(guided)  # held until here, so that no storage is freed and its address used again
        del total
        return sum(kept.values())


def best_times(runs: Sequence[Run], repeats: int) -> list[float]:
    """Fastest of `repeats` alternating runs of each, seconds, after one warm-up."""
    for run in runs:
        run()
    best = [float("inf")] * len(runs)
    for _ in range(repeats):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def measure(rows: int, tokens: int, repeats: int, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """All figures of this benchmark."""
    case = Case(rows, tokens, device, dtype)

    def naively(action: Callable[[], Any]) -> Any:
        cross_attention.query_averaged_map = naive_query_averaged_map
        try:
            return action()
        finally:
            cross_attention.query_averaged_map = query_averaged_map

    plain_s, lean_s, naive_s = best_times(
        [lambda: case.run(False), lambda: case.run(True), lambda: naively(lambda: case.run(True))], repeats
    )
    plain_b, lean_b = case.saved_bytes(False), case.saved_bytes(True)
    naive_b = naively(lambda: case.saved_bytes(True))
    return {
        "guidance.layer_time_ratio": round(lean_s / plain_s, 4),
        "guidance.saved_bytes_ratio": round(lean_b / plain_b, 4),
        "guidance.naive_layer_time_ratio": round(naive_s / plain_s, 4),
        "guidance.naive_saved_bytes_ratio": round(naive_b / plain_b, 4),
        "unguided layer, ms": round(1e3 * plain_s, 2),
        "unguided layer, saved MiB": round(plain_b / 2**20, 2),
        "rows": rows,
        "query tokens": tokens,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures as JSON; returns 1 if the lean way costs more than LEAN_TIME or LEAN_BYTES."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench guidance", description=__doc__)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default=None)
    said = parser.parse_args(arguments)
    dtype = getattr(torch, said.dtype or ("bfloat16" if said.device == "cuda" else "float32"))
    figures = measure(said.rows, said.tokens, said.repeats, said.device, dtype)
    print(json.dumps(figures, indent=2))
    lean = figures["guidance.layer_time_ratio"] <= LEAN_TIME and figures["guidance.saved_bytes_ratio"] <= LEAN_BYTES
    return 0 if lean else 1
