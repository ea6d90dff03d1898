import pytest

from src.data.memory import available_memory_gib, training_memory_gib


def test_the_measured_training_comes_out():
    assert training_memory_gib((128, 128, 64), 1) == pytest.approx(2.11)
    assert training_memory_gib((128, 128, 64), 2) == pytest.approx(2.11 + 0.83)
    assert training_memory_gib((64, 128, 64), 2) == pytest.approx(2.11)
    # Half the width: one quarter of the weights, one half of the activations.
    assert training_memory_gib((128, 128, 64), 1, base_channels=8) == pytest.approx(0.55 + 0.73 / 4 + 0.83 / 2)
    assert training_memory_gib((128, 128, 64), 1, held_voxels=2**30) == pytest.approx(2.11 + 5)


def test_what_is_available(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 33554432 kB\nMemFree: 1 kB\nMemAvailable:   16777216 kB\n")
    assert available_memory_gib(tmp_path) == 16
    group = tmp_path / "sys/fs/cgroup"
    (group / "memory").mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1\n")
    assert available_memory_gib(tmp_path) == 16
    (group / "memory.max").write_text(f"{6 * 2**30}\n")
    (group / "memory.current").write_text(f"{2 * 2**30}\n")
    assert available_memory_gib(tmp_path) == 4
    (group / "memory/memory.limit_in_bytes").write_text(f"{2**30}\n")
    (group / "memory/memory.usage_in_bytes").write_text("0\n")
    assert available_memory_gib(tmp_path) == 1
    assert available_memory_gib() > 0
