"""From logits to probabilities, as evaluation and the exported model give them."""

from mindspore import Tensor, nn, ops


class ForegroundProbability(nn.Cell):
    """Softmax over the channels of `network`'s logits, from an image (N, channels, X, Y, Z), or (N, channels, H, W).

    Two logits: probability (N, X, Y, Z) of class 1, the foreground. One: its sigmoid, the same. More: the probability
    (N, C, X, Y, Z) of every class. Of pictures in the same way (N, H, W) and (N, C, H, W).
    """

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network
        # A slice of one channel as a gather: MindSpore's strided slice takes some ten times as long on CPU.
        self.background, self.foreground = Tensor(0), Tensor(1)

    def construct(self, x: Tensor) -> Tensor:
        logits = self.network(x).astype(ops.dtype(x))
        if logits.shape[1] == 1:
            return ops.sigmoid(logits[:, 0])
        if logits.shape[1] == 2:
            # The same for two classes, without a softmax over a strided axis, which is slow on CPU.
            return ops.sigmoid(ops.gather(logits, self.foreground, 1) - ops.gather(logits, self.background, 1))
        return ops.softmax(logits, axis=1)
