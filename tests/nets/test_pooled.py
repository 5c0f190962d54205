"""Networks as extractors: a size that one can't take is told as such, and no other fault is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stages.errors import UsageError
from stages.nets.pooled import Pooled


class Raising(nn.Module):
    """Fails for pictures that are not 32 pixels wide, or for all."""

    def __init__(self, error: Exception, always: bool) -> None:
        super().__init__()
        self.error, self.always, self.pretrained_cfg = error, always, {"input_size": (3, 32, 32)}

    def forward(self, images: Tensor) -> Tensor:
        if self.always or images.shape[-1] != 32:
            raise self.error
        return images.mean((-2, -1))


def test_a_size_that_the_network_is_not_made_for():
    net = Pooled(Raising(AssertionError("Input height (48) doesn't match model (32)"), always=False))
    assert net(torch.ones(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(UsageError, match=r"no pictures of 48 x 64 pixels \(Input height.*; give --size 32"):
        net(torch.ones(2, 3, 48, 64))


@pytest.mark.parametrize(("error", "always"), [
    (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
    (RuntimeError("CUDA error: device-side assert triggered"), True),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), False)])
def test_other_faults_stay_what_they_are(error, always):
    with pytest.raises(RuntimeError) as raised:
        Pooled(Raising(error, always))(torch.ones(1, 3, 48, 64))
    assert raised.value is error
