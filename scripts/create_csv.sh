#!/usr/bin/env bash
# Write train.csv and val.csv to OUT_PATH. RANDOM 0: the fixed validation cases; 1: drawn by seed.
# shellcheck source-path=SCRIPTDIR source=_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

read_arguments scripts/create_csv.py "" "OUT_PATH RANDOM" "$@"
[[ ${ARG[RANDOM]} =~ ^[01]$ ]] || fail "RANDOM is '${ARG[RANDOM]}', expected 0 (fixed cases) or 1 (drawn by seed)"
use_python
exec "$PYTHON" "$REPO/scripts/create_csv.py" "${ARG[OUT_PATH]}" "${ARG[RANDOM]}" "${OPTIONS[@]}"
