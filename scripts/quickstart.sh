#!/bin/sh
# Train a small DPA3 potential on the embedded ethanol data, test it, run constant-energy MD with it, write a report.
# `make quickstart` sets up the environment first; with geomlib installed, `sh scripts/quickstart.sh` is enough.
set -eu

# molecules of nine atoms don't keep more than one thread busy
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
run="${QUICKSTART_RUN:-runs/quickstart/$(date +%Y%m%d-%H%M%S)}"

echo "== train (about 2 minutes): recipes/dpa3/quickstart.yaml"
geomlib fit -c recipes/dpa3/quickstart.yaml --folder "$run"

echo "== test errors on ethanol from a later stretch of time, beside a predictor of means"
geomlib test "$run"

echo "== 1 ps of NVE molecular dynamics from a test frame"
geomlib md "$run/model.safetensors" card:gfn2-molecules:900 --steps 2000 -T 300 --output "$run/md.extxyz"

echo "== report"
geomlib report "$run" --md "$run/md.extxyz" --output "$run/report.html"
echo
echo "report      $run/report.html"
echo "model file  $run/model.safetensors"
