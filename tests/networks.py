"""Small networks with known answers, for tests of what is built around them."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2fcore import C2FConfig, C2FNet

# Every output form that a network may have; the entries after the first are auxiliary outputs.
FORMS = {
    "tensor": lambda logits: logits,
    "dict_out": lambda logits: OrderedDict(out=logits, aux=logits * 0),
    "dict_logits": lambda logits: {"logits": logits},
    "tuple": lambda logits: (logits, logits * 0),
    "list": lambda logits: [logits],
    "attribute": lambda logits: SimpleNamespace(loss=None, logits=logits),
    "nested": lambda logits: ({"out": logits}, None),
    "float64": lambda logits: logits.double(),
}


class Counting(nn.Module):
    """Base of the networks below: remembers the shapes it was called with, answers in any form."""

    def __init__(self, form: str = "tensor") -> None:
        super().__init__()
        self.form = form
        self.shapes: list[tuple[int, ...]] = []
        self.inputs: list[Tensor] = []

    def logits(self, image: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, image: Tensor) -> Any:
        self.shapes.append(tuple(image.shape))
        self.inputs.append(image.detach().clone())
        return FORMS[self.form](self.logits(image))


class Coarse(Counting):
    """Class 0 where all is dark; class c where channel c - 1 is brightest. Logits at 1/`ratio`.

    A black image is class 0 everywhere unless `black` names another class.
    """

    def __init__(
        self, num_classes: int = 4, ratio: int = 4, form: str = "tensor", black: int = 0
    ) -> None:
        super().__init__(form)
        self.ratio = ratio
        self.stride_multiple = 8
        weight = torch.zeros(num_classes, 3, 1, 1)
        for c in range(1, min(num_classes, 4)):
            weight[c, c - 1] = 4.0
        bias = torch.zeros(num_classes)
        bias[black] = 1.0
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def logits(self, image: Tensor) -> Tensor:
        return F.avg_pool2d(F.conv2d(image, self.weight, self.bias), self.ratio)


class Conv(nn.Conv2d):
    """With a forward of its own: torch 2.11 compiles no outermost module of torch.nn."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image)


class Fine(Counting):
    """Foreground where channel 0 or 2 is bright, pixel by pixel: no pixel knows its neighbours."""

    def __init__(self, channels: int = 1, form: str = "tensor", stride_multiple: int = 8) -> None:
        super().__init__(form)
        self.channels = channels
        self.stride_multiple = stride_multiple
        self.weight = nn.Parameter(torch.tensor([8.0, -8.0, 8.0]).reshape(1, 3, 1, 1))
        self.bias = nn.Parameter(torch.tensor([-3.0]))

    def logits(self, image: Tensor) -> Tensor:
        found = F.conv2d(image, self.weight, self.bias)
        return found if self.channels == 1 else torch.cat((-0.25 * found, 0.75 * found), dim=1)


class Refusing(nn.Module):
    """A network that must not be run."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> Tensor:
        raise AssertionError("this network must not be run")


class Answering(nn.Module):
    """Answers with `output`, whatever it sees."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, image: Tensor) -> Any:
        return self.output


class Learner(nn.Module):
    """A network that can learn, with batch norm also behind a global pooling (1 x 1 pixels)."""

    stride_multiple = 4

    def __init__(self, channels: int, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.pooled = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)
        )
        self.last = nn.Conv2d(width, channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        features = F.relu(self.norm(self.first(image)))
        logits: Tensor = self.last(features + self.pooled(features))
        return logits


BASE: dict[str, Any] = {
    "num_classes": 4, "small_classes": (1, 3), "window": 32, "stride": 8, "zoom": 1.0,
}  # fmt: skip


def network(
    coarse: nn.Module | None = None, fine: nn.Module | None = None, **options: Any
) -> C2FNet:
    """A C2FNet of the networks above in eval mode, configured by BASE and `options`."""
    return C2FNet(coarse or Coarse(), fine or Fine(), C2FConfig(**{**BASE, **options})).eval()


def scene(
    height: int, width: int, objects: int, seed: int = 0, batch: int = 1
) -> tuple[Tensor, Tensor]:
    """Dark noise uint8 [B, 3, H, W] with bright squares, and labels [B, H, W].

    Class 1 shines in channel 0, class 2 in channel 1, class 3 in channel 2; classes alternate.
    """
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 40, (batch, 3, height, width), generator=generator, dtype=torch.uint8)
    labels = torch.zeros((batch, height, width), dtype=torch.uint8)
    for b in range(batch):
        for i in range(objects):
            side = 5 + i % 9
            y = int(torch.randint(0, max(1, height - side), (1,), generator=generator))
            x = int(torch.randint(0, max(1, width - side), (1,), generator=generator))
            where = (b, slice(y, y + side), slice(x, x + side))
            image[b, :, y : y + side, x : x + side] //= 4
            image[b, i % 3, y : y + side, x : x + side] = 200 + 5 * (i % 10)
            labels[where] = 1 + i % 3
    return image, labels
