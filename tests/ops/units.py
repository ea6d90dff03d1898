"""A unit called through the kernel library, and the same unit in float64."""

from dataclasses import dataclass, field

import numpy as np

from src.ops.cpu.library import KernelLibrary, from_bf16, to_bf16
from src.ops.cpu.unit_op import UnitForm
from tests.ops import reference as ref

EPSILON, MOMENTUM = 1e-5, 0.9
ONE = np.zeros(1, np.float32)
GRADIENTS = ("dx", "dresidual", "dweight", "dbias", "dgamma", "dbeta", "dslope", "dslope2")


def aligned(shape: tuple[int, ...], value: float, dtype: type) -> np.ndarray:
    """Return an array at a whole cache line, as MindSpore's are; the kernels stream to no others."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(count + 64, np.uint8)
    start = -memory.ctypes.data % 64
    array = memory[start:start + count].view(dtype).reshape(shape)
    array[...] = value
    return array


@dataclass
class UnitCase:
    """Random inputs of one unit; volumes are plain float64 arrays of values that the storage type holds exactly."""

    form: UnitForm
    in_channels: int
    size: tuple[int, int, int]
    samples: int = 1
    skip_channels: int = 0
    storage: str = "float32"
    algorithm: str = "auto"
    seed: int = 0
    values: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        form, n, channels = self.form, self.samples, self.form.channels
        plain_input = form.kind == "input"
        x = rng.normal(size=(n, self.in_channels, *self.size))
        pair = (self.in_channels, channels) if form.kind == "up" else (channels, self.in_channels)
        out = self.conv_shape()
        self.values = {
            "x": x.astype(np.float32).astype(np.float64) if plain_input else self.exact(x),
            "residual": self.exact(rng.normal(size=out)),
            "skip": self.exact(rng.normal(size=(n, self.skip_channels, *out[2:]))),
            "keep": np.where(rng.random((n, self.skip_channels)) < 0.5, 0, 2).astype(np.float32),
            "weight": (rng.normal(size=(*pair, *(form.kernel,) * 3)) / form.kernel).astype(np.float32),
            "dout": self.exact(rng.normal(size=(n, channels + self.skip_channels, *out[2:]))),
            **{name: rng.normal(size=channels).astype(np.float32)
               for name in ("bias", "gamma", "beta", "mean", "slope", "slope2")},
            "variance": rng.uniform(0.5, 2, channels).astype(np.float32)}

    def exact(self, x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float32)
        return (from_bf16(to_bf16(x)) if self.storage == "bfloat16" else x).astype(np.float64)

    def conv_shape(self) -> tuple[int, ...]:
        factor = {"down": 0.5, "up": 2}.get(self.form.kind, 1)
        return (self.samples, self.form.channels, *(int(n * factor) for n in self.size))

    # The unit in float64.

    def convolved(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        if self.form.kind == "up":
            return ref.conv_transpose(x, weight, 2)
        return ref.conv(x, weight, *self._geometry())

    def _geometry(self) -> tuple[int, int]:
        return (2, 0) if self.form.kind == "down" else (1, self.form.kernel // 2)

    def normalised(self, y: np.ndarray, training: bool) -> np.ndarray:
        v = self.values
        if not self.form.norm:
            return y
        if self.form.instance:  # in evaluation too
            return np.concatenate([ref.batch_norm(y[n:n + 1], v["gamma"], v["beta"], EPSILON)
                                   for n in range(len(y))])
        if training:
            return ref.batch_norm(y, v["gamma"], v["beta"], EPSILON)
        shape = (1, -1, 1, 1, 1)
        inverse = v["gamma"].astype(np.float64) / np.sqrt(v["variance"].astype(np.float64) + EPSILON)
        return (y - v["mean"].reshape(shape)) * inverse.reshape(shape) + v["beta"].reshape(shape)

    def added(self) -> np.ndarray | float:
        return {"none": 0.0, "given": self.values["residual"], "own": self.values["x"],
                "image": self.values["x"]}[self.form.residual]

    def expected(self, training: bool = True) -> np.ndarray:
        v, form = self.values, self.form
        y = self.convolved(v["x"], v["weight"]) + v["bias"].astype(np.float64).reshape(1, -1, 1, 1, 1)
        out = ref.act(form.act, self.normalised(y, training), v["slope"]) + self.added()
        out = ref.act(form.residual_act, out, v["slope2"])
        return np.concatenate((out, v["skip"] * v["keep"][:, :, None, None, None]), 1) if form.joined else out

    def expected_gradients(self) -> dict[str, np.ndarray]:
        v, form = self.values, self.form
        y = self.convolved(v["x"], v["weight"]) + v["bias"].astype(np.float64).reshape(1, -1, 1, 1, 1)
        z = self.normalised(y, True)
        dout = v["dout"][:, :form.channels]
        dsum, dslope2 = ref.act_gradients(form.residual_act, ref.act(form.act, z, v["slope"]) + self.added(), dout,
                                          v["slope2"])
        dz, dslope = ref.act_gradients(form.act, z, dsum, v["slope"])
        gradients = {"dslope": dslope, "dslope2": dslope2, "dresidual": dsum}
        if form.instance:
            parts = [ref.batch_norm_gradients(y[n:n + 1], v["gamma"], EPSILON, dz[n:n + 1]) for n in range(len(y))]
            dz = np.concatenate([part[0] for part in parts])
            gradients["dgamma"], gradients["dbeta"] = (sum(part[i] for part in parts) for i in (1, 2))
            gradients["dbias"] = np.zeros(form.channels)
        elif form.norm:
            dz, gradients["dgamma"], gradients["dbeta"] = ref.batch_norm_gradients(y, v["gamma"], EPSILON, dz)
            gradients["dbias"] = np.zeros(form.channels)
        else:
            gradients["dbias"] = dz.sum((0, 2, 3, 4))
        if form.kind == "up":
            dx, gradients["dweight"] = ref.conv_transpose_gradients(v["x"], v["weight"], dz, 2)
        else:
            dx, gradients["dweight"] = ref.conv_gradients(v["x"], v["weight"], dz, *self._geometry())
        gradients["dx"] = dx + dsum if form.residual == "own" else dx
        if form.joined:
            gradients["dresidual"] = v["dout"][:, form.channels:] * v["keep"][:, :, None, None, None]
        return gradients

    # The unit by the kernels.

    def stored(self, x: np.ndarray) -> np.ndarray:
        values = ref.blocked(x)
        return to_bf16(values) if self.storage == "bfloat16" else values

    def read(self, x: np.ndarray) -> np.ndarray:
        return ref.plain(from_bf16(x) if x.dtype == np.uint16 else x) if x.ndim == 6 else x.astype(np.float64)

    def inputs(self) -> dict[str, np.ndarray]:
        v, form = self.values, self.form
        x = v["x"].astype(np.float32) if form.kind == "input" else self.stored(v["x"])
        residual = self.stored(v["residual"]) if form.residual == "given" else x if form.residual == "image" else ONE
        return {"config": form.config(self.algorithm).asnumpy(), "constants": np.array([EPSILON, MOMENTUM], np.float32),
                "x": x, "residual": self.stored(v["skip"]) if form.joined else residual,
                "keep": v["keep"] if form.joined else ONE, "weight": v["weight"], "bias": v["bias"],
                **{name: v[name].copy() if form.norm else ONE.copy() for name in ("gamma", "beta", "mean", "variance")},
                "slope": v["slope"] if form.act == "prelu" else ONE,
                "slope2": v["slope2"] if form.residual_act == "prelu" else ONE}

    def _volume(self, channels: int, size: tuple[int, ...], plain: bool = False) -> np.ndarray:
        """Return an output full of NaN, so that a value that is not written shows."""
        if plain:
            return aligned((self.samples, channels, *size), np.nan, np.float32)
        shape = (self.samples, channels // ref.LANES, *size, ref.LANES)
        return aligned(shape, 0x7FC0, np.uint16) if self.storage == "bfloat16" else aligned(shape, np.nan, np.float32)

    def forward(self, library: KernelLibrary) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        inputs, size, plain = self.inputs(), self.conv_shape()[2:], self.form.kind == "output"
        kept = self._volume(self.form.channels, size, plain)
        outputs = [kept if self.form.kind in ("same", "output") else kept.ravel()[:1].copy(),
                   self._volume(self.form.channels + self.skip_channels, size, plain),
                   np.full((*[self.samples] * self.form.instance, 2, self.form.channels), np.nan, np.float32)]
        library.call("UnitForward", list(inputs.values()), outputs)
        return inputs, outputs

    def inference(self, library: KernelLibrary) -> np.ndarray:
        out = self._volume(self.form.channels + self.skip_channels, self.conv_shape()[2:], self.form.kind == "output")
        library.call("UnitInference", list(self.inputs().values()), [out])
        return out

    def backward(self, library: KernelLibrary) -> dict[str, np.ndarray]:
        inputs, (y, _, stats) = self.forward(library)
        dout = self.values["dout"]
        dout = dout.astype(np.float32) if self.form.kind == "output" else self.stored(dout)
        names = ("x", "residual", "weight", "bias", "gamma", "beta", "slope", "slope2")
        outputs = [aligned(inputs[name].shape, np.nan if inputs[name].dtype != np.uint16 else 0x7FC0,
                           inputs[name].dtype.type) for name in names]
        if self.form.kind == "input":
            outputs[0] = ONE.copy()
        library.call("UnitBackward", [inputs[name] for name in ("config",)] + [dout] + [
            inputs[name] for name in ("x", "residual", "keep", "weight", "bias")] + [y, stats] + [
            inputs[name] for name in ("gamma", "beta", "slope", "slope2")], outputs)
        return dict(zip(GRADIENTS, outputs, strict=True))
