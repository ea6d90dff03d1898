#!/usr/bin/env bash
# Train on the CPU. DEVICE_ID is always 0 here; it keeps the form of the other devices.
# shellcheck source-path=SCRIPTDIR source=_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

log=train_standalone_cpu.log
read_arguments train.py "$log" "DEVICE_ID DATA_PATH TRAIN_SPLIT_FILE_PATH" "$@"
train_standalone CPU "$log"
