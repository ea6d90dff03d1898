#!/usr/bin/env bash
# Bring MindSpore 2.0.0's C++ headers and libraries from PyPI, for a build without an Ascend machine: to see that the
# program compiles and links against them. It downloads 950 MB and keeps 370 MB; the tests use them when they are there.
#
#   bash ascend310_infer/fetch_mindspore.sh [FOLDER]     default: ~/.cache/vnet-mindspore/mindspore-2.0.0
#
# Later wheels (2.8.0, which the Python code needs, among them) come without the C++ API. An Ascend 310 has its own.
set -euo pipefail

folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/vnet-mindspore/mindspore-2.0.0}
if [[ -f $folder/include/api/model.h && -f $folder/lib/libmindspore.so ]]; then
    echo "$folder is there already"
    exit 0
fi
mkdir -p "$(dirname "$folder")"
work=$(mktemp -d "$folder.XXXXXX.tmp")
trap 'rm -rf -- "$work"' EXIT
"${PYTHON:-python3}" -m pip download --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.9 \
    --platform manylinux1_x86_64 --dest "$work" mindspore==2.0.0
"${PYTHON:-python3}" - "$work" <<'PYTHON'
import pathlib, re, sys, zipfile

work = pathlib.Path(sys.argv[1])
wheel, = work.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    wanted = re.compile(r"mindspore/(include/.*|lib/[^/]*\.so[^/]*)")
    archive.extractall(work, [name for name in archive.namelist() if wanted.fullmatch(name)])
PYTHON
mv -T "$work/mindspore" "$folder"
echo "MINDSPORE_PATH=$folder"
