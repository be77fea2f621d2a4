"""Predicts whole cases with a trained model: as nnU-Net does, which sums windows in float16, and with exact sums."""

import sys
from pathlib import Path

import torch
from networks import write_model
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks" / "runtime_peer"))

from predict import exact, new_predictor


def answer(document, given):
    if document.get("write"):
        write_model(**document["write"])
    predictor = new_predictor(mirrors=True)
    predictor.initialize_from_trained_model_folder(document["model"], (0,), "checkpoint_final.pth")
    manager, configuration = predictor.plans_manager, predictor.configuration_manager
    arrays = {}
    for number, path in enumerate(document["images"]):
        data, _, properties = configuration.preprocessor_class(verbose=False).run_case(
            [path], None, manager, configuration, predictor.dataset_json
        )
        data = torch.from_numpy(data)
        logits = {"own": predictor.predict_logits_from_preprocessed_data(data)}
        if document.get("exact"):
            logits["exact"] = exact(predictor, predictor.list_of_parameters[0], data)
        for sums, values in logits.items():
            labels, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
                values.float(),
                manager,
                configuration,
                predictor.label_manager,
                properties,
                return_probabilities=True,
            )
            arrays[f"{sums}/{number}/labels"] = labels
            arrays[f"{sums}/{number}/probabilities"] = probabilities
    return None, arrays
