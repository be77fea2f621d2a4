"""Augmentation of training and validation patches, as the plan orders it.

Everything random about a sample is drawn before its patch is read, so that only the voxels that the drawn rotation
and scaling need have to be read at all (for most samples: the centre, without the margin)::

    augmentation = Augmentation.from_plan(root, configuration, labels)  # or Augmentation.for_validation(...)
    draw = augmentation.draw(generator)  # one numpy Generator a sample; draw.offset, draw.size: a box of the
    # initial patch, (z, y, x). The patch sampler places the *initial* patch; read the box
    # [initial_start + draw.offset, initial_start + draw.offset + draw.size) of the image
    image, label = augmentation.apply(draw, image_box, label_box)  # -> (C, *patch_size), (*patch_size)

``image_box`` is a float32 tensor (C, *draw.size), ``label_box`` an int16 tensor (*draw.size), filled beyond the image
with the values of ``sampling.border``; both may be overwritten (``apply`` keeps their memory busy no longer than the
call, but its result may be a view of them). A second stage of a cascade hands over the previous stage's segmentation
as ``previous=`` (int16, same box); its one-hot channels are appended to the image.

``Augmentation.initial_patch_size`` and ``.patch_size`` are (z, y, x), in 2D with z = 1. For validation the initial
patch is the one that ``sampling.validation.patch`` names.

``augmentation(images, labels, generators, previous=None)`` does all of this for a batch of whole initial patches
(B, C, Z, Y, X), (B, Z, Y, X) and gives the same result, to the bit.
"""

from nnrules_runtime.augment.pipeline import Augmentation, SampleDraw

__all__ = ["Augmentation", "SampleDraw"]
