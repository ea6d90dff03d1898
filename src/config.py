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
        "aug_scale_range": 0.15,  # 0.15: by up to 15 %, in both directions
        "aug_stretch": 0.0,  # as aug_scale, by another factor along each axis: for spacings that are not known
        "aug_shift": 0.5,
        "aug_mirror": 0.5,  # along each of mirror_axes
        "mirror_axes": "x",  # any of x, y, z, or none
        "aug_noise": 0.15,
        "aug_blur": 0.15,
        "aug_brightness": 0.3,
        "aug_contrast": 0.3,
        "aug_gamma": 0.3,
        "aug_low_resolution": 0.15,
        "aug_bias": 0.0,  # of a smooth change of brightness, as coils near the organ make it
        "aug_spacing": [0.0, 0.0, 0.0],  # mm (x, y, z) that changes in space, blur and low resolution take the voxels
        # of dstRes to be, where headers have lost it; zeros: dstRes
        # Network
        "variant": "default",  # default: batch norm; paper: as in Milletari et al. 2016
        "activation": "auto",  # elu, prelu, or auto: the variant's own
        "norm": "batch",  # batch, or instance: of each sample by itself; where the variant has one
        "sync_bn": False,  # batch norm over the batches of all ranks, in place of each rank's own
        "base_channels": 16,
        "dropout": 0.5,
        "out_kernel": 1,  # last convolution; 3 in the first MindSpore release
        "deep_supervision": False,  # logits at the coarser decoder stages as well, while training
        "pretrained": "",  # run folder or checkpoint whose weights to begin with; {fold} and {seed} are the recipe's
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
        "zoom_ml": 0.0,  # ml that the foreground is scaled to for two further looks, all three averaged; 0: one look
        "threshold": 0.5,  # probability above which a voxel is foreground, of two classes
        "opening": 0.0,  # 0.3: cut off what is narrower than 0.3 of the slice, taken for a circle; 0: nothing
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
        "pretrained": "",
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

# The U-Net family on pictures, or on stacks of them: what its recipes have in common.
_slices_cfg = EasyDict(
    {
        # Data
        "task": "lgg",
        "fold": -1,
        "folds": 5,
        "fold_seed": 1,
        "classes": 2,  # background and foreground
        "dirResult": "results/infer",
        "dirPredictionImage": "results/prediction",
        "image_size": [256, 256],  # pixels (x, y) that the network sees
        "slice_sampling": "uniform",  # of training slices: uniform, or mask: the more, the larger their mask
        "augment": False,  # the changes below, all of them in every sample
        "aug_scale_range": 0.0,  # 0.05: by up to 5 %
        "aug_rotation": 0.0,  # degrees, in both directions
        "aug_flip_x": 0.0,  # probability of mirroring left and right
        "aug_flip_y": 0.0,
        "aug_elastic": 0.0,  # largest move of the control points of a 3 x 3 grid, share of the picture's edge
        "aug_intensity": 0.0,  # 0.1: contrast by up to 10 %, brightness by up to 0.1 standard deviations
        # Network
        "architecture": "unet",  # unet, attention_unet, resnet34_unet, unetpp
        "upsampling": "transposed",  # transposed (convolution), bilinear
        "base_channels": 32,
        "output_channels": 1,  # 1: the foreground's logit; 2: background's and foreground's
        "dropout": 0.0,  # at the bottom of unet and attention_unet
        "deep_supervision": True,  # of unetpp: logits of every nested decoder
        "pretrained": "",  # as of the V-Net; of resnet34_unet also an ImageNet ResNet-34, MindSpore's or torchvision's
        # Optimisation
        "batch_size": 16,
        "epochs": 100,
        "loss": "dice",  # dice, iou, bce_dice, bce, tversky, focal, dice_ce, dice_focal
        "bce_weight": 0.5,  # in bce_dice: of the cross-entropy; the rest is Dice's
        "dice_over": "batch",  # a slice without foreground has no Dice of its own to learn from
        "focal_gamma": 2.0,
        "tversky_alpha": 0.3,
        "tversky_beta": 0.7,
        "optimizer": "adam",
        "lr": 1e-4,
        "lr_ascend": 1e-4,
        "lr_schedule": "constant",
        "lr_scaling": "none",
        "weight_decay": 0.0,
        "momentum": 0.9,
        "warmup_step": 0,
        "warmup_ratio": 1.0,
        "grad_clip": 0.0,
        "ema_decay": 0.0,
        "amp_level": "auto",
        "loss_scaling": "auto",
        "loss_scale": 1024.0,
        "seed": 1,
        # Prediction
        "tta": "none",  # mirror axes: x, y, xy, or none
        "threshold": 0.5,
        "largest_component": False,
        "scoring": "none",  # further results of an evaluation: patients, pixels, rand, or none
        # Run
        "val_every": 1,
        "early_stopping": 0,
        "save_every": 1,
        "keep_checkpoint_max": 3,
    }
)

# U-Net family on brain MR of the LGG segmentation data set, FLAIR abnormality, Dice by patient.
unet2d_lgg_cfg = EasyDict(
    {
        **copy.deepcopy(_slices_cfg),
        "slice_sampling": "mask",
        "augment": True,
        "aug_scale_range": 0.05,
        "aug_rotation": 15.0,
        "aug_flip_x": 0.5,
        "largest_component": True,
        "scoring": "patients",
    }
)

# U-Net on retinal vessels of DRIVE, scored inside the field of view.
unet2d_drive_cfg = EasyDict(
    {
        **copy.deepcopy(_slices_cfg),
        "task": "drive",
        "image_size": [512, 512],
        "upsampling": "bilinear",
        "base_channels": 64,
        "batch_size": 1,
        "epochs": 40,
        "loss": "bce",
        "lr": 1e-5,
        "lr_ascend": 1e-5,
        "weight_decay": 1e-8,
        "scoring": "pixels",
    }
)

# U-Net on cells and membranes in electron microscopy of ISBI 2012; the recipe that benchmark.py measures with.
unet2d_em_cfg = EasyDict(
    {
        **copy.deepcopy(_slices_cfg),
        "task": "em",
        "image_size": [512, 512],
        "augment": True,
        "aug_flip_x": 0.5,
        "aug_flip_y": 0.5,
        "aug_elastic": 0.03,
        "aug_intensity": 0.1,
        "base_channels": 64,
        "output_channels": 2,
        "dropout": 0.5,
        "batch_size": 1,
        "epochs": 50,
        "loss": "bce",
        "lr_schedule": "cosine",
        "scoring": "rand",
    }
)

DEFAULT_RECIPE = "vnet_promise12"
RECIPES: dict[str, EasyDict] = {DEFAULT_RECIPE: vnet_cfg, "vnet_hippocampus": vnet_hippocampus_cfg,
                                "unet3d_brain": unet3d_brain_cfg, "unet2d_lgg": unet2d_lgg_cfg,
                                "unet2d_drive": unet2d_drive_cfg, "unet2d_em": unet2d_em_cfg}
