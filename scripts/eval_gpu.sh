#!/usr/bin/env bash
# Evaluate a checkpoint on one GPU.
# shellcheck source-path=SCRIPTDIR source=_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

log=eval_gpu.log
read_arguments eval.py "$log" "DEVICE_ID CKPT_PATH DATA_PATH EVAL_SPLIT_FILE_PATH" "$@"
evaluate GPU "$log"
