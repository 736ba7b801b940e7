"""Images to views: sources, keyed randomness, augmentation, loaders."""
