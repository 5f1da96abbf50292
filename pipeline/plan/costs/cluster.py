"""The machine that a plan's costs are for: '8xA100-80G', '1xRTX4090-24G', 'cpu'."""

import os
import re
from dataclasses import dataclass

import psutil

from model.errors import ConfigError
from pipeline.compute.resources import usable_cpus
from pipeline.training.flops import peak_flops

CARDS = {
    "A100-40G": ("A100", 40),
    "A100-80G": ("A100", 80),
    "A30-24G": ("A30", 24),
    "H100-80G": ("H100", 80),
    "H200": ("H200", 141),
    "H200-141G": ("H200", 141),
    "B200-180G": ("B200", 180),
    "L4-24G": ("L4", 24),
    "L40S-48G": ("L40S", 48),
    "RTX4090-24G": ("RTX 4090", 24),
}
"""Card -> its name in the table of peaks (pipeline/training/flops.py), and its memory in GB as it is sold."""
CPU_PEAK = 64e9
"""FLOP/s of one CPU core in fp32: 2 FMA units x 8 lanes x 2 x 2 GHz. An assumption; a calibration replaces it."""
USABLE = 0.92
"""Share of a card's memory that tensors can have: the rest is fragmentation and what the driver keeps. Assumed."""


@dataclass(frozen=True)
class Cluster:
    """Devices of one kind. memory: bytes of one device. peak: dense FLOP/s of one device in bf16 (fp32 on a CPU)."""

    name: str
    devices: int
    memory: int
    peak: float
    gpu: bool

    @property
    def usable(self) -> int:
        """Bytes that tensors can have on one device."""
        return int(self.memory * USABLE)


def cluster(text: str) -> Cluster:
    """The cluster that a user typed. Raises ConfigError naming the known cards."""
    if text.lower() == "cpu":
        memory = psutil.virtual_memory().total
        return Cluster(f"this machine, {usable_cpus()} CPUs", usable_cpus(), memory, CPU_PEAK, gpu=False)
    match = re.fullmatch(r"(?:(\d+)x)?(.+)", text)
    assert match is not None
    count, card = int(match[1] or 1), match[2].upper()
    if card not in CARDS or count < 1:
        raise ConfigError(
            f"cluster '{text}' is not known; write 'cpu' or NxCARD, where CARD is one of {', '.join(CARDS)}"
        )
    name, memory = CARDS[card]
    peak = peak_flops(name)
    assert peak is not None, f"{name} is not in the table of peaks"
    return Cluster(f"{count} x {card}", count, int(memory * 1e9), peak, gpu=True)


def free_disk(root: str) -> int | None:
    """Free bytes on the disk of a local folder that may not exist yet; None for an object store."""
    if "://" in root:
        return None
    folder = os.path.abspath(root)
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return psutil.disk_usage(folder).free


__all__ = ["Cluster", "cluster", "free_disk"]
