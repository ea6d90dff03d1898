"""Building, caching and loading the CPU kernels, with two small sources in place of all."""

import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.ops import build as command
from src.ops import select
from src.ops.cpu import build as module
from src.ops.cpu import library as loading
from src.ops.cpu import toolchain
from src.ops.cpu.build import build, cache_folder, read_metadata
from src.ops.cpu.library import KernelLibrary, from_bf16, load_library, to_bf16
from src.ops.cpu.toolchain import ISAS, KernelBuildError, find_compiler

ROOT = Path(__file__).parent.parent.parent
ENTRY = """
#include <cstdint>
#include "sign.h"
// Adds one to a float array, or to bfloat16 bits: both tell what the entry is given.
extern "C" int AddOne(int count, void** data, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  if (count != 2 || ranks[0] != 2 || shapes[0][1] != 3) return 7;
  for (int64_t i = 0; i < shapes[0][0] * shapes[0][1]; ++i) {
    if (types[0][0] == 'b') static_cast<uint16_t*>(data[1])[i] = static_cast<uint16_t*>(data[0])[i] + 1;
    else static_cast<float*>(data[1])[i] = static_cast<float*>(data[0])[i] + ONE;
  }
  return 0;
}
"""

pytestmark = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None or not toolchain.cpu_flags(),
                                reason="needs a compiler on Linux")


@pytest.fixture
def sources(tmp_path, monkeypatch) -> Path:
    """A folder of small sources, an empty cache, and a compiler that writes down what it compiles."""
    folder = tmp_path / "sources"
    folder.mkdir()
    for name in ("library.cc", "scratch.cc", "scratch.h", "threads.cc", "threads.h"):
        shutil.copy(module.SOURCE_FOLDER / name, folder)
    (folder / "entry.cc").write_text(ENTRY, encoding="utf-8")
    (folder / "sign.h").write_text("#define ONE 1\n", encoding="utf-8")
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{hook(tmp_path)}exec g++ "$@"\n', encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("VNET_KERNEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VNET_CPU_ISA", raising=False)
    monkeypatch.setattr(module, "SOURCE_FOLDER", folder)
    monkeypatch.setattr(module, "find_onednn", lambda: None)
    # These have to build even where the processor has no AVX2.
    monkeypatch.setitem(ISAS, "baseline", toolchain.Isa("baseline", (), ISAS["baseline"].compile_flags))
    return folder


def hook(tmp_path: Path) -> str:
    """What the compiler does first: runs `tmp_path`/hook if that is there, unless it is only asked for its version."""
    return f'case "$*" in *--version) ;; *) if [ -f {tmp_path}/hook ]; then . {tmp_path}/hook; fi;; esac\n'


def compiled(tmp_path: Path) -> list[str]:
    """Names of the sources compiled so far, and "link" for each linking."""
    calls = (tmp_path / "calls").read_text(encoding="utf-8").splitlines() if (tmp_path / "calls").exists() else []
    words = [call.split() for call in calls if "--version" not in call]
    return sorted(next((Path(word).name for word in line if word.endswith(".cc")), "link") for line in words)


ALL = ["entry.cc", "library.cc", "link", "scratch.cc", "threads.cc"]
IN_ANOTHER_PROCESS = """
import sys, types
from pathlib import Path
sys.path.insert(0, sys.argv[1])
# In place of the package, which takes seconds to import MindSpore.
sys.modules["src.ops"] = types.ModuleType("src.ops")
sys.modules["src.ops"].__path__ = [sys.argv[1] + "/src/ops"]
from src.ops.cpu import build, toolchain
build.SOURCE_FOLDER = Path(sys.argv[2])
build.find_onednn = lambda: None
toolchain.ISAS["baseline"] = toolchain.Isa("baseline", (), toolchain.ISAS["baseline"].compile_flags)
print(build.build())
"""


def start_another(sources: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", IN_ANOTHER_PROCESS, str(ROOT), str(sources)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_builds_once_and_calls(sources, tmp_path):
    path = build()
    assert compiled(tmp_path) == ALL
    assert (build(), compiled(tmp_path)) == (path, ALL)
    assert read_metadata(path)["isa"] in ISAS
    library = load_library(2)
    assert (library.path, library.threads, library.has_onednn) == (path, 2, False)
    assert library.has("AddOne")
    assert not library.has("AddTwo")
    x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((2, 3), np.float32)
    library.call("AddOne", [x], [y])
    assert np.array_equal(y, x + 1)
    library.call("AddOne", [np.asfortranarray(x)], [y])
    assert np.array_equal(y, x + 1)
    bits = to_bf16(x)
    library.call("AddOne", [bits], [out := np.zeros_like(bits)])
    assert np.array_equal(out, bits + 1)
    with pytest.raises(RuntimeError, match="AddOne failed with code 7"):
        library.call("AddOne", [x.T], [y])
    with pytest.raises(ValueError, match="contiguous"):
        library.call("AddOne", [x], [y.T])


def test_bfloat16_rounds_to_nearest_even():
    values = np.array([1, -2, 0.1, 1 + 2**-8, 1 + 3 * 2**-8, np.inf, 1e-40], np.float32)
    expected = np.array([1, -2, 0.10009765625, 1, 1 + 2**-6, np.inf, 1e-40], np.float32)
    assert np.allclose(from_bf16(to_bf16(values)), expected, rtol=1e-7, atol=1e-41)


def test_processes_that_start_at_once_build_once(sources, tmp_path):
    (tmp_path / "hook").write_text("sleep 0.5\n", encoding="utf-8")
    processes = [start_another(sources) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    paths = {output[0].splitlines()[-1] for output in outputs}
    assert paths == {str(build())}
    assert compiled(tmp_path) == ALL


def test_killed_build_leaves_nothing_in_the_way(sources, tmp_path):
    # The first compiler kills the build and goes on for longer than it.
    (tmp_path / "hook").write_text(f"rm {tmp_path}/hook\nkill -9 $PPID\nsleep 1\n", encoding="utf-8")
    process = start_another(sources)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    leftover = tmp_path / "cache" / "objects" / ".some.o.1.tmp.o"
    leftover.write_bytes(b"half an object")
    KernelLibrary(build())
    assert not leftover.exists()


def test_sources_flags_and_compiler_are_in_the_key(sources, monkeypatch):
    first = build()
    (sources / "unused.h").write_text("#define TWO 2\n", encoding="utf-8")
    assert build() == first
    (sources / "sign.h").write_text("#define ONE 1.0f\n", encoding="utf-8")
    second = build()
    assert second != first
    monkeypatch.setenv("VNET_CPU_ISA", "baseline")
    if read_metadata(second)["isa"] != "baseline":
        assert build() not in (first, second)
        monkeypatch.delenv("VNET_CPU_ISA")
    monkeypatch.setattr(module, "mindspore_version", lambda: "99")
    assert build() not in (first, second)
    monkeypatch.undo()
    assert first.exists()


def test_one_changed_source_is_compiled_alone(sources, tmp_path):
    build()
    (sources / "sign.h").write_text("#define ONE 1.0f\n", encoding="utf-8")
    build()
    assert compiled(tmp_path) == sorted([*ALL, "entry.cc", "link"])


@pytest.mark.parametrize("damage", ["truncated", "emptied", "no metadata", "bad metadata"])
def test_damaged_library_is_built_again(sources, tmp_path, damage):
    path = build()
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "no metadata":
        path.with_suffix(".json").unlink()
    else:
        path.with_suffix(".json").write_text("[", encoding="utf-8")
    assert load_library(1).path == path
    assert compiled(tmp_path) == sorted([*ALL, "link"])


DAMAGED = [b"", b"\x7fELF and nothing more", b"text"]


def test_damaged_object_is_compiled_again(sources, tmp_path):
    path = build()
    path.unlink()
    objects = sorted((tmp_path / "cache" / "objects").glob("*.o"))
    for compiled_object, damage in zip(objects, itertools.cycle(DAMAGED)):
        compiled_object.write_bytes(damage)
    assert load_library(1).has("AddOne")


def test_library_that_does_not_load_is_built_again(sources, monkeypatch):
    path, real, refused = build(), loading.KernelLibrary, []

    def refuse_once(path):
        if not refused:
            refused.append(path)
            raise OSError("wrong ELF class")
        return real(path)

    monkeypatch.setattr(loading, "KernelLibrary", refuse_once)
    assert load_library(1).path == path
    monkeypatch.setattr(loading, "KernelLibrary", lambda path: (_ for _ in ()).throw(OSError("failed to map segment")))
    with pytest.raises(KernelBuildError, match="failed to map segment.*VNET_KERNEL_CACHE"):
        load_library(1)


def test_old_libraries_are_removed(sources, tmp_path):
    paths = []
    for number in range(5):
        (sources / "sign.h").write_text(f"#define ONE {number}\n", encoding="utf-8")
        paths.append(build())
        age = 10_000 - 1000 * number
        for path in (paths[-1].parent, paths[-1]):
            os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
    # The newest of five is as it came; of those before it two are kept.
    assert [path.exists() for path in paths] == [False, False, True, True, True]


def test_compile_error_is_readable(sources, capsys):
    (sources / "entry.cc").write_text("int f() { return missing_name; }\n", encoding="utf-8")
    with pytest.raises(KernelBuildError) as caught:
        build()
    head, *errors = str(caught.value).splitlines()
    assert "building entry.cc of the CPU kernels with g++" in head
    assert "expected g++ 11" in head
    assert len(errors) < 10
    assert any("missing_name" in line for line in errors)
    (sources / "entry.cc").write_text("int missing(); int f() { return missing(); }\n", encoding="utf-8")
    with pytest.raises(KernelBuildError, match="building the library(.|\n)*missing"):
        build()
    assert command.main() == 2
    assert "error: building the library" in capsys.readouterr().err


def test_link_error_shows_what_is_undefined(sources):
    names = [f"missing_{number}" for number in range(3)]
    calls = "\n".join(f"int {name}(); int call_{name}() {{ return {name}(); }}" for name in names)
    (sources / "entry.cc").write_text(calls, encoding="utf-8")
    with pytest.raises(KernelBuildError) as caught:
        build()
    head, *errors = str(caught.value).splitlines()
    assert "building the library of the CPU kernels with g++" in head
    assert [[name for name in names if name in line] for line in errors] == [[name] for name in names]
    assert all("undefined reference" in line for line in errors)


def test_link_error_without_the_word_error_shows(sources, monkeypatch):
    flags = module.Plan.link_flags
    monkeypatch.setattr(module.Plan, "link_flags", lambda plan: [*flags(plan), "-lno_such_library"])
    with pytest.raises(KernelBuildError, match="cannot find -lno_such_library") as caught:
        build()
    assert "collect2" not in str(caught.value)


def test_compiler_that_does_not_start_is_readable(sources, tmp_path):
    # It tells its version, and is gone when it is to compile.
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\nrm {compiler}\nexec g++ "$@"\n', encoding="utf-8")
    with pytest.raises(KernelBuildError, match=r"compiler` does not start \(No such file.*\); install g\+\+") as caught:
        build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("compiler", "words"), [("/bin/false", "exit code 1"), ("/nowhere/g++", "no such program"),
                                                 ("/etc/passwd", "no such program")])
def test_broken_compiler_is_one_line(sources, monkeypatch, compiler, words):
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(KernelBuildError, match=words) as caught:
        build()
    assert "\n" not in str(caught.value)
    assert "install g++" in str(caught.value)


def test_no_compiler_is_needed_for_what_was_built(sources, monkeypatch):
    path = build()
    monkeypatch.setenv("CXX", "/nowhere/g++")
    assert build() == path
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(KernelBuildError, match=r"found no C\+\+ compiler; install g\+\+"):
        find_compiler()


def test_cache_that_cannot_be_written(sources, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("VNET_KERNEL_CACHE", str(tmp_path / "file"))
    with pytest.raises(KernelBuildError, match="cannot be kept in .*file.* set VNET_KERNEL_CACHE"):
        build()
    monkeypatch.setenv("VNET_KERNEL_CACHE", str(tmp_path / "a:b"))
    with pytest.raises(KernelBuildError, match="colon"):
        build()


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("VNET_KERNEL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "vnet-mindspore"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "vnet-mindspore"


def test_library_for_another_processor_is_not_even_opened(sources, monkeypatch):
    path = build()
    monkeypatch.setattr(loading, "missing_flags", lambda isa: ["avx512f"])
    monkeypatch.setattr(loading.ctypes, "CDLL", lambda path: pytest.fail("opened"))
    with pytest.raises(KernelBuildError, match="this processor has no avx512f"):
        KernelLibrary(path)


@pytest.fixture
def undecided(monkeypatch):
    monkeypatch.setattr(select, "_decided", False)
    monkeypatch.setattr(select, "_library", None)


def test_decision_is_made_once(sources, undecided, monkeypatch, caplog):
    assert select.kernels() is None
    assert select.use_cpu_kernels(1)
    library = select.kernels()
    assert library is not None
    assert library.threads == 1
    assert "without oneDNN" in caplog.text
    monkeypatch.setattr(select, "load_library", lambda threads: pytest.fail("loaded twice"))
    assert select.use_cpu_kernels(2)
    assert (select.kernels(), library.threads) == (library, 2)
    with select.stock_kernels(), select.stock_kernels():
        assert select.kernels() is None
    assert select.kernels() is library


def test_fall_back_is_one_warning_with_the_reason(sources, undecided, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "/bin/false")
    with caplog.at_level(logging.WARNING):
        assert [select.use_cpu_kernels(2), select.use_cpu_kernels(2)] == [False, False]
    assert select.kernels() is None
    (record,) = caplog.records
    assert "/bin/false --version` failed" in record.getMessage()
    assert "times slower" in record.getMessage()


def test_without_avx2_and_onednn_there_is_nothing_to_build(monkeypatch):
    monkeypatch.setenv("VNET_CPU_ISA", "baseline")
    monkeypatch.setattr(module, "find_onednn", lambda: None)
    with pytest.raises(KernelBuildError, match="neither AVX2 nor AVX-512, and oneDNN is not installed"):
        module.make_plan()


def test_command_builds_and_says_where(sources, monkeypatch, capsys):
    root, handlers, level = logging.getLogger(), logging.getLogger().handlers[:], logging.getLogger().level
    try:
        assert command.main() == 0
        lines = capsys.readouterr().out.splitlines()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert lines[0].startswith("building the CPU kernels (")
    assert "once, about" in lines[0]
    assert str(build()) in lines[-1]
