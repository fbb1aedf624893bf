import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from ethoray.learning import Budget
from ethoray.methods.pixel_pca import PixelPCA
from ethoray.schema import SchemaError
from ethoray.testing import toy_batch, toy_spec, toy_stream

SPEC = toy_spec(needs="images")
STREAM = toy_stream(SPEC)
METHOD = PixelPCA(components=4, side=8, batches=6)


def fitted(method=METHOD, steps=6):
    encoder = method.build(SPEC)
    (progress,) = encoder.fit(STREAM, Budget(steps=steps, device="cpu"))
    return encoder, progress


def thumbnails(images):
    """Means of blocks of 4 x 4 pixels; images of 32 x 32 need no finer filter than the encoder's to be near them."""
    x = images.flatten(0, 1)[..., 0].double() / 255
    return torch.nn.functional.interpolate(x[:, None], (8, 8), mode="bilinear", antialias=True).flatten(1).numpy()


def test_it_is_scikit_learns_pca_of_the_training_thumbnails():
    encoder, progress = fitted()
    rows = np.concatenate([thumbnails(STREAM(step).images) for step in range(6)])
    theirs = PCA(4).fit(rows)
    np.testing.assert_allclose(encoder.mean, theirs.mean_, atol=1e-5)
    assert progress.metrics["explained_variance"] == pytest.approx(theirs.explained_variance_ratio_.sum(), rel=1e-4)
    batch = toy_batch(SPEC, 12)
    mine, expected = encoder.embed(batch)["pixels"][0, :, 0].numpy(), theirs.transform(thumbnails(batch.images))
    for component in range(4):  # a component's sign means nothing
        sign = np.sign(mine[:, component] @ expected[:, component])
        np.testing.assert_allclose(sign * mine[:, component], expected[:, component], atol=2e-4)


def test_the_largest_weight_of_an_axis_is_positive():
    axes = fitted()[0].axes
    assert (axes.gather(0, axes.abs().argmax(0, keepdim=True)) > 0).all()


def test_it_sees_no_more_batches_than_the_budget_allows():
    few, one = fitted(steps=2)[0], PixelPCA(components=4, side=8, batches=2)
    assert torch.equal(few.axes, fitted(one)[0].axes) and not torch.equal(few.axes, fitted()[0].axes)


def test_resumed_it_is_what_it_was():
    encoder, progress = fitted()
    again = METHOD.build(SPEC)
    assert not list(again.fit(STREAM, Budget(steps=6, device="cpu"), progress.state()))
    assert torch.equal(again.axes, encoder.axes) and torch.equal(again.mean, encoder.mean)


def test_a_thumbnail_has_no_more_components_than_pixels():
    assert PixelPCA(components=9, side=2).build(SPEC).axes.shape == (4, 4)


def test_what_cannot_be_is_refused():
    with pytest.raises(SchemaError, match="needs a component and a pixel"):
        PixelPCA(components=0).build(SPEC)
    with pytest.raises(SchemaError, match="learns from images"):
        PixelPCA().build(toy_spec())
