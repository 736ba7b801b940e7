"""The gates that data enter by, in the order of docs/inputs.md; each module has TITLE, ABOUT and INPUTS."""

from inputs import annotations, archives, images, labels, maps, places

GATES = (labels, archives, images, maps, annotations, places)
