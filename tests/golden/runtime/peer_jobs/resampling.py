"""Resamples arrays, and decides on shapes and separate axes."""

import numpy as np
from nnunetv2.preprocessing.resampling.default_resampling import (
    compute_new_shape,
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)


def answer(document, given):
    arrays = {
        str(number): resample_data_or_seg_to_shape(
            given[str(number)],
            call["new_shape"],
            call["spacing"],
            call["new_spacing"],
            is_seg=call["is_seg"],
            order=call["order"],
            order_z=call["order_z"],
            force_separate_z=None if call["separate"] else False,
        )
        for number, call in enumerate(document["calls"])
    }
    decisions = []
    for one in document["grids"]:
        shape = compute_new_shape(one["shape"], one["spacing"], one["new_spacing"])
        _, axis = determine_do_sep_z_and_axis(None, np.array(one["spacing"]), np.array(one["new_spacing"]))
        decisions.append([[int(size) for size in shape], None if axis is None else int(axis)])
    return decisions, arrays
