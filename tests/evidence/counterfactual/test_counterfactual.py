"""Counterfactuals: a feature that the model uses, one that it does not, and pure noise."""

import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.counterfactual import (
    CounterfactualModel,
    Hypothesis,
    class_margin,
    measure_counterfactual,
)
from ravl_med.evidence.counterfactual.fills import fill_inpaint, fill_median
from ravl_med.evidence.counterfactual.localisation import RelevantPlaces
from ravl_med.regions.geometry import InputGeometry

SIZE = 24
ROWS = 4
DEVICE, BYSTANDER = 5, 3  # tiles of a 4 x 4 grid, not side by side
NO_FALL = "The margin of films with the feature does not fall when it is removed."
EVIDENCE = EvidenceConfig.model_construct(
    max_removals=200, max_pairs=40, min_pairs=10, min_effect=0.0, max_fitted=10, draws=1000
)


class TestMargin:
    LOGITS = np.array([[3, 1, 2], [3, 1, 2], [0, 5, 4]], dtype=np.float32)

    def test_against_a_class_for_each_row(self):
        margin = class_margin(self.LOGITS, np.array([0, 0, 2]), np.array([2, 1, 0]))

        assert margin.tolist() == [1, 2, 4]

    def test_against_one_class(self):
        assert class_margin(self.LOGITS, 0, 1).tolist() == [2, 2, -5]

    def test_of_the_decision(self):
        assert class_margin(self.LOGITS, 1, None).tolist() == [-2, -2, 1]
        assert class_margin(self.LOGITS, np.array([0, 1, 2]), None).tolist() == [1, -2, -1]
        assert self.LOGITS[0].tolist() == [3, 1, 2]


class Encoder:
    """Sees three things: how bright the device's tile is, the upper left tile, and nothing."""

    device = torch.device("cpu")
    info = SimpleNamespace(image_size=SIZE)

    def __init__(self):
        self.encoded = 0
        self.largest = 0

    def geometry(self, height, width):
        return InputGeometry.of(height, width, SIZE, "squash")

    def preprocess(self, pixels):
        image = torch.from_numpy(np.ascontiguousarray(pixels))[None, None]
        small = torch.nn.functional.interpolate(image, (SIZE, SIZE), mode="area")[0]
        return (small.repeat(3, 1, 1) - 0.5) / 0.25

    def encode_image(self, images):
        self.encoded += len(images)
        self.largest = max(self.largest, len(images))
        side = SIZE // ROWS
        y, x = side * (DEVICE // ROWS), side * (DEVICE % ROWS)
        there = images[:, 0, y : y + side, x : x + side].mean(dim=(1, 2))
        corner = images[:, 0, :side, :side].mean(dim=(1, 2))
        return torch.stack([there, corner, torch.zeros_like(there)], dim=1)


class NoisyEncoder(Encoder):
    """Says of each picture something that depends on every pixel and means nothing."""

    def encode_image(self, images):
        seeds = [zlib.crc32(image.tobytes()) for image in images.numpy()]
        return torch.tensor(np.stack([np.random.default_rng(s).normal(size=3) for s in seeds]))


class CalmEncoder(Encoder):
    """Likes the device's tile the better, the less there is to see in it."""

    def encode_image(self, images):
        side = SIZE // ROWS
        y, x = side * (DEVICE // ROWS), side * (DEVICE % ROWS)
        unrest = images[:, 0, y : y + side, x : x + side].std(dim=(1, 2))
        return torch.stack([-unrest, torch.zeros_like(unrest), torch.zeros_like(unrest)], dim=1)


class WholeEncoder(Encoder):
    """Sees a device on the border of its tile and the next one, unless most of it is gone."""

    def encode_image(self, images):
        side = SIZE // ROWS
        y, x = side * (DEVICE // ROWS), side * (DEVICE % ROWS) + side // 2
        light = images[:, 0, y : y + side, x : x + side].mean(dim=(1, 2))
        seen = torch.clamp(light, max=0.2)
        return torch.stack([seen, torch.zeros_like(seen), torch.zeros_like(seen)], dim=1)


class Cohort:
    """Films of three classes; a device in half of them, a bystander in another half.

    `cut` lays the device on the border of its tile and the next one.
    """

    def __init__(self, n=240, seed=0, ragged=False, cut=False):
        rng = np.random.default_rng(seed)
        self.device, self.bystander = rng.random(n) < 0.5, rng.random(n) < 0.5
        self.discovery = rng.random(n // 2).repeat(2) < 0.5  # two films a patient
        sides = rng.integers(20, 60, size=(n, 2)) if ragged else np.full((n, 2), SIZE)
        self.films = []
        region_boxes = []
        for i, (height, width) in enumerate(sides):
            film = rng.normal(0.4, 0.05, size=(height, width)).astype(np.float32)
            boxes = tile_boxes(height, width)
            for tile, shown in ((DEVICE, self.device), (BYSTANDER, self.bystander)):
                if shown[i]:
                    half = (boxes[tile, 2] - boxes[tile, 0]) / 2 if cut and tile == DEVICE else 0
                    inner = boxes[tile] + [1 + half, 1, half - 1, -1]
                    x0, y0, x1, y1 = np.rint(inner).astype(int)
                    film[y0:y1, x0:x1] += 0.4
            self.films.append(film)
            region_boxes.append(boxes)
        self.reads = []
        labels = rng.integers(0, 3, size=n)
        self.images = AuditData(
            classes=("heart", "fluid", "clear"),
            labels=labels,
            predictions=labels,
            patients=np.arange(n) // 2,
            sizes=sides,
            region_image=np.repeat(np.arange(n), ROWS * ROWS),
            region_boxes=np.concatenate(region_boxes),
        )

    def read(self, film):
        self.reads.append(film)
        return self.films[film]

    def cluster(self, cluster_of, tiles, present, **changes):
        images = self.images
        number = np.arange(len(images.region_image)) % (ROWS * ROWS)
        regions = np.flatnonzero(present[images.region_image] & np.isin(number, tiles))
        settings = {"raised_class": 0, "lowered_classes": (2,)} | changes
        labels = np.maximum(images.labels, 0)
        return cluster_of(present, labels, images.correct, 3, regions, **settings)

    def probe(self, encoder=None, batch_size=16):
        encoder = encoder or Encoder()
        return CounterfactualModel(
            encoder, lambda film: encoder.preprocess(self.read(film)).numpy(),
            np.eye(3, dtype=np.float32), 0.5, batch_size,
        )  # fmt: skip

    def measure(
        self,
        cluster,
        encoder=None,
        batch_size=16,
        relevant=None,
        probe=None,
        comparisons=1,
        **changes,
    ):
        probe = probe or self.probe(encoder, batch_size)
        evidence, told = EVIDENCE.model_copy(update=changes), []
        hypothesis = Hypothesis(cluster, self.discovery, relevant, comparisons)
        found = measure_counterfactual(
            probe, hypothesis, self.images, evidence, lambda *step: told.append(step)
        )
        totals = {total for _, total in told}
        assert len(totals) == 1
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert told[-1] == (*totals, *totals)
        return found


def tile_boxes(height, width):
    edges = np.arange(ROWS + 1) / ROWS
    boxes = [
        [edges[c] * width, edges[r] * height, edges[c + 1] * width, edges[r + 1] * height]
        for r in range(ROWS)
        for c in range(ROWS)
    ]
    return np.array(boxes, dtype=np.float32)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("lowered", [(2,), ()])
def test_a_feature_that_the_model_reads_is_used(cluster_of, ragged, lowered):
    cohort = Cohort(ragged=ragged)
    cluster = cohort.cluster(
        cluster_of, [DEVICE, DEVICE + 1, 15], cohort.device, lowered_classes=lowered
    )

    found = cohort.measure(cluster, relevant=RelevantPlaces(boxes=((0.25, 0.25, 0.5, 0.5),)))

    removal = found.removal
    assert found.used
    assert found.reasons == ()
    assert removal.median.interval.low > 0.5
    assert removal.inpainted.interval.low > 0.5
    assert found.transplant.interval.low > 0.5
    assert removal.median.decisions > 0.2
    assert found.transplant.decisions > 0.2
    assert removal.median.pairs == found.transplant.pairs == 40
    assert removal.contrast_ratio > 1.2  # the device stands out, its control does not
    tile = cluster.regions % (ROWS * ROWS)
    measured = np.isfinite(removal.effect)
    assert 180 < measured.sum() <= 200
    assert not removal.carries[tile != DEVICE].any()
    assert removal.carries[measured & (tile == DEVICE)].mean() > 0.95  # small films blur it
    assert removal.shares.inside == pytest.approx(1, abs=0.02)
    assert removal.shares.artifact == 0
    np.testing.assert_array_equal(np.isfinite(removal.located).all(axis=1), measured)
    # The device fills most of its tile: nothing is moved, and what is fitted stays near.
    own = cohort.images.region_boxes[cluster.regions]
    moved = np.abs(removal.located - own).max(axis=1) > 1e-3
    assert moved[measured].sum() <= EVIDENCE.max_fitted
    assert removal.carries[moved & measured].all()


def test_a_bystander_is_not_used(cluster_of):
    cohort = Cohort()
    cluster = cohort.cluster(cluster_of, [BYSTANDER, 7], cohort.bystander)

    found = cohort.measure(cluster)

    assert not found.used
    assert found.removal.median.contrast == pytest.approx(0, abs=1e-6)
    assert found.transplant.contrast == pytest.approx(0, abs=1e-6)
    assert not found.removal.carries.any()
    assert found.removal.shares is None
    assert [reason.split(" ")[0] for reason in found.reasons] == [
        "Filling", "The", "Inpainting", "Blending",
    ]  # fmt: skip
    assert found.reasons[1] == NO_FALL
    assert found.removal.located.shape == (len(cluster.regions), 4)


def test_what_lies_beside_a_device_is_located_on_the_device(cluster_of):
    """Half a step aside it takes the device with it; the place that is told is the device's."""
    cohort = Cohort()
    cluster = cohort.cluster(cluster_of, [DEVICE + 1], cohort.device)

    found = cohort.measure(cluster)

    own = cohort.images.region_boxes[cluster.regions]
    measured = np.isfinite(found.removal.effect)
    moved = found.removal.located[measured] - own[measured]
    assert (moved[:, 0] < 0).mean() > 0.9  # to the left, where the device is
    assert found.removal.median.interval.low > 0.3
    assert found.transplant.interval.low > 0.3
    assert found.used


def test_without_a_transplant_nothing_is_moved(cluster_of):
    cohort = Cohort()
    cluster = cohort.cluster(cluster_of, [DEVICE + 1], cohort.device)
    cohort.images.labels[(cohort.images.labels != 0) & ~cohort.device] = -1

    found = cohort.measure(cluster)

    own = cohort.images.region_boxes[cluster.regions]
    measured = np.isfinite(found.removal.effect)
    np.testing.assert_allclose(found.removal.located[measured], own[measured], atol=1e-4)
    assert found.transplant is None
    assert not found.used


def test_a_device_that_the_tiles_cut_is_used(cluster_of):
    """Each tile holds half of it, and the model misses it only when all of it is gone."""
    cohort = Cohort(cut=True)
    cluster = cohort.cluster(cluster_of, [DEVICE, DEVICE + 1], cohort.device)

    found = cohort.measure(cluster, WholeEncoder(), max_fitted=0)

    side = SIZE // ROWS
    places = found.removal.located[found.removal.carries]
    assert found.used
    assert (places[:, 0] == 1.5 * side).mean() > 0.9
    in_place = cohort.measure(cluster, WholeEncoder(), min_pairs=41)  # no transplant, no move
    assert np.nanmax(in_place.removal.effect) < 0.5 * np.nanmax(found.removal.effect)


def test_an_effect_too_small_to_matter_is_no_use(cluster_of):
    cohort = Cohort()
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)

    size = cohort.measure(cluster).removal.size
    found = cohort.measure(cluster, min_effect=size + 0.01)

    assert size > 0.5
    assert not found.used
    assert found.reasons == (
        f"Removal moves the margin by less than {100 * (size + 0.01):g} % of its standard "
        "deviation, too little to matter (evidence.min_effect).",
    )


def test_a_margin_that_rises_less_than_in_controls_is_no_use(cluster_of):
    """A bare tile: any fill calms it, and calms a control with the device in it more."""
    cohort = Cohort()
    cluster = cohort.cluster(cluster_of, [DEVICE], ~cohort.device)

    found = cohort.measure(cluster, CalmEncoder())

    for test in (found.removal.median, found.removal.inpainted, found.transplant):
        assert test.interval.low > 0.5  # against the controls all speaks for it
    for test in (found.removal.median, found.removal.inpainted):
        assert test.control < test.change < -0.2
    assert not found.removal.carries.any()
    assert not found.used
    assert found.reasons == (NO_FALL,)


def test_effects_equal_a_naive_loop(cluster_of):
    cohort = Cohort(n=60, ragged=True)
    cluster = cohort.cluster(cluster_of, [DEVICE, 9], cohort.device)
    encoder = Encoder()

    effect = cohort.measure(cluster, min_pairs=40).removal.effect

    assert np.isfinite(effect).all()
    for row in range(0, len(effect), 7):
        region = cluster.regions[row]
        film = cohort.films[cohort.images.region_image[region]]
        picture = encoder.preprocess(film).numpy()
        place = encoder.geometry(*film.shape).to_input(cohort.images.region_boxes[[region]])[0]
        fills = fill_median(picture, place), fill_inpaint(picture, place)
        seen = encoder.encode_image(torch.from_numpy(np.stack([picture, *fills])))
        before, flat, painted = (seen.numpy() / 0.5) @ [1, 0, -1]
        assert effect[row] == pytest.approx(before - (flat + painted) / 2, abs=1e-5)


@pytest.mark.parametrize("seeds", [10, pytest.param(30, marks=pytest.mark.slow)])
def test_the_best_of_k_of_pure_noise_is_nothing(cluster_of, seeds):
    contrasts, changes, covered, used = [], [], [], 0
    for seed in range(seeds):
        cohort = Cohort(n=120, seed=seed)
        cluster = cohort.cluster(cluster_of, [1, 5, 7, 11, 14], cohort.device)

        found = cohort.measure(
            cluster, NoisyEncoder(), max_removals=150, max_pairs=20, draws=400, seed=seed
        )

        used += found.used
        tests = (found.removal.median, found.removal.inpainted, found.transplant)
        contrasts.append([test.contrast for test in tests])
        covered.append([test.interval.low <= 0 <= test.interval.high for test in tests])
        changes.append([test.change for test in tests[:2]])
    spread = np.std(contrasts, axis=0) / np.sqrt(len(contrasts))
    assert (np.abs(np.mean(contrasts, axis=0)) < 3 * spread).all()
    # The best by itself is no evidence: the mean of two margins, each with a standard deviation of
    # sqrt(2) / 0.5, has one of 2, and the largest of five normal deviates is 1.163, of ten, where a
    # second place was chosen, 1.539.
    spread = np.std(changes, axis=0) / np.sqrt(len(changes))
    assert (np.mean(changes, axis=0) > 2 * 1.163 - 3 * spread).all()
    assert (np.mean(changes, axis=0) < 2 * 1.539 + 3 * spread).all()
    assert (np.mean(changes, axis=0) > 1).all()
    assert (np.mean(changes, axis=1) > 0).all()
    # A percentile interval of 20 pairs covers 0 in about 92 %; of 30 seeds, 24 are 2.4 standard
    # deviations below that, and the three tests together have less noise than one.
    assert (np.mean(covered, axis=0) >= 0.8).all()
    assert np.mean(covered) >= 0.87
    assert used == 0


def test_too_few_films_are_no_test(cluster_of):
    cohort = Cohort(n=80)
    few = cohort.device & (np.cumsum(cohort.device & ~cohort.discovery) <= 6)
    cluster = cohort.cluster(cluster_of, [DEVICE], few)

    found = cohort.measure(cluster)

    assert found.removal.median is None
    assert found.removal.inpainted is None
    assert np.isnan(found.removal.contrast_ratio)
    assert found.removal.carries.any()
    assert not found.used
    assert "fewer than 10 films of the confirmation half could be paired" in found.reasons[0]


def test_without_targets_the_removal_decides(cluster_of):
    cohort = Cohort()
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)
    cohort.images.labels[(cohort.images.labels != 0) & ~cohort.device] = -1

    found = cohort.measure(cluster)

    assert found.transplant is None
    assert found.used
    assert found.reasons == ()


def test_without_donors_and_without_effect_both_are_told(cluster_of):
    cohort = Cohort()
    cluster = cohort.cluster(cluster_of, [BYSTANDER], cohort.bystander)
    cohort.discovery[:] = False

    found = cohort.measure(cluster)

    assert found.transplant is None
    assert found.removal.threshold == 0
    assert "fewer than 10 films of other classes" in found.reasons[-1]


def test_films_that_take_no_part_are_not_read(cluster_of):
    cohort = Cohort()
    cohort.images.labels[::3] = -1
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)

    found = cohort.measure(cluster)

    assert found.used
    assert not any(film % 3 == 0 for film in cohort.reads)
    assert np.isnan(
        found.removal.effect[cohort.images.region_image[cluster.regions] % 3 == 0]
    ).all()


def told(change):
    return (
        change.pairs, change.patients, change.change, change.control, change.contrast,
        change.interval, change.decisions, change.decisions_interval,
    )  # fmt: skip


def test_the_same_seed_gives_the_same_result_whatever_the_batch(cluster_of):
    cohort = Cohort()
    cluster = cohort.cluster(cluster_of, [DEVICE, 9], cohort.device)
    encoder = Encoder()

    first = cohort.measure(cluster, encoder, batch_size=1, max_pairs=20)
    again = cohort.measure(cluster, batch_size=7, max_pairs=20)
    other = cohort.measure(cluster, batch_size=7, max_pairs=20, seed=1)

    assert encoder.largest == 1
    np.testing.assert_allclose(first.removal.effect, again.removal.effect, atol=1e-6)
    for a, b, c in (
        (first.removal.median, again.removal.median, other.removal.median),
        (first.removal.inpainted, again.removal.inpainted, other.removal.inpainted),
        (first.transplant, again.transplant, other.transplant),
    ):
        assert a.contrast == pytest.approx(b.contrast, abs=1e-6)
        assert a.interval.low == pytest.approx(b.interval.low, abs=1e-6)
        assert a.contrast != c.contrast
    repeated = cohort.measure(cluster, batch_size=7, max_pairs=20)
    assert told(repeated.removal.median) == told(again.removal.median)
    assert told(repeated.transplant) == told(again.transplant)


def test_a_film_that_is_held_is_read_once(cluster_of):
    cohort = Cohort()
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)
    encoder = Encoder()

    found = cohort.measure(cluster, encoder, max_fitted=0)

    assert len(cohort.reads) == len(set(cohort.reads))
    measured = np.isfinite(found.removal.effect).sum()
    # Films with a region each that is filled twice; controls likewise; three for each transplant;
    # and nine places on eight films first.
    assert encoder.encoded == 3 * measured + 3 * 40 + 3 * 40 + 8 * (1 + 2 * 9)


def test_the_clusters_of_a_probe_share_the_films_that_are_held(cluster_of):
    cohort = Cohort()
    clusters = [
        cohort.cluster(cluster_of, [DEVICE], cohort.device),
        cohort.cluster(cluster_of, [BYSTANDER], cohort.bystander),
    ]
    probe = cohort.probe()

    shared = [cohort.measure(cluster, probe=probe) for cluster in clusters]

    together = cohort.reads.copy()
    assert len(together) == len(set(together))
    apart = []
    for cluster, found in zip(clusters, shared, strict=True):
        cohort.reads.clear()
        alone = cohort.measure(cluster)  # another probe has films of its own
        apart.append(set(cohort.reads))
        np.testing.assert_array_equal(found.removal.effect, alone.removal.effect)
        assert told(found.removal.median) == told(alone.removal.median)
        assert told(found.transplant) == told(alone.transplant)
    assert set(together) == apart[0] | apart[1]
    assert apart[0] & apart[1]
