#!/usr/bin/env bash
# Train in several processes on the CPUs of one machine, or of NODE_NUM machines, with MindSpore's msrun.
# shellcheck source-path=SCRIPTDIR source=_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

log=train_distribute_cpu.log
read_arguments train.py "$log" "DEVICE_NUM DATA_PATH TRAIN_SPLIT_FILE_PATH" "$@"
use_python
train_by_msrun CPU "$log" log_distribute_cpu
