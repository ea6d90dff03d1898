"""Reading .pth files: both forms, written here as PyTorch writes them, and what is refused."""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from src.errors import UserError
from src.networks.torch_file import read_torch_file

TENSORS = {"a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "b.count": np.array(7, np.int64),
           "c.half": np.array([1.5, -2.0], np.float16)}
KINDS = {"float32": "FloatStorage", "int64": "LongStorage", "float16": "HalfStorage"}


@pytest.fixture
def stand_in(monkeypatch):
    """Modules of PyTorch's names, so that a pickle can mention them."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for kind in KINDS.values():
        setattr(torch, kind, type(kind, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*args):
        return args

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


class View:
    """Pickles as a tensor does: a call that rebuilds it from its storage."""

    def __init__(self, torch, key, array, size=None, stride=None, offset=0):
        self.torch, self.key, self.array = torch, key, array
        self.size = array.shape if size is None else size
        self.stride = tuple(step // array.itemsize for step in array.strides) if stride is None else stride
        self.offset = offset

    def __reduce__(self):
        return (sys.modules["torch._utils"]._rebuild_tensor_v2,
                (Storage(self), self.offset, tuple(self.size), tuple(self.stride), False, collections.OrderedDict()))


class Storage:
    def __init__(self, view):
        self.view = view


def dumps(value, extra=()) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if not isinstance(thing, Storage):
                return None
            view = thing.view
            kind = getattr(view.torch, KINDS[view.array.dtype.name])
            return ("storage", kind, view.key, "cpu", view.array.size, *extra)

    file = io.BytesIO()
    Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def write_zip(path: Path, views: dict, arrays: dict[str, np.ndarray]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", dumps(views))
        archive.writestr("archive/byteorder", "little")
        for key, array in arrays.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())


def views_of(torch, tensors=TENSORS):
    arrays = {str(k): array for k, array in enumerate(tensors.values())}
    return collections.OrderedDict((name, View(torch, key, array)) for (name, array), key in zip(
        tensors.items(), arrays, strict=True)), arrays


def check(found):
    assert set(found) == set(TENSORS)
    for name, expected in TENSORS.items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)


def test_zip_archive(tmp_path, stand_in):
    write_zip(tmp_path / "a.pth", *views_of(stand_in))
    check(read_torch_file(tmp_path / "a.pth"))


def test_nested_with_the_prefix_of_parallel_training(tmp_path, stand_in):
    views, arrays = views_of(stand_in)
    nested = {"epoch": 3, "state_dict": {f"module.{name}": view for name, view in views.items()}}
    write_zip(tmp_path / "a.pth", nested, arrays)
    check(read_torch_file(tmp_path / "a.pth"))


def test_row_of_pickles(tmp_path, stand_in):
    views, arrays = views_of(stand_in)
    data = b"".join(pickle.dumps(part, protocol=2) for part in (
        0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}))
    data += dumps(views, extra=(None,)) + pickle.dumps(list(arrays), protocol=2)
    for array in arrays.values():
        data += struct.pack("<q", array.size) + array.tobytes()
    (tmp_path / "a.pth").write_bytes(data)
    check(read_torch_file(tmp_path / "a.pth"))


def test_views_of_one_storage(tmp_path, stand_in):
    values = np.arange(12, dtype=np.float32)
    views = {"transposed": View(stand_in, "0", values, (4, 3), (1, 4)),
             "row": View(stand_in, "0", values, (4,), (1,), 8)}
    write_zip(tmp_path / "a.pth", views, {"0": values})
    found = read_torch_file(tmp_path / "a.pth")
    np.testing.assert_array_equal(found["transposed"], values.reshape(3, 4).T)
    np.testing.assert_array_equal(found["row"], [8, 9, 10, 11])


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)


def test_nothing_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, data in (("plain.pth", pickle.dumps(Harmful())), ("zip.pth", None)):
        if data is None:
            with zipfile.ZipFile(name, "w") as archive:
                archive.writestr("archive/data.pkl", pickle.dumps({"a": Harmful()}))
        else:
            Path(name).write_bytes(data)
        with pytest.raises(UserError, match="refused: it asks for pathlib"):
            read_torch_file(Path(name))
    assert not Path("harm").exists()


def test_a_tensor_outside_of_its_storage(tmp_path, stand_in):
    values = np.arange(4, dtype=np.float32)
    write_zip(tmp_path / "a.pth", {"a": View(stand_in, "0", values, (2, 3), (3, 1))}, {"0": values})
    with pytest.raises(UserError, match="outside of storage 0"):
        read_torch_file(tmp_path / "a.pth")


def test_cut_short_or_no_such_file(tmp_path, stand_in):
    views, arrays = views_of(stand_in)
    write_zip(tmp_path / "a.pth", views, arrays | {"0": arrays["0"][:1]})
    with pytest.raises(UserError, match="storage 0 has 48 bytes, expected 96"):
        read_torch_file(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:300])
    with pytest.raises(UserError, match="damaged"):
        read_torch_file(tmp_path / "b.pth")
    with pytest.raises(UserError, match="No such file"):
        read_torch_file(tmp_path / "c.pth")
    with pytest.raises(UserError, match="expected a state dictionary"):
        write_zip(tmp_path / "d.pth", [1], {})
        read_torch_file(tmp_path / "d.pth")
