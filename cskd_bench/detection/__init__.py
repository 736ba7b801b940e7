"""MMDetection: the ViT backbone adapter and the runner."""
