import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unet import UNet, double_by_products


def test_23_convolutional_layers_with_the_channels_of_the_paper_and_the_parameters():
    with torch.device("meta"):  # shapes alone
        plain, bilinear = UNet(), UNet(bilinear=True)
    layers = [m for m in plain.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert len(layers) == 23
    encoder = [64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024]
    decoder = [512, 512, 512, 256, 256, 256, 128, 128, 128, 64, 64, 64]
    assert [layer.out_channels for layer in layers] == [*encoder, *decoder, 1]
    # A step up convolves the skip connection together with what came from below: twice the channels.
    inputs = [1024, 1024, 512, 512, 512, 256, 256, 256, 128, 128, 128, 64, 64]
    assert [layer.in_channels for layer in layers[10:]] == inputs
    assert [sum(p.numel() for p in net.parameters()) for net in (plain, bilinear)] == [31_037_633, 17_262_977]


@pytest.mark.parametrize(("bilinear", "pixel_unshuffle"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("size", [(1, 1), (37, 100)])
def test_any_height_and_width(bilinear, size, pixel_unshuffle):
    model = UNet(width=2, bilinear=bilinear, pixel_unshuffle=pixel_unshuffle).eval()
    assert model(torch.randn(2, 3, *size)).shape == (2, 1, *size)


def test_padding_repeats_the_edge_and_is_cropped_away():
    torch.manual_seed(0)
    model = UNet(width=2).eval()
    image = torch.randn(1, 3, 40, 40)
    padded = torch.cat([image, image[..., -1:].expand(-1, -1, -1, 8)], dim=3)
    padded = torch.cat([padded, padded[..., -1:, :].expand(-1, -1, 8, -1)], dim=2)
    torch.testing.assert_close(model(image), model(padded)[..., :40, :40])


def test_a_network_with_a_stem_is_the_plain_one_between_unshuffle_and_shuffle():
    torch.manual_seed(0)
    model, inner = UNet(width=2, pixel_unshuffle=2).eval(), UNet(channels=12, classes=4, width=2).eval()
    inner.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, 64, 32)
    assert torch.equal(model(image), F.pixel_shuffle(inner(F.pixel_unshuffle(image, 2)), 2))


def test_doubling_by_products_is_bilinear_interpolation_and_so_is_its_gradient():
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear")
    doubled = double_by_products(x)
    torch.testing.assert_close(doubled, expected)
    assert doubled.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(torch.autograd.grad(doubled, x, grad), torch.autograd.grad(expected, x, grad))


def test_a_doubling_first_seen_in_validation_can_be_trained():
    sizes = torch.randn(1, 1, 7, 9)  # that no other test has seen
    with torch.inference_mode():
        double_by_products(sizes)
    double_by_products(sizes.requires_grad_()).sum().backward()
    assert sizes.grad.sum() == pytest.approx(4 * sizes.numel())
