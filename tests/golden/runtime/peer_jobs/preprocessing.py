"""Preprocesses cases, of files or of arrays."""

from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def answer(document, given):
    manager = PlansManager(document["plans"])
    dataset = document["dataset"]
    preprocessor = DefaultPreprocessor(verbose=False)
    found, arrays = [], {}
    for number, case in enumerate(document["cases"]):
        configuration = manager.get_configuration(case["configuration"])
        if "images" in case:
            data, seg, properties = preprocessor.run_case(
                case["images"], case["label"], manager, configuration, dataset
            )
        else:
            label = given.get(f"{case['name']}/label")
            data, seg, properties = preprocessor.run_case_npy(
                given[f"{case['name']}/image"],
                None if label is None else label[None],
                {"spacing": case["spacing"]},
                manager,
                configuration,
                dataset,
            )
        arrays[f"{number}/data"], arrays[f"{number}/seg"] = data, seg
        found.append(
            {
                "spacing": [float(edge) for edge in properties["spacing"]],
                "before": [int(size) for size in properties["shape_before_cropping"]],
                "box": [[int(edge) for edge in pair] for pair in properties["bbox_used_for_cropping"]],
                "after": [int(size) for size in properties["shape_after_cropping_and_before_resampling"]],
                "locations": [
                    [
                        [int(value) for value in key] if isinstance(key, (tuple, list)) else [int(key)],
                        len(voxels),
                    ]
                    for key, voxels in properties.get("class_locations", {}).items()
                ],
            }
        )
    return found, arrays
