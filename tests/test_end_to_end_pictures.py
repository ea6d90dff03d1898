"""The entry scripts one after the other on pictures: train, evaluate, export, predict, and predict from the bundle."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import eval as eval_script
import export as export_script
import predict as predict_script
import train as train_script
from tests.pictures import make_drive, make_em, make_lgg

ROOT = Path(__file__).parent.parent
# A few steps of the smallest networks on small pictures.
SETTINGS = ["epochs=1", "base_channels=2", "batch_size=4", "lr=0.001", "amp_level=O0"]
LGG, DRIVE, EM = "unet2d_lgg", "unet2d_drive", "unet2d_em"
RESULTS = {LGG: ["dsc.png", "predictions"], DRIVE: ["pixels.csv", "pixels.png"], EM: ["rand.csv", "rand.json"]}


def make_data(recipe: str, folder: Path) -> tuple[str, Path]:
    """Write a tiny data set; return the size of the network's pictures, and what to predict from."""
    if recipe == LGG:
        names = make_lgg(folder, patients=3, slices=3)
        return "[32,32]", folder / names[0]
    if recipe == DRIVE:
        make_drive(folder, training=2, test=1)
        return "[48,32]", folder / "test" / "images"
    make_em(folder, slices=4, stack=True)
    return "[32,32]", folder / "train-volume.tif"


def masks_in(folder: Path) -> dict[str, np.ndarray]:
    return {str(path.relative_to(folder)): np.asarray(Image.open(path)) for path in sorted(folder.rglob("*"))
            if path.suffix in (".png", ".tif")}


@pytest.mark.parametrize("recipe", [LGG, DRIVE, EM])
def test_every_step_of_a_recipe(recipe, tmp_path, capsys):
    def run(script: ModuleType, *arguments: object) -> str:
        code = script.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert code == 0, said.out + said.err
        return said.out

    data, run_dir = tmp_path / "data", tmp_path / "run"
    size, source = make_data(recipe, data)
    subprocess.run([sys.executable, ROOT / "scripts" / "create_csv.py", tmp_path, "1", "--data_path", data], check=True)
    output = run(train_script, "--recipe", recipe, "--data_path", data, "--train_split_file_path",
                 tmp_path / "train.csv", "--run_dir", run_dir, "--set", *SETTINGS, f"image_size={size}")
    assert re.search(r"^epoch: 1 step: \d+, loss is \d", output, re.MULTILINE)
    assert (run_dir / "training_loss.png").is_file()
    best = run_dir / "ckpt" / "best.ckpt"

    output = run(eval_script, "--ckpt_path", best, "--data_path", data, "--eval_split_file_path", tmp_path / "val.csv")
    rows = pd.read_csv(run_dir / "metrics.csv")
    assert float(re.search(r"^avg_dice: ([\d.]+)", output, re.MULTILINE)[1]) == pytest.approx(
        rows["dice"].mean(), abs=1e-4)
    # The trainer's validation and eval.py see the same network and agree.
    assert rows["dice"].mean() == pytest.approx(pd.read_csv(run_dir / "history.csv")["val_dice"].max(), abs=1e-6)
    assert all((run_dir / name).exists() for name in RESULTS[recipe])

    run(export_script, "--ckpt_file", best, "--file_name", tmp_path / "unet", "--file_format", "MINDIR")
    content = json.loads((tmp_path / "unet_bundle" / "recipe.json").read_text())
    assert content["golden"]["case_id"] == "generated"
    for option, path in (("--ckpt_path", best), ("--bundle", tmp_path / "unet_bundle")):
        run(predict_script, option, path, "--input", source, "--output", tmp_path / option)
    masks, others = masks_in(tmp_path / "--ckpt_path"), masks_in(tmp_path / "--bundle")
    assert list(masks) == list(others) and masks
    for name, mask in masks.items():
        assert set(np.unique(mask)) <= {0, 255}
        assert np.mean(mask != others[name]) < 1e-3, name
    assert (tmp_path / "--bundle" / "report.html").is_file()
