"""Copy a folder of images with its JPEGs saved smaller: reencode.py SOURCE TARGET QUALITY SIDE (0: as it is)."""

import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

JPEG = (".jpg", ".jpeg")


def copy(pair: tuple[Path, Path], quality: int, side: int) -> None:
    """Copy one file; a JPEG is encoded again, and scaled down where its shorter side is longer than `side`."""
    source, target = pair
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix.lower() not in JPEG:
        shutil.copyfile(source, target)
        return
    with Image.open(source) as image:
        scale = min(1.0, side / min(image.size)) if side else 1.0
        small = image.convert("RGB")
    if scale < 1:
        width, height = (max(side, round(length * scale)) for length in small.size)
        small = small.resize((width, height), Image.Resampling.LANCZOS)
    small.save(target, quality=quality, optimize=True)


def main(source: Path, target: Path, quality: int, side: int) -> None:
    """Copy every file of `source`, a few at a time."""
    pairs = [(file, target / file.relative_to(source)) for file in sorted(source.rglob("*")) if file.is_file()]
    if not pairs:
        sys.exit(f"{source}: holds no files")
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(copy, quality=quality, side=side), pairs, chunksize=64))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
