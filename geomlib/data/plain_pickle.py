"""What stands in a pickle, read without executing it.

A pickle is a program. Here its instructions are followed on paper: where it asks to call something, the call is
written down (`Call`) and not made. Numbers, text, bytes, lists and dictionaries come out as they are; `to_array`
understands the calls that NumPy and PyTorch write for arrays, and nothing else is ever turned into an object.
"""

import io
import math
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomlib.errors import FileFormatError

__all__ = ["Call", "Name", "read_plain", "to_array", "value_of_key"]


class Name(NamedTuple):
    """Something that a pickle names: a class or a function. Not looked up."""

    module: str
    name: str


@dataclass
class Call:
    """A call that a pickle asks for and that was not made."""

    function: Any
    arguments: Any
    state: Any = None
    keywords: dict[Any, Any] = field(default_factory=dict)


_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


class _Machine:
    """The stack and the memory of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def to_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise IndexError("no mark")

    def step(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        stack, memory = self.stack, self.memory
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name in ("DICT", "LIST"):
            items = self.to_mark()
            stack.append(items if name == "LIST" else dict(zip(items[::2], items[1::2], strict=True)))
        elif name in ("EMPTY_TUPLE", "TUPLE", *_TUPLES):
            self._tuple(name)
        elif name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS"):
            self._fill(name)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memory[argument] = stack[-1]
        elif name == "MEMOIZE":
            memory[len(memory)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memory[argument])
        elif name == "GLOBAL":
            stack.append(Name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            word = stack.pop()
            stack.append(Name(stack.pop(), word))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack.append(Call(stack.pop(), arguments))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], Call):
                raise TypeError("state for what is no object")
            stack[-1].state = state
        elif name not in ("PROTO", "FRAME"):
            raise TypeError(f"the instruction {name}, which plain data don't need")

    def _tuple(self, name: str) -> None:
        if name == "TUPLE":
            self.stack.append(tuple(self.to_mark()))
            return
        count = _TUPLES.get(name, 0)
        items = tuple(self.stack[len(self.stack) - count :])
        if len(items) != count or _MARK in items:
            raise IndexError("too few values")
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)

    def _fill(self, name: str) -> None:
        if name.endswith("S"):
            items = self.to_mark()
        else:
            count = 2 if name == "SETITEM" else 1
            items = [self.stack.pop() for _ in range(count)][::-1]
        target = self.stack[-1]
        if name.startswith("APPEND"):
            if not isinstance(target, list):
                raise TypeError("items for what is no list")
            target.extend(items)
        elif isinstance(target, dict | Call):
            pairs = dict(zip(items[::2], items[1::2], strict=True))
            (target.keywords if isinstance(target, Call) else target).update(pairs)
        else:
            raise TypeError("items for what is no dictionary")


def _steps(data: bytes) -> Iterator[_Machine]:
    """The machine after each instruction, the last time with the result alone on the stack."""
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            if opcode.name == "STOP":
                return
            machine.step(opcode.name, argument)
            yield machine
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise FileFormatError(f"is no pickle of plain data ({reason})") from None


def read_plain(data: bytes) -> Any:
    """The value of a pickle; nothing in it is executed.

    Raises:
        FileFormatError: not a pickle, a truncated one, or one with instructions that plain data don't need.
    """
    machine = None
    for machine in _steps(data):  # noqa: B007 the last one counts
        pass
    if machine is None or len(machine.stack) != 1:
        raise FileFormatError("is no pickle of plain data (it holds no single value)")
    return machine.stack[0]


def value_of_key(data: bytes, key: str) -> Any:
    """The first number, text or bytes that follow `key` in a pickle, of which the beginning is enough.

    Raises:
        FileFormatError: there is none.
    """
    for machine in _steps(data):
        if len(machine.stack) > 1 and machine.stack[-2] == key and isinstance(machine.stack[-1], int | str | bytes):
            return machine.stack[-1]
    raise FileFormatError(f"has no '{key}'")


# -------------------------------------------------------------------- arrays

_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "LongStorage": "i8", "IntStorage": "i4",
    "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip


def to_array(value: Any, dtype: str) -> NDArray[Any]:
    """An array of what a pickle holds: raw bytes, an array of NumPy, a tensor of PyTorch, or nested lists of numbers.

    Args:
        value: from `read_plain`.
        dtype: of raw bytes, and of the result: `"<f8"`, `"<i4"`, …; integers are not made of fractions.

    Raises:
        FileFormatError: something else, or sizes that don't agree.
    """
    try:
        found = _array(value, dtype)
        return found.astype(dtype, casting="same_kind" if found.dtype.kind != "i" else "unsafe")
    except (ValueError, TypeError, LookupError, OverflowError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise FileFormatError(f"is no array ({reason})") from None


def _array(value: Any, dtype: str) -> NDArray[Any]:
    raw = _bytes(value)
    if raw is not None:
        return np.frombuffer(raw, dtype=dtype)
    if isinstance(value, list | tuple | int | float):
        found = np.array(value)
        if found.dtype.kind not in "iuf":
            raise TypeError("a list of other things than numbers")
        return found
    if not isinstance(value, Call) or not isinstance(value.function, Name):
        raise TypeError(f"found {type(value).__name__}")
    module, name = value.function
    if module in _NUMPY and name == "_reconstruct":
        return _numpy_array(value.state)
    if module in _NUMPY and name == "scalar":
        kind, content = value.arguments
        return np.frombuffer(_required(content), dtype=_numpy_dtype(kind))
    if module in _NUMERIC and name == "_frombuffer":
        content, kind, shape, order = value.arguments
        return np.frombuffer(_required(content), dtype=_numpy_dtype(kind)).reshape(shape, order=order)
    if module == "torch._utils" and name == "_rebuild_tensor_v2":
        return _torch_array(value.arguments)
    raise TypeError(f"asks for {module}.{name}")


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, Call) and value.function == Name("_codecs", "encode"):  # how protocol 2 writes bytes
        text, coding = value.arguments
        if isinstance(text, str) and coding == "latin1":
            return text.encode("latin1")
    return None


def _required(value: Any) -> bytes:
    raw = _bytes(value)
    if raw is None:
        raise TypeError("its content is no bytes")
    return raw


def _numpy_dtype(value: Any) -> np.dtype[Any]:
    if not isinstance(value, Call) or value.function != Name("numpy", "dtype"):
        raise TypeError("its type is no dtype")
    code, order = value.arguments[0], value.state[1]
    if not isinstance(code, str) or code[:1] not in "fiub" or order not in ("<", ">", "|", "="):
        raise TypeError(f"its dtype is {code}")
    return np.dtype(code).newbyteorder(order)


def _numpy_array(state: Any) -> NDArray[Any]:
    _, shape, kind, fortran, content = state
    return np.frombuffer(_required(content), dtype=_numpy_dtype(kind)).reshape(shape, order="F" if fortran else "C")


def _torch_array(arguments: Any) -> NDArray[Any]:
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Call) or storage.function != Name("torch.storage", "_load_from_bytes"):
        raise TypeError("its storage is not in place")
    values = _storage(_required(storage.arguments[0]))
    if not all(isinstance(number, int) and number >= 0 for number in (offset, *shape, *strides)):
        raise TypeError("its shape is no shape")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and (last >= len(values) or math.prod(shape) > len(values)):
        raise ValueError("its shape is larger than its storage")
    steps = [stride * values.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False).copy()


def _storage(data: bytes) -> NDArray[Any]:
    """Numbers of a storage in the format of PyTorch before 1.6: five pickles, the number of items, the items."""
    stream, kind = io.BytesIO(data), None
    for part in range(5):
        begin = stream.tell()
        for opcode, argument, _ in pickletools.genops(stream):
            if part == 3 and opcode.name == "GLOBAL":
                kind = _STORAGES.get(str(argument).removeprefix("torch "))
        if stream.tell() == begin:
            raise ValueError("its storage is cut off")
    count = int.from_bytes(stream.read(8), "little", signed=True)
    if kind is None or count < 0:
        raise TypeError("its storage holds no numbers")
    values = np.frombuffer(stream.read(), dtype=f"<{kind}")
    if len(values) != count:
        raise ValueError(f"its storage has {len(values)} of {count} numbers")
    return values
