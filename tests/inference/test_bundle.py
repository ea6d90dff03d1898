"""Bundles: every byte is sealed, and a folder appears whole or not at all."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from src.errors import UserError
from src.inference import bundle as bundles
from src.inference.bundle import (
    Bundle,
    atomic_folder,
    check_golden,
    load_bundle_predictor,
    max_difference,
    read_bundle,
    write_checksums,
)
from src.inference.postprocess import Postprocess

FILES = ("model.mindir", "model.onnx", "recipe.json", "golden_input.npy", "golden_output.npy", "checksums.json")


@pytest.fixture
def copied(bundle, tmp_path):
    return shutil.copytree(bundle.folder, tmp_path / "copied")


def edit_recipe(folder, change):
    path = folder / "recipe.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    write_checksums(folder)


def test_bundle_holds_what_is_promised(bundle):
    assert sorted(path.name for path in bundle.folder.iterdir()) == sorted(FILES)
    assert bundle.formats == ["MINDIR", "ONNX"]
    assert bundle.postprocess == Postprocess(0.5, True)
    assert bundle.manager.volume_size == (32, 32, 32)
    assert bundle.manager.spacing == (1.5, 1.5, 1.5)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_changed_byte_is_refused_by_name(copied, name, place):
    content = bytearray((copied / name).read_bytes())
    content[min(int(place * len(content)), len(content) - 1)] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} was changed"):
        read_bundle(copied)


@pytest.mark.parametrize("name", FILES)
def test_missing_and_shortened_files_are_refused_by_name(copied, name):
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"{name} was changed"):
        read_bundle(copied)
    (copied / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        read_bundle(copied)


def test_all_damage_is_listed_at_once(copied):
    (copied / "model.onnx").unlink()
    (copied / "golden_input.npy").write_bytes(b"")
    with pytest.raises(UserError, match="model.onnx is missing") as caught:
        read_bundle(copied)
    assert "golden_input.npy was changed" in str(caught.value)


def test_not_a_bundle(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_bundle(tmp_path / "none")
    with pytest.raises(UserError, match="checksums.json is missing"):
        read_bundle(tmp_path)
    write_checksums(tmp_path)
    with pytest.raises(UserError, match="recipe.json is not listed"):
        read_bundle(tmp_path)


def test_other_version_is_refused(copied):
    edit_recipe(copied, lambda content: content.update(format_version=99))
    with pytest.raises(UserError, match="version 99, expected 'vnet-bundle' version 1"):
        read_bundle(copied)


def test_models_agree_with_the_golden_pair(bundle, copied):
    batch, expected = bundle.golden()
    assert batch.shape == (1, 1, 32, 32, 32)
    assert expected.shape == (1, 32, 32, 32)
    assert batch.dtype == expected.dtype == np.float32
    onnx, both = load_bundle_predictor(bundle.folder)
    assert type(onnx).__name__ == "OnnxPredictor"
    assert onnx.names() == ("image", "probability")
    assert 0 <= check_golden(onnx, both) <= 1e-4
    with pytest.raises(ValueError, match="exported for"):
        onnx.predict_block(np.zeros((16, 16, 16), np.float32))

    (copied / "model.onnx").unlink()
    edit_recipe(copied, lambda content: content["models"].pop("ONNX"))
    mindir, _ = load_bundle_predictor(copied)
    assert type(mindir).__name__ == "MindIRPredictor"
    assert max_difference(mindir.predict_block(batch[0, 0]), expected[0]) <= 1e-5


def test_onnx_comes_first_on_a_cpu_that_can_run_it(bundle, monkeypatch):
    monkeypatch.setattr(bundles, "find_spec", lambda name: None)
    assert type(load_bundle_predictor(bundle.folder)[0]).__name__ == "MindIRPredictor"
    monkeypatch.undo()
    monkeypatch.setattr(bundles.ms, "get_context", lambda key: "Ascend")
    assert type(load_bundle_predictor(bundle.folder)[0]).__name__ == "MindIRPredictor"


def test_golden_disagreement_is_refused(bundle, copied):
    predictor, _ = load_bundle_predictor(bundle.folder)
    assert check_golden(predictor, bundle) <= 1e-4
    np.save(copied / "golden_output.npy", bundle.golden()[1] + 0.02)
    write_checksums(copied)
    with pytest.raises(UserError, match="differs by 0.02 from golden_output.npy"):
        check_golden(predictor, read_bundle(copied))


def test_bundle_without_a_model_for_this_program(copied):
    def only_air(content):
        content["models"] = {"AIR": {**content["models"]["MINDIR"], "file": "model.air"}}

    edit_recipe(copied, only_air)
    with pytest.raises(UserError, match="has AIR only"):
        load_bundle_predictor(copied)


def test_model_that_cannot_be_read(copied):
    for name, kind in (("model.mindir", bundles.MindIRPredictor), ("model.onnx", bundles.OnnxPredictor)):
        (copied / name).write_bytes(b"no model")
        with pytest.raises(UserError, match=f"{name}: .* cannot read it"):
            kind(copied / name, (1, 1, 32, 32, 32))


def test_max_difference():
    assert max_difference(np.array([1.0, 2.0]), np.array([1.5, 1.75])) == 0.5
    assert max_difference(np.zeros(2), np.zeros(3)) == np.inf
    assert max_difference(np.array([np.nan]), np.array([0.0])) == np.inf


def test_folder_appears_whole_and_replaces_a_bundle(tmp_path):
    target = tmp_path / "deep" / "a_bundle"
    for text in ("first", "second"):
        with atomic_folder(target) as folder:
            (folder / "file").write_text(text)
            write_checksums(folder)
        assert (target / "file").read_text() == text
        assert [path.name for path in target.parent.iterdir()] == ["a_bundle"]


def test_failure_leaves_the_old_bundle_and_nothing_else(tmp_path):
    target = tmp_path / "a_bundle"
    target.mkdir()
    write_checksums(target)
    with pytest.raises(RuntimeError, match="stop"), atomic_folder(target) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError("stop")
    assert [path.name for path in tmp_path.iterdir()] == ["a_bundle"]
    assert [path.name for path in target.iterdir()] == ["checksums.json"]


def test_other_folders_are_not_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="is no bundle, so it is not replaced"), atomic_folder(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_other_things_are_not_replaced(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "real").mkdir()
    write_checksums(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    for name in ("file", "link", "dangling", "pipe"):
        with pytest.raises(UserError, match=f"{name}: is there and is no bundle"), atomic_folder(tmp_path / name):
            pass
    with pytest.raises(UserError, match="--file_name: folder .*file: cannot be made a folder"), \
            atomic_folder(tmp_path / "file" / "x_bundle"):
        pass
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "link").is_symlink()


def test_bundle_without_models():
    assert Bundle(Path("x"), {"models": {}}).formats == []
