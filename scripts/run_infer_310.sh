#!/usr/bin/env bash
# Run an exported model by the C++ program on the cases of a split, and score the answers: build ascend310_infer, then
# preprocess.py, the program and postprocess.py. Ends with the exit code of the first step that fails.
#
# MINDIR_PATH is what export.py wrote; the bundle beside it (NAME_bundle) says how to preprocess. In the present folder
# it leaves preprocess_Result, result_Files, time_Result and, unless --output_dir says otherwise, postprocess_Result.
#
# Environment:
#   DEVICE_TARGET  Ascend310 (default), or CPU: the bundle's model.onnx, by OpenVINO; no Ascend needed
#   BUILD_DIR      where the program is built (default: ascend310_infer/build)
# shellcheck source-path=SCRIPTDIR source=_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

# step NAME COMMAND...
step() {
    local name=$1 code=0
    shift
    echo "== $name"
    "$@" || code=$?
    if ((code)); then
        echo "error: $name failed (exit code $code): $*" >&2
        exit "$code"
    fi
}

# find_bundle MODEL: set BUNDLE, the folder whose model this is.
find_bundle() {
    local kind=${1##*.}
    [[ $1 != *_dynamic.mindir ]] ||
        fail "MINDIR_PATH '$1' has no fixed shape, and bins are of VolSize; give ${1%_dynamic.mindir}.mindir"
    BUNDLE=${1%.*}_bundle
    [[ -d $BUNDLE ]] || BUNDLE=$(dirname -- "$1")  # the bundle's own model
    [[ -f $BUNDLE/recipe.json ]] ||
        fail "MINDIR_PATH '$1' has no bundle: ${1%.*}_bundle is missing; copy it there, or export again with export.py"
    cmp -s -- "$1" "$BUNDLE/model.$kind" ||
        fail "MINDIR_PATH '$1' is not the model.$kind of $BUNDLE, which would preprocess for another model; export again"
}

# use_ascend: make CANN's libraries known, where the shell does not know them yet. Not run here.
use_ascend() {
    local script=${ASCEND_TOOLKIT_SCRIPT:-/usr/local/Ascend/ascend-toolkit/set_env.sh}
    [[ -z ${ASCEND_HOME_PATH:-} && -f $script ]] || return 0
    set +u  # it reads variables that may not be there
    # shellcheck disable=SC1090
    source "$script"
    set -u
}

read_arguments postprocess.py "" "MINDIR_PATH DATA_PATH SPLIT_FILE_PATH [DEVICE_ID]" "$@"
TARGET=${DEVICE_TARGET:-Ascend310}
BUILD=$(realpath -ms -- "${BUILD_DIR:-$REPO/ascend310_infer/build}")
MODEL=${ARG[MINDIR_PATH]}
find_bundle "$MODEL"
case $TARGET in
    Ascend310)
        [[ $MODEL == *.mindir ]] || fail "MINDIR_PATH '$MODEL' is no .mindir, which Ascend310 runs; for the ONNX set DEVICE_TARGET=CPU"
        use_ascend
        ;;
    CPU)
        MODEL=$BUNDLE/model.onnx
        [[ -f $MODEL ]] || fail "DEVICE_TARGET=CPU runs $MODEL, which is missing; export with --file_format MINDIR ONNX"
        ;;
    *) fail "DEVICE_TARGET is '$TARGET', expected Ascend310 or CPU" ;;
esac
use_python
export PYTHON  # CMake looks for OpenVINO and MindSpore among its packages
need cmake "install CMake 3.16 or later, such as by pip install -r requirements-cpp.txt"

step configure cmake -S "$REPO/ascend310_infer" -B "$BUILD" -DCMAKE_BUILD_TYPE=Release
step build cmake --build "$BUILD" --parallel --target main
step preprocess "$PYTHON" "$REPO/preprocess.py" --bundle "$BUNDLE" --data_path "${ARG[DATA_PATH]}" \
    --split_file_path "${ARG[SPLIT_FILE_PATH]}" --output_dir preprocess_Result
mkdir -p result_Files time_Result
find result_Files -maxdepth 1 -name '*_0.bin' -delete  # answers of an earlier model must not pass for this one's
step inference "$BUILD/main" --mindir_path "$MODEL" --input_path preprocess_Result --output_path result_Files \
    --time_path time_Result --device "$TARGET" --device_id "${ARG[DEVICE_ID]:-0}"
step postprocess "$PYTHON" "$REPO/postprocess.py" --data_path "${ARG[DATA_PATH]}" \
    --split_file_path "${ARG[SPLIT_FILE_PATH]}" --result_path result_Files --preprocess_dir preprocess_Result \
    "${OPTIONS[@]}"
