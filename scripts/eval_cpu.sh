#!/usr/bin/env bash
# Evaluate a checkpoint on the CPU. DEVICE_ID is always 0 here; it keeps the form of the other devices.
# shellcheck source-path=SCRIPTDIR source=_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

log=eval_cpu.log
read_arguments eval.py "$log" "DEVICE_ID CKPT_PATH DATA_PATH EVAL_SPLIT_FILE_PATH" "$@"
evaluate CPU "$log"
