"""Proposals for made-up fingerprints, worked out by hand from the rules."""

import math

import numpy as np
import pytest

from src.config import vnet_cfg
from src.data.fingerprint import CaseFacts, Fingerprint
from src.data.memory import training_memory_gib
from src.data.proposal import propose, target_spacing
from src.errors import UserError
from src.overrides import apply_overrides


def facts(size=(320, 320, 24), spacing=(0.6, 0.6, 3.6), centred=(60.0, 50.0, 55.0), spike=0.0, largest=1.0):
    extent = tuple(count * step for count, step in zip(size, spacing, strict=True))
    return CaseFacts("c", size, spacing, extent, "LPS", 0.0, (0.0, 0.0, 100.0, 100.0 + spike), {1.0: 10}, 0.1, centred,
                     centred, 1, largest, np.ones(3))


def print_of(*cases, classes=2):
    return Fingerprint(cases, classes, ())


def test_the_median_spacing():
    cases = [facts(spacing=(x, 0.7, 1.0)) for x in (0.5, 0.6, 1.1)]
    assert target_spacing(print_of(*cases)) == ([0.6, 0.7, 1.0], "the median spacing")


def test_the_coarse_axis_gets_the_tenth_percentile():
    thick = [facts(spacing=(0.6, 0.6, z)) for z in (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0)]
    spacing, reason = target_spacing(print_of(*thick))
    assert spacing == [0.6, 0.6, 2.5] and "along z, the coarse axis, the 10th percentile" in reason
    # Not below the other spacings.
    thin = [facts(spacing=(0.6, 0.6, z)) for z in (0.3, 0.3, 3.0, 3.5, 4.0)]
    assert target_spacing(print_of(*thin))[0] == [0.6, 0.6, 0.6]
    # Many slices: not coarse in nnU-Net's sense, though they are thick.
    many = [facts(size=(320, 320, 200), spacing=(0.6, 0.6, z)) for z in (2.0, 4.0, 6.0)]
    assert target_spacing(print_of(*many))[0] == [0.6, 0.6, 4.0]


def test_the_centre_block_of_two():
    cases = [facts(size=(200, 200, 100), spacing=(1, 1, 1), centred=centred)
             for centred in ((60.0, 50.0, 40.0), (50.0, 200.0, 70.0))] * 20
    found = propose(print_of(*cases), memory_gib=64)
    # 60 + 16 = 76 -> 80; 200 + 20 = 220 -> 224, but the volumes have 200 -> 208; 70 + 16 = 86 -> 96.
    assert found.settings == {
        "dstRes": [1, 1, 1], "VolSize": [80, 208, 96], "batch_size": 2, "patches": False, "epochs": 500, "classes": 2,
        "intensity_percentiles": [0, 100], "largest_component": True}
    assert found.steps == 500 * 20
    assert found.memory_gib == pytest.approx(training_memory_gib((80, 208, 96), 2, 1.25 * 40 * 80 * 208 * 96))
    assert set(found.reasons) == set(found.settings)
    assert all(line.split(": ", 1)[1] for line in found.lines())
    assert "60 x 200 x 70 voxels" in found.reasons["VolSize"]


def test_a_batch_of_one_where_two_do_not_fit():
    cases = [facts(size=(128, 128, 64), spacing=(1, 1, 1), centred=(128.0, 128.0, 64.0))]
    held = 1.25 * 128 * 128 * 64
    one, two = (training_memory_gib((128, 128, 64), n, held) / 0.8 for n in (1, 2))
    assert propose(print_of(*cases), two + 0.01).settings["batch_size"] == 2
    found = propose(print_of(*cases), one + 0.01)
    assert (found.settings["batch_size"], found.settings["patches"]) == (1, False)
    assert "two blocks would take more" in found.reasons["batch_size"]
    assert propose(print_of(*cases), one - 0.01).settings["patches"]


@pytest.mark.parametrize("memory", [3.0, 6.0, 12.0, 500.0])
def test_patches_where_the_block_does_not_fit(memory):
    cases = [facts(size=(512, 512, 100), spacing=(0.8, 0.8, 2.0), centred=(400.0, 380.0, 190.0))]
    found = propose(print_of(*cases), memory)
    block = found.settings["VolSize"]
    assert found.settings["patches"] and found.settings["batch_size"] == 2
    assert "the centre block that holds the foreground of all cases would be" in found.reasons["patches"]
    assert found.memory_gib <= 0.8 * memory and math.prod(block) <= 4 * 128 * 128 * 64
    assert all(count % 16 == 0 for count in block)
    # One step more along the axis that was shortened last, or along any, would have been too much or too long.
    longest = max(count * step for count, step in zip(block, found.settings["dstRes"], strict=True))
    for axis, step in enumerate(found.settings["dstRes"]):
        larger = [count + 16 * (other == axis) for other, count in enumerate(block)]
        fits = training_memory_gib(larger, 2, 1.25 * 512 * 512 * 100) <= 0.8 * memory and math.prod(larger) <= 4 * 2**20
        assert not fits or (larger[axis]) * step > longest
    apply_overrides(vnet_cfg, found.settings)


def test_too_little_memory_is_said():
    with pytest.raises(UserError) as caught:
        propose(print_of(facts()), 1.0)
    text = str(caught.value)
    assert text.startswith("memory of 1.0 GiB: training on these 1 cases needs about") and "--memory_gib" in text
    assert "stay in memory" not in text


def test_held_volumes_are_named_where_they_limit_the_patch():
    # 48 cases of 256^3 voxels and the 12 of a split of 80 to 20, 5 bytes each voxel: 4.6875 GiB.
    cases = [facts(size=(256, 256, 256), spacing=(1, 1, 1), centred=(256.0, 256.0, 256.0))] * 48
    said = "4.7 GiB are the whole volumes of training and validation cases, which stay in memory"
    with pytest.raises(UserError, match=f"needs about 7.7 GiB, of which {said}; give more"):
        propose(print_of(*cases), 7.0)
    found = propose(print_of(*cases), 10.0)
    assert found.settings["patches"] and f"held volumes limit it: {said}" in found.reasons["VolSize"]
    # Here time is what limits it.
    found = propose(print_of(*cases), 100.0)
    assert found.settings["patches"] and "held volumes" not in found.reasons["VolSize"]


def test_a_patch_that_cannot_train_alone_is_refused_with_too_little_memory():
    cases = [facts(size=(16, 16, 16), spacing=(1, 1, 1), centred=(16.0, 16.0, 16.0))]
    two = training_memory_gib((16, 16, 16), 2, 1.25 * 16**3) / 0.8
    assert propose(print_of(*cases), two + 1e-4).settings["batch_size"] == 2
    with pytest.raises(UserError, match="needs about"):
        propose(print_of(*cases), two - 1e-4)


def test_patches_come_with_a_loss_that_learns_from_empty_ones():
    large = facts(size=(512, 512, 100), spacing=(0.8, 0.8, 2.0), centred=(400.0, 380.0, 190.0))
    found = propose(print_of(large), 6.0)
    assert (found.settings["patches"], found.settings["loss"]) == (True, "dice_ce")
    assert "patches without foreground" in found.reasons["loss"]
    assert "loss" not in propose(print_of(facts()), 64).settings


def test_whose_the_default_scoring_is():
    found = propose(print_of(facts()), 64)
    assert found.notes[0].endswith("for prostates; set scoring=none for another organ")
    assert found.lines()[-1] == f"note: {found.notes[0]}"
    assert propose(print_of(facts()), 64, "hippocampus").notes == ()


def test_a_small_patch_gets_a_batch_of_one_before_none():
    cases = [facts(size=(64, 64, 64), spacing=(1, 1, 1), centred=(64.0, 64.0, 64.0))]
    just = training_memory_gib((32, 32, 32), 1, 1.25 * 64**3) / 0.8
    found = propose(print_of(*cases), just + 1e-4)
    assert (found.settings["VolSize"], found.settings["batch_size"], found.settings["patches"]) == ([32] * 3, 1, True)


def test_epochs_stay_in_bounds():
    assert propose(print_of(*[facts()] * 4), 64).settings["epochs"] == 1000
    assert propose(print_of(*[facts(size=(32, 32, 24), centred=(9.0, 9.0, 9.0))] * 900), 64).settings["epochs"] == 50


def test_spikes_scattered_foreground_and_classes():
    plain, odd = facts(), facts(spike=51.0, largest=0.8)
    rare = propose(print_of(*[plain] * 19, odd), 64).settings
    assert (rare["intensity_percentiles"], rare["largest_component"]) == ([0, 100], True)
    found = propose(print_of(*[plain] * 18, odd, odd, classes=4), 64)
    assert found.settings["intensity_percentiles"] == [0.5, 99.5]
    assert (found.settings["largest_component"], found.settings["classes"]) == (False, 4)
    assert found.reasons["intensity_percentiles"].startswith("in 2 of 20 cases")


def test_another_task_is_part_of_the_proposal():
    settings = propose(print_of(facts()), 64, "hippocampus").settings
    assert (settings["task"], settings["scoring"]) == ("hippocampus", "none")
