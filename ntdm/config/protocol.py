"""Names and numbers that datasets and papers fix: categories, splits, nuisances, ablations, nominal camera.

Only what others have fixed stands here; what a user may choose is in stages.py.
"""

CATEGORIES = (
    "aeroplane", "bicycle", "boat", "bottle", "bus", "car",
    "chair", "diningtable", "motorbike", "sofa", "train", "tvmonitor",
)  # fmt: skip
OOD_CV_CATEGORIES = tuple(c for c in CATEGORIES if c not in ("bottle", "tvmonitor"))
NUISANCES = ("shape", "pose", "texture", "context", "weather")
OCCLUSION_LEVELS = ("L1", "L2", "L3")
# Occluded PASCAL3D+ also has levels of unequal foreground and background occlusion.
MIXED_LEVELS = tuple(f"FGL{i}_BGL{j}" for i in (1, 2, 3) for j in (1, 2, 3) if i != j)
KNOWN_SPLITS = {
    "pascal3d": ("val", "train", "voc_val", "voc_train"),
    "ood_cv": ("iid", *NUISANCES, "occlusion", "train"),
    "occluded_pascal3d": (*OCCLUSION_LEVELS, *MIXED_LEVELS),
}
# The rows of Table 3, in its order: the names that `ntdm ablate` gives its runs.
ABLATIONS = (
    "full", "no-background", "single-alpha", "fixed-shape", "latent-random", "latent-average",
    "hard-silhouette",
)  # fmt: skip
# PASCAL3D+ stores focal 1 and viewport 3000 for every record: 3000 pixels of the original photo.
PASCAL3D_FOCAL_PX = 3000.0
# NeMo's protocol rescales every crop as if the object stood this far away (CAD units).
NOMINAL_DISTANCE = 5.0
