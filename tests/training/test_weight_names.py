"""Names of weights in exported graphs: given where they are certain, left where two modules are alike."""

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from training.weight_names import name_weights


def test_a_matrix_gets_its_modules_name_and_twins_keep_theirs():
    torch.manual_seed(0)
    module = torch.nn.ModuleDict({name: torch.nn.Linear(4, 3, bias=False) for name in ("one", "two", "three")})
    with torch.no_grad():
        module["three"].weight.copy_(module["two"].weight)
    held = {f"val_{index}": module[name].weight.detach().numpy().T for index, name in enumerate(("one", "two"))}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", name], [f"y{name}"]) for name in held],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(f"y{name}", TensorProto.FLOAT, ["n", 3]) for name in held],
        initializer=[numpy_helper.from_array(array.copy(), name) for name, array in held.items()],
    )
    model = helper.make_model(graph)
    name_weights(model, module)
    assert [tensor.name for tensor in model.graph.initializer] == ["one.weight", "val_1"]
    assert [node.input[1] for node in model.graph.node] == ["one.weight", "val_1"]
    onnx.checker.check_model(model)
