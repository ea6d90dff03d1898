"""What a failing kernel says: in Python's exception, both when it is called directly and when MindSpore runs it."""

import os
import shutil

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.ops.cpu import build as module
from src.ops.cpu import toolchain
from src.ops.cpu.library import KernelLibrary, load_library
from src.ops.cpu.toolchain import ISAS

# All but Wordy fail or not by the value they are given.
ENTRIES = """
#include <algorithm>
#include <string>
#include <vector>
#include "entry.h"
VNET_ENTRY(Half) {
  float x = *call.get<float>(0);
  if (x < 0) throw std::invalid_argument("found " + std::to_string(static_cast<int>(x)) + ", expected no less than 0");
  *call.get<float>(1) = x / 2;
}
VNET_ENTRY(Wish) {
  float x = *call.get<float>(0);
  *call.get<float>(1) = *vnet::scratch(static_cast<int64_t>(x)) = x;
}
VNET_ENTRY(Vector) { *call.get<float>(1) = std::vector<float>(static_cast<size_t>(*call.get<float>(0)), 5).front(); }
// Grows in mid-operator: 1 MiB, 3 MiB within a scope, then 2 MiB where these were. All keep what was written to them.
VNET_ENTRY(Grow) {
  auto fill = [](float* to, int64_t count, float value) { for (int64_t i = 0; i < count; ++i) to[i] = value; };
  constexpr int64_t mib = 1 << 18;
  float* first = vnet::scratch(mib);
  fill(first, mib, 1);
  uintptr_t places = reinterpret_cast<uintptr_t>(first);
  {
    vnet::ScratchScope scope;
    float* odd = vnet::scratch(3);
    double* second = vnet::scratch<double>(3 * mib / 2);
    std::fill_n(second, 3 * mib / 2, 2.0);
    places |= reinterpret_cast<uintptr_t>(odd) | reinterpret_cast<uintptr_t>(second);
  }
  float* third = vnet::scratch(2 * mib);
  fill(third, 2 * mib, 3);
  places |= reinterpret_cast<uintptr_t>(third);
  call.get<float>(1)[0] = places % 64 == 0 ? first[0] + first[mib - 1] + third[0] + third[2 * mib - 1] : -1;
}
VNET_ENTRY(Negative) { vnet::scratch(-1); }
VNET_ENTRY(Wordy) { throw std::runtime_error(std::string(5000, 'x')); }
"""
NEGATIVE = "CPU kernel Half: found -3, expected no less than 0"
MUCH = 2.0**58  # floats: more than any machine can address
NO_MEMORY = f"CPU kernel Wish: not enough memory for the scratch of its work: {2**40} MiB wanted; a smaller"


@pytest.fixture(scope="module")
def failing(tmp_path_factory) -> KernelLibrary:
    """A library of small entries that fail, with the guard that all kernels have."""
    if shutil.which(os.environ.get("CXX", "g++")) is None or not toolchain.cpu_flags():
        pytest.skip("needs a compiler on Linux")
    folder = tmp_path_factory.mktemp("failing")
    (folder / "sources").mkdir()
    for path in (*module.SOURCE_FOLDER.glob("*.h"), *(module.SOURCE_FOLDER / f"{name}.cc"
                                                      for name in ("library", "profile", "scratch", "threads"))):
        shutil.copy(path, folder / "sources")
    (folder / "sources" / "entries.cc").write_text(ENTRIES, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VNET_KERNEL_CACHE", str(folder / "cache"))
        patch.setattr(module, "SOURCE_FOLDER", folder / "sources")
        patch.setattr(module, "find_onednn", lambda: None)
        patch.setitem(ISAS, "baseline", toolchain.Isa("baseline", (), ISAS["baseline"].compile_flags))
        return load_library(1)


def called(library: KernelLibrary, name: str, value: float) -> float:
    out = np.zeros(1, np.float32)
    library.call(name, [np.array([value], np.float32)], [out])
    return float(out[0])


def test_call_raises_with_the_words_of_the_kernel(failing, capfd):
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"^{NEGATIVE}$"):
            called(failing, "Half", -3)
        assert called(failing, "Half", 3) == 1.5
    with pytest.raises(RuntimeError) as caught:
        called(failing, "Wordy", 1)
    assert str(caught.value).startswith("CPU kernel Wordy: xxx")
    assert len(str(caught.value)) == 1023
    assert capfd.readouterr() == ("", "")


def test_call_without_memory_says_so_and_later_ones_work(failing):
    for _ in range(2):
        with pytest.raises(RuntimeError, match=NO_MEMORY):
            called(failing, "Wish", MUCH)
        assert called(failing, "Wish", 1000) == 1000
    with pytest.raises(RuntimeError, match="^CPU kernel Vector: not enough memory .*; a smaller batch_size"):
        called(failing, "Vector", MUCH)
    assert called(failing, "Vector", 3) == 5


def test_scratch_memory_is_a_stack_as_large_as_the_hungriest_operator(failing):
    assert called(failing, "Wish", 1) == 1
    small = failing.scratch_bytes
    assert small <= 2 * 2**20
    for _ in range(3):
        assert called(failing, "Grow", 0) == 8
    # 4 MiB and two lines were in use at the same time, not the 6 MiB that were asked for; huge pages have 2 MiB.
    assert failing.scratch_bytes == 6 * 2**20
    with pytest.raises(RuntimeError, match="CPU kernel Negative: not enough memory"):
        called(failing, "Negative", 0)
    assert called(failing, "Wish", 5) == 5
    assert failing.scratch_bytes == 6 * 2**20


class Network(nn.Cell):
    def __init__(self, library: KernelLibrary, name: str):
        super().__init__()
        self.operator = ops.Custom(f"{library.path}:{name}", lambda x: x, lambda x: x, "aot")

    def construct(self, x: Tensor) -> Tensor:
        return self.operator(x) + 1


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def test_mindspore_raises_with_the_words_of_the_kernel(failing, mode):
    before = ms.get_context("mode")
    ms.set_context(mode=mode)
    try:
        for name, value, words, good, expected in (("Half", -3, NEGATIVE, 3, 2.5), ("Wish", MUCH, NO_MEMORY, 7, 8)):
            network = Network(failing, name)
            with pytest.raises(RuntimeError, match=words):
                network(Tensor([value], ms.float32)).asnumpy()
            if mode == ms.GRAPH_MODE:  # MindSpore never again runs a graph that has failed
                with pytest.raises(RuntimeError):
                    network(Tensor([good], ms.float32)).asnumpy()
                network = Network(failing, name)
            assert network(Tensor([good], ms.float32)).asnumpy().tolist() == [expected]
    finally:
        ms.set_context(mode=before)


def test_sizes_that_do_not_fit_are_an_error_in_mindspore(library):
    """The whole library, told a wrong size of its output."""
    config = Tensor(np.array([3, 0, 0, 1, 1, 1, *[0] * 6], np.int64))
    x, weight = (Tensor(np.ones(shape, np.float32)) for shape in ((1, 2, 4, 4, 4), (2, 2, 3, 3, 3)))

    def convolution(edge: int) -> ops.Custom:
        operator = ops.Custom(f"{library.path}:ConvForward", lambda *_: [1, 2, edge, edge, edge], lambda _, x, *__: x,
                              "aot")
        operator.add_prim_attr("edge", edge)
        return operator

    with pytest.raises(RuntimeError, match="CPU kernel ConvForward: .*don't fit one another"):
        convolution(3)(config, x, weight).asnumpy()
    assert (convolution(2)(config, x, weight).asnumpy() == 54).all()
