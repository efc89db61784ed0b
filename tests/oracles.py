"""Not a test: what is computed another way, to compare with."""

import torch
from torch.nn import functional as F


def plain_nes2net(net, features):
    """The Nes2Net family as published, with the weights of a back_ends.nes2net.Nes2Net: features (B, T, C) to logits.

    Convolutions over (B, C, T), outputs that grow by concatenation, and for Nes2Net-X a stack of splits on a trailing
    axis of its own.
    """

    def activation(x):
        return torch.relu(x) if isinstance(net.activation, torch.nn.ReLU) else torch.selu(x)

    def norm(bn, x):
        if bn.training:
            bn.num_batches_tracked.add_(1)
        statistics = (bn.running_mean, bn.running_var)
        return F.batch_norm(x, *statistics, bn.weight, bn.bias, bn.training, bn.momentum, bn.eps)

    def block(block, x):
        out = norm(block.bn1, activation(F.conv1d(x, block.conv1.weight, block.conv1.bias)))
        splits = out.split(block.width, dim=1)
        out = piece = None
        for i, (conv, bn) in enumerate(zip(block.convs, block.bns)):
            dilation = conv.dilation[0]
            if block.weighted_sum is None:
                piece = piece + splits[i] if i else splits[i]
                piece = norm(bn, activation(F.conv1d(piece, conv.weight, conv.bias, 1, dilation, dilation)))
                result = piece
            else:
                piece = torch.cat([piece if i else splits[-1].unsqueeze(-1), splits[i].unsqueeze(-1)], dim=-1)
                piece = F.conv2d(piece, conv.weight, conv.bias, 1, (dilation, 0), (dilation, 1))
                piece = norm(bn, activation(piece))
                result = (piece * block.weighted_sum[i]).sum(dim=-1)
            out = torch.cat([out, result], dim=1) if i else result
        out = torch.cat([out, splits[-1]], dim=1)
        out = norm(block.bn3, activation(F.conv1d(out, block.conv3.weight, block.conv3.bias)))
        _, squeeze, relu, excite, gate = block.se.se
        gates = F.conv1d(out.mean(dim=2, keepdim=True), squeeze.weight, squeeze.bias)
        return out * gate(F.conv1d(relu(gates), excite.weight, excite.bias)) + x

    splits = features.transpose(1, 2).split(net.width, dim=1)
    out = piece = None
    for i, (inner, bn) in enumerate(zip(net.Build_in_Res2Nets, net.bns)):
        piece = piece + splits[i] if i else splits[i]
        piece = norm(bn, activation(block(inner, piece)))
        out = torch.cat([out, piece], dim=1) if i else piece
    out = activation(norm(net.bn, torch.cat([out, splits[-1]], dim=1)))
    if net.pooling is None:
        return net.fc(out.mean(dim=2))
    first, second = net.pooling.linear1, net.pooling.linear2
    attention = torch.tanh(F.conv1d(out, first.weight, first.bias))
    attention = torch.softmax(F.conv1d(attention, second.weight, second.bias), dim=2)
    mean = (attention * out).sum(dim=2)
    variance = (attention * out**2).sum(dim=2) - mean**2
    return net.fc(torch.cat([mean, variance.clamp(min=1e-10).sqrt()], dim=1))
