"""Weights of an exported graph under the names of the modules they came from.

The exporter turns the weight of a Linear module over and gives it a name without meaning. The module's name is wanted
where a LoRA adapter says which modules it changes, and where a reader asks what a tensor is.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper


def name_weights(model: onnx.ModelProto, module: torch.nn.Module) -> None:
    """Rename the matrix of each Linear module to `<module>.weight`, (features in, features out), where it is certain.

    Matrices are told apart by their bytes: one that two modules have alike keeps the exporter's name.
    """
    owners: dict[str, list[str]] = {}
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.Linear):
            owners.setdefault(_digest(part.weight.detach().numpy().T), []).append(f"{name}.weight")
    renamed: dict[str, str] = {}
    taken = {tensor.name for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT:
            found = owners.get(_digest(numpy_helper.to_array(tensor)), [])
            if len(found) == 1 and found[0] not in taken:
                renamed[tensor.name] = found[0]
                taken.add(found[0])
                tensor.name = found[0]
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)


def _digest(matrix: npt.NDArray[np.float32]) -> str:
    """Digest of a matrix's shape and values."""
    data = np.ascontiguousarray(matrix, dtype=np.float32)
    return hashlib.sha256(str(data.shape).encode() + data.tobytes()).hexdigest()
