#!/bin/sh
# Tables 1 and 2 on synthetic photos of PASCAL3D+'s own CADs: all twelve categories, cameras of real photos,
# one network for all. Usage: benchmarks/twelve_categories.sh PASCAL3D+_ROOT VIEWPOINTS OUT [SEED]
# VIEWPOINTS is a folder of train.csv and val.csv, as `ntdm make-data --viewpoints` takes it (docs/formats.md).
# Every step is skipped when it is finished and resumes when it was interrupted.
set -eu
[ $# -eq 3 ] || [ $# -eq 4 ] || { echo "usage: $0 PASCAL3D+_ROOT VIEWPOINTS OUT [SEED]" >&2; exit 2; }
root=$1 viewpoints=$2 out=$3 seed=${4:-0}
ntdm=${NTDM:-ntdm}
data=$out/data cache=$out/cache shapes=$out/shapes
nuisances=shape,pose,texture,context,weather
levels=pascal3d/val,occluded_pascal3d/L1,occluded_pascal3d/L2,occluded_pascal3d/L3
shifts=ood_cv/shape,ood_cv/pose,ood_cv/texture,ood_cv/context,ood_cv/weather
start=$(date +%s)

"$ntdm" make-data "$data" --cad-root "$root" --viewpoints "$viewpoints" --seed "$seed" \
    --set train_per_category=200 --set val_per_category=25 --set ood_per_category=10 --set iid_per_category=1
pascal3d=$data/PASCAL3D+_release1.1
"$ntdm" prep-data pascal3d --root "$pascal3d" --cache "$cache" --image-size 128 128
"$ntdm" prep-data occluded-pascal3d --root "$data/OccludedPASCAL3D" --pascal3d "$pascal3d" --cache "$cache" \
    --image-size 128 128
"$ntdm" prep-data ood-cv --root "$data/OOD-CV" --pascal3d "$pascal3d" --cache "$cache" --image-size 128 128 \
    --split iid,$nuisances
"$ntdm" fit-shapes --cache "$cache" --out "$shapes" --seed "$seed"
for method in ntdm pose-classifier; do
    "$ntdm" train --method "$method" --cache "$cache" --shapes "$shapes" --out "$out/runs/$method" --seed "$seed"
    "$ntdm" evaluate --run "$out/runs/$method" --cache "$cache" --splits "$levels,$shifts" --seed "$seed"
done
for table in 1 2; do
    "$ntdm" report --table $table --cache "$cache" --out "$out/report" --no-published \
        --runs "$out/runs/ntdm" --runs "$out/runs/pose-classifier"
done
cat "$out/report/table_1.md" "$out/report/table_2.md"
echo "wall time: $(($(date +%s) - start)) s"
