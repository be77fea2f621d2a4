"""Divisions of cases as a trainer makes them."""

import tempfile
from types import SimpleNamespace

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def answer(document, given):
    found = []
    for request in document:
        names = request["names"]
        with tempfile.TemporaryDirectory() as folder:
            trainer = SimpleNamespace(
                dataset_class=lambda *args, names=names, **kwargs: SimpleNamespace(identifiers=names),
                preprocessed_dataset_folder=folder,
                preprocessed_dataset_folder_base=folder,
                folder_with_segs_from_previous_stage=None,
                print_to_log_file=lambda *args: None,
            )
            divisions = []
            for fold in request["folds"]:
                trainer.fold = fold
                divisions.append([[str(name) for name in part] for part in nnUNetTrainer.do_split(trainer)])
        found.append(divisions)
    return found, {}
