"""cskd-bench: does distilling a CNN's spatial knowledge into a Vision Transformer pay off?"""

__version__ = "0.1.0"
