"""The code of docs/model.md runs on a saved folder, in another process, without this project."""

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

from model.agevlm.processing_agevlm import AgeVlmProcessor
from tests.model.agevlm.fixtures_tiny_models import tiny_model
from tests.model.agevlm.fixtures_word_tokenizer import word_tokenizer

PAGE = Path(__file__).parents[3] / "docs" / "model.md"


def test_the_pages_code_runs(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    model = tiny_model(trained=True)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "model")
    AgeVlmProcessor.from_backbones(tokenizer, model.config.vision_config).save_pretrained(tmp_path / "model")
    Image.effect_noise((50, 20), 60).save(tmp_path / "photo.jpg")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    code = "FOLDER = 'model'\n" + "\n".join(blocks)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240,
        env={"HF_HOME": str(tmp_path / "hf"), "PATH": "", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer, losses, numbers = done.stdout.splitlines()
    assert answer
    assert losses.split()[1] == "1"  # one guided row
    assert numbers == "4 [1, 4] 64 1.0"
