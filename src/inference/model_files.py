"""Networks to model files, around the oddities of MindSpore's exporters."""

import shutil
import tempfile
from pathlib import Path

import mindspore as ms
from mindspore import Tensor, nn

from src.files import atomic_path


def write_model(cell: nn.Cell, example: Tensor, kind: str, path: Path) -> None:
    """Write a network in eval mode as MINDIR, AIR or ONNX; the file appears whole, and can be copied over.

    Args:
        cell: the network; of ONNX made of operators that its exporter knows, see `networks.export_form`.
        example: an input, or for axes of any size a tensor without values whose shape has None there (MINDIR only).
        kind: `MINDIR`, `AIR` or `ONNX`, whose input is called `image` and its output `probability`.
        path: the file.
    """
    cell.set_train(False)
    # MindSpore refuses to export to paths with spaces and the like, so it writes to a plain one.
    with tempfile.TemporaryDirectory(prefix="vnet_export_") as plain_folder:
        written = Path(plain_folder, path.name)
        if kind == "ONNX":
            ms.onnx.export(cell, example, file_name=str(written))
            _mend_onnx(written)
        else:
            ms.export(cell, example, file_name=str(written), file_format=kind)
        with atomic_path(path) as temporary:
            shutil.copyfile(written, temporary)
            temporary.chmod(0o644)  # MindSpore writes 0400, which a later copy over the file stumbles on


def _mend_onnx(path: Path) -> None:
    """Call an ONNX model's input `image` and its output `probability`, and give transposed convolutions a valid shape.

    MindSpore's own `output_names` renames the output, but not in the node that makes it where that is a slice. And it
    writes the `output_shape` of 2-D transposed convolutions with batch and channels, which ONNX wants without.
    """
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    names = {graph.input[0].name: "image", graph.output[0].name: "probability"}
    for end in (graph.input[0], graph.output[0]):
        end.name = names[end.name]
    for node in graph.node:
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]
        if node.op_type == "ConvTranspose":
            attributes = {attribute.name: attribute.ints for attribute in node.attribute}
            if shape := attributes.get("output_shape"):
                shape[:] = shape[-len(attributes["kernel_shape"]):]
    onnx.checker.check_model(model)
    path.chmod(0o644)  # MindSpore writes 0400
    onnx.save(model, str(path))
