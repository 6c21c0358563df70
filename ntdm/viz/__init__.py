"""Pictures as numpy arrays: colouring, overlays, contact sheets. Matplotlib figures are in reports/."""
