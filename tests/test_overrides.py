"""Overrides are checked, and every key names the test that shows its effect."""

import json
from pathlib import Path

import pytest

from src.config import RECIPES, unet2d_lgg_cfg, unet3d_brain_cfg, vnet_cfg
from src.errors import UserError
from src.overrides import apply_overrides, load_recipe, plain, read_changes

# key -> test that shows that changing it changes behaviour
EFFECTS = {
    "task": "tests/data/test_tasks.py::test_unknown_task_is_refused_with_the_known_ones",
    "fold": "tests/training/test_plan.py::test_fold_takes_validation_from_the_training_split",
    "folds": "tests/training/test_plan.py::test_fold_takes_validation_from_the_training_split",
    "fold_seed": "tests/training/test_plan.py::test_folds_go_by_their_own_seed",
    "classes": "tests/data/test_data_manager.py::test_labels_are_read_as_the_classes_of_the_recipe",
    "dirResult": "tests/inference/test_output.py::test_folders",
    "dirPredictionImage": "tests/inference/test_output.py::test_folders",
    "normDir": "tests/data/test_data_manager.py::test_normalised_direction_permutes_voxels",
    "dstRes": "tests/data/test_data_manager.py::test_linear_ramp_is_interpolated_exactly",
    "VolSize": "tests/data/test_data_manager.py::test_small_axes_are_padded_and_large_ones_cropped",
    "intensity_percentiles": "tests/data/test_data_manager.py::test_preprocess_on_its_own_grid",
    "zoom_ml": "tests/inference/test_evaluate.py::test_further_looks_are_at_what_the_one_before_found",
    "patches": "tests/data/test_data_manager.py::test_the_whole_volume_with_patches",
    "patches_per_case": "tests/data/test_dataset.py::test_every_case_gives_its_patches_in_each_epoch",
    "foreground_share": "tests/data/test_patches.py::test_foreground_share",
    "augment": "tests/data/test_dataset.py::test_augmented_batches_differ_from_plain_ones_and_repeat",
    "aug_deform": "tests/data/test_augment.py::test_each_change_has_its_own_key",
    "aug_histogram": "tests/data/test_augment.py::test_each_change_has_its_own_key",
    "aug_rotate": "tests/data/test_augment.py::test_each_change_has_its_own_key",
    "aug_scale": "tests/data/test_augment.py::test_each_change_has_its_own_key",
    "aug_scale_range": "tests/data/test_augment.py::test_scale_range_bounds_the_scaling",
    "aug_stretch": "tests/data/test_augment.py::test_stretching_has_a_factor_for_each_axis",
    "aug_shift": "tests/data/test_augment.py::test_each_change_has_its_own_key",
    "aug_noise": "tests/data/test_augment.py::test_each_change_has_its_own_key",
    "aug_blur": "tests/data/test_augment.py::test_each_change_has_its_own_key",
    "aug_brightness": "tests/data/test_augment.py::test_each_change_has_its_own_key",
    "aug_contrast": "tests/data/test_augment.py::test_each_change_has_its_own_key",
    "aug_gamma": "tests/data/test_augment.py::test_each_change_has_its_own_key",
    "aug_low_resolution": "tests/data/test_augment.py::test_each_change_has_its_own_key",
    "aug_bias": "tests/data/test_augment.py::test_each_change_has_its_own_key",
    "aug_spacing": "tests/data/test_augment.py::test_spacing_stands_in_for_what_headers_have_lost",
    "aug_mirror": "tests/data/test_augment.py::test_mirroring_is_exact_and_along_the_given_axes",
    "mirror_axes": "tests/data/test_augment.py::test_mirroring_is_exact_and_along_the_given_axes",
    "variant": "tests/networks/test_vnet.py::test_parameter_count",
    "norm": "tests/networks/test_vnet.py::test_norm",
    "sync_bn": "tests/training/test_data_parallel.py::test_two_ranks_equal_one_with_twice_the_batch",
    "activation": "tests/networks/test_vnet.py::test_activation",
    "base_channels": "tests/networks/test_vnet.py::test_parameter_count",
    "dropout": "tests/networks/test_vnet.py::test_dropout_probability_reaches_every_dropout_layer",
    "out_kernel": "tests/networks/test_vnet.py::test_parameter_count",
    "batch_size": "tests/data/test_dataset.py::test_epoch_covers_every_case_and_fills_the_last_batch",
    "epochs": "tests/training/test_trainer.py::test_runs_the_epochs_and_feeds_the_schedule",
    "deep_supervision": "tests/networks/test_vnet.py::test_deep_supervision_adds_heads_and_changes_nothing_else",
    "loss": "tests/test_losses.py::test_settings_reach_the_loss",
    "dice_over": "tests/test_losses.py::test_samples_are_pooled_only_over_the_batch",
    "focal_gamma": "tests/test_losses.py::test_focal",
    "tversky_alpha": "tests/test_losses.py::test_tversky_weighs_false_positives_and_false_negatives",
    "tversky_beta": "tests/test_losses.py::test_tversky_weighs_false_positives_and_false_negatives",
    "optimizer": "tests/training/test_train_step.py::test_first_update",
    "lr": "tests/training/test_build.py::test_every_setting_arrives",
    "lr_ascend": "tests/training/test_build.py::test_another_rank_takes_its_share_and_writes_nothing",
    "weight_decay": "tests/training/test_train_step.py::test_weight_decay",
    "momentum": "tests/training/test_train_step.py::test_sgd_momentum",
    "warmup_step": "tests/training/test_trainer.py::test_runs_the_epochs_and_feeds_the_schedule",
    "warmup_ratio": "tests/training/test_trainer.py::test_runs_the_epochs_and_feeds_the_schedule",
    "lr_scaling": "tests/training/test_trainer.py::test_rate_and_warm_up_follow_the_number_of_ranks",
    "grad_clip": "tests/training/test_train_step.py::test_gradient_clipping",
    "pretrained": "tests/training/test_build.py::test_a_run_begins_with_the_weights_of_another",
    "ema_decay": "tests/training/test_ema.py::test_average_follows_its_recursion_and_skips_what_is_skipped",
    "amp_level": "tests/training/test_train_step.py::test_half_precision_keeps_fp32_weights_and_learns_the_same",
    "conv_algorithm": "tests/networks/test_vnet.py::test_precision_and_algorithm_reach_every_unit",
    "loss_scaling": "tests/training/test_train_step.py::test_dynamic_scale_halves_and_skips_on_overflow",
    "loss_scale": "tests/training/test_train_step.py::test_fixed_scale_leaves_the_update_as_it_is",
    "seed": "tests/data/test_dataset.py::test_order_depends_on_seed_and_epoch_only",
    "window_overlap": "tests/inference/test_compose.py::test_window_overlap_decides_on_the_windows",
    "tta": "tests/inference/test_compose.py::test_tta_averages_mirrored_windows_where_it_is_asked_for",
    "threshold": "tests/inference/test_postprocess.py::test_threshold_of_the_recipe",
    "opening": "tests/inference/test_postprocess.py::test_opening_of_the_recipe_comes_before_the_largest_component",
    "largest_component": "tests/inference/test_output.py::test_largest_component_of_the_recipe",
    "scoring": "tests/inference/test_output.py::test_promise12_tables_come_with_the_scoring",
    "val_every": "tests/training/test_callbacks.py::test_validation_every_n_epochs_and_at_the_end",
    "early_stopping": "tests/training/test_callbacks.py::test_early_stopping",
    "save_every": "tests/training/test_callbacks.py::test_checkpoints_every_n_epochs_newest_kept",
    "keep_checkpoint_max": "tests/training/test_callbacks.py::test_checkpoints_every_n_epochs_newest_kept",
}
# Of keys that only `unet3d_brain` has; the others act through the same code as the V-Net's.
UNET3D_EFFECTS = {
    "target_size": "tests/data/test_brain_tumour.py::test_resizing_takes_the_nearest_voxel_and_keeps_the_extent",
    "normalise_by": "tests/data/test_brain_tumour.py::test_each_modality_over_its_own_maximum",
    "micro_batches": "tests/training/test_pipeline.py::test_the_update_is_by_the_mean_gradient_of_the_micro_batches",
    "lr_schedule": "tests/test_lr_schedule.py::test_constant_after_the_warm_up",
    "parallel": "tests/training/test_pipeline_build.py::test_two_ranks_share_the_network_unless_told_otherwise",
    "pipeline_split": "tests/training/test_pipeline_build.py::test_a_given_split",
    "log_every": "tests/training/test_callbacks.py::test_a_line_every_n_steps",
}
# Of keys that only the recipes of pictures have, or that act on pictures elsewhere.
UNET2D_EFFECTS = {
    "image_size": "tests/data/test_slices.py::test_the_network_sees_what_the_recipe_says",
    "slice_sampling": "tests/data/test_slices.py::test_weights_by_hand",
    "aug_scale_range": "tests/data/test_augment_slices.py::test_each_change_has_its_own_key",
    "aug_rotation": "tests/data/test_augment_slices.py::test_each_change_has_its_own_key",
    "aug_flip_x": "tests/data/test_augment_slices.py::test_each_change_has_its_own_key",
    "aug_flip_y": "tests/data/test_augment_slices.py::test_each_change_has_its_own_key",
    "aug_elastic": "tests/data/test_augment_slices.py::test_each_change_has_its_own_key",
    "aug_intensity": "tests/data/test_augment_slices.py::test_each_change_has_its_own_key",
    "architecture": "tests/networks/test_networks2d.py::test_architecture_of_the_recipe",
    "upsampling": "tests/networks/test_networks2d.py::test_output_channels_and_upsampling_of_the_recipe",
    "output_channels": "tests/networks/test_networks2d.py::test_output_channels_and_upsampling_of_the_recipe",
    "pretrained": "tests/training/test_pretrained.py::test_pretrained_of_the_recipe",
    "bce_weight": "tests/test_losses.py::test_bce_dice_weighs_both",
}
ROOT = Path(__file__).parent.parent


def test_every_key_names_a_test_that_exists():
    assert set(EFFECTS) == set(vnet_cfg)
    assert set(unet3d_brain_cfg) <= set(EFFECTS) | set(UNET3D_EFFECTS)
    assert set(UNET3D_EFFECTS) == set(unet3d_brain_cfg) - set(EFFECTS)
    assert set(unet2d_lgg_cfg) - set(EFFECTS) - set(UNET3D_EFFECTS) <= set(UNET2D_EFFECTS) <= set(unet2d_lgg_cfg)
    for key, test in [*EFFECTS.items(), *UNET3D_EFFECTS.items(), *UNET2D_EFFECTS.items()]:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert name and f"def {name}(" in text, f"{key}: {test} does not exist"


def test_known_names_of_the_original_configuration_stay():
    names = {"task", "fold", "dirResult", "dirPredictionImage", "normDir", "dstRes", "VolSize", "batch_size", "epochs",
             "lr", "weight_decay", "momentum", "warmup_step", "warmup_ratio"}
    assert names <= set(vnet_cfg)
    assert vnet_cfg.VolSize == [128, 128, 64]
    assert vnet_cfg.dstRes == [1.0, 1.0, 1.5]


def test_overrides_leave_the_recipe_alone():
    recipe = load_recipe(overrides=["epochs=3", "lr=1", "VolSize=[32, 32, 16]", "normDir=true", "loss=dice_ce"])
    assert (recipe.epochs, recipe.lr, recipe.VolSize, recipe.normDir, recipe.loss) == (3, 1.0, [32, 32, 16], True,
                                                                                       "dice_ce")
    assert isinstance(recipe.lr, float)
    assert vnet_cfg.epochs == 500
    assert RECIPES["vnet_promise12"] is vnet_cfg


def test_command_line_wins_over_file(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"epochs": 7, "lr": 0.5}))
    recipe = load_recipe(config_file=path, overrides=["epochs=9"])
    assert (recipe.epochs, recipe.lr) == (9, 0.5)


@pytest.mark.parametrize(("override", "message"), [
    ("epoch=3", "did you mean 'epochs'"),
    ("volsize=[16,16,16]", "did you mean 'VolSize'"),
    ("thresh=0.3", "'thresh', did you mean 'threshold'"),
    ("learning_rate=0.3", "'learning_rate'; the keys are in"),  # and not 'aug_rotate'
    ("image_size=[16,16]", "'image_size', which only unet2d_lgg, unet2d_drive, unet2d_em have; the keys"),
    ("epochs", "expected KEY=VALUE"),
    ("epochs=2.5", "expected a whole number"),
    ("epochs=true", "expected a whole number"),
    ("epochs=0", "above 0"),
    ("lr=fast", "expected a number"),
    ("lr=-1", "0 or more"),
    ("normDir=1", "expected true or false"),
    ("VolSize=[16,16]", "expected 3 numbers"),
    ("VolSize=16,16,16", "in brackets, without spaces"),
    ("VolSize=[16,16,20]", "multiples of 16"),
    ("dstRes=[1,0,1]", "above 0 mm"),
    ("loss=dise", "did you mean 'dice'"),
    ("dropout=1", "below 1"),
    ("fold=5", "0 to folds - 1 = 4"),
    ("intensity_percentiles=[99,1]", "rising percentiles"),
    ("out_kernel=2", "1 or 3"),
    ("task=brain_tumour", "this one has --recipe unet3d_brain"),
    ("task=em", "this one has --recipe unet2d_em"),
    ("scoring=pixels", "none or promise12"),
    ("aug_scale_range=0.6", "from 0 to 0.5"),
    ("aug_stretch=2", "from 0 to 1"),
    ("zoom_ml=-1", "0 or more"),
    ("opening=1", "a number from 0 to below 1"),
    ("opening=-0.1", "a number from 0 to below 1"),
    ("zoom_ml=1600", "less than the 1572.86 ml of a block"),
    ("aug_spacing=[1,1,0]", "above 0 mm, or zeros"),
    ("threshold=0", "between 0 and 1"),
    ("lr=Infinity", "expected a number"),
    ("lr=NaN", "expected a number"),
    ("seed=5000000000", "expected a whole number"),
    (f"epochs={10**400}", "expected a whole number"),
    ("dstRes=[Infinity,1,1]", "expected a number"),
])
def test_bad_overrides_are_refused(override, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        load_recipe(overrides=[override])


@pytest.mark.parametrize(("override", "message"), [
    ("target_size=[240,240,154]", "found 240 x 240 x 154, expected X and Y in multiples of 8"),
    ("pipeline_split=13", "one of auto, 1, 2, .*, 12"),
    ("pipeline_split=middle", "one of auto"),
    ("micro_batches=0", "above 0"),
    ("amp_level=bf16", "only the V-Net's kernels"),
    ("task=promise12", "expected brain_tumour"),
    ("parallel=pipelin", "did you mean 'pipeline'"),
    ("VolSize=[16,16,16]", "unknown recipe key 'VolSize'"),
])
def test_bad_overrides_of_the_brain_recipe(override, message):
    with pytest.raises(UserError, match=message):
        load_recipe("unet3d_brain", overrides=[override])


@pytest.mark.parametrize(("override", "message"), [
    ("task=promise12", "one of lgg, drive, em"),
    ("classes=3", "expected 2"),
    ("output_channels=3", "expected 1 or 2"),
    ("image_size=[256,250]", "multiples of 16"),
    ("architecture=resnet34_unet image_size=[48,64]", "multiples of 32"),
    ("image_size=[16,16] batch_size=1", "'batch_size': found 1, expected at least 2"),
    ("architecture=resnet34_unet image_size=[32,32] batch_size=1", "'batch_size': found 1, expected at least 2"),
    ("aug_flip_x=1.5", "from 0 to 1"),
    ("threshold=1", "between 0 and 1"),
    ("aug_elastic=0.2", "from 0 to 0.1"),
    ("tta=z", "a picture has no z"),
    ("scoring=promise12", "none, patients, pixels or rand"),
    ("amp_level=bf16", "O2 or O3"),
    ("VolSize=[16,16,16]", "unknown recipe key 'VolSize'"),
])
def test_bad_overrides_of_a_recipe_of_pictures(override, message):
    with pytest.raises(UserError, match=message):
        load_recipe("unet2d_lgg", overrides=override.split())


def test_a_threshold_is_of_two_classes():
    with pytest.raises(UserError, match="0.5 with more than two classes"):
        load_recipe("vnet_hippocampus", overrides=["threshold=0.4"])
    assert load_recipe(overrides=["threshold=0.4"]).threshold == 0.4


def test_a_split_is_a_number_or_a_word():
    assert load_recipe("unet3d_brain", overrides=["pipeline_split=5"]).pipeline_split == "5"
    assert load_recipe("unet3d_brain", overrides=["pipeline_split=auto"]).pipeline_split == "auto"


def test_batch_norm_needs_two_values_a_channel_at_the_bottom():
    small = ["VolSize=[16,16,16]", "batch_size=1"]
    with pytest.raises(UserError, match="'batch_size': found 1, expected at least 2"):
        load_recipe(overrides=small)
    load_recipe(overrides=[*small, "variant=paper"])
    load_recipe(overrides=[*small, "norm=instance"])
    load_recipe(overrides=["VolSize=[16,16,32]", "batch_size=1"])


@pytest.mark.parametrize(("key", "other"), [("norm", "variant=paper"), ("sync_bn", "sync_bn=true")])
def test_instance_norm_goes_with_what_it_can_change(key, other):
    with pytest.raises(UserError, match=f"recipe key '{key}'"):
        load_recipe(overrides=["norm=instance", other])


def test_changes_are_only_those_given(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"normDir": True, "dstRes": [1, 1, 2]}))
    assert read_changes(path, ["dstRes=[1,1,3]", "loss=dice"]) == {"normDir": True, "dstRes": [1, 1, 3], "loss": "dice"}
    assert read_changes() == {}


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'vnet_promise12'"):
        load_recipe("vnet_promise")


@pytest.mark.parametrize(("content", "message"), [
    ("{", "not valid JSON"), ("[1]", "JSON list"), (None, "cannot be read")])
def test_bad_override_file(tmp_path, content, message):
    path = tmp_path / "recipe.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_recipe(config_file=path)


def test_plain_survives_json_and_comes_back():
    recipe = load_recipe(overrides=["epochs=3"])
    assert apply_overrides(vnet_cfg, json.loads(json.dumps(plain(recipe)))) == recipe
