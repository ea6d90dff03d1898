#!/usr/bin/env bash
# Train on several Ascend devices of one server, one process a device: joined by HCCL with a rank table, or with "-" in
# place of RANK_TABLE_FILE by MindSpore's msrun, which also takes NODE_NUM servers.
# shellcheck source-path=SCRIPTDIR source=_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

log=train_distribute.log
read_arguments train.py "$log" "RANK_TABLE_FILE DEVICE_NUM DATA_PATH TRAIN_SPLIT_FILE_PATH" "$@"
use_python
if [[ -z ${ARG[RANK_TABLE_FILE]} ]]; then
    train_by_msrun Ascend "$log" log_distribute
else
    distributed_arguments Ascend 1
    export RANK_TABLE_FILE=${ARG[RANK_TABLE_FILE]} RANK_SIZE=${ARG[DEVICE_NUM]}
    run_ranks "$log" log_distribute --devices "$(IFS=, && echo "${DEVICES[*]}")" "$PYTHON" "${TRAIN[@]}"
fi
