#!/usr/bin/env bash
# Train on several GPUs of one machine with mpirun; DEVICE_LIST such as 0,1,2,3.
# shellcheck source-path=SCRIPTDIR source=_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

log=train_distribute_gpu.log
read_arguments train.py "$log" "DEVICE_NUM DEVICE_LIST DATA_PATH TRAIN_SPLIT_FILE_PATH" "$@"
use_python
need mpirun "install Open MPI (on Debian: apt-get install openmpi-bin)"
distributed_arguments GPU
export CUDA_VISIBLE_DEVICES=${ARG[DEVICE_LIST]}
run_logged "$log" mpirun --allow-run-as-root -n "${ARG[DEVICE_NUM]}" --output-filename log_output \
    "$PYTHON" "${TRAIN[@]}"
