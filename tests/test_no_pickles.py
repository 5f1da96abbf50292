"""No source loads a pickle, or runs text as code: each call that could is forbidden, or has its safe argument."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for folder in ("flows", "infra", "model", "pipeline") for path in (ROOT / folder).rglob("*.py"))

MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
"""Modules that load objects from bytes."""
BUILT_IN = {"eval", "exec", "compile", "__import__"}
FORBIDDEN = BUILT_IN | {"os.system", "os.popen", "extractall", "unsafe_load", "full_load", "read_pickle"}
FORBIDDEN |= {"load_pickle", "load_state_dict_from_url", "unpack_archive"}
"""Calls that have no safe form here."""


def name_of(node: ast.expr) -> str:
    """'torch.load' of such a call; '?.load' if it is called on the result of something."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{name_of(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def options(call: ast.Call) -> dict[str | None, object]:
    return {k.arg: k.value.value if isinstance(k.value, ast.Constant) else "?" for k in call.keywords}


def offences(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from (f"line {node.lineno}: imports {n}" for n in names if n.split(".")[-1] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        name, given = name_of(node.func), options(node)
        last = name.rpartition(".")[2]
        wrong = name in FORBIDDEN or last in FORBIDDEN - BUILT_IN  # 'model.eval()' is another thing than 'eval()'
        wrong |= name == "torch.load" and given.get("weights_only") is not True
        wrong |= name in ("np.load", "numpy.load") and given.get("allow_pickle", False) is not False
        wrong |= name == "yaml.load"
        wrong |= given.get("shell", False) is not False
        wrong |= given.get("trust_remote_code", False) is not False and last != "render"
        wrong |= last == "extract" and "tar" in name.lower()
        if wrong:
            yield f"line {node.lineno}: calls {name}"


def test_no_source_loads_a_pickle_or_runs_text() -> None:
    found = {str(path.relative_to(ROOT)): list(offences(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert {file: lines for file, lines in found.items() if lines} == {}
    assert len(found) > 200


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from ray import cloudpickle\nimport ray.cloudpickle",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "eval(text)",
        "exec(text)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "tar.extractall(folder)",
        "AutoModel.from_pretrained(folder, trust_remote_code=True)",
        "pandas.read_pickle(path)",
    ],
)
def test_each_unsafe_call_is_found(source: str) -> None:
    assert list(offences(source))


@pytest.mark.parametrize(
    "source",
    ["torch.load(path, weights_only=True)", "np.load(path)", "yaml.safe_load(text)", "model.eval()", "re.compile('a')"],
)
def test_safe_calls_are_not(source: str) -> None:
    assert not list(offences(source))
