#!/usr/bin/env bash
# Train in several processes on the CPUs of one machine with MindSpore's msrun.
# shellcheck source-path=SCRIPTDIR source=_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

log=train_distribute_cpu.log
read_arguments train.py "$log" "DEVICE_NUM DATA_PATH TRAIN_SPLIT_FILE_PATH" "$@"
use_python
need msrun "it comes with MindSpore: activate the environment that has it, or run bash scripts/quickstart.sh"
distributed_arguments CPU
port=${MASTER_PORT:-$(free_port)}
run_logged "$log" run_msrun --worker_num="${ARG[DEVICE_NUM]}" --local_worker_num="${ARG[DEVICE_NUM]}" \
    --master_port="$port" --join=True --log_dir=log_distribute_cpu python3 "${TRAIN[@]}"
