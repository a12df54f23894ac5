"""A stand-in for Ascend's compiler: strict about its command line and its graph, and its .om is a zip of both.

Such files are run by the modules in pyacl/ and ais/, through chip.py.
"""

import json
import sys
import zipfile
from pathlib import Path

import onnx

KNOWN = {"framework", "model", "output", "input_format", "input_shape", "soc_version", "precision_mode", "log"}
KNOWN |= {"insert_op_conf"}
CHIPS = {"Ascend310P3", "Ascend310B1", "Ascend910B4"}


def fail(message: str) -> None:
    print("ATC start working now, please wait for a moment.")
    print("ATC run failed, Please check the detail log, Try 'atc --help' for more information")
    print(message)
    print("\n[Error TraceBack]:")
    sys.exit(255)


def main() -> None:
    options = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
    Path("kernel_meta").mkdir(exist_ok=True)
    Path("fusion_result.json").write_text("[]")
    if set(options) - KNOWN:
        fail(f"E10005: unknown option {set(options) - KNOWN}")
    if options["soc_version"] not in CHIPS:
        fail(f"E10001: Value [{options['soc_version']}] for parameter [--soc_version] is invalid.")
    if (options["framework"], options["input_format"], options["precision_mode"]) != ("5", "NCHW", "force_fp16"):
        fail("E10001: not as this stand-in expects")
    graph = onnx.load(options["model"])
    if graph.opset_import[0].version > 18 or graph.ir_version > 8:
        fail("E16005: The model has a version that is not supported")
    tensor = graph.graph.input[0]
    sides = [side.dim_value for side in tensor.type.tensor_type.shape.dim]
    if options["input_shape"] != f"{tensor.name}:{','.join(map(str, sides))}" or 0 in sides:
        fail(f"E10016: Opname or shape [{options['input_shape']}] is not that of the graph, {tensor.name} {sides}")
    with zipfile.ZipFile(options["output"] + ".om", "w") as om:
        om.write(options["model"], "graph.onnx")
        om.writestr("options.json", json.dumps(options))
        if "insert_op_conf" in options:
            om.write(options["insert_op_conf"], "aipp.cfg")
    print("ATC run success, welcome to the next use.")


main()
