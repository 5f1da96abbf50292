"""A reader of the pickles that torch.save writes for tensors. It calls nothing and imports nothing.

An allow-list of opcodes builds dicts, lists, tuples, numbers and texts; an allow-list of names stands for torch's types
and functions. Anything else is refused by name, as torch.load(weights_only=True) would refuse it.
"""

import io
import pickletools
from collections.abc import Callable
from typing import Any

from model.errors import ConfigError

Function = Callable[..., Any]
MARK = object()


class UnknownName(ConfigError):
    """The pickle names a class or function that is not of tensors. `name` is 'MODULE.NAME'."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it is a pickle of {name}, not of tensors, and pickles are never run")
        self.name = name


def read(data: bytes, names: dict[str, Function], persistent: Function) -> Any:
    """The object of a pickle.

    Args:
        data: the pickle.
        names: 'MODULE.NAME' -> what stands for it, called with the pickled arguments.
        persistent: called with each persistent id, which torch gives to storages.

    Raises UnknownName for a name that is not in `names`, ConfigError for a damaged pickle.
    """
    machine = Machine(names, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            if opcode.name == "STOP":
                return machine.stack.pop()
            step = OPCODES.get(opcode.name)
            if step is None:
                raise ConfigError(f"its pickle has the opcode {opcode.name}, which torch.save does not write")
            step(machine, argument)
    except ConfigError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, UnicodeError, MemoryError) as error:
        raise ConfigError(f"its pickle is damaged ({type(error).__name__})") from error
    raise ConfigError("its pickle is damaged (no end)")


class Machine:
    """Stack and memory of a pickle that is read."""

    def __init__(self, names: dict[str, Function], persistent: Function) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}
        self.names, self.persistent = names, persistent

    def take(self) -> list[Any]:
        """The items above the last mark, which are removed with it."""
        last = max(i for i, item in enumerate(self.stack) if item is MARK)
        items = self.stack[last + 1 :]
        del self.stack[last:]
        return items

    def name(self, name: str) -> None:
        """Push what stands for a name."""
        if name not in self.names:
            raise UnknownName(name[:120])
        self.stack.append(self.names[name])

    def call(self) -> None:
        """Call a stand-in."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(arguments, tuple) or function not in self.names.values():
            raise ValueError("no function")
        self.stack.append(function(*arguments))

    def tuple_of(self, count: int) -> None:
        """Make the last items a tuple."""
        if len(self.stack) < count:
            raise ValueError("the stack is too short")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def put(self, pairs: list[Any]) -> None:
        """Put keys and values into the dict on top."""
        found = self.stack[-1]
        if not isinstance(found, dict) or len(pairs) % 2:
            raise ValueError("no dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | int):  # a nested tuple's hash can take for ever
                raise ValueError("a key of another type")
            found[key] = value

    def add(self, items: list[Any]) -> None:
        """Add items to the list on top."""
        if not isinstance(self.stack[-1], list):
            raise ValueError("no list")
        self.stack[-1].extend(items)

    def state(self) -> None:
        """Forget an object's attributes, such as the versions that a state dict has as _metadata."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise ValueError("attributes of something else than a dict")


Step = Callable[[Machine, Any], Any]


def _constant(value: Any) -> Step:
    return lambda machine, _: machine.stack.append(value)


def _push(machine: Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _remember(machine: Machine, argument: Any) -> None:
    machine.memory[len(machine.memory) if argument is None else argument] = machine.stack[-1]


def _pair(machine: Machine, _: Any) -> None:
    pair = [machine.stack.pop(), machine.stack.pop()][::-1]
    machine.put(pair)


def _stack_global(machine: Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.name(f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "?")


OPCODES: dict[str, Step] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE"), _push),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, number: machine.stack.append(machine.memory[number])),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "MARK": _constant(MARK),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.take())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.add([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.add(machine.take()),
    "SETITEM": _pair,
    "SETITEMS": lambda machine, _: machine.put(machine.take()),
    "GLOBAL": lambda machine, name: machine.name(name.replace(" ", ".")),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.state(),
    "BINPERSID": lambda machine, _: machine.stack.append(machine.persistent(machine.stack.pop())),
}
"""Name of an opcode, as pickletools has it -> what it does."""
