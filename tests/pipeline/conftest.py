"""A tiny student on disk, for tests of the programs that open one."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny student whose cross-attention is not zero, saved with `save_student`."""
    # Imported here: most tests below this folder need no model.
    import torch

    from pipeline.training.config import StudentConfig
    from pipeline.training.student import join_backbones, save_student
    from tests.pipeline.training.fixtures_tiny_training import make_backbones

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("student")
    backbones = make_backbones(root)
    student = StudentConfig(cross_attention_layers=(1, 3), init="normal")
    model, processor = join_backbones(student, backbones["text"], backbones["vision"], seed=0)
    save_student(model, processor, root / "student")
    return root / "student"
