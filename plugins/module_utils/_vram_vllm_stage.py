# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What of a model lies on one stage of vLLM's pipeline parallelism."""

from __future__ import annotations

import math
from dataclasses import replace

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import ModelShape


def largest_stage(shape: ModelShape, stages: int) -> ModelShape:
    """The heaviest run of as many layers as the longest stage has, with the embedding or the output, whichever is larger.

    vLLM gives each stage as many layers, and one more to some where that does not come out even (distributed/utils.py, get_pp_indices). The first
    has the embedding and the last the output. What one stage has of all this is never more than is counted here.
    """
    if stages == 1:
        return shape
    layers = len(shape.trunk)
    if stages > layers:
        raise InputError(f"vLLM: pipeline_parallel is {stages}, but the model has {layers} layers: lower it.")
    length = math.ceil(layers / stages)
    sizes = [0] * len(shape.layers)
    for tensor in shape.tensors:
        if tensor.layer is not None and tensor.layer < len(sizes):
            sizes[tensor.layer] += tensor.bytes
    first = max(range(layers - length + 1), key=lambda start: sum(sizes[start : start + length]))
    kept = range(first, first + length)
    once = [tensor for tensor in shape.tensors if tensor.layer is None]
    dropped = min(([tensor for tensor in once if name in tensor.name] for name in ("embed", "lm_head")), key=lambda ends: sum(end.bytes for end in ends))
    return replace(
        shape,
        layers=shape.layers[first : first + length],
        tensors=(
            *(tensor for tensor in once if tensor not in dropped),
            *(tensor._replace(layer=tensor.layer - first) for tensor in shape.tensors if tensor.layer is not None and tensor.layer in kept),
        ),
    )
