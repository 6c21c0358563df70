#!/bin/sh
# Tables 1, 2 and 3 on synthetic photos: every method trained on the same 2400 photos of cars, motorbikes and sofas,
# for as many epochs, and tested under four levels of occlusion and five nuisances; and the six ablations.
# Usage: benchmarks/synthetic_tables.sh OUT [SEED]      (NTDM=path/to/ntdm, where it is not on the path)
# The settings are `ntdm demo`'s, and so are the folders: begun in a demo's folder, it goes on with what is there.
# Every step is skipped when it is finished and resumes when it was interrupted. About an hour on two cores.
set -eu
[ $# -eq 1 ] || [ $# -eq 2 ] || { echo "usage: $0 OUT [SEED]" >&2; exit 2; }
out=$1 seed=${2:-0}
ntdm=${NTDM:-ntdm}
data=$out/data cache=$out/cache shapes=$out/shapes
nuisances=shape,pose,texture,context,weather
levels=pascal3d/val,occluded_pascal3d/L1,occluded_pascal3d/L2,occluded_pascal3d/L3
shifts=ood_cv/shape,ood_cv/pose,ood_cv/texture,ood_cv/context,ood_cv/weather

"$ntdm" make-data "$data" --seed "$seed"
pascal3d=$data/PASCAL3D+_release1.1
"$ntdm" prep-data pascal3d --root "$pascal3d" --cache "$cache" --image-size 128 128
"$ntdm" prep-data occluded-pascal3d --root "$data/OccludedPASCAL3D" --pascal3d "$pascal3d" --cache "$cache" \
    --image-size 128 128
"$ntdm" prep-data ood-cv --root "$data/OOD-CV" --pascal3d "$pascal3d" --cache "$cache" --image-size 128 128 \
    --split iid,$nuisances
"$ntdm" fit-shapes --cache "$cache" --out "$shapes" --seed "$seed"

methods="ntdm pose-classifier nemo res50-pose res50-class"
# The one method that needs a package which ntdm does not install.
if "$ntdm" doctor | grep -q '^torchvision [0-9]'; then
    methods="$methods mask-rcnn"
else
    echo "torchvision does not import here: no row of mask-rcnn" >&2
fi
for method in $methods; do
    "$ntdm" train --method "$method" --cache "$cache" --shapes "$shapes" --out "$out/runs/$method" --seed "$seed"
    "$ntdm" evaluate --run "$out/runs/$method" --cache "$cache" --splits "$levels,$shifts" --seed "$seed"
done
"$ntdm" ablate --full "$out/runs/ntdm" --cache "$cache" --shapes "$shapes" --out "$out/ablations" --seed "$seed"

set --
for method in $methods; do set -- "$@" "$out/runs/$method"; done
for table in 1 2; do
    "$ntdm" report --table $table --cache "$cache" --out "$out/report" --no-published "$@"
done
"$ntdm" report --table 3 --cache "$cache" --out "$out/report" --no-published "$out"/ablations/*
