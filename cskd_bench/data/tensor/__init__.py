"""Views off the CPU: workers decode and cut uint8 crops, the device does the rest in batches."""
