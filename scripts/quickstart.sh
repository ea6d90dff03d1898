#!/usr/bin/env bash
# From a clean clone to a trained, evaluated and exported V-Net: trains on data/sample on the CPU.
# Started again it goes on where it stopped, or says that it is done.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

cd "$REPO"
run=runs/quickstart
bundle=$run/vnet_bundle
sample=data/sample
done_file=$run/quickstart.txt
outputs=("$run/ckpt/best.ckpt" "$run/summary.json" "$run/report.html" "$run/results/prediction" "$bundle" "$run/unseen")

is_done() {
    local path
    for path in "$done_file" "${outputs[@]}"; do
        [[ -e $path ]] || return 1
    done
}

if (($#)); then
    echo "Usage: bash scripts/quickstart.sh" >&2
    exit 1
fi
if is_done; then
    echo "The quick start is done; to start it anew, remove $run. Its result:"
    cat "$done_file"
    exit 0
fi

mkdir -p "$(dirname "$run")"
exec {quickstart_lock}>"$run.lock"
! command -v flock >/dev/null || flock -n "$quickstart_lock" || fail "another quick start is running in $REPO/$run; wait for it or stop it"
ensure_venv requirements.txt
echo "compiling the CPU kernels unless they are there (part of the install)"
python -m src.ops.build || echo "going on without them, many times slower"
started=$SECONDS
export GLOG_v=${GLOG_v:-3}  # MindSpore's own log: errors only
if [[ ! -t 2 ]]; then
    export TQDM_DISABLE=1 NO_COLOR=1  # a log file wants lines, no redrawn bar
fi

step() {
    printf '\n== %s\n' "$*"
}

resumed=""
step "1/4 train on $sample"
if [[ -f $run/recipe.json ]]; then
    resumed=yes
    python train.py --resume "$run" --data_path "$sample"  # the clone may have been moved
else
    python train.py --config configs/quickstart.json --device_target CPU --data_path "$sample" \
        --train_split_file_path "$sample/train.csv" --val_split_file_path "$sample/val.csv" --run_dir "$run"
fi

step "2/4 evaluate on the validation cases"
python eval.py --device_target CPU --ckpt_path "$run/ckpt/best.ckpt" --data_path "$sample" \
    --eval_split_file_path "$sample/val.csv" --save_predictions 1

step "3/4 export"
python export.py --device_target CPU --ckpt_file "$run/ckpt/best.ckpt" --file_name "$run/vnet" --file_format MINDIR

step "4/4 predict a volume without a label"
IFS=$',\r\n' read -r unseen _ <"$sample/unseen.csv" || [[ -n $unseen ]]
python predict.py --bundle "$bundle" --input "$sample/img/$unseen" --output "$run/unseen"

scores=$(python -c '
import json, sys
summary = json.load(open(sys.argv[1], encoding="utf-8"))
print("dice={:.4f} hausdorff={:.2f}".format(summary["dice"]["mean"], summary["hausdorff"]["mean"]))' "$run/summary.json")
{
    echo "$scores seconds=$((SECONDS - started))"
    [[ -z $resumed ]] || echo "resumed     an earlier start's training; seconds counts this start only"
    echo "checkpoint  $run/ckpt/best.ckpt"
    echo "masks       $run/results/prediction (validation), $run/unseen (unseen volume)"
    echo "bundle      $bundle"
    echo "report      $run/report.html"
} >"$done_file.tmp"
for path in "${outputs[@]}"; do
    [[ -e $path ]] || fail "$path was not written, although every step ended well; please report this"
done
mv "$done_file.tmp" "$done_file"
step "done"
cat "$done_file"
