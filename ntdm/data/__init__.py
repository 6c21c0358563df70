"""From cache files to training batches.

Dataset, augmentation, loader, and the processes that share a batch. No model.
"""
