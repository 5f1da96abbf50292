"""The recipe of docs/your-data.md, with pictures and captions for it."""

import re
from pathlib import Path

from PIL import Image

from pipeline.artifacts.paths import PROJECT

PICTURES = 24


def write_recipe(folder: Path) -> Path:
    """Write my-recipe.yaml as the document has it, captions.csv and pictures/. Returns the recipe's path."""
    (text,) = re.findall(r"```yaml\n(.*?)```", (PROJECT / "docs" / "your-data.md").read_text("utf-8"), re.DOTALL)
    (folder / "pictures").mkdir()
    lines = ["image,caption"]
    for number in range(PICTURES):
        Image.new("RGB", (48, 32), (number * 9, 80, 200 - number * 7)).save(folder / "pictures" / f"{number}.png")
        lines.append(f"{number}.png,a plain picture of colour {number}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = folder / "my-recipe.yaml"
    recipe.write_text(text, encoding="utf-8")
    return recipe
