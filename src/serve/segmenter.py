"""Volumes to masks: one thread for the network, others that read and write beside it."""

import logging
import math
import re
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from src.data.case import Case, split_volume_name
from src.data.case_files import read_case
from src.data.data_manager import DataManager
from src.errors import DataError, UserError
from src.inference.evaluate import NativeCase, segment
from src.inference.predictor import Predictor
from src.inference.sliding_window import WindowPredictor
from src.inference.source import Source
from src.inference.tta import MirrorPredictor
from src.inference.volumes import label_problem
from src.serve.job import Job
from src.serve.limits import Limits, Refusal, from_upload
from src.serve.unpack import unpack

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ITK = re.compile(r"ITK ERROR: |(?:itk::)?\w+ ?\(0x[0-9A-Fa-f]+\):? ?")  # with addresses in our memory


@dataclass(frozen=True, eq=False)
class Answer:
    """What became of a volume.

    Attributes:
        name: of the mask's file.
        content: of the same.
        case: the volume, on its own grid.
        mask: (x, y, z) uint8 of the classes' numbers.
        job: with the seconds of each stage.
    """

    name: str
    content: bytes
    case: NativeCase
    mask: np.ndarray
    job: Job


class Segmenter:
    """A network, and the one thread that runs it: MindSpore's graphs are made and run in the same thread.

    Args:
        load: gives the network; called in that thread.
        limits: of volumes.

    Raises:
        UserError: of `load`; or the recipe is not of volumes of one channel.
    """

    def __init__(self, load: Callable[[], Source], limits: Limits):
        self.limits = limits
        self._network = ThreadPoolExecutor(1, "network")
        self._readers = ThreadPoolExecutor(limits.readers, "reader")
        self._current: Job | None = None
        self._began: float | None = None
        try:
            self.source = self._network.submit(self._start, load).result()
        except BaseException:
            self.close()
            raise

    def submit(self, job: Job, stream: BinaryIO, name: str, form: Callable[[Answer], T]) -> "Future[T]":
        """Return the future of what `form`, in the same thread, makes of the answer to an upload, see `run`."""
        return self._readers.submit(lambda: form(self.run(job, stream, name)))

    def run(self, job: Job, stream: BinaryIO, name: str) -> Answer:
        """Read an upload, segment it and write its mask, of the same kind of file and with the same geometry.

        Args:
            job: by which it is cancelled.
            stream: of the uploaded bytes.
            name: that the client gave the file.

        Raises:
            Refusal: the upload cannot be segmented, or the network's answer is no probability (500).
            ClientGone: the job was cancelled.
        """
        job.start()
        with tempfile.TemporaryDirectory(prefix="vnet-serve-") as place:
            folder = Path(place)
            (folder / "in").mkdir()
            job.check()
            case = unpack(stream, name, folder / "in", self.limits)
            try:
                loaded = self._load(job, case)
                mask = segment(_Turn(self, job), self.source.manager, loaded, self.source.postprocess)
                job.mark("postprocess")
                paths = self.source.manager.write_mask(folder / "out", case, mask, loaded.native)
            except DataError as error:
                raise Refusal(422, "\n".join(_without(folder, case, problem) for problem in error.problems)) from error
            except UserError as error:  # no fault of the volume, which was read
                logger.error("%s", _from_upload(case).sub("...", str(error)))
                raise Refusal(500, "the network or the disk of this service failed; its log says how") from error
            except MemoryError as error:
                raise Refusal(503, "not enough memory for this volume now; try again later, or crop it", 30) from error
            answer = Answer(*_collect(folder / "out", paths), loaded, mask, job)
            job.mark("write")
        return answer

    def close(self) -> None:
        """Let what runs end, and take nothing more."""
        self._readers.shutdown(cancel_futures=True)
        self._network.shutdown(cancel_futures=True)

    def _start(self, load: Callable[[], Source]) -> Source:
        source = load()
        if type(source.manager) is not DataManager:
            raise UserError(f"{source.title}: its recipe is of the task {source.recipe.get('task')!r}, and serve.py "
                            "takes volumes of one channel; use predict.py")
        predictor = source.predictor
        if isinstance(predictor, WindowPredictor | MirrorPredictor):
            # Between windows or copies a job can end whose client has left; a single block takes a second or so.
            predictor.predictor = _Checked(predictor.predictor, self)
        # The first run compiles the graph, which would take the first client's time.
        predictor.predict_block(np.zeros(source.manager.volume_size, np.float32))
        return source

    def _load(self, job: Job, case: Case) -> NativeCase:
        """Read a volume and prepare it, as `load_native` does, looking at its size on the network's grid in between."""
        manager = self.source.manager
        image, _, native = read_case(case, manager.classes)
        job.mark("read")
        if problem := label_problem(image):
            raise DataError([f"{case.image_path}: {problem}; send the image"])
        try:
            size = manager.block_geometry(native).size
        except (ValueError, OverflowError) as error:  # spacing or origin beyond what can be reckoned with
            raise Refusal(422, f"{from_upload(case.image_path.name)}: spacing {native.spacing} mm and origin "
                               f"{native.origin} mm give no grid for the network; correct them in the header"
                          ) from error
        if math.prod(size) > self.limits.voxels:
            raise Refusal(413, f"at the network's {manager.spacing} mm the volume has {' x '.join(map(str, size))} "
                               f"voxels, expected at most {self.limits.voxels} in all; check the spacing in its "
                               f"header, {native.spacing} mm, or crop it")
        try:
            block, grid = manager.preprocess(image, native)
        except DataError as error:  # which tells the network's owner to change the recipe
            remedy = f"check that the image is not blank around its centre, and its spacing, {native.spacing} mm"
            raise DataError([f"{problem.partition(';')[0]}; {remedy}" for problem in error.problems]) from error
        job.mark("preprocess")
        return NativeCase(case.case_id, image, None, native, block, grid)

    def predict(self, job: Job, block: np.ndarray) -> np.ndarray:
        """Return the probability of a block; in the network's thread only."""
        job.mark("wait")
        self._current, self._began = job, time.monotonic()
        try:
            return self.source.predictor.predict_block(block)
        finally:
            self._current = self._began = None
            job.mark("network")

    def in_turn(self, job: Job, block: np.ndarray) -> np.ndarray:
        """Return the probability of a block, when it is the job's turn."""
        return job.turn(self._network, self.predict, job, block)

    def busy_seconds(self) -> float:
        """Return for how long the network has been at its present volume; 0 while it is at none."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def check_current(self) -> None:
        """End the job whose block is with the network when nobody waits for it any more."""
        if self._current is not None:
            self._current.check()


class _Turn:
    """A predictor that waits for the network's thread."""

    def __init__(self, segmenter: Segmenter, job: Job):
        self.path = segmenter.source.predictor.path
        self._segmenter = segmenter
        self._job = job

    def predict_block(self, image: np.ndarray) -> np.ndarray:
        self._job.mark("preprocess")  # of a further look; that of the first is marked already
        return self._segmenter.in_turn(self._job, image)


class _Checked:
    """A predictor that looks before each block whether somebody still waits for it."""

    def __init__(self, predictor: Predictor, segmenter: Segmenter):
        self.path = predictor.path
        self._predictor = predictor
        self._segmenter = segmenter

    def predict_block(self, image: np.ndarray) -> np.ndarray:
        self._segmenter.check_current()
        return self._predictor.predict_block(image)


def _without(folder: Path, case: Case, problem: str) -> str:
    """Return a problem without our own folders and addresses, which say nothing to the client; names are marked."""
    text = problem.removeprefix(f"{case.case_id}: ").replace(f"{folder}/in/", "").replace(f"{folder}/in", "the upload")
    text = _ITK.sub("", text)
    text = text if text.startswith((case.case_id, case.image_path.name)) else f"{case.case_id}: {text}"
    return _from_upload(case).sub(lambda found: from_upload(found[0]), text)


def _from_upload(case: Case) -> re.Pattern[str]:
    """Return what finds, in a text, the names of an upload's files and its mask's, and what is quoted of its header."""
    stem = re.escape(split_volume_name(case.case_id)[0])
    return re.compile(rf"(?<!\w)(['\"]).*?\1(?!\w)|(?<!\w){stem}(?:_test)?\.(?:nii\.gz|\w+)", re.DOTALL)


def _collect(folder: Path, paths: list[Path]) -> tuple[str, bytes]:
    """Return name and content of the mask: of its only file, or of a zip of header and voxels."""
    (path,) = paths
    files = sorted(folder.iterdir())
    if len(files) == 1:
        return path.name, path.read_bytes()
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:  # the voxels are compressed already
        for file in files:
            # A fixed date: the same volume gives the same bytes.
            archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes())
    return path.with_suffix(".zip").name, packed.getvalue()
