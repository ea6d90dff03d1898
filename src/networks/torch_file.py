"""Tensors out of a PyTorch .pth file, without PyTorch.

Both forms are read: a zip archive (since PyTorch 1.6), and the row of pickles before it. A pickle can name anything to
call; here it gets ordered dictionaries and tensors, and whatever else it asks for is refused.
"""

import collections
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from src.errors import UserError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {"FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16, "LongStorage": np.int64,
          "IntStorage": np.int32, "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8,
          "BoolStorage": np.bool_}


class _Refused(Exception):
    """The file asks for what no file of tensors needs."""


class _Storage:
    """The flat values that tensors are views of; read after the pickle that mentions them."""

    def __init__(self, kind: str, key: str, count: int):
        self.type, self.key, self.count = np.dtype(_TYPES[kind]).newbyteorder("<"), key, count
        self.values = np.empty(0, self.type)

    def fill(self, data: bytes) -> None:
        if len(data) != self.count * self.type.itemsize:
            raise _Refused(f"storage {self.key} has {len(data)} bytes, expected {self.count * self.type.itemsize}")
        self.values = np.frombuffer(data, self.type)


class _View:
    """A tensor to be."""

    def __init__(self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any):
        self.storage, self.offset, self.size, self.stride = storage, offset, tuple(size), tuple(stride)

    def array(self) -> np.ndarray:
        values = self.storage.values
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        empty = 0 in self.size
        if self.offset < 0 or any(n < 0 for n in (*self.size, *self.stride)) or (not empty and last >= len(values)):
            raise _Refused(f"a tensor of size {self.size} lies outside of storage {self.storage.key}")
        strides = [step * values.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(values[self.offset:], self.size, strides).copy()


class _Unpickler(pickle.Unpickler):
    """Knows dictionaries and tensors alone."""

    def __init__(self, file: Any):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _View
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _first
        if module in ("torch", "torch.storage") and name in _TYPES:
            return name
        raise _Refused(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or pid[1] not in _TYPES:
            raise _Refused(f"it refers to {pid!r}"[:200])
        if len(pid) > 5 and pid[5] is not None:
            raise _Refused("it has views of storages, of a PyTorch before 0.4")
        return self.storages.setdefault(str(pid[2]), _Storage(pid[1], str(pid[2]), int(pid[4])))


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a state dictionary by name; nothing in the file is executed.

    A dictionary under the key `state_dict` counts in place of the one around it, and `module.` before every name, as
    of parallel training, is dropped.

    Raises:
        UserError: the file is missing, damaged, no such file, or asks for other things than tensors.
    """
    try:
        with path.open("rb") as file:
            found = _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)
        if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
            found = found["state_dict"]
        if not isinstance(found, dict):
            raise _Refused(f"it holds a {type(found).__name__}, expected a state dictionary")
        tensors = {str(name): value.array() for name, value in found.items() if isinstance(value, _View)}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except _Refused as error:
        raise UserError(f"{path}: refused: {error}; save it again in PyTorch with torch.save(model.state_dict(), "
                        "FILE)") from error
    except Exception as error:  # a damaged pickle or archive raises almost anything
        raise UserError(f"{path}: is no PyTorch file of tensors, or damaged ({type(error).__name__}); copy it again, "
                        "or save it in PyTorch with torch.save(model.state_dict(), FILE)") from error
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if len(names) != 1:
            raise _Refused("an archive without one data.pkl")
        folder = names[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise _Refused("its numbers are big-endian")
        reader = _Unpickler(io.BytesIO(archive.read(names[0])))
        found = reader.load()
        for key, storage in reader.storages.items():
            storage.fill(archive.read(f"{folder}data/{key}"))
    return found


def _read_legacy(file: BinaryIO) -> Any:
    file.seek(0)
    def load() -> Any:
        return _Unpickler(file).load()

    if load() != _LEGACY_MAGIC:
        raise _Refused("it does not begin as a PyTorch file")
    load()  # protocol
    system = load()
    if isinstance(system, dict) and not system.get("little_endian", True):
        raise _Refused("its numbers are big-endian")
    reader = _Unpickler(file)
    found = reader.load()
    for key in load():
        (count,) = struct.unpack("<q", file.read(8))
        storage = reader.storages[str(key)]
        if count != storage.count:
            raise _Refused(f"storage {key} has {count} values, expected {storage.count}")
        storage.fill(file.read(count * storage.type.itemsize))
    return found


def _first(value: Any, *_: Any) -> Any:
    return value
