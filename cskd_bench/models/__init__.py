"""Students and teachers: stock timm models, never vendored."""
