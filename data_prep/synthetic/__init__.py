"""The synthetic datasets: models, scenes, rendering, and their raw files in the formats of the real ones."""
