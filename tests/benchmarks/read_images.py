"""Reads every image and label of a dataset and does nothing with them: the floor for its fingerprint.

Usage: read_images.py DATASET. The same library, files and threads as `nnrules fingerprint`.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import SimpleITK
from nnrules.dataset import load_dataset
from nnrules.extract.schedule import default_workers


def _files(dataset: Path) -> Iterator[Path]:
    for case in load_dataset(dataset).cases:
        yield from case.image_paths
        yield case.label_path


def main() -> None:
    files = list(_files(Path(sys.argv[1])))
    with ThreadPoolExecutor(default_workers()) as pool:
        arrays = pool.map(
            lambda path: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).size, files
        )
        sys.stdout.write(f"{sum(arrays)} voxels in {len(files)} files\n")


if __name__ == "__main__":
    main()
