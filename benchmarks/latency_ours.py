"""One way from an image file to its mask file, by stages. Imported by a worker of latency.py.

`latency.py` leaves in FOLDER_VARIABLE: the checkpoint, its bundle (MINDIR and ONNX), and the image.
"""

import os
import statistics
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pandas as pd
from cpu_vs_monai_worker import Unsupported

from src.backend import create_backend
from src.data.case import Case
from src.data.case_files import read_case
from src.inference.bundle import read_bundle
from src.inference.predictor import MindIRPredictor, OnnxPredictor, load_checkpoint_predictor
from src.ops.select import kernels, stock_kernels

FOLDER_VARIABLE = "VNET_LATENCY_FOLDER"
STAGES = ("read", "preprocess", "network", "postprocess", "write")
REPEATS = 3  # of the C++ program in one step, which loads its model anew each time


class OpenVINOModel:
    """The ONNX in OpenVINO from Python; a compiled model of its own, tuned for latency as by default.

    Raises:
        Unsupported: the package is not installed.
    """

    def __init__(self, path: Path):
        try:
            import openvino
        except ImportError as error:
            raise Unsupported("openvino is not installed: pip install -r requirements-cpp.txt") from error
        self.model = openvino.Core().compile_model(str(path), "CPU")

    def predict_block(self, image: np.ndarray) -> np.ndarray:
        return np.asarray(self.model(image[None, None])[0])[0]


class LatencyContender:
    """One case from file to file at a time.

    Args:
        name: `latency-kernels`, the network on the CPU kernels; `latency-graph` and `latency-eager` on MindSpore's
            operators; `latency-mindir`; `latency-onnxruntime`; `latency-openvino`; `latency-cpp`, the
            C++ program on OpenVINO, between bins that this process writes and reads.

    Raises:
        Unsupported: it cannot run here.
    """

    parameters = 0
    remark = ""

    def __init__(self, name: str):
        self.folder = Path(os.environ[FOLDER_VARIABLE])
        self.kind = name.split("-")[1]
        self.case = Case("Case00", self.folder / "Case00.mhd", None)
        bundle = read_bundle(self.folder / "vnet_bundle")
        self.manager, self.postprocess = bundle.manager, bundle.postprocess
        self.taken: list[dict[str, float]] = []
        shape = bundle.content["models"]["ONNX"]["input"]["shape"]
        self.context = ExitStack()  # kept for the life of the process: a context that is collected would end
        if self.kind == "onnxruntime":
            self.predictor: Any = OnnxPredictor(bundle.folder / "model.onnx", shape)
        elif self.kind == "openvino":
            self.predictor = OpenVINOModel(bundle.folder / "model.onnx")
        elif self.kind == "cpp":
            self.program = self.folder / "build" / "main"
            if not self.program.is_file():
                raise Unsupported("the C++ program could not be built")
            self.predictor = None
        else:
            self._start_mindspore(bundle.folder / "model.mindir", shape)

    def _start_mindspore(self, mindir: Path, shape: list[int]) -> None:
        create_backend("CPU")
        if self.kind != "kernels":
            self.context.enter_context(stock_kernels())
        elif kernels() is None:
            raise Unsupported("no CPU kernels could be built")
        if self.kind == "mindir":
            self.predictor = MindIRPredictor(mindir, shape)
        else:
            self.predictor, _, _ = load_checkpoint_predictor(self.folder / "vnet.ckpt")
        if self.kind == "eager":
            ms.set_context(mode=ms.PYNATIVE_MODE)

    def step(self) -> float:
        """Take the case through all stages; return the mean probability."""
        began = time.perf_counter()
        image, _, native = read_case(self.case)
        read = time.perf_counter()
        block_image, block = self.manager.preprocess(image, native)
        preprocessed = time.perf_counter()
        stages = {"read": read - began, "preprocess": preprocessed - read}
        if self.kind == "cpp":
            probability = self._run_program(block_image, stages)
        else:
            probability = self.predictor.predict_block(block_image)
            stages["network"] = time.perf_counter() - preprocessed
        predicted = time.perf_counter()
        mask = self.postprocess.mask(self.manager.paste_back(probability, block, native))
        masked = time.perf_counter()
        self.manager.write_mask(self.folder / self.kind, self.case, mask, native)
        stages |= {"postprocess": masked - predicted, "write": time.perf_counter() - masked}
        self.taken.append(stages)
        return float(probability.mean())

    def _run_program(self, block_image: np.ndarray, stages: dict[str, float]) -> np.ndarray:
        """Let the C++ program predict a block; `stages` gets its own times, and `bins`, what lies between."""
        began = time.perf_counter()
        work = self.folder / "cpp"
        (work / "in").mkdir(parents=True, exist_ok=True)
        for number in range(REPEATS):
            block_image.astype("<f4").tofile(work / "in" / f"Case{number:02d}.bin")
        written = (time.perf_counter() - began) / REPEATS
        subprocess.run([self.program, "--device", "CPU", "--model_path", self.folder / "vnet_bundle" / "model.onnx",
                        "--input_path", work / "in", "--output_path", work / "out", "--time_path", work / "time"],
                       check=True, stdout=subprocess.DEVNULL)
        times = pd.read_csv(work / "time" / "cases.csv").median(numeric_only=True) / 1000
        began = time.perf_counter()
        probability = np.fromfile(work / "out" / "Case00_0.bin", "<f4").reshape(block_image.shape)
        stages["network"] = float(times["network_ms"])
        stages["bins"] = written + float(times["read_ms"] + times["write_ms"]) + time.perf_counter() - began
        return probability

    def profile(self) -> dict[str, float]:
        """Return the median seconds of each stage, the first case of all left out, and of their sum, `whole`."""
        steps = self.taken[1:]
        found = {stage: statistics.median(step[stage] for step in steps) for stage in steps[0]}
        return {**found, "whole": statistics.median(sum(step.values()) for step in steps)}
