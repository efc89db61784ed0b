"""ResNet, Res2Net and ECAPA-TDNN behind a dimension-reduction layer: outputs of other libraries, counts by hand.

The outputs were computed apart from this project's code, on the same weights and features behind the reduction:
- by torchvision 0.29.1, ResNet(BasicBlock, [2, 2, 2, 2], num_classes=2) with a first convolution of one channel in;
- by timm 1.0.29, ResNet(Bottle2neck, [2, 2, 2, 2], in_chans=1, base_width=26, block_args={"scale": 4});
- by the blocks of SpeechBrain 1.1.2's ECAPA_TDNN with zeros as padding, each fed the sum of all before it.
"""

import numpy as np
import pytest
import torch
from conftest import reference_weights
from torch import nn

from back_ends import BACK_ENDS, build_back_end
from back_ends.ecapa_tdnn import ContextPooling, SERes2Block
from back_ends.resnet import BasicBlock, Bottle2neck
from common.console import UserError
from model import ModelConfig, build_detector, count_parameters

OUTPUTS = {
    "ResNet": (64, [[0.564966, 0.119413], [0.208306, 0.267928]]),
    "Res2Net": (64, [[0.172796, -1.401817], [0.014791, -1.121767]]),
    "ECAPA_TDNN": (16, [[0.834277, 0.443962], [0.581230, 0.527667]]),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_other_libraries(name):
    channels, expected = OUTPUTS[name]
    back_end = BACK_ENDS[name](16, 2, reduced=24, channels=channels).eval()
    shapes = {key: list(tensor.shape) for key, tensor in back_end.state_dict().items()}
    back_end.load_state_dict(reference_weights(shapes))
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 50, 16)).astype(np.float32))
    with torch.no_grad():
        torch.testing.assert_close(back_end(x), torch.tensor(expected), rtol=0, atol=2e-5)


def conv(n_in, n_out, taps):
    """Parameters of a convolution without bias, and of its batch norm."""
    return taps * n_in * n_out + 2 * n_out


def basic(n_in, n_out):
    return conv(n_in, n_out, 9) + conv(n_out, n_out, 9) + (conv(n_in, n_out, 1) if n_in != n_out else 0)


def bottle2neck(n_in, channels):
    width, n_out = int(channels * 26 / 64), 4 * channels
    outside = conv(n_in, 4 * width, 1) + conv(4 * width, n_out, 1) + (conv(n_in, n_out, 1) if n_in != n_out else 0)
    return outside + 3 * conv(width, width, 9)


def test_parameters_by_hand():
    reduction, stem, widths = 1025 * 128, conv(1, 12, 49), (12, 24, 48, 96)
    resnet = sum(basic(a, b) + basic(b, b) for a, b in zip((12, *widths), widths))
    res2net = sum(bottle2neck(a, c) + bottle2neck(4 * c, c) for a, c in zip((12, 48, 96, 192), widths))

    def tdnn(n_in, n_out, taps=1):
        return conv(n_in, n_out, taps) + n_out  # with a bias

    block = 2 * tdnn(128, 128) + 7 * tdnn(16, 16, 3) + 129 * 32 + 33 * 128
    pool = tdnn(3 * 384, 32) + 33 * 384 + 2 * 768
    ecapa = tdnn(128, 128, 5) + 3 * block + 385 * 384 + pool + 769 * 48 + 2 * 48 + 49 * 2
    expected = {
        "ResNet": reduction + stem + resnet + 97 * 2,
        "Res2Net": reduction + stem + res2net + 385 * 2,
        "ECAPA_TDNN": reduction + ecapa,
    }
    for name, count in expected.items():
        with torch.device("meta"):
            assert count_parameters(build_back_end(ModelConfig(f"wav2vec2_{name}"), 1024)) == count, name
            assert f"{count:,} parameters" in BACK_ENDS[name].__doc__


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("block", [BasicBlock, Bottle2neck])
def test_a_block_whose_convolutions_give_nothing_is_its_shortcut(block, stride):
    torch.manual_seed(0)
    n_in = 8 * block.expansion
    layer, x = block(n_in, 8, stride).eval(), torch.randn(2, n_in, 6, 10)
    last = layer.bn2 if block is BasicBlock else layer.bn3
    nn.init.zeros_(last.weight)
    expected = x if stride == 1 else layer.downsample(x)
    torch.testing.assert_close(layer(x), torch.relu(expected))


@pytest.mark.parametrize("n_in, chained", [(32, True), (16, False)])
def test_splits_hear_those_before_them_but_in_the_first_block_of_a_stage(n_in, chained):
    torch.manual_seed(0)
    block, seen = Bottle2neck(n_in, 8, 1).eval(), []
    block.conv3.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0].split(3, dim=1)))
    for split in range(4):
        seen.clear()
        for change in (0, 1):
            block.bn1.bias.data[3 * split : 3 * split + 3] += change
            block(torch.zeros(1, n_in, 5, 5))
        moved = [not torch.equal(before, after) for before, after in zip(seen[:4], seen[4:])]
        assert moved == [i == split or (chained and split < i < 3) for i in range(4)]


def test_frame_layers_hear_as_far_as_their_dilations():
    torch.manual_seed(0)
    for dilation in (2, 3, 4):
        block, x = SERes2Block(128, dilation).eval(), torch.zeros(1, 128, 101)
        block.se = nn.Identity()  # which hears all frames
        moved = x.clone()
        moved[..., 50] = 1
        frames = (block(moved) - block(x)).abs().sum(dim=(0, 1)).nonzero().flatten() - 50
        assert frames.min() == -7 * dilation and frames.max() == 7 * dilation  # one step a split, of seven


def test_pooling_without_attention_is_the_plain_mean_and_deviation():
    torch.manual_seed(0)
    pool, x = ContextPooling(5, 4).double().eval(), torch.randn(2, 5, 9, dtype=torch.float64)
    order = torch.randperm(9)
    torch.testing.assert_close(pool(x[..., order]), pool(x))
    nn.init.zeros_(pool.attention[-1].weight)
    expected = torch.cat([x.mean(dim=2), x.std(dim=2, correction=0)], dim=1)
    torch.testing.assert_close(pool(x), expected)


def test_channels_that_make_no_splits_are_named():
    with pytest.raises(UserError, match="--back_end_options channels 12: .* 8"):
        build_detector(ModelConfig("wav2vec2_ECAPA_TDNN", ssl="tiny", back_end_options={"channels": 12}))
