"""Refuses Arrow columns of pickled Python objects, in every process that imports this module.

Ray Data registers an Arrow type for such columns as soon as it is imported; reading a value of one runs its pickle,
from whatever Parquet file it comes. Steps read Parquet from the store and from data sets of others, and have no use
for the type. So it is registered here first, as a type whose values are refused; Ray Data then keeps this one.
"""

from typing import Any, Self

import pyarrow as pa

from model.errors import DataError

NAME = "ray.data.arrow_pickled_object"


class _Refused(pa.ExtensionScalar):  # type: ignore[misc]
    def as_py(self, **_: Any) -> Any:
        raise DataError(
            f"a column holds pickled Python objects ({NAME}), which are never loaded: they could run any program. "
            "Write the file again with plain columns"
        )


class PickledColumn(pa.ExtensionType):  # type: ignore[misc]
    """The type of Ray Data's columns of pickled objects, without a way to load them."""

    def __init__(self) -> None:
        super().__init__(pa.large_binary(), NAME)

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Self:
        return cls()

    def __arrow_ext_scalar_class__(self) -> type[pa.ExtensionScalar]:
        return _Refused


def refuse() -> None:
    """Register the type that is refused, in place of one that is registered already."""
    try:
        pa.register_extension_type(PickledColumn())
    except pa.ArrowKeyError:
        pa.unregister_extension_type(NAME)
        pa.register_extension_type(PickledColumn())


refuse()
