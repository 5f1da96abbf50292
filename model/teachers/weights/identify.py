"""Tell from headers alone if weights are those of a role; a fraction of a second, whatever their size."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from model.errors import ConfigError
from model.teachers.weights.files import read_folder, read_header, read_json, refuse_stand_in
from model.teachers.weights.florence_layout import SHARED, TIED, florence_tensors
from model.teachers.weights.header import Header, Tensor
from model.teachers.weights.layouts import CLASSES, FLORENCE, REMOTE_CODE, SAM, differences, layout_of, remedy
from model.teachers.weights.pickle_reader import UnknownName
from model.teachers.weights.sam_layout import OFFICIAL, sam_tensors, shape_of

CONFIG = "config.json"
ALTERNATIVES = {
    "the image processor's settings": (("processor_config.json",), ("preprocessor_config.json",)),
    "the tokenizer": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "the tokenizer's settings": (("tokenizer_config.json",),),
}
"""Part of Florence-2 beside its weights -> the files that it can be in; one of these groups is enough."""
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt"})


@dataclass(frozen=True)
class Identity:
    """Weights that are those of a role."""

    name: str
    """'vit_h', 'vit_l' or 'vit_b'; 'SAM' for a folder; 'Florence-2'; the role for other models."""
    headers: Mapping[Path, Header]
    """The files that are loaded."""


def identify(role: str, path: Path) -> Identity:
    """The identity of the weights at a path, from their headers.

    Args:
        role: 'florence', 'sam', 'text' or 'vision'.
        path: an existing file or folder.

    Raises ConfigError with what the file is instead, or the first tensor that differs, and what to give instead; never
    longer than three lines of a terminal. Raises OSError if a file cannot be read.
    """
    return ROLES[role](path)


def _sam(path: Path) -> Identity:
    if path.is_dir():
        return _sam_folder(path)
    header = _header("sam", path)
    found = header.tensors
    _refuse_others("sam", SAM, found)
    shapes = {name: sam_tensors(sizes) for name, sizes in OFFICIAL.items()}
    name = min(shapes, key=lambda name: _distance(found, shapes[name]))
    if wrong := differences(found, shapes[name]):
        raise ConfigError(f"it is no whole SAM; compared with {name}, {'; '.join(wrong[:2])}; {remedy('sam')}")
    return Identity(name, {path: header})


def _sam_folder(folder: Path) -> Identity:
    _refuse_pickles("sam", folder)
    headers = _folder("sam", folder)
    found = _together(headers)
    _refuse_others("sam", SAM, found)
    if not (folder / CONFIG).is_file():
        files = ", ".join(sorted(headers))[:80]
        raise ConfigError(f"it has no {CONFIG} with the sizes of a SAM; give the file in it ({files})")
    if wrong := differences(found, sam_tensors(shape_of(read_json(folder / CONFIG)))):
        raise ConfigError(f"its weights do not fit its {CONFIG}: {'; '.join(wrong[:2])}; {remedy('sam')}")
    return Identity(SAM, {folder / name: header for name, header in headers.items()})


def _florence(path: Path) -> Identity:
    if not path.is_dir():
        _refuse_others("florence", FLORENCE, _header("florence", path).tensors)
        raise ConfigError("it is a file; give the folder that contains it")
    if not (path / CONFIG).is_file():
        _refuse_pickles("florence", path)
        raise ConfigError(f"it has no {CONFIG}; {remedy('florence')}")
    config = read_json(path / CONFIG)
    vision, text = config.get("vision_config"), config.get("text_config")
    width = text.get("d_model") if isinstance(text, dict) else None
    if "auto_map" in config or (isinstance(vision, dict) and vision.get("model_type") == "davit"):
        raise ConfigError(f"it is {REMOTE_CODE}, whose code is never run; {remedy('florence', width)}")
    if (kind := config.get("model_type")) != "florence2":
        raise ConfigError(f"its {CONFIG} has the model_type '{str(kind)[:40]}', not florence2; {remedy('florence')}")
    _refuse_pickles("florence", path, width)
    headers = _folder("florence", path)
    found = _together(headers)
    _refuse_others("florence", FLORENCE, found, width)
    expected = florence_tensors(config)
    tied = {name: expected[SHARED] for name in TIED if name in found}
    if wrong := differences(found, {**expected, **tied}):
        advice = remedy("florence", width)
        raise ConfigError(f"its weights do not fit its {CONFIG}: {'; '.join(wrong[:2])}; {advice}")
    for what, groups in ALTERNATIVES.items():
        if not any(all((path / file).is_file() for file in group) for group in groups):
            names = " or ".join(" and ".join(group) for group in groups)
            raise ConfigError(f"it lacks {what} ({names}); download it too; {remedy('florence', width)}")
    for file in sorted(path.glob("*.json")):
        refuse_stand_in(file)
    return Identity(FLORENCE, {path / name: header for name, header in headers.items()})


def _other(path: Path) -> Identity:
    """Weights of the student: their layout is looked at when they are loaded."""
    if not path.is_dir():
        raise ConfigError("it is a file; give the folder that contains it")
    for file in sorted(path.glob("*.json")):
        refuse_stand_in(file)
    headers = {}
    for file in sorted(path.glob("*.safetensors")):
        try:
            headers[file] = read_header(file)
        except ConfigError as error:
            raise ConfigError(f"{file.name}: {error}") from error
    return Identity("other", headers)


ROLES: Mapping[str, Callable[[Path], Identity]] = {
    "sam": _sam,
    "florence": _florence,
    "text": _other,
    "vision": _other,
}
"""Role -> how its weights are told."""


def _header(role: str, path: Path) -> Header:
    """A file's header; errors have the remedy."""
    try:
        return read_header(path)
    except UnknownName as error:
        kind = next((kind for start, kind in CLASSES.items() if error.name.startswith(start)), None)
        what = f"it looks like {kind}: {error}" if kind else str(error)
        raise ConfigError(f"{what}; {remedy(role)}") from error
    except ConfigError as error:
        raise ConfigError(f"{error}; {remedy(role)}") from error


def _folder(role: str, path: Path) -> dict[str, Header]:
    try:
        return read_folder(path)
    except ConfigError as error:
        raise ConfigError(f"{error}; {remedy(role)}") from error


def _refuse_others(role: str, own: str, found: Mapping[str, Tensor], width: object = None) -> None:
    """Raise ConfigError if the tensors are those of another model."""
    layout = layout_of(found)
    if layout is None or layout.name != own:
        what = "no model that is known here" if layout is None else layout.name
        first = next(iter(found), "none")
        raise ConfigError(
            f"it is {what}, not {own} ({len(found):,} tensors, first {first[:80]}); {remedy(role, width)}"
        )


def _refuse_pickles(role: str, folder: Path, width: object = None) -> None:
    """Raise ConfigError if a folder holds pickles and no .safetensors."""
    files = sorted(file.name for file in folder.iterdir())
    pickles = [name for name in files if Path(name).suffix in PICKLE_SUFFIXES]
    if any(name.endswith(".safetensors") or name.endswith(".safetensors.index.json") for name in files):
        return
    if role == "sam" and len(pickles) == 1 and pickles[0].endswith(".pth"):
        raise ConfigError(f"it is a folder; give the file in it, {folder / pickles[0]}")
    if pickles:
        raise ConfigError(f"it holds weights as a pickle only ({pickles[0][:80]}), never loaded; {remedy(role, width)}")
    raise ConfigError(f"it holds no .safetensors file; {remedy(role, width)}")


def _together(headers: Mapping[str, Header]) -> dict[str, Tensor]:
    return {name: tensor for header in headers.values() for name, tensor in header.tensors.items()}


def _distance(found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> int:
    """Tensors that one has and the other has not, or has with another shape."""
    same = sum(name in found and found[name].shape == shape for name, shape in expected.items())
    return len(found) + len(expected) - 2 * same
