"""What the machine offers: instruction sets and oneDNN."""

import pytest

from src.ops.cpu import toolchain
from src.ops.cpu.toolchain import ISAS, KernelBuildError, choose_isa


def test_instruction_sets(monkeypatch):
    monkeypatch.delenv("VNET_CPU_ISA", raising=False)
    best = set(ISAS["avx512"].cpu_flags)
    for flags, expected in ((best, "avx512"), (best - {"avx512vl"}, "avx2"), (best - {"fma"}, "baseline")):
        monkeypatch.setattr(toolchain, "cpu_flags", lambda flags=flags: flags)
        assert choose_isa().name == expected
    monkeypatch.setenv("VNET_CPU_ISA", "avx2")
    with pytest.raises(KernelBuildError, match="VNET_CPU_ISA=avx2: this processor has no fma"):
        choose_isa()
    monkeypatch.setenv("VNET_CPU_ISA", "sse9")
    with pytest.raises(KernelBuildError, match="found 'sse9', expected one of avx512, avx2, baseline"):
        choose_isa()
    monkeypatch.setattr(toolchain.platform, "machine", lambda: "aarch64")
    with pytest.raises(KernelBuildError, match="aarch64"):
        choose_isa()


@pytest.mark.parametrize("damage", ["no text", "no permission"])
def test_onednn_that_cannot_be_read_counts_as_none(tmp_path, monkeypatch, caplog, damage):
    header = tmp_path / "include" / "oneapi" / "dnnl" / "dnnl_version.h"
    header.parent.mkdir(parents=True)
    (tmp_path / "lib").mkdir()
    for path in (tmp_path / "include" / "dnnl.hpp", tmp_path / "lib" / "libdnnl.so.3"):
        path.write_text("", encoding="utf-8")
    parts = ("MAJOR", "MINOR", "PATCH")
    header.write_text("".join(f"#define DNNL_VERSION_{part} {n}\n" for n, part in enumerate(parts)), encoding="utf-8")
    monkeypatch.setattr(toolchain.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(toolchain.site, "getuserbase", lambda: str(tmp_path / "nowhere"))
    found = toolchain.find_onednn()
    assert found is not None
    assert found.version == "0.1.2"
    if damage == "no text":
        header.write_bytes(b"\xff\xfe")
    else:
        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(toolchain.Path, "read_text", refuse)
    assert toolchain.find_onednn() is None
    (record,) = caplog.records
    assert str(header) in record.getMessage()
    assert "decode" in record.getMessage() if damage == "no text" else "Permission denied" in record.getMessage()
    assert "pip install" in record.getMessage()
