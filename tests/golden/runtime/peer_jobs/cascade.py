"""Takes outputs of a first stage to the grid of the second one, as a trainer does for its validation cases."""

import torch
from nnunetv2.inference.export_prediction import resample_and_save
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


class Kept:
    """In place of a dataset class: keeps what it is told to save."""

    def __init__(self):
        self.segmentation = None

    def save_seg(self, segmentation, name):
        self.segmentation = segmentation


def answer(document, given):
    manager = PlansManager(document["plans"])
    first = manager.get_configuration(document["first"])
    arrays = {}
    for number, case in enumerate(document["cases"]):
        kept = Kept()
        resample_and_save(
            torch.from_numpy(given[str(number)]),
            case["shape"],
            "unused",
            manager,
            first,
            {
                "spacing": case["spacing"],
                "shape_after_cropping_and_before_resampling": case["cropped"],
            },
            document["dataset"],
            1,
            kept,
        )
        arrays[str(number)] = kept.segmentation
    return None, arrays
