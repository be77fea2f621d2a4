"""Predicts whole images through both stages of a cascade: as nnU-Net does, in float16 sums, and with exact sums."""

import numpy as np
import torch
from networks import write_model
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.data_iterators import PreprocessAdapterFromNpy
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from whole_case import exact, new_predictor


class Stage:
    """A trained network of one stage."""

    def __init__(self, folder):
        self.predictor = new_predictor(mirrors=True)
        self.predictor.initialize_from_trained_model_folder(folder, (0,), "checkpoint_final.pth")

    def labels(self, image, properties, segmentation, sums):
        """Labels of an image, after a segmentation of the stage before, if there is one."""
        predictor = self.predictor
        manager, configuration = predictor.plans_manager, predictor.configuration_manager
        if segmentation is not None:
            # In the type in which a file of it is read: nnU-Net writes -1 into it.
            segmentation = np.asarray(segmentation, np.float32)[None]
        adapter = PreprocessAdapterFromNpy(
            [image],
            [segmentation],
            [dict(properties)],
            [None],
            manager,
            predictor.dataset_json,
            configuration,
        )
        case = next(adapter)
        if sums == "exact":
            logits = exact(predictor, predictor.list_of_parameters[0], case["data"])
        else:
            logits = predictor.predict_logits_from_preprocessed_data(case["data"])
        found = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits.float(), manager, configuration, predictor.label_manager, case["data_properties"]
        )
        return found.numpy() if isinstance(found, torch.Tensor) else found


def answer(document, given):
    torch.set_num_threads(document.get("num_threads", 1))
    for stage in document["stages"]:
        write_model(**stage)
    first, second = (Stage(stage["folder"]) for stage in document["stages"])
    arrays = {}
    for number, path in enumerate(document["images"]):
        image, properties = SimpleITKIO().read_images([path])
        for sums in document["sums"]:
            before = first.labels(image, properties, None, sums)
            arrays[f"{number}/first/{sums}"] = before
            arrays[f"{number}/second/{sums}"] = second.labels(image, properties, before, sums)
        if f"{number}/segmentation" in given:
            drawn = given[f"{number}/segmentation"]
            arrays[f"{number}/given/exact"] = second.labels(image, properties, drawn, "exact")
    return None, arrays
