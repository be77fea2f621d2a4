"""Measurements of cases on disk, so that a case whose files did not change is not read again.

One ``.npz`` a case: a JSON text with the key and everything that is small, and the foreground values. For
whole numbers those are counts, a few kilobytes; for others the values themselves, four or eight bytes a
foreground voxel and channel. Storing them is what lets a second run, or the rest of an interrupted one,
do without the images.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnrules.dataset import Case, DatasetFacts
from nnrules.extract.case import BUILT_IN_EXTRACTORS, CaseMeasurement, IntensityMethod
from nnrules.extract.extractors import CaseExtractor
from nnrules.extract.intensity import ValueSummary

__all__ = ["MeasurementCache"]

logger = logging.getLogger(__name__)

_FORMAT = 1
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_DAMAGE = (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile)


def _identity(path: Path) -> list[Any]:
    """Path, size and time of change; of a file beside a TIFF that holds its spacing, too."""
    status = path.stat()
    return [os.fspath(path.absolute()), status.st_size, status.st_mtime_ns]


def _files(case: Case) -> list[Path]:
    paths = [*case.image_paths, case.label_path]
    # A 3D TIFF has its spacing in a JSON file of the same name, with or without the channel number.
    for path in paths[:-1]:
        if path.suffix.lower() in (".tif", ".tiff"):
            stems = {path.stem, re.sub(r"_\d{4}$", "", path.stem)}
            paths += sorted(beside for stem in stems if (beside := path.with_name(f"{stem}.json")).is_file())
    return paths


class MeasurementCache:
    """A folder of measurements.

    An entry is used when the paths, sizes and times of change of the case's files, the versions of the
    extractors and all parameters are what they were. Entries are written whole or not at all; a damaged
    one counts as absent. A folder that cannot be written is reported once, and the work goes on without
    it.

    Args:
        folder: made when needed.
        facts: declarations that decide what is measured.
        method: kind of intensity statistics.
        extractors: those that run.
    """

    def __init__(
        self,
        folder: Path,
        *,
        facts: DatasetFacts,
        method: IntensityMethod,
        extractors: Sequence[CaseExtractor],
    ) -> None:
        self._folder = folder
        self._can_write = True
        self._saying = threading.Lock()
        self._parameters = {
            "format": _FORMAT,
            "method": method,
            "versions": {**BUILT_IN_EXTRACTORS, **{item.name: item.version for item in extractors}},
            "labels": list(facts.label_values),
            "num_channels": facts.num_channels,
            "orientation_policy": facts.orientation_policy,
        }

    def key(self, case: Case) -> str:
        """Hash over everything that a measurement depends on.

        Raises:
            OSError: when a file of the case is gone.
        """
        content = [self._parameters, case.id, [_identity(path) for path in _files(case)]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _path(self, case: Case) -> Path:
        name = case.id
        if not _SAFE_NAME.fullmatch(name):
            name = hashlib.sha256(name.encode()).hexdigest()
        return self._folder / f"{name}.npz"

    def read(self, case: Case, key: str) -> CaseMeasurement | None:
        """The measurement of a case, or ``None`` when it is absent, outdated or damaged."""
        path = self._path(case)
        try:
            # Opened here, because numpy leaves a damaged file open.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                content = json.loads(arrays["measurement"].tobytes())
                if content.pop("key") != key:
                    return None
                return _measurement(content, arrays)
        except FileNotFoundError:
            return None
        except _DAMAGE as exc:
            logger.warning("%s is damaged and the case is read again (%s)", path, exc)
            return None

    def write(self, case: Case, key: str, measurement: CaseMeasurement) -> None:
        """Store the measurement of a case."""
        if not self._can_write:
            return
        arrays: dict[str, npt.NDArray[Any]] = {
            "measurement": np.frombuffer(json.dumps(_content(key, measurement)).encode(), dtype=np.uint8)
        }
        for channel, summary in enumerate(measurement.intensities):
            arrays[f"values_{channel}"] = summary.values
            if summary.counts is not None:
                arrays[f"counts_{channel}"] = summary.counts
        temporary = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".tmp", delete=False) as stream:
                temporary = Path(stream.name)
                np.savez(stream, **arrays)  # type: ignore[arg-type]
            temporary.replace(self._path(case))
        except OSError as exc:
            with self._saying:  # cases are measured by several threads: one of them says it
                is_first, self._can_write = self._can_write, False
            if is_first:
                logger.warning(
                    "cannot keep measurements in %s (%s): the next run reads all cases", self._folder, exc
                )
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def _content(key: str, measurement: CaseMeasurement) -> dict[str, Any]:
    return {
        "key": key,
        "shape": measurement.shape,
        "shape_before_crop": measurement.shape_before_crop,
        "spacing": measurement.spacing,
        "orientation": measurement.orientation,
        "channels_present": measurement.channels_present,
        "class_voxels": list(measurement.class_voxels.items()),
        "extra": dict(measurement.extra),
    }


def _measurement(content: dict[str, Any], arrays: Any) -> CaseMeasurement:
    intensities = []
    for channel in range(len(content["channels_present"])):
        counts = arrays.get(f"counts_{channel}")
        intensities.append(ValueSummary(values=arrays[f"values_{channel}"], counts=counts))
    return CaseMeasurement(
        shape=tuple(content["shape"]),
        shape_before_crop=tuple(content["shape_before_crop"]),
        spacing=tuple(content["spacing"]),
        orientation=content["orientation"],
        channels_present=tuple(content["channels_present"]),
        class_voxels=dict(content["class_voxels"]),
        intensities=tuple(intensities),
        extra=content["extra"],
    )
