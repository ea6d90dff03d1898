#!/usr/bin/env bash
# Train on one GPU.
# shellcheck source-path=SCRIPTDIR source=_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

log=train_standalone_gpu.log
read_arguments train.py "$log" "DEVICE_ID DATA_PATH TRAIN_SPLIT_FILE_PATH" "$@"
train_standalone GPU "$log"
