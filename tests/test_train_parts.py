"""Losses, relocation, optimiser, checkpoints, and a short training from end to end."""

import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from conftest import quick_compilation
from igspad_jax.errors import InputError
from igspad_jax.render import Capacity
from igspad_jax.scene import Gaussians
from igspad_jax.scene.initialise import from_points
from igspad_jax.settings import Rates, TrainConfig
from igspad_jax.train import checkpoints as checkpoints_module
from igspad_jax.train.checkpoints import Checkpoints
from igspad_jax.train.losses import photometric_loss, psnr, ssim
from igspad_jax.train.optimiser import forget, make_optimiser
from igspad_jax.train.relocation import relocate, split_opacity
from igspad_jax.train.trainer import Views, initial_state, optimiser_of, quality, train, view_order

# One function for all tests of 64 Gaussians: most of the time goes to compiling.
relocated = jax.jit(functools.partial(relocate, dead_below=0.005))
split = jax.jit(split_opacity)

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def fields(gaussians):
    return {f.name: np.asarray(getattr(gaussians, f.name)) for f in dataclasses.fields(gaussians)}


def random_gaussians(count, degree=1, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((count, 3), (count, 3), (count, 4), (count,), (count, (degree + 1) ** 2, 3))
    return Gaussians(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes))


def with_opacities(opacities):
    opacities = np.asarray(opacities, np.float64)
    logits = np.log(opacities) - np.log1p(-opacities)
    gaussians = random_gaussians(len(opacities))
    return gaussians.replace(opacity_logits=jnp.asarray(logits, jnp.float32))


class TestLosses:
    def images(self, shape=(20, 27, 3)):
        rng = np.random.default_rng(0)
        a = ndimage.gaussian_filter(rng.uniform(size=shape), (2, 2, 0))
        a = (a - a.min()) / np.ptp(a)
        return a, np.clip(a + 0.1 * rng.normal(size=shape), 0.0, 1.0)

    @pytest.mark.parametrize("shape", [(20, 27, 3), (32, 71, 3)])
    def test_ssim_against_direct_windows(self, shape):
        """Also where windows reach from one block into the next."""
        a, b = self.images(shape)
        along = np.exp(-0.5 * (np.arange(11) - 5) ** 2 / 1.5**2)
        window = np.outer(along, along)[:, :, None] / np.sum(np.outer(along, along))
        mean = functools.partial(ndimage.correlate, weights=window, mode="constant")
        mu_a, mu_b = mean(a), mean(b)
        var_a, var_b = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2
        cov = mean(a * b) - mu_a * mu_b
        c1, c2 = 0.01**2, 0.03**2
        similarity = (2 * mu_a * mu_b + c1) * (2 * cov + c2)
        similarity /= (mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2)
        got = float(ssim(jnp.asarray(a), jnp.asarray(b)))
        assert got == pytest.approx(similarity.mean(), abs=1e-5)
        assert 0.2 < got < 0.9

    def test_extremes(self):
        a = jnp.asarray(self.images()[0])
        assert float(ssim(a, a)) == pytest.approx(1.0, abs=1e-5)
        assert float(photometric_loss(a, a, 0.2)) == pytest.approx(0.0, abs=1e-5)
        assert np.isfinite(float(psnr(a, a)))
        flat = jnp.ones((12, 12, 3))
        gradient = jax.jit(jax.grad(photometric_loss), static_argnums=2)(flat, flat, 0.2)
        assert np.isfinite(gradient).all()

    def test_known_values(self):
        a, b = map(jnp.asarray, self.images())
        assert float(psnr(jnp.full((4, 5, 3), 0.5), jnp.full((4, 5, 3), 0.6))) == pytest.approx(
            20.0, abs=1e-3
        )
        l1, similarity = np.abs(np.asarray(a - b)).mean(), float(ssim(a, b))
        for weight in (0.0, 0.2, 1.0):
            expected = (1 - weight) * l1 + weight * (1 - similarity)
            assert float(photometric_loss(a, b, weight)) == pytest.approx(expected, abs=1e-6)


class TestRelocation:
    opacities = np.array([0.006, 0.05, 0.3, 0.7, 0.95, 0.999])

    @pytest.mark.parametrize("copies", [1, 2, 3, 7, 16])
    def test_copies_preserve_opacity_and_coverage(self, copies):
        each, factor = split(
            jnp.asarray(self.opacities, jnp.float32), jnp.full(len(self.opacities), float(copies))
        )
        each, factor = np.asarray(each, np.float64), np.asarray(factor, np.float64)
        np.testing.assert_allclose(1.0 - (1.0 - each) ** copies, self.opacities, rtol=1e-4)
        # Along a line through the centre, the copies cover as much as the original did.
        x = np.linspace(-12.0, 12.0, 4001)[:, None]
        original = np.sum(self.opacities * np.exp(-0.5 * x**2), axis=0)
        together = np.sum(1.0 - (1.0 - each * np.exp(-0.5 * (x / factor) ** 2)) ** copies, axis=0)
        np.testing.assert_allclose(together, original, rtol=1e-4)
        if copies == 1:
            np.testing.assert_allclose(factor, 1.0, rtol=1e-5)

    def test_dead_gaussians_move_onto_live_ones(self):
        rng = np.random.default_rng(1)
        opacities = np.where(rng.random(64) < 0.4, 1e-4, rng.uniform(0.3, 0.99, 64))
        before, dead = with_opacities(opacities), opacities < 0.005
        after, changed = relocated(before, jax.random.key(0))
        changed = np.asarray(changed)
        assert (np.asarray(after.opacities) >= 0.005).all()
        assert changed[dead].all()
        old, new = fields(before), fields(after)
        for name in old:
            np.testing.assert_array_equal(new[name][~changed], old[name][~changed])
        # Every dead one stands on a live one, and shares all but the position in the list with it.
        source = np.array(
            [np.flatnonzero((old["means"] == m).all(axis=1))[0] for m in new["means"]]
        )
        assert not dead[source].any()
        np.testing.assert_array_equal(source[~dead], np.flatnonzero(~dead))
        for name in ("quats", "sh"):
            np.testing.assert_array_equal(new[name], old[name][source])
        for name in ("opacity_logits", "log_scales"):
            np.testing.assert_array_equal(new[name], new[name][source])
        # The look of every place is kept.
        for i in np.flatnonzero(~dead):
            copies = np.asarray(after.opacities, np.float64)[source == i]
            assert changed[i] == (len(copies) > 1)
            assert 1.0 - np.prod(1.0 - copies) == pytest.approx(opacities[i], rel=1e-3)

    def test_copies_are_proportional_to_opacity(self):
        opacities = np.full(2002, 1e-4)
        opacities[:2] = [0.2, 0.8]
        after, _ = relocated(with_opacities(opacities), jax.random.key(1))
        at_second = (np.asarray(after.means) == np.asarray(after.means[1])).all(axis=1)
        assert at_second.mean() == pytest.approx(0.8, abs=0.03)
        for leaf in jax.tree.leaves(after):
            assert np.isfinite(leaf).all()

    @pytest.mark.parametrize("opacity", [1e-4, 0.5], ids=["all dead", "all alive"])
    def test_unchanged_when_all_are_dead_or_alive(self, opacity):
        before = with_opacities(np.full(64, opacity))
        after, changed = relocated(before, jax.random.key(0))
        assert not np.asarray(changed).any()
        for name, value in fields(after).items():
            np.testing.assert_array_equal(value, fields(before)[name])

    def test_saturated_opacities(self):
        logits = jnp.tile(jnp.array([-200.0, -50.0, 50.0, 200.0]), 16)
        before = random_gaussians(64).replace(opacity_logits=logits)
        after, changed = relocated(before, jax.random.key(0))
        assert np.asarray(changed).reshape(16, 4)[:, :2].all()
        for leaf in jax.tree.leaves(after):
            assert np.isfinite(leaf).all()


class TestOptimiser:
    rates = Rates(means=1e-3, means_final=1e-5, final=0.1)
    steps = 100

    def moves(self, steps):
        """{step: change of every parameter} under a constant gradient of one."""
        optimiser = make_optimiser(
            self.rates, steps=self.steps, radius=2.0, sh_degree=2, sh_every=3
        )
        gaussians = random_gaussians(4, degree=2)
        state = optimiser.init(gaussians)
        update = jax.jit(optimiser.update)
        moved = []
        for _ in range(steps):
            updates, state = update(jax.tree.map(jnp.ones_like, gaussians), state)
            moved.append(fields(updates))
        return moved

    def test_sh_degrees_open_on_schedule(self):
        for step, moved in enumerate(self.moves(8)):
            for degree in range(3):
                part = moved["sh"][:, degree**2 : (degree + 1) ** 2]
                if step < 3 * degree:
                    assert not part.any(), (step, degree)
                else:
                    rate = self.rates.sh_rest if degree else self.rates.sh
                    np.testing.assert_allclose(part, -rate, rtol=1e-4)

    def test_rates(self):
        moved = self.moves(self.steps + 1)
        for name in ("log_scales", "quats", "opacity_logits"):
            rate = getattr(self.rates, name)
            np.testing.assert_allclose(moved[0][name], -rate, rtol=1e-4)
            np.testing.assert_allclose(moved[49][name], -rate, rtol=1e-4)
            np.testing.assert_allclose(moved[75][name], -rate * np.sqrt(0.1), rtol=1e-3)
            np.testing.assert_allclose(moved[100][name], -0.1 * rate, rtol=1e-3)
        np.testing.assert_allclose(moved[0]["means"], -2e-3, rtol=1e-4)  # times the radius
        np.testing.assert_allclose(moved[50]["means"], -2e-4, rtol=1e-3)
        np.testing.assert_allclose(moved[100]["means"], -2e-5, rtol=1e-3)

    def test_forget_clears_the_given_rows_only(self):
        optimiser = optimiser_of(TrainConfig(sh_degree=1), radius=1.0)
        gaussians = random_gaussians(5)
        state = jax.jit(optimiser.update)(gaussians, optimiser.init(gaussians))[1]
        changed = np.array([True, False, False, True, False])
        cleared = jax.jit(forget)(state, jnp.asarray(changed))
        assert jax.tree.structure(cleared) == jax.tree.structure(state)
        arrays = 0
        for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(cleared), strict=True):
            if np.ndim(old) == 0:
                assert old == new  # the step count
                continue
            arrays += 1
            assert not np.asarray(new)[changed].any()
            assert np.asarray(old)[changed].any()
            np.testing.assert_array_equal(np.asarray(new)[~changed], np.asarray(old)[~changed])
        assert arrays == 2 * len(fields(gaussians))  # both moments


@pytest.fixture
def warnings(monkeypatch):
    """Our own warnings about checkpoints."""
    messages = []

    def warning(text, *args):
        if text.startswith("checkpoint"):  # orbax warns through the same logger
            messages.append(text % args)

    monkeypatch.setattr(checkpoints_module.logging, "warning", warning)
    return messages


class TestCheckpoints:
    config = TrainConfig(sh_degree=1)

    def state(self, step):
        state = initial_state(random_gaussians(6, seed=step), self.config, 1.0)
        moments = jax.tree.map(lambda x: x + jnp.asarray(step, x.dtype), state.opt_state)
        return state.replace(opt_state=moments, step=jnp.int32(step))

    def like(self):
        return initial_state(random_gaussians(6, seed=99), self.config, 1.0)

    def saved(self, folder, steps):
        checkpoints = Checkpoints(folder)
        for step in steps:
            checkpoints.save(self.state(step), [{"step": step, "loss": 0.1 * step}])
        checkpoints.close()

    def restored(self, folder):
        checkpoints = Checkpoints(folder)
        try:
            return checkpoints.restore(self.like())
        finally:
            checkpoints.close()

    def assert_is(self, restored, step):
        state, history = restored
        assert history == [{"step": step, "loss": 0.1 * step}]
        expected = self.state(step)
        assert jax.tree.structure(state) == jax.tree.structure(expected)
        for got, leaf in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
            assert got.dtype == leaf.dtype
            np.testing.assert_array_equal(got, leaf)

    def test_empty_folder_restores_nothing(self, tmp_path):
        assert self.restored(tmp_path / "new") is None

    def test_restores_the_newest_and_keeps_two(self, tmp_path, warnings):
        self.saved(tmp_path, [10, 20, 30])
        self.assert_is(self.restored(tmp_path), 30)
        assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["20", "30"]
        assert not warnings

    def damage(self, step_folder, how):
        if how == "empty folder":
            shutil.rmtree(step_folder)
            step_folder.mkdir()
        else:
            for path in [p for p in step_folder.rglob("*") if p.is_file()]:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    @pytest.mark.parametrize("how", ["empty folder", "files cut short"])
    def test_damaged_newest(self, tmp_path, warnings, how):
        self.saved(tmp_path, [10, 20])
        self.damage(tmp_path / "20", how)
        self.assert_is(self.restored(tmp_path), 10)
        assert len(warnings) == 1
        assert f"checkpoint {tmp_path / '20'} cannot be read" in warnings[0]
        # Training goes on from there and can save the damaged step anew.
        self.saved(tmp_path, [20])
        self.assert_is(self.restored(tmp_path), 20)

    def test_all_damaged(self, tmp_path, warnings):
        self.saved(tmp_path, [10, 20])
        self.damage(tmp_path / "10", "files cut short")
        self.damage(tmp_path / "20", "empty folder")
        with pytest.raises(InputError) as error:
            self.restored(tmp_path)
        assert str(tmp_path) in str(error.value)
        assert "20, 10" in str(error.value)
        assert len(warnings) == 2


class Killed(Exception):
    """Stands for a kill in the middle of training."""


class TestTraining:
    config = TrainConfig(
        steps=200,
        count=300,
        sh_degree=1,
        sh_every=50,
        relocate_every=50,
        evaluate_every=100,
        checkpoint_every=50,
        seed=3,
        rates=Rates(means=5e-3, log_scales=1e-2, sh=3e-2),  # few steps have far to go
    )

    def views(self, ball, chosen):
        return Views(
            images=jnp.asarray(ball.images[chosen]),
            viewmats=jnp.asarray(ball.viewmats[chosen], jnp.float32),
            K=jnp.asarray(ball.K, jnp.float32),
            background=jnp.asarray(ball.background, jnp.float32),
        )

    def start(self, ball):
        """Grey points all over the ball."""
        directions = np.random.default_rng(0).normal(size=(self.config.count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        grey = np.full((self.config.count, 3), 0.5)
        points = ball.centre + ball.radius * directions
        gaussians = from_points(points, grey, sh_degree=self.config.sh_degree)
        return initial_state(gaussians, self.config, ball.radius)

    def run(self, ball, state, **options):
        held_out = np.arange(16) % 4 == 1
        return train(
            state,
            self.views(ball, ~held_out),
            self.views(ball, held_out),
            self.config,
            ball.radius,
            **options,
        )

    def test_learns_and_resumes(self, ball_views, tmp_path):
        start = self.start(ball_views)
        held_out = self.views(ball_views, np.arange(16) % 4 == 1)
        capacity = Capacity(4 * self.config.count)
        psnr_before, ssim_before = quality(
            start.gaussians, held_out, sh_degree=1, capacity=capacity
        )
        final, history = self.run(ball_views, start)
        assert int(final.step) == 200
        assert [entry["step"] for entry in history] == [100, 200]
        # Views that it has not seen: 10 dB nearer than grey points in the right place.
        assert history[-1]["psnr"] > psnr_before + 10.0
        assert history[-1]["psnr"] > history[0]["psnr"] + 1.0
        assert history[-1]["ssim"] > ssim_before + 0.1
        assert history[1]["loss"] < 0.8 * history[0]["loss"]
        assert history[1]["cpu_seconds"] >= history[0]["cpu_seconds"] > 0

        checkpoints = Checkpoints(tmp_path)

        def killed_at_150(state, history):
            checkpoints.save(state, history)
            if int(state.step) == 150:
                raise Killed

        with pytest.raises(Killed):
            self.run(ball_views, start, on_checkpoint=killed_at_150)
        checkpoints.close()
        checkpoints = Checkpoints(tmp_path)
        state, so_far = checkpoints.restore(self.start(ball_views))
        checkpoints.close()
        assert int(state.step) == 150
        resumed, resumed_history = self.run(ball_views, state, history=so_far)
        for got, expected in zip(jax.tree.leaves(resumed), jax.tree.leaves(final), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        assert [entry["step"] for entry in resumed_history] == [100, 200]
        assert resumed_history[-1]["psnr"] == pytest.approx(history[-1]["psnr"], abs=1e-3)

        # Nothing is left to do for a finished training.
        again, _ = self.run(ball_views, final, history=history)
        np.testing.assert_array_equal(again.gaussians.means, final.gaussians.means)

    def test_gradients_of_a_batch_are_averaged(self, ball_views):
        def moments(chosen):
            config = dataclasses.replace(self.config, steps=1, batch=len(chosen))
            views = self.views(ball_views, np.array(chosen))
            state = self.start(ball_views)
            state, _ = train(state, views, None, config, ball_views.radius)
            return fields(state.opt_state[0].mu)

        with quick_compilation():
            one, other, both = moments([2]), moments([7]), moments([2, 7])
        for name, value in both.items():
            mean = 0.5 * (one[name] + other[name])
            # Those of the rotations are rounding: the Gaussians are round at first.
            atol = 1e-5 * np.abs(mean).max() + 1e-9
            np.testing.assert_allclose(value, mean, rtol=1e-3, atol=atol)
            assert np.abs(one[name] - other[name]).max() > 0.1 * np.abs(mean).max()

    def test_divergence_raises(self, ball_views):
        broken = dataclasses.replace(ball_views, images=np.full_like(ball_views.images, np.nan))
        with pytest.raises(FloatingPointError, match="at step 50"):
            self.run(broken, self.start(ball_views))

    def test_order_of_the_views(self):
        whole = view_order(7, 0, 40, 12)
        for epoch in range(3):
            assert sorted(whole[12 * epoch : 12 * epoch + 12]) == list(range(12))
        assert (whole[:12] != whole[12:24]).any()
        parts = [view_order(7, a, b, 12) for a, b in ((0, 5), (5, 23), (23, 40))]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        assert (view_order(8, 0, 12, 12) != whole[:12]).any()
