"""benchmark.py from the command line to its files, with a real process for the job."""

import json

import pytest

import benchmark
from src.errors import EXIT_USER_ERROR
from tests.pictures import make_em

SMALL = ["--set", "image_size=[32,32]", "base_channels=2", "--iterations", "3", "--warmup", "1"]


def test_real_pictures_through_a_real_process(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for each other crawl where other tests run
    make_em(tmp_path / "data", slices=2, size=32)
    assert benchmark.main([*SMALL, "--phases", "train", "--modes", "graph", "--precisions", "fp32,bf16",
                           "--batch_sizes", "2", "--data_path", str(tmp_path / "data"), "--output_dir",
                           str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out/benchmark.json").read_text())
    measured, refused = content["results"]
    assert (measured["status"], refused["status"]) == ("measured", "refused"), measured["reason"]
    (said,) = measured["ranks_said"]
    assert said["input_shape"] == [2, 1, 32, 32] and len(said["seconds"]) == len(said["losses"]) == 3
    assert measured["images_per_second"] == pytest.approx(2 * 3 / sum(said["seconds"]))
    assert content["settings"]["base_channels"] == 2 and content["command"].startswith("python benchmark.py --set")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"benchmark.json", "benchmark.png", "benchmark.txt",
                                                                    "logs"}


@pytest.mark.parametrize(("arguments", "message"), [
    (["--batch_sizes", "1,x"], "--batch_sizes: found 1,x"),
    (["--data_path", "/nowhere/at/all"], "--data_path /nowhere/at/all: no such folder"),
    (["--modes", "fast"], "--modes: found fast"),
    (["--graph_kernels"], "--graph_kernels: found device target CPU"),
])
def test_what_can_be_mended(arguments, message, capsys):
    assert benchmark.main(arguments) == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_nothing_measured_is_a_failure(tmp_path, capsys):
    assert benchmark.main(["--precisions", "bf16", "--output_dir", str(tmp_path)]) == EXIT_USER_ERROR
    assert f"error: nothing was measured; {tmp_path / 'benchmark.txt'} says of each" in capsys.readouterr().err
    assert (tmp_path / "benchmark.txt").read_text().count("refused: recipe key 'amp_level'") == 4
