"""Networks as feature extractors: an unsupported image size is a usage error, and other errors pass unchanged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stages.errors import UsageError
from stages.nets.feature_extractor import PooledNet


class RaisingNet(nn.Module):
    """A network that fails for images that are not 32 pixels wide, or for all images."""

    def __init__(self, error: Exception, is_broken: bool) -> None:
        super().__init__()
        self.error, self.is_broken, self.pretrained_cfg = error, is_broken, {"input_size": (3, 32, 32)}

    def forward(self, images: Tensor) -> Tensor:
        if self.is_broken or images.shape[-1] != 32:
            raise self.error
        return images.mean((-2, -1))


def test_unsupported_image_size_is_a_usage_error():
    net = PooledNet(RaisingNet(AssertionError("Input height (48) doesn't match model (32)"), is_broken=False))
    assert net(torch.ones(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(UsageError, match=r"no images of 48 x 64 pixels \(Input height.*\. Resize .* --size 32"):
        net(torch.ones(2, 3, 48, 64))


@pytest.mark.parametrize(("error", "is_broken"), [
    (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
    (RuntimeError("CUDA error: device-side assert triggered"), True),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), False)])
def test_other_errors_pass_unchanged(error, is_broken):
    with pytest.raises(RuntimeError) as raised:
        PooledNet(RaisingNet(error, is_broken))(torch.ones(1, 3, 48, 64))
    assert raised.value is error
