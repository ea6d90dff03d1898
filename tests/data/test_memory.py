import pytest

from src.data.memory import available_memory_gib, held_gib, training_memory_gib

# Peaks of the resident memory of train.py with validation, GiB: CPU kernels on AVX-512, fp32, one thread, few cases.
MEASURED = [((128, 128, 64), 1, 16, False, 2.33), ((64, 64, 32), 2, 16, False, 1.69), ((64, 64, 32), 2, 16, True, 1.89),
            ((128, 128, 64), 1, 8, False, 1.99), ((64, 64, 32), 2, 8, False, 1.19)]


@pytest.mark.parametrize(("block", "batch_size", "width", "ema", "gib"), MEASURED)
def test_the_estimate_is_near_what_was_measured(block, batch_size, width, ema, gib):
    assert training_memory_gib(block, batch_size, 0, width, ema) == pytest.approx(gib, rel=0.03)


def test_what_the_estimate_grows_with():
    def blocks(width: int) -> float:
        return training_memory_gib((64, 64, 64), 2, 0, width) - training_memory_gib((64, 64, 64), 1, 0, width)

    def without_blocks(width: int, ema: bool = False) -> float:
        return training_memory_gib((64, 64, 0), 1, 0, width, ema)

    assert training_memory_gib((64, 128, 64), 2) == training_memory_gib((128, 128, 64), 1)
    assert blocks(16) == pytest.approx(blocks(32) / 2) and blocks(16) > 0
    # Weights and their average go with the square of the width.
    assert without_blocks(16) - without_blocks(8) == pytest.approx(4 * (without_blocks(8) - without_blocks(4)))
    average = [without_blocks(width, True) - without_blocks(width) for width in (16, 8)]
    assert average[0] == pytest.approx(4 * average[1]) and average[1] > 0
    # Of a sample, four bytes a voxel are image and one is label.
    assert training_memory_gib((64, 64, 64), 1, 2**30) - training_memory_gib((64, 64, 64), 1) == pytest.approx(5)
    assert held_gib(2**30) == 5


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


def test_files_that_a_group_has_read_are_not_in_use(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 16777216 kB\n")
    group = tmp_path / "sys/fs/cgroup"
    (group / "memory").mkdir(parents=True)
    (group / "memory.max").write_text(f"{8 * 2**30}\n")
    (group / "memory.current").write_text(f"{6 * 2**30}\n")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {3 * 2**30}\nactive_file {2**30}\n")
    assert available_memory_gib(tmp_path) == 8 - (6 - 3)
    # Version 1 has figures of the group alone and, with total_ before them, of those in it as well.
    (group / "memory/memory.limit_in_bytes").write_text(f"{4 * 2**30}\n")
    (group / "memory/memory.usage_in_bytes").write_text(f"{3 * 2**30}\n")
    (group / "memory/memory.stat").write_text(f"inactive_file 4096\ntotal_inactive_file {2**31}\n")
    assert available_memory_gib(tmp_path) == 4 - (3 - 2)
