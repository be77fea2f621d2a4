import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnrules.errors import PlanError
from nnrules.interop.nnunetv2_limits import image_reader
from nnrules.interop.nnunetv2_write import nnunet_plans, write_nnunet_plans
from nnrules.plan import Plan

Make = Callable[..., Plan]


def _set(path: str, value: Any) -> Callable[[Any], None]:
    *parents, last = path.split(".")

    def change(document: Any) -> None:
        for name in parents:
            document = document[int(name) if isinstance(document, list) else name]
        document[last] = value

    return change


def _refusal(plan: Plan) -> str:
    with pytest.raises(PlanError) as caught:
        nnunet_plans(plan)
    return str(caught.value)


# -- what is written ------------------------------------------------------


def test_top_level(make: Make) -> None:
    document = nnunet_plans(make(), dataset_name="Dataset012_Twelve").document
    assert list(document) == [
        "dataset_name", "plans_name",
        "original_median_spacing_after_transp", "original_median_shape_after_transp", "image_reader_writer",
        "transpose_forward", "transpose_backward", "configurations",
        "experiment_planner_used", "label_manager", "foreground_intensity_properties_per_channel",
    ]  # fmt: skip
    assert document["plans_name"] == "nnUNetPlans"
    assert document["transpose_forward"] == [2, 0, 1]
    assert document["transpose_backward"] == [1, 2, 0]
    assert document["original_median_spacing_after_transp"] == [5.0, 0.8, 0.8]
    assert document["original_median_shape_after_transp"] == [60, 400, 380]
    assert document["experiment_planner_used"] == "ExperimentPlanner"
    assert document["foreground_intensity_properties_per_channel"]["1"]["max"] == 900.0
    first = next(iter(document["configurations"].values()))
    assert first["normalization_schemes"] == ["CTNormalization", "ZScoreNormalization"]
    assert first["use_mask_for_norm"] == [False, True]


def test_every_scheme_has_its_class(make: Make) -> None:
    for scheme, wanted in (
        ("none", "NoNormalization"), ("rescale_to_0_1", "RescaleTo01Normalization"),
        ("rgb_to_0_1", "RGBTo01Normalization"),
    ):  # fmt: skip
        plan = make(overrides={"channels[1].normalization.scheme": scheme})
        document = nnunet_plans(plan).document
        assert document["configurations"]["2d"]["normalization_schemes"][1] == wanted


def test_configurations_come_in_nnunets_order_however_the_plan_was_stored(make: Make, tmp_path: Path) -> None:
    plan = make(overrides={"target_spacing": [0.3, 0.3, 0.6]})
    plan.save(tmp_path / "plan.json")
    stored = Plan(json.loads((tmp_path / "plan.json").read_text()))
    assert list(stored.configurations) == ["2d", "3d_cascade_fullres", "3d_fullres", "3d_lowres"]
    document = nnunet_plans(stored).document
    assert list(document["configurations"]) == ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    assert document == nnunet_plans(plan).document
    cascade = document["configurations"]["3d_cascade_fullres"]
    assert cascade == {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    low, full = (document["configurations"][name] for name in ("3d_lowres", "3d_fullres"))
    assert low["next_stage"] == "3d_cascade_fullres"
    assert [type(edge) for edge in low["median_image_size_in_voxels"]] == [int] * 3
    assert [type(edge) for edge in full["median_image_size_in_voxels"]] == [float] * 3
    assert (low["batch_dice"], full["batch_dice"]) == (False, True)


def test_a_cascade_that_differs_from_its_parent_says_so(make: Make) -> None:
    plan = make(
        overrides={"target_spacing": [0.3, 0.3, 0.6]},
        change=_set("configurations.3d_cascade_fullres.batch_size", 7),
    )
    cascade = nnunet_plans(plan).document["configurations"]["3d_cascade_fullres"]
    assert cascade == {"inherits_from": "3d_fullres", "batch_size": 7, "previous_stage": "3d_lowres"}


def test_preprocessed_data_are_shared_as_nnunet_shares_them(make: Make) -> None:
    plain = nnunet_plans(make(overrides={"exports.nnunetv2.plans_name": "Mine"})).document
    residual = nnunet_plans(
        make("nnunet-resenc@2.8.0", preset="L", overrides={"target_spacing": [0.3, 0.3, 0.6]})
    ).document
    assert plain["configurations"]["2d"]["data_identifier"] == "Mine_2d"
    names = {name: entry.get("data_identifier") for name, entry in residual["configurations"].items()}
    assert names == {
        "2d": "nnUNetPlans_2d",
        "3d_fullres": "nnUNetPlans_3d_fullres",
        "3d_lowres": "nnUNetResEncUNetLPlans_3d_lowres",
        "3d_cascade_fullres": None,
    }
    assert residual["experiment_planner_used"] == "nnUNetPlannerResEncL"
    network = residual["configurations"]["3d_fullres"]["architecture"]
    assert network["network_class_name"].endswith(".ResidualEncoderUNet")
    assert network["arch_kwargs"]["n_blocks_per_stage"][:4] == [1, 3, 4, 6]
    assert "n_conv_per_stage" not in network["arch_kwargs"]


def test_statistics_that_the_plan_uses_win_over_measured_ones(make: Make) -> None:
    plan = make(overrides={"channels[0].normalization.statistics.mean": 12.5})
    statistics = nnunet_plans(plan).document["foreground_intensity_properties_per_channel"]
    assert statistics["0"]["mean"] == 12.5
    assert statistics["0"]["median"] == 55.0
    assert statistics["1"]["mean"] == 60.0


def test_channels_without_statistics_are_there_and_empty(make: Make) -> None:
    plan = make(change=_set("channels.1.intensity", None))
    assert nnunet_plans(plan).document["foreground_intensity_properties_per_channel"]["1"] == {}


def test_other_numbers_of_the_network_are_written(make: Make) -> None:
    def change(document: Any) -> None:
        for configuration in document["configurations"].values():
            configuration["architecture"]["nonlinearity"]["negative_slope"] = 0.1
            configuration["architecture"]["norm"]["epsilon"] = 1e-3
            configuration["resampling"]["data"]["separate_axis"] = None

    entry = nnunet_plans(make(change=change)).document["configurations"]["2d"]
    assert entry["architecture"]["arch_kwargs"]["nonlin_kwargs"] == {"negative_slope": 0.1, "inplace": True}
    assert entry["architecture"]["arch_kwargs"]["norm_op_kwargs"] == {"eps": 1e-3, "affine": True}
    assert entry["resampling_fn_data_kwargs"]["force_separate_z"] is False
    assert entry["resampling_fn_seg_kwargs"]["force_separate_z"] is None


@pytest.mark.parametrize(
    ("ending", "dim", "reader"),
    [
        (".nii.gz", 3, "SimpleITKIO"), (".NRRD", 3, "SimpleITKIO"), (".mha", 3, "SimpleITKIO"),
        (".nii", 3, "NibabelIO"), (".png", 2, "NaturalImage2DIO"), (".bmp", 2, "NaturalImage2DIO"),
        (".tif", 2, "NaturalImage2DIO"), (".tif", 3, "Tiff3DIO"), (".tiff", 3, "Tiff3DIO"), (".jpg", 2, None),
    ],
)  # fmt: skip
def test_readers(make: Make, ending: str, dim: int, reader: str | None) -> None:
    def change(document: Any) -> None:
        document["dataset"]["file_ending"] = ending
        document["configurations"] = {
            name: entry for name, entry in document["configurations"].items() if entry["dim"] <= dim
        }

    assert image_reader(make(change=change)) == reader


def test_the_folder_names_the_dataset(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "Dataset012_Twelve"
    folder.mkdir()
    converted = write_nnunet_plans(make(), folder / "nnUNetPlans.json")
    assert converted.warnings == ()
    text = (folder / "nnUNetPlans.json").read_text()
    assert json.loads(text) == converted.document
    assert converted.document["dataset_name"] == "Dataset012_Twelve"
    assert text.startswith('{\n    "dataset_name"')
    elsewhere = write_nnunet_plans(make(), tmp_path / "plans.json")
    assert elsewhere.document["dataset_name"] == "Twelve"
    assert [problem.where for problem in elsewhere.warnings] == ["dataset_name"]
    given = write_nnunet_plans(make(), tmp_path / "plans.json", dataset_name="Dataset001_A")
    assert given.document["dataset_name"] == "Dataset001_A"


# -- what is refused ------------------------------------------------------


def test_a_pack_that_is_no_nnunet_v2_is_refused_with_every_reason(make: Make, tmp_path: Path) -> None:
    plan = make("nnunet@1.0.0")
    text = _refusal(plan)
    assert "exports.nnunetv2: the pack does not say how nnU-Net v2 calls its plans; got nnunet@1.0.0" in text
    assert "configurations.3d_fullres.architecture.decoder_kernel_sizes" in text
    with pytest.raises(PlanError):
        write_nnunet_plans(plan, tmp_path / "plans.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("template", "transformer"), ("convolution.padding", "none"),
        ("convolution.order", ["norm", "convolution"]),
        ("norm.name", "batch_norm"), ("norm.track_running_statistics", True), ("nonlinearity.name", "relu"),
        ("dropout_probability", 0.1), ("biases.head", False), ("biases.transposed_convolution", False),
        ("downsampling", "max_pooling"), ("upsampling", "interpolation"), ("skip_connection.name", "add"),
        ("decoder_kernel_sizes", [[1, 1]]), ("residual_block", {"stem": "none"}),
        ("num_input_channels", 3), ("num_output_channels", 7),
    ],
)  # fmt: skip
def test_networks_that_nnunet_cannot_build_are_refused(make: Make, field: str, value: Any) -> None:
    text = _refusal(make(change=_set(f"configurations.2d.architecture.{field}", value)))
    assert text.startswith(f"configurations.2d.architecture.{field}: ")
    assert "got " in text


def test_orders_of_axes_that_differ_are_refused(make: Make) -> None:
    text = _refusal(make(change=_set("configurations.2d.transpose_forward", [0, 1, 2])))
    assert "one order of axes for all configurations" in text
    assert "configurations.2d.transpose_forward, configurations.3d_fullres.transpose_forward" in text


def test_files_and_schemes_that_nnunet_cannot_read_are_refused_together(make: Make) -> None:
    def change(document: Any) -> None:
        document["dataset"]["file_ending"] = ".jpg"
        document["channels"][1]["normalization"]["scheme"] = "percentile"

    text = _refusal(make(change=change))
    assert "dataset.file_ending: nnU-Net v2 cannot read such files; got .jpg" in text
    assert "channels[1].normalization.scheme: nnU-Net v2 has no such value; got percentile" in text


@pytest.mark.parametrize(
    ("labels", "ignore", "outputs"),
    [
        ({"background": 0, "whole": [1, 2], "core": [2]}, None, 2),
        ({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, 3, 2),
        ({"background": 0, "a": 1, "ignore": 2}, 2, 2),
    ],
)
def test_regions_and_ignore_count_as_in_nnunet(
    make: Make, dataset_json: dict[str, Any], labels: dict[str, Any], ignore: int | None, outputs: int
) -> None:
    dataset_json["labels"] = labels
    dataset_json["regions_class_order"] = [1, 2]
    plan = make()
    assert plan.document["dataset"]["ignore_label"] == ignore
    assert plan.configurations["2d"]["architecture"]["num_output_channels"] == outputs
    nnunet_plans(plan)


# -- what is warned about ------------------------------------------------------


def _warned(plan: Plan) -> dict[str, str]:
    problems = nnunet_plans(plan, dataset_name="Dataset012_Twelve").warnings
    return {problem.where: str(problem) for problem in problems}


def test_released_plans_warn_about_nothing(make: Make) -> None:
    assert _warned(make()) == {}
    assert _warned(make("nnunet-resenc@2.8.0", preset="XL", gpu_memory_gb=11)) == {}
    patch = make().configurations["3d_fullres"]["patch_size"]
    written = {"configurations.3d_fullres.batch_size": 3, "configurations.3d_fullres.patch_size": patch}
    assert _warned(make(overrides=written)) == {}


def test_settings_that_nnunet_has_in_its_code_are_named(make: Make) -> None:
    warned = _warned(make(overrides={"training.epochs": 50}))
    assert list(warned) == ["training.epochs"]
    assert "keeps its own way; got 50 (set by the user)" in warned["training.epochs"]
    anisotropy = "configurations.2d.resampling.anisotropy"
    assert list(_warned(make(change=_set(f"{anisotropy}.ratio_above", 2)))) == [anisotropy]


def test_rules_and_parameters_of_other_packs_are_named(make: Make, tmp_path: Path) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(
        """
title: Mine
extends: nnunet@2.8.0
params:
  dummy_2d_ratio:
    value: 4
    unit: "1"
    doc: Another limit.
    source: none
rules:
  - id: training.epochs
    title: Epochs
    kind: blueprint
    decides: training.epochs
    constant: 20
    because: time
    source: none
"""
    )
    warned = _warned(make(overlay))
    assert "rule training.epochs of mine@local" in warned["training.epochs"]
    parameter = [text for where, text in warned.items() if "augmentation.dummy_2d" in where]
    assert parameter
    assert all("parameter dummy_2d_ratio = 4" in text for text in parameter)
    assert len(warned) == 1 + len(parameter)
