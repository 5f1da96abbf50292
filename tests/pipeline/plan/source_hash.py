"""The meaning of a Python source file as text: docstrings, comments, format and the Python version do not count.

`ast.dump` differs between Python versions: 3.13 leaves out empty fields, and 3.12 added `type_params`. Here every empty
field is left out, so a file that all versions can parse has one text. Imports the standard library only, so that any
interpreter can run it: `python -m tests.pipeline.plan.source_hash FILE...` prints one digest per file.
"""

import ast
import hashlib
import sys
from pathlib import Path
from typing import Any

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def meaning(source: str) -> str:
    """The syntax tree of a source file as text."""
    return _text(ast.parse(source))


def _text(node: Any) -> str:
    if isinstance(node, list):
        return f"[{', '.join(map(_text, node))}]"
    if not isinstance(node, ast.AST):
        return ascii(node)
    # A field can be missing as well as empty: type_params before 3.12. `kind` is the u of u"...".
    fields = {name: value for name, value in ast.iter_fields(node) if name != "kind"}
    if isinstance(node, DOCUMENTED) and _is_docstring(node.body):
        fields["body"] = node.body[1:]
    if isinstance(node, ast.JoinedStr):  # 3.12 ends some f-strings with an empty constant
        fields["values"] = [v for v in node.values if not (isinstance(v, ast.Constant) and v.value == "")]
    given = (f"{name}={_text(value)}" for name, value in fields.items() if value is not None and value != [])
    # None is also a constant of its own: the field `value` of a Constant is always given.
    constant = f"value={node.value!a}" if isinstance(node, ast.Constant) else None
    return f"{type(node).__name__}({constant or ', '.join(given)})"


def _is_docstring(body: list[ast.stmt]) -> bool:
    first = body[0] if body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(hashlib.sha256(meaning(Path(name).read_text(encoding="utf-8")).encode()).hexdigest(), name)
