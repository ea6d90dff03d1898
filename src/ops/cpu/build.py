"""Compiles the CPU kernels of this folder into one shared library, once a machine, into a cache of the user.

The library lies in CACHE/KEY/libvnet_cpu.so, where CACHE is VNET_KERNEL_CACHE or ~/.cache/vnet-mindspore, and KEY is a
hash of everything that goes into it: sources, flags, versions, instruction set. So a changed source or a new compiler
makes a new library, and machines of different kinds can share a home folder.

Processes that start at once build once: the first holds a lock, the others wait for it and find the result. Files
appear by renaming and the system drops the lock of a process that dies, so a killed build leaves nothing in the way.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from src.files import atomic_path, write_json
from src.ops.cpu.toolchain import (
    COMPILER_HINT,
    Compiler,
    Isa,
    KernelBuildError,
    OneDnn,
    choose_isa,
    find_compiler,
    find_onednn,
)

logger = logging.getLogger(__name__)

SOURCE_FOLDER = Path(__file__).parent
CACHE_VARIABLE = "VNET_KERNEL_CACHE"
LIBRARY_NAME = "libvnet_cpu.so"
# The libraries used last, and any used within the hour: a process may still be on its way to load one of those.
KEPT_LIBRARIES = 3
KEPT_SECONDS = 3600

# What there is without AVX2: oneDNN, which looks at the processor itself, what its entries need, and means over ranks.
_BASELINE_SOURCES = ("library.cc", "onednn.cc", "onednn_conv.cc", "profile.cc", "scratch.cc", "shared_mean.cc",
                     "threads.cc")
# This one runs before the processor is known to be able to run the others.
_ALWAYS_BASELINE = "library.cc"
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-Wall", "-Wextra")
_SECONDS_PER_KILOBYTE = 0.6  # of source, on one core: 2 cores of a Xeon with g++ 12, rounded up
_ERROR_LINES = 8


@dataclass(frozen=True)
class Plan:
    """What is to be built, and with what.

    Attributes:
        compiler: None if there is none; a library that was built before can still be used.
        onednn: None if it is not installed.
        sources: the .cc files.
    """

    isa: Isa
    compiler: Compiler | None
    onednn: OneDnn | None
    sources: tuple[Path, ...]

    def compile_flags(self, source: Path) -> list[str]:
        flags = [*_FLAGS, f"-DVNET_ISA_{self.isa.name.upper()}"]
        flags += ("-march=x86-64", "-Wno-psabi") if source.name == _ALWAYS_BASELINE else self.isa.compile_flags
        if self.onednn is not None:
            flags += ["-DVNET_ONEDNN", "-isystem", str(self.onednn.include)]
        return flags

    def link_flags(self) -> list[str]:
        # Without -z defs a missing kernel would show as late as when the library is loaded.
        flags = ["-shared", "-fopenmp", "-Wl,-z,defs"]
        if self.onednn is not None:
            flags += [str(self.onednn.library), f"-Wl,-rpath,{self.onednn.library.parent}"]
        return flags

    def describe(self) -> str:
        onednn = f"oneDNN {self.onednn.version}" if self.onednn is not None else "no oneDNN"
        return f"{self.isa.name}, {onednn}, {self.compiler.title if self.compiler else 'no compiler'}"


def make_plan() -> Plan:
    """Return what to build on this machine from the .cc files of SOURCE_FOLDER.

    Raises:
        KernelBuildError: nothing that is worth building can run here.
    """
    isa, onednn = choose_isa(), find_onednn()
    if not isa.blocked and onednn is None:
        raise KernelBuildError("this processor has neither AVX2 nor AVX-512, and oneDNN is not installed; "
                               "pip install -r requirements.txt")
    sources = sorted(SOURCE_FOLDER.glob("*.cc"))
    if not isa.blocked:
        sources = [source for source in sources if source.name in _BASELINE_SOURCES]
    try:
        compiler = find_compiler()
    except KernelBuildError:
        compiler = None
    return Plan(isa, compiler, onednn, tuple(sources))


def cache_folder() -> Path:
    """Return where libraries are kept: VNET_KERNEL_CACHE, or vnet-mindspore in the user's cache folder.

    Raises:
        KernelBuildError: there is no such folder, or its name won't do.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        folder = Path(named).absolute()
    else:
        try:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "vnet-mindspore"
        except RuntimeError as error:
            raise KernelBuildError(
                f"no home folder to keep the CPU kernels in; set {CACHE_VARIABLE} to a folder") from error
    if ":" in str(folder):
        raise KernelBuildError(f"{folder}: MindSpore cannot load kernels from a path with a colon; set "
                               f"{CACHE_VARIABLE} to another folder")
    return folder


def build() -> Path:
    """Return the path of the library for this machine; it is compiled first if it is not in the cache.

    Raises:
        KernelBuildError: it cannot be compiled here, or the cache cannot be written.
    """
    plan, cache = make_plan(), cache_folder()
    content = _content_key(plan)
    if plan.compiler is None:
        for entry in sorted(cache.glob(f"{content}-*")):
            if _is_whole(entry):
                return _used(entry)
        find_compiler()  # says what is missing
    entry = cache / f"{content}-{_digest(plan.compiler.version if plan.compiler else '')[:8]}"
    if _is_whole(entry):
        return _used(entry)
    try:
        (cache / "objects").mkdir(parents=True, exist_ok=True)
        with _lock(cache) as alone:
            if not _is_whole(entry):
                if alone:
                    _clear_leftovers(cache)
                _build_entry(plan, cache, entry)
                _prune(cache)
    except OSError as error:
        raise KernelBuildError(f"the CPU kernels cannot be kept in {cache} ({error.strerror or error}); set "
                               f"{CACHE_VARIABLE} to a folder that can be written and has 50 MB free") from error
    return entry / LIBRARY_NAME


def mindspore_version() -> str:
    """Return the installed MindSpore's version, without the seconds that importing it takes."""
    try:
        return importlib.metadata.version("mindspore")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def discard(library: Path) -> None:
    """Take a library that turned out to be damaged out of the cache, with its objects, so that it is built anew."""
    shutil.rmtree(library.parent, ignore_errors=True)
    shutil.rmtree(library.parent.parent / "objects", ignore_errors=True)


def read_metadata(library: Path) -> dict[str, str]:
    """Return what was noted when `library` was built: isa, onednn, compiler, mindspore, sha256."""
    return json.loads(library.with_suffix(".json").read_text(encoding="utf-8"))


def _build_entry(plan: Plan, cache: Path, entry: Path) -> None:
    objects = {source: cache / "objects" / f"{_object_key(plan, source)}.o" for source in plan.sources}
    # Long files first, so that none of them is left to run alone at the end.
    missing = sorted((source for source, target in objects.items() if not _is_object(target)),
                     key=lambda source: -source.stat().st_size)
    workers = max(1, min(len(missing), len(os.sched_getaffinity(0))))
    seconds = sum(source.stat().st_size for source in missing) / 1000 * _SECONDS_PER_KILOBYTE / workers
    logger.info("building the CPU kernels (%s; once, about %d s)", plan.describe(), 5 * (seconds // 5 + 1))
    started = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(_run_compiler, plan, [*plan.compile_flags(source), "-c", str(source)], objects[source])
                 for source in missing]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    entry.mkdir(exist_ok=True)
    library = entry / LIBRARY_NAME
    try:
        _run_compiler(plan, [*map(str, objects.values()), *plan.link_flags()], library)
    except KernelBuildError:
        if len(missing) == len(objects):
            raise
        # An object from an earlier build may be damaged.
        for target in objects.values():
            target.unlink(missing_ok=True)
        _build_entry(plan, cache, entry)
        return
    for target in objects.values():
        os.utime(target)
    write_json(library.with_suffix(".json"), {
        "isa": plan.isa.name, "onednn": plan.onednn.version if plan.onednn else "none",
        "compiler": plan.compiler.title if plan.compiler else "", "mindspore": mindspore_version(),
        "sha256": _digest(library.read_bytes())})
    logger.info("built the CPU kernels in %.0f s: %s", time.monotonic() - started, library)


def _run_compiler(plan: Plan, arguments: Sequence[str], target: Path) -> None:
    assert plan.compiler is not None
    with atomic_path(target) as temporary:
        try:
            result = subprocess.run([*plan.compiler.command, *arguments, "-o", str(temporary)], capture_output=True,
                                    text=True, errors="replace", check=False, env={**os.environ, "LC_ALL": "C"})
        except OSError as error:
            remedy = ("free some memory and try again" if error.errno in (errno.ENOMEM, errno.EAGAIN) else
                      f"install {COMPILER_HINT}")
            raise KernelBuildError(f"`{shlex.join(plan.compiler.command)}` does not start ({error.strerror or error}); "
                                   f"{remedy}") from error
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        if result.returncode != 0 or not temporary.exists():
            what = next((Path(argument).name for argument in arguments if argument.endswith(".cc")), "the library")
            if what == "the library":
                # A linker says in many words what is wrong; "error" may be in collect2's last line alone.
                errors = [line for line in lines if not re.search("^collect2|: in function |warning:", line)] or lines
            else:
                errors = [line for line in lines if re.search("error", line, re.IGNORECASE)] or lines
            raise KernelBuildError("\n  ".join([
                f"building {what} of the CPU kernels with {plan.compiler.title} failed (exit code "
                f"{result.returncode}); expected {COMPILER_HINT}; the compiler says:",
                *(errors[:_ERROR_LINES] or ["(nothing)"])]))
        if lines:
            logger.debug("%s: %s", target.name, "\n".join(lines))


@contextlib.contextmanager
def _lock(cache: Path) -> Iterator[bool]:
    """Hold the cache's lock; yields False where the file system has no locks (some network folders)."""
    with (cache / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process that is building the CPU kernels")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            yield False
            return
        yield True


def _is_whole(entry: Path) -> bool:
    library = entry / LIBRARY_NAME
    try:
        return read_metadata(library)["sha256"] == _digest(library.read_bytes())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_object(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF"  # a linker takes an empty file for a script that says nothing
    except OSError:
        return False


def _used(entry: Path) -> Path:
    with contextlib.suppress(OSError):  # the cache may be read-only
        os.utime(entry)
    return entry / LIBRARY_NAME


def _clear_leftovers(cache: Path) -> None:
    """Remove what killed builds have left; only with the lock held, or it could be in use."""
    for leftover in cache.glob("*/.*.tmp*"):
        leftover.unlink(missing_ok=True)


def _prune(cache: Path) -> None:
    """Remove libraries that were not used for long, and the objects that went into none of the others."""
    entries = sorted((library.parent for library in cache.glob(f"*/{LIBRARY_NAME}")),
                     key=lambda entry: entry.stat().st_mtime, reverse=True)
    for entry in entries[KEPT_LIBRARIES:]:
        if entry.stat().st_mtime < time.time() - KEPT_SECONDS:
            shutil.rmtree(entry, ignore_errors=True)
    oldest = min((library.stat().st_mtime for library in cache.glob(f"*/{LIBRARY_NAME}")), default=0.0)
    for target in (cache / "objects").glob("*.o"):
        if target.stat().st_mtime < oldest:
            target.unlink(missing_ok=True)


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def _content_key(plan: Plan) -> str:
    parts = [mindspore_version(), plan.isa.name, *plan.link_flags(), plan.onednn.version if plan.onednn else "none"]
    for source in plan.sources:
        parts += [source.name, _digest(_text_with_headers(source)), *plan.compile_flags(source)]
    return _digest("\0".join(parts))[:16]


def _object_key(plan: Plan, source: Path) -> str:
    compiler, onednn = plan.compiler.version if plan.compiler else "", plan.onednn.version if plan.onednn else "none"
    return _digest("\0".join([compiler, onednn, _text_with_headers(source), *plan.compile_flags(source)]))[:32]


def _text_with_headers(source: Path) -> str:
    """Return the text of a source and of all headers of its folder that it includes, directly or not."""
    texts: dict[str, str] = {}
    names = [source.name]
    while names:
        name = names.pop()
        path = source.parent / name
        if name not in texts and path.is_file():
            texts[name] = path.read_text(encoding="utf-8")
            names += re.findall(r'^\s*#\s*include\s+"([^"]+)"', texts[name], re.MULTILINE)
    return "\0".join(f"{name}\0{texts[name]}" for name in sorted(texts))
