"""Data sets, synthetic scenes and augmentation."""
