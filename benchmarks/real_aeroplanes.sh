#!/bin/sh
# Real aeroplanes, from raw folder to error CSV: PASCAL3D+'s 506 training and 122 validation photos, from scratch
# (no ImageNet weights). Usage: benchmarks/real_aeroplanes.sh PASCAL3D+_ROOT OUT
# Every step is skipped when it is finished and resumes when it was interrupted.
set -eu
[ $# -eq 2 ] || { echo "usage: $0 PASCAL3D+_ROOT OUT" >&2; exit 2; }
root=$1 out=$2
ntdm=${NTDM:-ntdm}
start=$(date +%s)
moved="--set turn=15 --set zoom=0.22 --set shift=0.1" # few photos: each is turned, magnified and shifted

# A unit-diagonal object is 240 pixels long in these crops. The default scale would be 0.425.
"$ntdm" prep-data pascal3d --root "$root" --cache "$out/cache" --categories aeroplane \
    --image-size 128 272 --set scale=0.4 --workers 2
"$ntdm" fit-shapes --cache "$out/cache" --out "$out/shapes" --categories aeroplane \
    --set width=128 --set steps=400
"$ntdm" train --cache "$out/cache" --shapes "$out/shapes" --out "$out/run" --categories aeroplane \
    --set backbone=small --set epochs=150 --set augment=0.4 --set patches=0.35 --set "patch_size=[0.2, 0.6]" \
    --set occlusion_weight=0 $moved
# Half as far as the default, which serves synthetic photos: on real ones a lower loss is not a better pose.
"$ntdm" evaluate --run "$out/run" --cache "$out/cache" --splits pascal3d/val \
    --set steps=30 --set learning_rate=0.05 --set decay_every=12 --set refined_starts=4 --set shape_after=0

# The feed-forward baseline: the same photos, mirrored, jittered and moved alike, for as many epochs.
"$ntdm" train --method pose-classifier --cache "$out/cache" --shapes "$out/shapes" --out "$out/classifier" \
    --categories aeroplane --set epochs=150 $moved
"$ntdm" evaluate --run "$out/classifier" --cache "$out/cache" --splits pascal3d/val

"$ntdm" report --table 1 --runs "$out/run" --runs "$out/classifier" --out "$out/report" --no-published
cat "$out/report/table_1.md"
echo "wall time: $(($(date +%s) - start)) s"
