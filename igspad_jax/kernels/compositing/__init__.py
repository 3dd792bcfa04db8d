"""Compositing of projected splats: arrays in, arrays out, differentiable, batches native."""


from typing import NamedTuple

import jax
import jax.numpy as jnp

from igspad_jax.kernels.compositing import backend
from igspad_jax.kernels.compositing.backend import Implementation
from igspad_jax.kernels.compositing.jacobian import LinearWalk
from igspad_jax.kernels.compositing.normal import affine_derivatives, gram, weigh
from igspad_jax.kernels.compositing.operations import compositor_of, forward_of, operation_of


class ProjectedSplats(NamedTuple):
    """N splats in each of B images.

    Attributes:
        means2d: [B, N, 2] centres in pixels.
        conics: [B, N, 3] inverse covariances (xx, xy, yy).
        opacities: [B, N] in [0, 1].
        features: [B, N, C] any per-splat values.
        depths: [B, N] sorting key, positive where visible.
        radii: [B, N, 2] half sizes in pixels of the box around the 1/255 contour, 0 if invisible.
    """

    means2d: jax.Array
    conics: jax.Array
    opacities: jax.Array
    features: jax.Array
    depths: jax.Array
    radii: jax.Array

    @property
    def table(self) -> jax.Array:
        """[B, N, 6 + C] rows of (mean x, mean y, conic xx, xy, yy, opacity, features...)."""
        parts = (self.means2d, self.conics, self.opacities[..., None], self.features)
        return jnp.concatenate(parts, axis=-1)


def composite(
    splats: ProjectedSplats,
    *,
    width: int,
    height: int,
    capacity: int,
    implementation: Implementation | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Composites splats front to back (Kerbl et al. 2023, equations 2 and 3).

    alpha = min(0.99, opacity * exp(-d^T conic d / 2)), and 0 below 1/255. Differentiable in
    `means2d`, `conics`, `opacities` and `features`; `depths` and `radii` only order and select.

    Args:
        splats: to composite.
        width: image width in pixels.
        height: image height in pixels.
        capacity: slots for pairs of a tile and a splat, per image.
        implementation: "xla", "mosaic" or "interpreted"; by default what suits the machine, see
            `backend.resolve`. They have tiles of different sizes and ask for different capacities.

    Returns:
        Composited features [B, H, W, C], transmittance [B, H, W] and the number of slots each
        image asks for [B]. Where that exceeds `capacity` the farthest splats are missing.
    """
    operation = operation_of(width, height, capacity, backend.resolve(implementation))
    out, pairs = operation(splats.table, *map(jax.lax.stop_gradient, splats[4:]))
    return out[..., :-1], out[..., -1], pairs


def composite_with_jacobian(
    splats: ProjectedSplats,
    tangents: jax.Array,
    feature_tangents: jax.Array,
    background: jax.Array,
    *,
    width: int,
    height: int,
    capacity: int,
    implementation: Implementation | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Composites splats, with the derivatives of every pixel by P parameters of the splats.

    Forward mode; not differentiable itself.

    Args:
        splats: to composite.
        tangents: [B, N, 5, P] derivatives of (mean x, mean y, conic xx, xy, yy).
        feature_tangents: [B, N, C, Q] derivatives of the features by the first Q parameters.
        background: [B, C] features behind all splats, over which the Jacobian is taken.
        width: image width in pixels.
        height: image height in pixels.
        capacity: as for `composite`.
        implementation: as for `composite`.

    Returns:
        The three results of `composite`, then the [B, H, W, C, P] Jacobian of
        features + transmittance * background.
    """
    implementation = backend.resolve(implementation)
    out, lists = forward_of(width, height, capacity, implementation)(splats.table, *splats[4:])
    walk = LinearWalk(splats.table, tangents, feature_tangents, lists, out, background)
    jacobian = compositor_of(implementation).jacobian(walk)
    return out[..., :-1], out[..., -1], lists.pairs, jacobian


def composite_normal(
    splats: ProjectedSplats,
    tangents: jax.Array,
    feature_tangents: jax.Array,
    background: jax.Array,
    basis: jax.Array,
    affine: jax.Array,
    images: jax.Array,
    weights: jax.Array,
    deltas: jax.Array,
    *,
    width: int,
    height: int,
    capacity: int,
    implementation: Implementation | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normal equations of a fit of features + transmittance * background to images.

    With J the Jacobian by the fit's parameters, r the difference and W Cauchy's weights at r: the
    Gram matrix of the columns [J, r] under W, whose blocks are J^T W J, J^T W r and r^T W r.
    Kernels never write J to memory. Not differentiable.

    The fit's parameters are D that move the P of the tangents, and E that change the features of
    all splats alike.

    Args:
        splats: this and what follows up to `background` as for `composite_with_jacobian`.
        tangents: see there.
        feature_tangents: see there.
        background: see there.
        basis: [B, P, D] derivatives of the tangents' parameters by the first D of the fit's.
        affine: [B, E, 2] for each of the fit's other parameters, see `affine_derivatives`.
        images: [B, H, W, C] to fit.
        weights: [B, H, W] what each pixel counts.
        deltas: [B] difference at which its weight has fallen to a half.
        width: image width in pixels.
        height: image height in pixels.
        capacity: as for `composite`.
        implementation: as for `composite`.

    Returns:
        Mean robust cost [B], Gram matrix [B, D + E + 1, D + E + 1], mean over the counted values,
        and the slots each image asks for [B].
    """
    implementation = backend.resolve(implementation)
    out, lists = forward_of(width, height, capacity, implementation)(splats.table, *splats[4:])
    values, transmittance = out[..., :-1], out[..., -1]
    difference = values + transmittance[..., None] * background[:, None, None, :] - images
    cost, robust = weigh(difference, weights, deltas)
    shifted = affine_derivatives(values, transmittance, affine)
    known = jnp.concatenate([shifted, difference[..., None]], axis=-1)
    walk = LinearWalk(splats.table, tangents, feature_tangents, lists, out, background)
    products = compositor_of(implementation).gram(walk, basis, known, robust)
    return cost, products, lists.pairs
