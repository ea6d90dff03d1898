"""The recipes' settings.

Edit the values here, or leave the file alone and override single keys on the command line
(`--set epochs=100 lr=0.001`) or from a JSON file (`--config my_recipe.json`).
Every key has an effect, and `tests/test_overrides.py` names the test that shows it.
"""

import copy

from easydict import EasyDict

vnet_cfg = EasyDict(
    {
        # Data
        "task": "promise12",  # data set layout, a name in src/data/__init__.py's TASKS
        "fold": -1,  # -1: split files as they are; k >= 0: fold k of `folds` of the training split is validation
        "folds": 5,
        "fold_seed": 1,  # of the shuffle that makes the folds; `seed` changes training alone
        "classes": 2,  # of the labels, background included: 0 .. classes - 1
        "dirResult": "results/infer",  # metrics and report of checkpoints that lie in no run folder
        "dirPredictionImage": "results/prediction",  # predicted masks
        "normDir": False,  # bring volumes to identity direction first
        "dstRes": [1.0, 1.0, 1.5],  # mm, (x, y, z)
        "VolSize": [128, 128, 64],  # voxels, (x, y, z)
        "intensity_percentiles": [0.0, 100.0],  # mapped to [0, 1]; [0.5, 99.5] tames spikes
        "patches": False,  # train on random blocks of the whole volume, predict by sliding window; else a centre block
        "patches_per_case": 1,  # each epoch
        "foreground_share": 0.33,  # of the patches, placed so that they hold a foreground voxel of a random class
        "augment": False,  # the transforms below, each on a sample with the given probability
        "aug_deform": 0.5,  # B-spline deformation, a 2 x 2 x 2 control grid (Milletari et al. 2016)
        "aug_histogram": 0.3,  # histogram matching to another training case (Milletari et al. 2016)
        "aug_rotate": 0.5,
        "aug_scale": 0.5,
        "aug_shift": 0.5,
        "aug_mirror": 0.5,  # along each of mirror_axes
        "mirror_axes": "x",  # any of x, y, z, or none
        "aug_noise": 0.15,
        "aug_blur": 0.15,
        "aug_brightness": 0.3,
        "aug_contrast": 0.3,
        "aug_gamma": 0.3,
        "aug_low_resolution": 0.15,
        # Network
        "variant": "default",  # default: batch norm; paper: as in Milletari et al. 2016
        "activation": "auto",  # elu, prelu, or auto: the variant's own
        "sync_bn": False,  # batch norm over the batches of all ranks, in place of each rank's own
        "base_channels": 16,
        "dropout": 0.5,
        "out_kernel": 1,  # last convolution; 3 in the first MindSpore release
        "deep_supervision": False,  # logits at the coarser decoder stages as well, while training
        # Optimisation
        "batch_size": 4,  # per rank
        "epochs": 500,
        "loss": "dice",  # dice, dice_ce, dice_focal, tversky, focal, bce
        "dice_over": "sample",  # what a Dice or Tversky ratio is taken over: each sample, or the batch as one volume
        "focal_gamma": 2.0,
        "tversky_alpha": 0.3,  # weight of false positives
        "tversky_beta": 0.7,  # weight of false negatives
        "optimizer": "adam",  # adam, adamw, sgd
        "lr": 0.0005,
        "lr_ascend": 0.001,  # base rate on Ascend, in place of lr
        "weight_decay": 1e-4,
        "momentum": 0.99,  # sgd only
        "warmup_step": 120,
        "warmup_ratio": 0.3,
        "lr_scaling": "none",  # of the rate by the number of ranks: none, linear, sqrt
        "grad_clip": 0.0,  # largest global gradient norm; 0: no clipping
        "ema_decay": 0.0,  # of the average of the weights that validation and prediction use; 0: no average
        "amp_level": "auto",  # O0 (fp32), O2, O3 (fp16, not CPU), bf16 (not GPU), or auto: O0 on CPU, else O2
        "conv_algorithm": "auto",  # of the 5³ convolutions on CPU: winograd, direct, or auto: the faster one
        "loss_scaling": "auto",  # off, fixed, dynamic, or auto: dynamic with fp16, else off
        "loss_scale": 1024.0,
        "seed": 1,
        # Prediction
        "window_overlap": 0.5,  # of neighbouring windows, share of their edge; with patches
        "tta": "none",  # mirror axes whose copies are predicted as well and averaged: any of x, y, z, or none
        "largest_component": True,  # keep only the largest connected component of the foreground
        "scoring": "promise12",  # further tables of an evaluation: promise12, or none
        # Run
        "val_every": 10,  # epochs between validations; 0: only after the last epoch
        "early_stopping": 0,  # validations without a better Dice before stopping; 0: off
        "save_every": 1,  # epochs between checkpoints
        "keep_checkpoint_max": 10,
    }
)

# 3-D U-Net on MSD Task01_BrainTumour, tumour against background, on one device or split over two.
unet3d_brain_cfg = EasyDict(
    {
        # Data
        "task": "brain_tumour",
        "fold": -1,
        "folds": 5,
        "fold_seed": 1,
        "dirResult": "results/infer",
        "dirPredictionImage": "results/prediction",
        "target_size": [0, 0, 0],  # voxels, (x, y, z), to resize to by nearest neighbour; zeros: as on disk
        "normalise_by": "image",  # what intensities are divided by: the maximum of the image, or of each modality
        # Optimisation
        "batch_size": 1,  # volumes of a micro-batch, over which batch norm takes its statistics
        "micro_batches": 1,  # whose mean gradient makes a step; a pipeline needs several to keep both devices busy
        "epochs": 30,
        "loss": "bce",  # bce, dice, dice_ce
        "optimizer": "adam",
        "lr": 1e-5,
        "lr_ascend": 1e-5,
        "lr_schedule": "constant",  # after the warm-up: constant, cosine
        "lr_scaling": "none",
        "weight_decay": 0.0,
        "momentum": 0.9,
        "warmup_step": 0,
        "warmup_ratio": 1.0,
        "grad_clip": 0.0,
        "amp_level": "O0",
        "loss_scaling": "auto",
        "loss_scale": 1024.0,
        "seed": 1,
        # Several ranks
        "parallel": "pipeline",  # what two ranks share: the network (pipeline) or the cases (data)
        "pipeline_split": "auto",  # blocks of the first rank, 1 to 12 (5: encoder), or auto: by measured times
        # Run
        "log_every": 1,  # steps between log lines of the loss; 0: one line an epoch
        "val_every": 1,
        "early_stopping": 0,
        "save_every": 1,
        "keep_checkpoint_max": 10,
    }
)

# V-Net on MSD Task04_Hippocampus, anterior and posterior.
vnet_hippocampus_cfg = EasyDict(
    {
        **copy.deepcopy(vnet_cfg),
        "task": "hippocampus",
        "classes": 3,
        "dstRes": [1.0, 1.0, 1.0],
        "VolSize": [48, 64, 48],
        "intensity_percentiles": [0.5, 99.5],
        "scoring": "none",
    }
)

DEFAULT_RECIPE = "vnet_promise12"
RECIPES: dict[str, EasyDict] = {DEFAULT_RECIPE: vnet_cfg, "vnet_hippocampus": vnet_hippocampus_cfg,
                                "unet3d_brain": unet3d_brain_cfg}
