"""A student on disk, for the programs that take one."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny student that looks at its pictures, saved as a stage saves it."""
    # Imported here: most tests below this folder need no model.
    import torch

    from pipeline.training.build import join_backbones
    from pipeline.training.checkpoint import save_student
    from pipeline.training.config import StudentConfig
    from tests.pipeline.training.world import make_backbones

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("student")
    backbones = make_backbones(root)
    student = StudentConfig(cross_attention_layers=(1, 3), init="normal")
    model, processor = join_backbones(student, backbones["text"], backbones["vision"], seed=0)
    save_student(model, processor, root / "student")
    return root / "student"
