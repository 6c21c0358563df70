"""The methods ntdm is compared with: one file a baseline, the same stage interface."""
