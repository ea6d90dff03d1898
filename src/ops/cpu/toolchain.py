"""What this machine offers to build and run the CPU kernels: instruction set, compiler, oneDNN."""

import logging
import os
import platform
import shlex
import shutil
import site
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError

logger = logging.getLogger(__name__)

ISA_VARIABLE = "VNET_CPU_ISA"
COMPILER_HINT = "g++ 11 or newer (Debian, Ubuntu: apt install g++), or clang++ with OpenMP; CXX=/path/to/it chooses one"

# As the x86-64 psABI defines its levels v2, v3 and v4, in the words of /proc/cpuinfo.
_LEVEL_3 = ("cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2", "avx", "avx2", "bmi1", "bmi2", "f16c",
            "fma", "abm", "movbe", "xsave")
_LEVEL_4 = (*_LEVEL_3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


class KernelBuildError(UserError):
    """The CPU kernels cannot be built or loaded here: what was found, what is needed, what to do."""


@dataclass(frozen=True)
class Isa:
    """An instruction set that the kernels can be built for.

    Attributes:
        cpu_flags: that the processor has to have, as /proc/cpuinfo spells them.
        compile_flags: that let the compiler use it.
        blocked: whether the kernels on blocked volumes exist for it; if not, only oneDNN's convolutions do.
    """

    name: str
    cpu_flags: tuple[str, ...]
    compile_flags: tuple[str, ...]
    blocked: bool = True


ISAS = {isa.name: isa for isa in (
    Isa("avx512", _LEVEL_4, ("-march=x86-64-v4", "-mprefer-vector-width=512")),
    Isa("avx2", _LEVEL_3, ("-march=x86-64-v3",)),
    Isa("baseline", (), ("-march=x86-64", "-Wno-psabi"), blocked=False))}


def cpu_flags() -> set[str]:
    """Return the processor's features as Linux reports them; empty where it does not."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return set()
    for line in text.splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def missing_flags(isa: Isa) -> list[str]:
    """Return what the processor lacks to run code for `isa`."""
    return sorted(set(isa.cpu_flags) - cpu_flags())


def choose_isa() -> Isa:
    """Return the best instruction set of this processor, or the one that VNET_CPU_ISA asks for.

    Raises:
        KernelBuildError: not an x86-64 Linux machine, or VNET_CPU_ISA asks for what is not there.
    """
    machine = f"{platform.system()} on {platform.machine()}"
    if machine not in ("Linux on x86_64", "Linux on AMD64"):
        raise KernelBuildError(f"found {machine}, expected Linux on x86_64; there are no kernels for others")
    wanted = os.environ.get(ISA_VARIABLE)
    if not wanted:
        return next(isa for isa in ISAS.values() if not missing_flags(isa))
    if wanted not in ISAS:
        raise KernelBuildError(f"{ISA_VARIABLE}: found {wanted!r}, expected one of {', '.join(ISAS)}, or unset it")
    if lacking := missing_flags(ISAS[wanted]):
        raise KernelBuildError(
            f"{ISA_VARIABLE}={wanted}: this processor has no {', '.join(lacking)}; unset the variable")
    return ISAS[wanted]


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: how it is called, and all that it says of its version."""

    command: tuple[str, ...]
    version: str

    @property
    def title(self) -> str:
        return self.version.splitlines()[0]


def find_compiler() -> Compiler:
    """Return the compiler that CXX names (with arguments, if there are any), or else g++ or clang++.

    Raises:
        KernelBuildError: none is there, or it does not even tell its version.
    """
    named = os.environ.get("CXX", "").strip()
    try:
        words = tuple(shlex.split(named))
    except ValueError as error:
        raise KernelBuildError(f"CXX={named}: cannot be read ({error}); expected {COMPILER_HINT}") from error
    commands = [words] if words else [("g++",), ("clang++",)]
    problem = "found no C++ compiler"
    for command in commands:
        if shutil.which(command[0]) is None:
            if named:
                problem = f"CXX={named}: there is no such program"
            continue
        try:
            result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
        except OSError as error:
            problem = f"`{shlex.join(command)}` does not start ({error.strerror})"
            continue
        if result.returncode == 0 and result.stdout.strip():
            return Compiler(command, result.stdout.strip())
        problem = f"`{shlex.join(command)} --version` failed with exit code {result.returncode}"
    raise KernelBuildError(f"{problem}; install {COMPILER_HINT}")


@dataclass(frozen=True)
class OneDnn:
    """An installed oneDNN: the folder of its headers, its shared library, and its version."""

    include: Path
    library: Path
    version: str


def find_onednn() -> OneDnn | None:
    """Return the oneDNN that pip has put beside this Python (onednn-cpu-gomp and onednn-devel-cpu-gomp), if any.

    One whose files cannot be read counts as none, with a warning: the kernels that need none are worth having.
    """
    for prefix in (sys.prefix, site.getuserbase()):
        include, library = Path(prefix, "include"), Path(prefix, "lib", "libdnnl.so.3")
        header = include / "oneapi" / "dnnl" / "dnnl_version.h"
        try:
            if not ((include / "dnnl.hpp").is_file() and header.is_file() and library.is_file()):
                continue
            words = [line.split() for line in header.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            logger.warning("%s: cannot be read (%s), so the CPU kernels do without oneDNN; check its permissions, or "
                           "install it again: pip install --force-reinstall -r requirements.txt", header, error)
            continue
        values = {word[1]: word[2] for word in words if len(word) == 3 and word[0] == "#define"}
        parts = [values.get(f"DNNL_VERSION_{part}", "?") for part in ("MAJOR", "MINOR", "PATCH")]
        return OneDnn(include, library, ".".join(parts))
    return None
