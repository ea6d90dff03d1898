#!/usr/bin/env bash
# Train on several Ascend devices of one server: one process per device, joined by HCCL.
# shellcheck source-path=SCRIPTDIR source=_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

log=train_distribute.log
read_arguments train.py "$log" "RANK_TABLE_FILE DEVICE_NUM DATA_PATH TRAIN_SPLIT_FILE_PATH" "$@"
use_python
distributed_arguments Ascend
export RANK_TABLE_FILE=${ARG[RANK_TABLE_FILE]} RANK_SIZE=${ARG[DEVICE_NUM]}
run_logged "$log" run_ranks "$PYTHON" "${TRAIN[@]}"
