"""A rank's part of the network as compiled graphs: forward and backward of a stage, or both of the last one at once."""

from collections.abc import Sequence

from mindspore import Parameter, Tensor, nn, ops

from src.networks.unet3d import run_blocks


class _Blocks(nn.Cell):
    """Live tensors in, live tensors out, through a run of blocks whose names stay those in the network."""

    def __init__(self, blocks: Sequence[nn.Cell], counts: bool):
        super().__init__(auto_prefix=False)
        self.blocks = nn.CellList(list(blocks), auto_prefix=False)
        self.counts = counts

    def construct(self, *live: Tensor) -> tuple[Tensor, ...]:
        return run_blocks(self.blocks, live, self.counts)


class _BlocksLoss(nn.Cell):
    """Label and live tensors in, loss out."""

    def __init__(self, blocks: Sequence[nn.Cell], loss: nn.Cell):
        super().__init__(auto_prefix=False)
        self.blocks = nn.CellList(list(blocks), auto_prefix=False)
        self.loss = loss

    def construct(self, label: Tensor, *live: Tensor) -> Tensor:
        return self.loss(run_blocks(self.blocks, live, True)[0], label)


class _Backward(nn.Cell):
    """Inputs and then gradients of the outputs in; gradients of inputs and parameters out. Computes forward anew."""

    def __init__(self, blocks: _Blocks, parameters: Sequence[Parameter], inputs: int):
        super().__init__(auto_prefix=False)
        self.blocks = blocks
        self.parameters = tuple(parameters)
        self.inputs = max(inputs, 1)
        self.first = inputs == 0
        self.grad = ops.GradOperation(get_all=not self.first, get_by_list=True, sens_param=True)

    # Not two tuples: MindSpore takes the tensors of a tuple for constants, and compiles anew for others.
    def construct(self, *tensors: Tensor) -> tuple:
        gradients = self.grad(self.blocks, self.parameters)(*tensors[:self.inputs], tensors[self.inputs:])
        if self.first:
            return (), gradients
        return gradients


class Stage(nn.Cell):
    """A stage that is not the last: sends live tensors on, and gets their gradients back.

    Nothing is kept between the two passes but the stage's input: the backward pass computes forward again. Its batch
    norms count a micro-batch in the backward pass.

    Args:
        blocks: of the network, in order.
        inputs: number of live tensors that it gets; 0 for the image, whose gradient nobody needs.
    """

    def __init__(self, blocks: Sequence[nn.Cell], inputs: int = 0):
        super().__init__(auto_prefix=False)
        self.forward = _Blocks(blocks, counts=False)
        self.parameters = tuple(self.forward.trainable_params())
        self.differentiated = _Backward(_Blocks(blocks, counts=True), self.parameters, inputs)

    def run_forward(self, live: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the live tensors after the stage."""
        return self.forward(*live)

    def run_backward(self, live: Sequence[Tensor],
                     sens: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the gradients of the stage's inputs (none for an image) and of its trainable parameters."""
        return self.differentiated(*live, *sens)


class LastStage(nn.Cell):
    """The stage that ends in the loss: forward and backward are one graph, nothing is computed twice.

    Args:
        blocks: of the network, in order.
        loss: of (logits, label).
        inputs: number of live tensors that it gets; 0 when it is the only stage, whose image needs no gradient.
    """

    def __init__(self, blocks: Sequence[nn.Cell], loss: nn.Cell, inputs: int):
        super().__init__(auto_prefix=False)
        self.forward = _BlocksLoss(blocks, loss)
        self.parameters = tuple(self.forward.trainable_params())
        self.inputs = inputs
        # Of a single place MindSpore gives the gradient alone, not in a tuple.
        positions = {0: None, 1: 1}.get(inputs, tuple(range(1, inputs + 1)))
        self.value_and_grad = ops.value_and_grad(self.forward, positions, self.parameters)

    def construct(self, label: Tensor, *live: Tensor) -> tuple:
        loss, gradients = self.value_and_grad(label, *live)
        if self.inputs == 1:
            return loss, (gradients[0],), gradients[1]
        if self.inputs:
            return loss, gradients[0], gradients[1]
        return loss, (), gradients


def live_tensors(blocks: Sequence[nn.Cell], split: int) -> int:
    """Return how many tensors are alive between block `split` - 1 and block `split` of a 3-D U-Net."""
    return 1 + sum(int(block.keep) + int(block.pool) - int(block.join) for block in blocks[:split])
