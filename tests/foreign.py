"""Splits as their users write them, with nothing of this project in them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A residual block with BatchNorm."""

    def __init__(self, width: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.down = nn.Conv2d(width, out, 1, stride) if (stride, width) != (1, out) else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += x if self.down is None else self.down(x)
        return F.relu(y)


class SmallResNet(nn.Module):
    """The front of a small ResNet for (3, 32, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.layer1 = Block(8, 8)
        self.layer2 = Block(8, 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer2(self.layer1(self.stem(x)))


class Pooled(nn.Module):
    """What comes after a convolutional front: pooling and a dense layer."""

    def __init__(self, width: int, classes: int = 4) -> None:
        super().__init__()
        self.out = nn.Linear(width, classes)

    def forward(self, z: Tensor) -> Tensor:
        return self.out(z.mean((2, 3)))


def group_norm_front() -> nn.Module:
    """A front with GroupNorm and strides for (3, 64, 64)."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, 2, 2), nn.GroupNorm(4, 16), nn.SiLU(),
        nn.Conv2d(16, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.SiLU(),
    )  # fmt: skip


def mlp_front() -> nn.Module:
    """A front for rows of 12 columns."""
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())


def mlp_rest() -> nn.Module:
    """What comes after it, for two classes."""
    return nn.Sequential(nn.Linear(16, 2))


class PatchTransformer(nn.Module):
    """Patches of 4 x 4 as tokens, with positions, and a block of self-attention; (1, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 24, 4, 4)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, 24))
        self.block = nn.TransformerEncoderLayer(24, 4, 48, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.position
        return self.block(tokens)


class TokenHead(nn.Module):
    """The mean of the tokens, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(24, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(tokens.mean(1))


class Bottleneck(nn.Module):
    """A bottleneck as in ResNet-50."""

    def __init__(self, width: int, inner: int, out: int) -> None:
        super().__init__()
        self.reduce, self.bn1 = nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv, self.bn2 = nn.Conv2d(inner, inner, 3, 1, 1, bias=False), nn.BatchNorm2d(inner)
        self.expand, self.bn3 = nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential(nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.reduce(x)))
        y = F.relu(self.bn2(self.conv(y)))
        return F.relu(self.bn3(self.expand(y)) + self.shortcut(x))


class ResNet50Front(nn.Module):
    """The stem of a ResNet-50 and its first bottleneck, for (3, 64, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = Bottleneck(64, 64, 256)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer1(self.maxpool(F.relu(self.bn1(self.conv1(x)))))


def blobs(count: int, shape: tuple[int, int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) of a soft spot, each in one of four corners, and which it is (N,)."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    channels, height, width = shape
    down, across = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    centres = torch.stack([labels // 2, labels % 2]) * 0.5 + 0.25
    centres = centres + 0.08 * torch.randn(2, count, generator=draw)
    distance = (down - centres[0, :, None, None]) ** 2 + (across - centres[1, :, None, None]) ** 2
    spots = torch.exp(-distance * (20 + 20 * torch.rand(count, 1, 1, generator=draw)))
    colours = 0.4 + 0.6 * torch.rand(count, channels, 1, 1, generator=draw)
    return (colours * spots[:, None]).clamp(0, 1), labels


def table(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows (N, 12) in units of their own, and a class (N,) that depends on them."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 12, generator=draw)
    labels = (rows[:, :3].sum(1) > 0).long()
    return rows * torch.linspace(0.1, 50, 12) + torch.linspace(-20, 20, 12), labels
