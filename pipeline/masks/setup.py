"""What it takes to open the teachers in some process. Light: the driver reads this without importing torch."""

from dataclasses import dataclass

from pipeline.masks.config import TeacherConfig


@dataclass(frozen=True)
class TeacherSetup:
    """The teachers' weights and settings, and where they run."""

    florence: str
    """Location of Florence-2's weights."""
    sam: str
    """Location of SAM's weights."""
    name: str
    """What evidence says of who made it."""
    config: TeacherConfig
    device: str
    """'cpu' or 'cuda'."""
    threads: int
    """CPU threads of torch."""
