"""Export: agreement before anything appears, and what is written."""

import json
import shutil

import numpy as np
import onnx
import pytest

import predict as predict_script
from src.checkpoint import load_checkpoint
from src.data import Case
from src.data.volume_files import read_volume
from src.errors import UserError
from src.inference import export
from src.inference.bundle import (
    check_golden,
    file_sha256,
    load_bundle_predictor,
    max_difference,
    read_bundle,
    write_checksums,
)
from src.inference.evaluate import load_native
from src.inference.export import compare_kernels, export_checkpoint, other_size
from src.inference.golden import SAMPLE_DATA
from src.inference.postprocess import Postprocess
from src.inference.predictor import MindIRPredictor, NetworkPredictor, load_checkpoint_predictor, recipe_of
from src.inference.tta import MirrorPredictor
from src.ops.select import stock_kernels
from tests.inference.helpers import bright_case

RECIPE = {"task": "promise12"}
IMAGE = SAMPLE_DATA / "img" / "Case29.mhd"


@pytest.fixture
def quick_load(predictor, checkpoint_path, monkeypatch):
    """Let export use the network that is compiled already."""
    checkpoint = load_checkpoint(checkpoint_path)
    monkeypatch.setattr(export, "load_checkpoint_predictor",
                        lambda path, changes: (predictor, recipe_of(checkpoint, changes), checkpoint))


def test_recipe_says_all_that_another_program_needs(bundle, checkpoint_path):
    content = json.loads((bundle.folder / "recipe.json").read_text())
    assert content["preprocessing"] == {"dstRes": [1.5, 1.5, 1.5], "VolSize": [32, 32, 32], "normDir": False,
                                        "intensity_percentiles": [0.0, 100.0]}
    assert content["postprocessing"] == {"threshold": 0.5, "largest_component": True, "connectivity": "faces"}
    for model in content["models"].values():
        assert model["input"]["shape"] == [1, 1, 32, 32, 32]
        assert model["output"]["shape"] == [1, 32, 32, 32]
        assert (model["input"]["layout"], model["output"]["layout"]) == ("NCXYZ", "NXYZ")
        assert model["input"]["name"]
        assert model["output"]["name"]
    assert content["models"]["MINDIR"]["max_difference"] <= 1e-5
    assert content["models"]["ONNX"]["max_difference"] <= 1e-4
    assert content["checkpoint"]["sha256"] == file_sha256(checkpoint_path)
    assert (content["checkpoint"]["epoch"], content["checkpoint"]["step"]) == (7, 21)
    assert content["recipe"]["base_channels"] == 2
    # The repository's own case, though the checkpoint knows where it was trained; its licence asks to be named.
    assert content["golden"]["case_id"] == "Case00"
    assert "Task04_Hippocampus" in content["golden"]["source"]
    assert "CC-BY-SA 4.0" in content["golden"]["source"]
    assert content["versions"]["mindspore"]


@pytest.fixture(scope="module")
def classes_bundle(classes_checkpoint_path, tmp_path_factory):
    """A bundle of a network of three classes that predicts by windows, and takes blocks of other sizes, too."""
    folder = tmp_path_factory.mktemp("exported classes")
    return read_bundle(export_checkpoint(classes_checkpoint_path, str(folder / "vnet"), ("MINDIR", "ONNX"),
                                         dynamic_shape=True))


def test_bundle_of_classes_and_windows(classes_bundle, classes_checkpoint_path):
    content = classes_bundle.content
    assert content["format_version"] == 2
    assert content["preprocessing"]["classes"] == 3
    assert content["preprocessing"]["patches"] is True
    assert content["postprocessing"] == {"argmax": True, "largest_component": True, "connectivity": "faces"}
    assert (content["window"]["size"], content["window"]["overlap"]) == ([16, 16, 16], 0.25)
    batch, expected = classes_bundle.golden()
    assert batch.shape == (1, 1, 16, 16, 16)
    assert expected.shape == (1, 3, 16, 16, 16)
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-5)
    for kind, bound in (("MINDIR", 1e-5), ("ONNX", 1e-4)):
        model = content["models"][kind]
        assert model["output"]["shape"] == [1, 3, 16, 16, 16]
        assert model["output"]["layout"] == "NCXYZ"
        assert model["max_difference"] <= bound
    exported, _ = load_bundle_predictor(classes_bundle.folder)
    assert check_golden(exported, classes_bundle) <= 1e-5


def test_classes_are_predicted_from_a_bundle_as_from_its_checkpoint(classes_bundle, classes_checkpoint_path, tmp_path):
    loaded = load_native(Case("Case29", IMAGE), classes_bundle.manager)
    assert max(loaded.block_image.shape) > 16  # several windows
    for source in (["--bundle", str(classes_bundle.folder)], ["--ckpt_path", str(classes_checkpoint_path)]):
        arguments = [*source, "--input", str(IMAGE), "--output", str(tmp_path / source[0])]
        assert predict_script.main(arguments) == 0
    mask, other = (read_volume(tmp_path / source / "Case29_test.mhd")[0] for source in ("--bundle", "--ckpt_path"))
    assert np.count_nonzero(mask != other) <= 3  # a voxel may lie between two classes
    assert len(np.unique(mask)) > 1


def test_version_1_is_what_older_programs_can_read(bundle):
    assert bundle.content["format_version"] == 1
    assert "window" not in bundle.content
    assert "classes" not in bundle.content["preprocessing"]


def test_further_looks_are_part_of_the_preprocessing(quick_load, checkpoint_path, tmp_path):
    zoomed = read_bundle(export_checkpoint(checkpoint_path, str(tmp_path / "vnet"), changes={"zoom_ml": 0.5}))
    assert (zoomed.content["format_version"], zoomed.content["preprocessing"]["zoom_ml"]) == (4, 0.5)
    assert zoomed.manager.zoom_ml == 0.5
    runs = {"bundle": ["--bundle", str(zoomed.folder)],
            "checkpoint": ["--ckpt_path", str(checkpoint_path), "--set", "zoom_ml=0.5"],
            "once": ["--ckpt_path", str(checkpoint_path)]}
    masks = []
    for name, source in runs.items():
        assert predict_script.main([*source, "--input", str(IMAGE), "--output", str(tmp_path / name)]) == 0
        masks.append(read_volume(tmp_path / name / "Case29_test.mhd")[0])
    assert np.count_nonzero(masks[0] != masks[1]) <= 3 and not np.array_equal(masks[1], masks[2])


def test_opening_is_part_of_the_postprocessing(quick_load, bundle, checkpoint_path, tmp_path):
    assert bundle.postprocess.opening == 0
    changes = {"opening": 0.25, "zoom_ml": 0.5}  # version 4 would do for the looks alone
    opened = read_bundle(export_checkpoint(checkpoint_path, str(tmp_path / "vnet"), changes=changes))
    assert opened.content["format_version"] == 5
    assert opened.content["postprocessing"] == {
        "threshold": 0.5, "opening": 0.25, "largest_component": True, "connectivity": "faces"}
    assert opened.postprocess == Postprocess(opening=0.25)


def test_mirrored_copies_are_part_of_the_postprocessing(quick_load, bundle, checkpoint_path, tmp_path, monkeypatch):
    assert bundle.mirrors == "none"
    mirrored = read_bundle(export_checkpoint(checkpoint_path, str(tmp_path / "vnet"), changes={"tta": "x"}))
    assert mirrored.content["format_version"] == 2
    assert mirrored.content["postprocessing"] == {
        "mirrors": "x", "threshold": 0.5, "largest_component": True, "connectivity": "faces"}
    assert mirrored.mirrors == "x"
    seen = []
    monkeypatch.setattr(predict_script, "predict_volumes", lambda predictor, *_: seen.append(predictor))
    for folder, mirrors, inside in ((mirrored.folder, "x", "none"), (mirrored.folder, "none", "x")):
        content = json.loads((folder / "recipe.json").read_text())
        content["recipe"]["tta"], content["postprocessing"]["mirrors"] = inside, mirrors  # the latter counts
        (folder / "recipe.json").write_text(json.dumps(content))
        write_checksums(folder)
        assert predict_script.main(["--bundle", str(folder), "--input", str(IMAGE), "--output", str(tmp_path)]) == 0
    assert [type(predictor) for predictor in seen] == [MirrorPredictor, MindIRPredictor]
    assert len(seen[0].flips) == 2


def test_golden_pair_is_the_checkpoints_answer_to_a_real_case(bundle, predictor):
    batch, expected = bundle.golden()
    case = Case("Case00", SAMPLE_DATA / "img" / "Case00.mhd")
    np.testing.assert_array_equal(batch[0, 0], load_native(case, bundle.manager).block_image)
    assert max_difference(predictor.predict_block(batch[0, 0]), expected[0]) <= 5e-5  # exported by stock operators
    assert expected.min() < 0.4 < 0.6 < expected.max()  # a constant would agree with much


def test_golden_output_is_of_mindspores_operators(bundle, checkpoint_path):
    batch, golden = bundle.golden()
    with stock_kernels():
        stock = load_checkpoint_predictor(checkpoint_path)[0]
    np.testing.assert_array_equal(stock.predict_batch(batch), golden)
    assert bundle.content["golden"]["computed_by"] == "MindSpore's operators, float32"


def test_bundle_says_how_far_the_cpu_kernels_are_from_it(bundle, checkpoint_path, kernels_in_use):
    batch, golden = bundle.golden()
    found = load_checkpoint_predictor(checkpoint_path)[0].predict_batch(batch)
    entry = bundle.content["golden"]["cpu_kernels"]
    # Not equal, since another number of threads may round in another way; above 0, since it is another network.
    assert 0 < entry["max_difference"] <= 5e-5
    assert entry["max_difference"] == pytest.approx(np.abs(found - golden).max(), abs=5e-6)
    assert entry["voxels_changed"] <= 5
    assert (entry["storage"], entry["conv_algorithm"]) == ("float32", "auto")


@pytest.fixture
def compare(bundle, checkpoint_path, kernels_in_use, monkeypatch):
    """Call `compare_kernels` as if the kernels answered the golden case with `answer(golden)`."""
    checkpoint = load_checkpoint(checkpoint_path)

    def call(answer, **changes):
        batch, golden = bundle.golden()
        monkeypatch.setattr(NetworkPredictor, "predict_batch", lambda self, given: answer(golden))
        return compare_kernels(checkpoint, recipe_of(checkpoint, changes), batch, golden)

    return call


def test_kernels_that_agree(compare, caplog):
    caplog.set_level("INFO")
    assert compare(lambda golden: golden + 0.0) == {
        "max_difference": 0.0, "voxels_changed": 0, "storage": "float32", "conv_algorithm": "auto"}
    assert "CPU kernels (float32) agree with MindSpore's operators" in caplog.text


def test_kernels_that_do_not_agree_are_refused(compare, checkpoint_path):
    with pytest.raises(UserError, match=r"checkpoint_vnet-7_3.ckpt: .*differ by 0.002 .*expected at most 0.001; .*"
                                        r"nothing was written. With VNET_CPU_ISA=baseline"):
        compare(lambda golden: golden + np.float32(0.002))


def test_bf16_kernels_may_round_but_not_overflow(compare, caplog):
    def flip(golden):
        return np.where(golden > 0.5, 0.4, 0.6).astype(np.float32)

    entry = compare(lambda golden: golden + np.float32(0.002), amp_level="bf16")
    assert entry["storage"] == "bfloat16"
    assert entry["max_difference"] == pytest.approx(0.002, abs=1e-6)
    assert "evaluate" not in caplog.text
    assert compare(flip, amp_level="bf16")["voxels_changed"] == 32**3
    assert "32768 of 32768 voxels change sides. The exported model computes in fp32: evaluate it with" in caplog.text
    with pytest.raises(UserError, match="differ by inf"):
        compare(lambda golden: np.full_like(golden, np.nan), amp_level="bf16")


def test_direct_without_onednn_is_exported_without_the_comparison(bundle, checkpoint_path, kernels_in_use, monkeypatch,
                                                                  caplog):
    monkeypatch.setattr(kernels_in_use, "has_onednn", False)
    checkpoint = load_checkpoint(checkpoint_path)
    recipe = recipe_of(checkpoint, {"conv_algorithm": "direct"})
    assert compare_kernels(checkpoint, recipe, *bundle.golden()) is None
    assert "was not compared: conv_algorithm is direct" in caplog.text


def test_without_kernels_there_is_nothing_to_compare(bundle, checkpoint_path):
    checkpoint = load_checkpoint(checkpoint_path)
    assert compare_kernels(checkpoint, recipe_of(checkpoint), *bundle.golden()) is None


def test_kernels_that_do_not_agree_leave_nothing(quick_load, checkpoint_path, tmp_path, kernels_in_use, monkeypatch):
    monkeypatch.setitem(export.KERNEL_TOLERANCES, "float32", -1.0)
    with pytest.raises(UserError, match="the network on the CPU kernels .* nothing was written"):
        export_checkpoint(checkpoint_path, str(tmp_path / "vnet"))
    assert list(tmp_path.iterdir()) == []


def test_model_lies_beside_the_bundle_and_can_be_copied_over(bundle):
    for kind in ("mindir", "onnx"):
        beside = bundle.folder.parent / f"vnet.{kind}"
        assert beside.samefile(bundle.folder / f"model.{kind}")
        assert beside.stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in bundle.folder.parent.iterdir()) == ["vnet.mindir", "vnet.onnx", "vnet_bundle"]


def test_onnx_has_standard_operators_only(bundle):
    model = onnx.load(bundle.folder / "model.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert {"Conv", "ConvTranspose", "BatchNormalization", "Sigmoid"} <= kinds
    # Dropout leaves no trace: neither as an operator nor as the arithmetic of its masks.
    assert not kinds & {"Elu", "Dropout", "Mod", "Greater", "GreaterOrEqual", "Cast", "Range"}
    assert not [item.name for item in model.graph.initializer if "counter" in item.name]


def test_disagreement_leaves_nothing(quick_load, checkpoint_path, tmp_path, monkeypatch):
    monkeypatch.setitem(export.TOLERANCES, "MINDIR", -1.0)
    with pytest.raises(UserError, match="MINDIR export .* differs by .* nothing was written"):
        export_checkpoint(checkpoint_path, str(tmp_path / "vnet"))
    assert list(tmp_path.iterdir()) == []


def test_disagreement_keeps_the_earlier_bundle(quick_load, bundle, checkpoint_path, tmp_path, monkeypatch):
    earlier = shutil.copytree(bundle.folder, tmp_path / "vnet_bundle")
    monkeypatch.setattr(export.bundles, "max_difference", lambda first, second: float("nan"))
    with pytest.raises(UserError, match="differs by nan"):
        export_checkpoint(checkpoint_path, str(tmp_path / "vnet"))
    assert [path.name for path in tmp_path.iterdir()] == ["vnet_bundle"]
    assert read_bundle(earlier).formats == ["MINDIR", "ONNX"]


def test_second_export_replaces_the_first(quick_load, bundle, checkpoint_path, tmp_path):
    """With its models that are not exported again, as long as they are its own."""
    shutil.copytree(bundle.folder, tmp_path / "vnet_bundle")
    shutil.copy(bundle.folder / "model.onnx", tmp_path / "vnet.onnx")
    (tmp_path / "vnet_dynamic.mindir").write_text("of something else")
    folder = export_checkpoint(checkpoint_path, str(tmp_path / "vnet.mindir"), batch_size=2)
    replaced = read_bundle(folder)
    assert folder == tmp_path / "vnet_bundle"
    assert replaced.formats == ["MINDIR"]
    assert replaced.golden()[0].shape == (2, 1, 32, 32, 32)
    assert replaced.content["models"]["MINDIR"]["output"]["shape"] == [2, 32, 32, 32]
    np.testing.assert_allclose(replaced.golden()[1][1], bundle.golden()[1][0], atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vnet.mindir", "vnet_bundle", "vnet_dynamic.mindir"]


def test_dynamic_shape_is_exported_beside_the_fixed_one(classes_bundle):
    folder, content = classes_bundle.folder, classes_bundle.content
    assert sorted(path.name for path in folder.parent.iterdir()) == ["vnet.mindir", "vnet.onnx", "vnet_bundle",
                                                                     "vnet_dynamic.mindir"]
    assert (folder.parent / "vnet_dynamic.mindir").samefile(folder / "model_dynamic.mindir")
    assert classes_bundle.formats == ["MINDIR", "ONNX", "MINDIR_DYNAMIC"]
    entry = content["models"]["MINDIR_DYNAMIC"]
    assert entry["input"] == {"name": entry["input"]["name"], "shape": [1, 1, -1, -1, -1], "layout": "NCXYZ",
                              "dtype": "float32", "multiple_of": 16}
    assert (entry["output"]["shape"], entry["output"]["layout"]) == ([1, 3, -1, -1, -1], "NCXYZ")
    assert entry["compared_at"] == [[1, 1, 16, 16, 16], [1, 1, 32, 32, 32]]
    assert entry["max_difference"] <= 1e-5
    # predict.py takes the fixed one; the other is right at the golden case, too, and refuses what it cannot take.
    assert load_bundle_predictor(folder)[0].shape == (1, 1, 16, 16, 16)
    model = MindIRPredictor(folder / entry["file"], entry["input"]["shape"])
    assert max_difference(model.predict_batch(classes_bundle.golden()[0]), classes_bundle.golden()[1]) <= 1e-5
    assert model.predict_batch(np.zeros((1, 1, 16, 32, 16), np.float32)).shape == (1, 3, 16, 32, 16)
    for shape in ((1, 1, 32, 32, 24), (2, 1, 32, 32, 32), (1, 1, 32, 32), (1, 1, 32, 32, 0)):
        with pytest.raises(ValueError, match="exported for"):
            model.predict_batch(np.zeros(shape, np.float32))


def test_second_size_to_compare_at_differs_on_every_axis():
    block = np.arange(16 * 16 * 32, dtype=np.float32).reshape(1, 1, 16, 16, 32)
    other = other_size(block)
    assert other.shape == (1, 1, 32, 32, 16)
    np.testing.assert_array_equal(other[:, :, :16, :16], block[..., :16])
    np.testing.assert_array_equal(other[:, :, 16:, :16], block[:, :, ::-1, :, :16])  # mirrored at the end
    assert other_size(np.zeros((2, 1, 128, 96, 64), np.float32)).shape == (2, 1, 144, 48, 32)


def test_dynamic_shape_is_of_mindir_only(checkpoint_path, tmp_path):
    with pytest.raises(UserError, match="--dynamic_shape 1 with --file_format ONNX: only MINDIR .* add MINDIR"):
        export_checkpoint(checkpoint_path, str(tmp_path / "vnet"), ("ONNX",), dynamic_shape=True)
    (tmp_path / "vnet_dynamic.mindir").mkdir()
    with pytest.raises(UserError, match="vnet_dynamic.mindir: is a folder"):
        export_checkpoint(checkpoint_path, str(tmp_path / "vnet"), dynamic_shape=True)
    assert [path.name for path in tmp_path.iterdir()] == ["vnet_dynamic.mindir"]


def test_formats_and_names_that_cannot_be(checkpoint_path, tmp_path, monkeypatch):
    name = str(tmp_path / "vnet")
    with pytest.raises(UserError, match="AIR can be exported on Ascend only, and the device target is CPU"):
        export_checkpoint(checkpoint_path, name, ("AIR",))
    with pytest.raises(UserError, match="unknown export format 'TRT'"):
        export_checkpoint(checkpoint_path, name, ("TRT",))
    with pytest.raises(UserError, match="--batch_size is 0"):
        export_checkpoint(checkpoint_path, name, batch_size=0)
    with pytest.raises(UserError, match="--file_name"):
        export_checkpoint(checkpoint_path, "")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match="ONNX export needs the package onnx"):
        export_checkpoint(checkpoint_path, name, ("ONNX",))
    assert list(tmp_path.iterdir()) == []


def test_given_data_path_is_said_to_go_into_the_bundle(quick_load, checkpoint_path, tmp_path, caplog):
    bright_case(tmp_path / "hospital", "Case25")
    folder = export_checkpoint(checkpoint_path, str(tmp_path / "vnet"), data_path=tmp_path / "hospital")
    assert "the bundle will hold the preprocessed image of Case25" in caplog.text
    golden = read_bundle(folder).content["golden"]
    assert (golden["case_id"], golden["source"]) == ("Case25", "the data folder given to export")


def test_network_that_is_not_finite_is_not_exported(quick_load, predictor, checkpoint_path, tmp_path, monkeypatch):
    monkeypatch.setattr(predictor, "predict_batch", lambda batch: np.full((1, 32, 32, 32), np.nan, np.float32))
    with pytest.raises(UserError, match=r"Case00: model .*checkpoint_vnet-7_3.ckpt gives .* in 32768 of 32768 voxels"):
        export_checkpoint(checkpoint_path, str(tmp_path / "vnet"))
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_to(quick_load, checkpoint_path, tmp_path):
    (tmp_path / "afile").write_text("x")
    with pytest.raises(UserError, match="--file_name: folder .*afile: cannot be made a folder"):
        export_checkpoint(checkpoint_path, str(tmp_path / "afile" / "x"))
    (tmp_path / "vnet.mindir").mkdir()
    with pytest.raises(UserError, match="vnet.mindir: is a folder"):
        export_checkpoint(checkpoint_path, str(tmp_path / "vnet"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["afile", "vnet.mindir"]
