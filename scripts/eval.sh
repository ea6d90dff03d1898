#!/usr/bin/env bash
# Evaluate a checkpoint on one Ascend device.
# shellcheck source-path=SCRIPTDIR source=_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

log=eval.log
read_arguments eval.py "$log" "DEVICE_ID CKPT_PATH DATA_PATH EVAL_SPLIT_FILE_PATH" "$@"
evaluate Ascend "$log"
