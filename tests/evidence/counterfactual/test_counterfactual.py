"""Counterfactuals: a feature that the model uses, one that it does not, and pure noise."""

import zlib
from dataclasses import replace
from functools import cached_property, lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, false_discovery_control
from scipy.stats import t as student

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.ravl import AuditData
from ravl_med.errors import DataError
from ravl_med.evidence import counterfactual
from ravl_med.evidence.counterfactual import (
    CounterfactualModel,
    Hypothesis,
    class_margin,
    decide_use,
    explored_only,
    fills_agree,
    is_worth_a_test,
    joint_p_value,
    measure_counterfactual,
    most_test_pictures,
    prepare_inputs,
)
from ravl_med.evidence.counterfactual.effect_maps import (
    explore_feature,
    map_effects,
    sample_for_maps,
)
from ravl_med.evidence.counterfactual.examples import CHANGED, example_changes
from ravl_med.evidence.counterfactual.fills import LikePlaces
from ravl_med.evidence.counterfactual.interventions import (
    FilledPairs,
    FilmPairs,
    choose_places,
    compare_wrong_calls,
    rows_by_film,
)
from ravl_med.evidence.counterfactual.localisation import RelevantPlaces, most_share_pictures
from ravl_med.evidence.counterfactual.model_inputs import compare_pairs
from ravl_med.evidence.results import (
    Counterfactual,
    Interval,
    PairedChange,
    Removal,
    SpuriousCorrelation,
)
from ravl_med.regions.geometry import InputGeometry, box_shares

SIZE = 32
ROWS = 4
SIDE = SIZE // ROWS  # of a tile, and of a window of the maps
DEVICE, BYSTANDER = 5, 3  # tiles of a 4 x 4 grid, not side by side
PLAIN = 9  # nothing lies on it
NO_FALL = "Removing it is not shown to lower the score, beyond control films,"
NO_RISE = "Putting it into films of other classes is not shown to raise the score"
EVIDENCE = EvidenceConfig.model_construct(
    max_pairs=40, min_pairs=10, effect_films=40, max_fitted=3, min_n=10
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
    """Sees how bright the device's tile is: the first class; the others stay where they are."""

    device = torch.device("cpu")
    info = SimpleNamespace(image_size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)
    mode = "squash"

    def __init__(self):
        self.encoded = 0
        self.largest = 0

    def geometry(self, height, width):
        return InputGeometry.of(height, width, SIZE, self.mode)

    def preprocess(self, pixels):
        image = torch.from_numpy(np.ascontiguousarray(pixels))[None, None]
        small = torch.nn.functional.interpolate(image, (SIZE, SIZE), mode="area")[0]
        return (small.repeat(3, 1, 1) - 0.5) / 0.25

    def encode_image(self, images):
        self.encoded += len(images)
        self.largest = max(self.largest, len(images))
        seen = self.see(images)
        return torch.stack([seen, torch.full_like(seen, -1.0), torch.zeros_like(seen)], dim=1)

    def see(self, images):
        return light(images, DEVICE)


def tile_of(images, tile, aside=0):
    y, x = SIDE * (tile // ROWS), SIDE * (tile % ROWS) + aside
    return images[:, 0, y : y + SIDE, x : x + SIDE]


def light(images, tile, aside=0):
    return tile_of(images, tile, aside).mean(dim=(1, 2))


def unrest(images, tile):
    return tile_of(images, tile).std(dim=(1, 2))


class NoisyEncoder(Encoder):
    """Says of each picture something that depends on every pixel and means nothing."""

    def encode_image(self, images):
        seeds = [zlib.crc32(image.tobytes()) for image in images.numpy()]
        return torch.tensor(np.stack([np.random.default_rng(s).normal(size=3) for s in seeds]))


class CalmEncoder(Encoder):
    """Likes the device's tile the better, the less there is to see in it."""

    def see(self, images):
        return -unrest(images, DEVICE)


class GrainEncoder(Encoder):
    """Looks at the grain of a plain tile: what fills it stands out less."""

    def see(self, images):
        return unrest(images, PLAIN)


class SmoothEncoder(GrainEncoder):
    """The other way round: a fill raises its margin."""

    def see(self, images):
        return -super().see(images)


class WholeEncoder(Encoder):
    """Sees a device on the border of its tile and the next one, unless most of it is gone."""

    def see(self, images):
        return torch.clamp(light(images, DEVICE, SIDE // 2), max=0.2)


class EitherEncoder(Encoder):
    """Sees a device at one of two places, and does not mind if it is gone from the other."""

    def see(self, images):
        return torch.maximum(light(images, DEVICE), light(images, BYSTANDER))


class TwinEncoder(Encoder):
    """Dislikes films in which a tile repeats the one in the corner."""

    def see(self, images):
        return -(tile_of(images, DEVICE) * tile_of(images, 0)).mean(dim=(1, 2))


class Cohort:
    """Films of three classes; a device in a share of them, a bystander in half.

    Places are filled with what most films hold there: the device is on few. `cut` lays it on the
    border of its tile and the next one, `both` lays one on the bystander's tile as well.
    """

    def __init__(
        self, encoder=None, n=480, seed=0, ragged=False, cut=False, both=False, mapped=40, share=0.2
    ):
        rng = np.random.default_rng(seed)
        self.encoder, self.n, self.mapped, self.reads = encoder or Encoder(), n, mapped, []
        self.device, self.bystander = rng.random(n) < share, rng.random(n) < 0.5
        self.discovery = rng.random(n // 2).repeat(2) < 0.5  # two films a patient
        self.sizes = rng.integers(28, 60, size=(n, 2)) if ragged else np.full((n, 2), SIZE)
        self.labels = rng.integers(0, 3, size=n)
        self.boxes = np.stack([tile_boxes(*size) for size in self.sizes])
        self.films = []
        for i, (height, width) in enumerate(self.sizes):
            film = rng.normal(0.4, 0.05, size=(height, width)).astype(np.float32)
            for tile, shown in (
                (DEVICE, self.device[i]),
                (BYSTANDER, self.device[i] if both else self.bystander[i]),
            ):
                if shown:
                    box = self.boxes[i, tile]
                    half = (box[2] - box[0]) / 2 if cut and tile == DEVICE else 0
                    x0, y0, x1, y1 = np.rint(np.add(box, [1 + half, 1, half - 1, -1])).astype(int)
                    film[y0:y1, x0:x1] += 0.4
            self.films.append(film)

    def read(self, film):
        self.reads.append(film)
        return self.encoder.preprocess(self.films[film]).numpy()

    def model(self, encoder=None, batch_size=16, audited=True):
        return CounterfactualModel(
            encoder or self.encoder, self.read, np.eye(3, dtype=np.float32), 0.5, batch_size,
            audited=self.logits if audited else None,
        )  # fmt: skip

    @cached_property
    def logits(self):
        model = CounterfactualModel(
            self.encoder, self.read, np.eye(3, dtype=np.float32), 0.5, 16
        )  # fmt: skip
        return model.logits(map(self.read, range(self.n)))

    @cached_property
    def data(self):
        return AuditData(
            classes=("heart", "fluid", "clear"),
            labels=self.labels,
            predictions=self.logits.argmax(axis=1),
            patients=np.arange(self.n) // 2,
            sizes=self.sizes,
            region_image=np.repeat(np.arange(self.n), ROWS * ROWS),
            region_boxes=self.boxes.reshape(-1, 4),
        )

    @cached_property
    def maps(self):
        films = sample_for_maps(self.data, self.discovery, self.mapped, 0)
        model = self.model()
        return map_effects(self.read, model.like_places(self.data).fill, model.logits, films, SIZE)

    def cluster(self, cluster_of, tiles, present, **changes):
        data = self.data
        number = np.arange(len(data.region_image)) % (ROWS * ROWS)
        regions = np.flatnonzero(present[data.region_image] & np.isin(number, tiles))
        settings = {"raised_class": 0, "lowered_classes": (2,)} | changes
        labels = np.maximum(data.labels, 0)
        return cluster_of(present, labels, data.correct, 3, regions, **settings)

    def explore(self, cluster, **changes):
        sides = cluster.raised_class, cluster.lowered_class
        inputs = prepare_inputs(self.model(), *sides, self.data)
        margin = class_margin(self.logits, *sides)
        evidence = EVIDENCE.model_copy(update=changes)
        return explore_feature(
            inputs, self.maps, cluster, ~cluster.present, self.discovery, margin, evidence
        )

    def measure(self, cluster, model=None, relevant=None, harm=0.0, **changes):
        """Measure a feature and decide on it, as the only one."""
        hypothesis = Hypothesis(
            cluster,
            self.discovery,
            ~cluster.present,
            self.explore(cluster, **changes),
            relevant,
            harm,
        )
        evidence, told = EVIDENCE.model_copy(update=changes), []
        found = measure_counterfactual(
            model or self.model(), hypothesis, self.data, evidence, lambda *s: told.append(s)
        )
        assert (found.used, found.shown_by, found.reasons) == (False, (), ())  # not decided
        assert found.p_value == joint_p_value(found, evidence)
        totals = {total for _, total in told}
        assert len(totals) == 1
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert told[-1] == (*totals, *totals)
        [decided] = decide_use([found], evidence)
        return decided


@lru_cache(maxsize=16)
def cohort_of(encoder=Encoder, **settings):
    """Films and maps that several tests share; none changes them."""
    return Cohort(encoder(), **settings)


def tile_boxes(height, width):
    edges = np.arange(ROWS + 1) / ROWS
    boxes = [
        [edges[c] * width, edges[r] * height, edges[c + 1] * width, edges[r + 1] * height]
        for r in range(ROWS)
        for c in range(ROWS)
    ]
    return np.array(boxes, dtype=np.float32)


def changes_of(found):
    removal = found.removal
    every = (
        removal.typical, removal.replaced, removal.both, removal.wrong_calls, found.transplant,
    )  # fmt: skip
    return [change for change in every if change is not None]


def told(change):
    return (
        change.pairs, change.patients, change.change, change.change_interval, change.control,
        change.contrast, change.interval, change.decisions, change.decisions_interval,
        change.p_value,
    )  # fmt: skip


def starts(reasons):
    return [reason.split(" by more")[0].split(":")[0].split(" could")[0] for reason in reasons]


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("lowered", [(2,), ()])
def test_a_feature_that_the_model_reads_is_used(cluster_of, ragged, lowered):
    cohort = cohort_of(ragged=ragged)
    cluster = cohort.cluster(
        cluster_of, [DEVICE, DEVICE + 1, 15], cohort.device, lowered_classes=lowered
    )

    found = cohort.measure(cluster, relevant=RelevantPlaces(boxes=((0.25, 0.25, 0.5, 0.5),)))

    removal = found.removal
    assert found.used
    assert found.tested
    assert found.reasons == ()
    assert found.shown_by == ("removal", "transplant")
    assert found.travels
    assert found.p_value == found.q_value < 1e-6
    for change in (removal.typical, removal.replaced, removal.both, found.transplant):
        assert change.p_value < 1e-6
        assert change.interval.low > 1
        assert change.change_interval.low > 1
        assert abs(change.control) < 0.1
        assert change.decisions > 0.9
    assert removal.both.pairs == 40
    assert removal.size > 1.5
    tile = cluster.regions % (ROWS * ROWS)
    measured = np.isfinite(removal.effect)
    assert removal.carries[measured & (tile == DEVICE)].mean() > 0.95  # few like places hold one
    assert not removal.carries[measured & (tile == 15)].any()
    assert removal.shares.inside == pytest.approx(1, abs=0.05)
    assert removal.shares.artifact == 0
    np.testing.assert_array_equal(np.isfinite(removal.located).all(axis=1), measured)


def test_a_bystander_is_not_used(cluster_of):
    cohort = cohort_of()
    cluster = cohort.cluster(cluster_of, [BYSTANDER, 7], cohort.bystander)

    found = cohort.measure(cluster, relevant=RelevantPlaces(boxes=((0.25, 0.25, 0.5, 0.5),)))

    assert not found.used
    assert found.p_value == found.q_value == 1.0
    assert found.shown_by == ()
    assert found.removal.both.contrast == pytest.approx(0, abs=1e-6)
    assert found.transplant.contrast == pytest.approx(0, abs=1e-6)
    assert not found.removal.carries.any()
    assert starts(found.reasons) == [NO_FALL, NO_RISE]
    assert found.removal.shares is None
    assert found.removal.located.shape == (len(cluster.regions), 4)


@pytest.mark.parametrize("encoder", [GrainEncoder, SmoothEncoder])
def test_what_the_fill_itself_does_is_no_effect(cluster_of, encoder):
    """Filling the tile moves the margin of every film, whether it holds the feature or not."""
    cohort = cohort_of(encoder)
    cluster = cohort.cluster(cluster_of, [PLAIN], cohort.bystander)

    found = cohort.measure(cluster)

    removal = found.removal
    for fill in (removal.typical, removal.replaced):
        assert abs(fill.change) > EVIDENCE.min_effect * removal.spread
        assert fill.p_value > 0.05
    assert not found.used


def assert_unsure_without_transplant(found):
    """By fills that disagree alone it is neither used nor not."""
    alone = replace(found, transplant=None)
    assert joint_p_value(alone, EVIDENCE) == 1.0
    [decided] = decide_use([replace(alone, p_value=1.0)], EVIDENCE)
    assert not decided.used
    assert starts(decided.reasons) == ["Removal", "Transplant"]


def test_two_fills_that_disagree_leave_it_unsure(cluster_of):
    """A bare tile: other bare tiles come in by one fill, and the device by the other."""
    cohort = cohort_of()
    cluster = cohort.cluster(
        cluster_of, [DEVICE], ~cohort.device, raised_class=2, lowered_classes=(0,)
    )

    found = cohort.measure(cluster)

    removal = found.removal
    assert 2 * removal.both.p_value < EVIDENCE.fdr
    assert removal.replaced.change > EVIDENCE.fill_agreement * removal.typical.change
    assert found.p_value == 2 * found.transplant.p_value
    assert_unsure_without_transplant(found)


def test_fills_have_to_agree_by_so_many_times(cluster_of):
    cohort = cohort_of()
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)

    found = cohort.measure(cluster, fill_agreement=1.0)

    fills = found.removal.typical, found.removal.replaced
    ratios = [fills[0].change / fills[1].change, fills[0].contrast / fills[1].contrast]
    most = max(max(ratio, 1 / ratio) for ratio in ratios)
    assert found.shown_by == ("transplant",)
    assert cohort.measure(cluster, fill_agreement=1.001 * most).shown_by == (
        "removal", "transplant",
    )  # fmt: skip


def test_a_feature_that_is_there_twice_is_shown_by_transplant_alone(cluster_of):
    cohort = cohort_of(EitherEncoder, both=True)
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)

    found = cohort.measure(cluster)

    assert found.removal.size < 0.1
    assert found.used
    assert found.travels
    assert found.shown_by == ("transplant",)
    assert found.reasons == ()


def test_the_margin_of_the_films_themselves_has_to_fall(cluster_of):
    """Films that repeat their corner; the others, filled, say what they said before."""
    cohort = Cohort(TwinEncoder())
    rng = np.random.default_rng(0)
    for film, device in zip(cohort.films, cohort.device, strict=True):
        film[:] = rng.normal(0.5, 0.02, size=(SIZE, SIZE))
        film[:SIDE, :SIDE] = rng.normal(0.5, 0.2, size=(SIDE, SIDE))
        if not device:
            film[SIDE : 2 * SIDE, SIDE : 2 * SIDE] = film[:SIDE, :SIDE]
    cohort.labels[(cohort.labels != 0) & ~cohort.device] = -1  # nothing to put it into
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)

    found = cohort.measure(cluster)

    removal, least = found.removal, EVIDENCE.min_effect * found.removal.spread
    for fill in (removal.both, removal.typical, removal.replaced):
        assert fill.interval.low > least  # against the controls all speaks for it
    assert abs(removal.both.change) < least
    assert not found.used
    assert [reason[:6] for reason in found.reasons] == ["Removi", "Transp"]


def test_what_lowers_a_class_shows_in_its_absence_by_what_is_put_in(cluster_of):
    """A bare tile has nothing to remove: only the device that comes in lowers the margin."""
    cohort = cohort_of()
    cluster = cohort.cluster(
        cluster_of, [DEVICE], ~cohort.device, raised_class=2, lowered_classes=(0,)
    )

    found = cohort.measure(cluster)

    removal = found.removal
    assert removal.typical.change < 0.1
    assert removal.replaced.change > 0.3  # a patch of a film without the lack brings the device
    assert found.transplant.change_interval.low > 0.3
    assert found.shown_by == ("transplant",)


def test_what_lies_beside_a_device_is_located_on_the_device(cluster_of):
    """A window half a step aside takes a part of the device with it."""
    cohort = cohort_of()
    cluster = cohort.cluster(cluster_of, [DEVICE + 1], cohort.device)

    found = cohort.measure(cluster)

    own = cohort.data.region_boxes[cluster.regions]
    measured = np.isfinite(found.removal.effect)
    moved = found.removal.located[measured] - own[measured]
    assert (moved[:, 0] < 0).mean() > 0.9  # to the left, where the device is
    assert found.used


def test_a_device_that_the_tiles_cut_is_used(cluster_of):
    """Each tile holds half of it, and the model misses it only when all of it is gone."""
    cohort = cohort_of(WholeEncoder, cut=True)
    cluster = cohort.cluster(cluster_of, [DEVICE, DEVICE + 1], cohort.device)

    found = cohort.measure(cluster, max_fitted=0)

    places = found.removal.located[found.removal.carries]
    assert found.shown_by == ("removal", "transplant")
    assert (places[:, 0] == 1.5 * SIDE).mean() > 0.9


def test_an_effect_too_small_to_matter_is_no_use(cluster_of):
    cohort = cohort_of()
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)
    found = cohort.measure(cluster)
    ends = [
        change.interval.low / found.removal.spread
        for change in (found.removal.both, found.transplant)
    ]

    above = cohort.measure(cluster, min_effect=max(ends) + 0.01)
    between = cohort.measure(cluster, min_effect=sum(ends) / 2)

    assert not above.used
    assert f"by more than {100 * (max(ends) + 0.01):g} % of its spread" in above.reasons[0]
    assert len(above.reasons) == 2
    assert len(between.shown_by) == 1  # the lower end decides, and either is enough


def test_the_more_features_are_tested_the_more_each_has_to_show(cluster_of):
    """Of those that show nothing; what shows as much as this one takes nothing from it."""
    cohort = cohort_of()
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)
    clear = cohort.measure(cluster)
    ends = []
    for change in (clear.removal.both, clear.transplant):
        tail = student.isf(0.025, change.patients - 1)
        error = (change.interval.high - change.interval.low) / 2 / tail
        ends.append((change.contrast - 2.8 * error) / clear.removal.spread)

    found = cohort.measure(cluster, min_effect=max(ends))  # 2.8 standard errors above the least

    nothing = replace(found, p_value=1.0)
    assert found.used
    assert 0.05 / 20 < found.p_value == found.q_value < 0.05
    assert not decide_use([found, *[nothing] * 19], EVIDENCE)[0].used
    assert decide_use([found] * 20, EVIDENCE)[0].used


def test_effects_equal_a_naive_loop(cluster_of):
    """Of regions on films of the test: what filling the places on them takes, beyond the usual."""
    cohort = cohort_of(ragged=True)
    cluster = cohort.cluster(cluster_of, [DEVICE, 9], cohort.device)
    explored = cohort.explore(cluster)

    found = cohort.measure(cluster)

    def margin(picture):
        logits = cohort.model().logits([picture])[0]
        return logits[0] - logits[2]

    model = cohort.model()
    frames = np.tile(np.array([0, 0, SIZE, SIZE], np.float32), (cohort.n, 1))
    like = LikePlaces(model.read, cohort.data.patients, frames, 0)
    film = cohort.data.region_image[cluster.regions]
    measured = np.isfinite(found.removal.effect)
    mapped = np.isin(film, cohort.maps.films)
    np.testing.assert_array_equal(found.removal.effect[mapped], explored.effect[mapped])
    rows = np.flatnonzero(measured & ~mapped)
    assert len(rows) == 80  # two regions of each of 40 films
    for row in rows[::9]:
        picture = model.read(film[row])
        place = cohort.encoder.geometry(*cohort.sizes[film[row]]).to_input(
            cohort.data.region_boxes[cluster.regions[[row]]]
        )[0]
        drops = []
        for window, usual in zip(explored.windows.boxes, explored.windows.usual, strict=True):
            low, high = np.maximum(window[:2], place[:2]), np.minimum(window[2:], place[2:])
            if np.prod(np.maximum(high - low, 0)) >= SIDE**2 / 2 - 0.01:
                after = margin(like.fill(film[row], window))
                drops.append(margin(picture) - after - usual)
        assert found.removal.effect[row] <= max(drops) + 1e-4  # three places were tried
        assert np.abs(found.removal.effect[row] - drops).min() < 1e-4


@pytest.mark.long
@pytest.mark.parametrize("seeds", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_the_best_of_k_of_pure_noise_is_nothing(cluster_of, seeds):
    contrasts, drops, covered, shown, used = [], [], [], 0, 0
    for seed in range(seeds):
        cohort = Cohort(NoisyEncoder(), n=100, seed=seed, mapped=30, share=0.5)
        cluster = cohort.cluster(cluster_of, [1, 5, 7, 11, 14], cohort.device)

        found = cohort.measure(cluster, max_pairs=15, min_pairs=5, seed=seed, min_effect=0.0)

        used += found.used
        shown += found.removal.both.p_value <= EVIDENCE.fdr  # whether the fills agree or not
        tests = (found.removal.typical, found.removal.replaced, found.transplant)
        contrasts.append([test.contrast for test in tests])
        drops.append(found.removal.typical.change)
        covered.append([test.interval.low <= 0 <= test.interval.high for test in tests])
    error = np.std(contrasts, axis=0) / np.sqrt(seeds)
    assert (np.abs(np.mean(contrasts, axis=0)) < 3 * error).all()
    # The best by itself is no evidence: margins have a standard deviation of sqrt(2) / 0.5, and the
    # lowest of three normal deviates is -0.846.
    assert np.mean(drops) > 1
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / (3 * seeds))
    assert shown <= binom.ppf(0.99, seeds, EVIDENCE.fdr)
    assert used <= binom.ppf(0.99, seeds, EVIDENCE.fdr)


def change_of(p_value=1.0, change=1.0, contrast=1.0):
    any_width = Interval(-1.0, 1.0)
    return PairedChange(
        30, 30, change, any_width, change - contrast, contrast, any_width, 0.0, any_width, p_value
    )


def removal_of(both=None, typical=None, replaced=None):
    """Fills that agree, unless others are given."""
    if both is not None:
        typical, replaced = typical or change_of(), replaced or change_of()
    return Removal(
        np.zeros(1), np.zeros(1, bool), 0.0, 1.0, None, typical, replaced, both
    )  # fmt: skip


def measured(of_removal=None, of_transplant=None, **fills):
    """A feature with the p of either intervention; None: it was not tried."""
    removal = removal_of(None if of_removal is None else change_of(of_removal), **fills)
    transplant = None if of_transplant is None else change_of(of_transplant)
    found = Counterfactual(removal, transplant, False, ())
    return replace(found, p_value=joint_p_value(found, EVIDENCE))


class TestAgreement:
    @pytest.mark.parametrize(
        ("typical", "replaced", "agree"),
        [
            ((1.0, 1.0), (3.0, 3.0), True),  # change and contrast
            ((3.0, 3.0), (1.0, 1.0), True),  # whichever it is
            ((1.0, 1.0), (3.01, 3.01), False),
            ((1.0, 1.0), (3.0, 9.0), False),  # changes agree, contrasts do not
            ((1.0, 1.0), (9.0, 3.0), False),  # the other way round
            ((9.0, 1.0), (3.0, 3.0), True),  # each is compared with its own kind
            ((-0.1, 1.0), (1.0, 1.0), False),  # it raises the margin of the films themselves
            ((1.0, 1.0), (-0.1, 1.0), False),
            ((0.0, 1.0), (1.0, 1.0), False),
            ((1.0, 0.0), (1.0, 0.0), False),  # no more than on controls
            ((1.0, -1.0), (1.0, -1.0), False),  # nor where both say so
            ((np.nan, np.nan), (1.0, 1.0), False),
        ],
    )
    def test_both_fills_lower_the_margin_and_are_alike(self, typical, replaced, agree):
        removal = removal_of(
            change_of(), change_of(1.0, *typical), change_of(1.0, *replaced)
        )  # fmt: skip

        assert fills_agree(removal, 3.0) == agree

    def test_what_was_not_tried_does_not_agree(self):
        assert not fills_agree(removal_of(), 3.0)


class TestJointP:
    @pytest.mark.parametrize(
        ("of_removal", "of_transplant", "joint"),
        [
            (0.01, 0.2, 0.02),
            (0.2, 0.01, 0.02),
            (0.01, 0.01, 0.02),
            (0.6, 0.7, 1.0),
            (0.01, None, 0.02),
            (None, 0.01, 0.02),
            (None, None, 1.0),
            (0.0, 1.0, 0.0),
        ],
    )
    def test_it_is_twice_the_smaller(self, of_removal, of_transplant, joint):
        assert measured(of_removal, of_transplant).p_value == joint

    @pytest.mark.parametrize(
        "replaced", [change_of(0.0, 4.0, 4.0), change_of(0.0, -0.1, 1.0), change_of(0.0, 1.0, -1.0)]
    )
    def test_removal_counts_for_nothing_where_fills_disagree(self, replaced):
        assert measured(0.0, 0.3, replaced=replaced).p_value == 0.6
        assert measured(0.0, None, replaced=replaced).p_value == 1.0


class TestDecision:
    CHANCE = st.one_of(st.none(), st.floats(1e-6, 1.0))

    def test_of_no_feature(self):
        assert decide_use([], EVIDENCE) == []

    @given(st.lists(st.tuples(CHANCE, CHANCE), min_size=1, max_size=12), st.floats(0.01, 0.5))
    def test_the_q_are_those_of_benjamini_and_hochberg(self, chances, fdr):
        found = [measured(*pair) for pair in chances]

        decided = decide_use(found, EVIDENCE.model_copy(update={"fdr": fdr}))

        wanted = false_discovery_control([one.p_value for one in found])
        np.testing.assert_allclose([one.q_value for one in decided], wanted)
        for one, before, q in zip(decided, found, wanted, strict=True):
            if abs(q - fdr) > 1e-9:
                assert one.used == (q <= fdr)
            assert one.used == bool(one.shown_by) == (not one.reasons)
            assert one.removal is before.removal
            assert one.p_value == before.p_value

    @pytest.mark.parametrize(
        ("pair", "others", "shown_by"),
        [
            ((0.01, 0.02), (), ("removal", "transplant")),  # 2 x 0.02
            ((0.01, 0.03), (), ("removal",)),
            ((0.03, 0.01), (), ("transplant",)),
            ((0.026, 0.026), (), ()),
            ((None, 0.02), (), ("transplant",)),
            ((0.01, 0.012), (1.0,), ("removal", "transplant")),  # of two: 4 x 0.012
            ((0.01, 0.013), (1.0,), ("removal",)),
            ((0.013, 0.013), (1.0,), ()),
            ((0.013, 0.013), (0.02,), ("removal", "transplant")),  # q is that of both, 0.04
            ((0.013, 0.017), (0.02,), ("removal",)),  # 0.017 / 0.013 x 0.04
            ((0.0, 0.9), (), ("removal",)),  # of films that do not vary
            ((0.0, None), (1.0,), ("removal",)),
            ((1.0, 0.0), (1.0,), ("transplant",)),
        ],
    )
    def test_an_intervention_shows_it_that_would_have_by_itself(self, pair, others, shown_by):
        found = [measured(*pair), *(measured(p, None) for p in others)]

        assert decide_use(found, EVIDENCE)[0].shown_by == shown_by
        assert decide_use(found[::-1], EVIDENCE)[-1].shown_by == shown_by

    def test_fills_that_disagree_show_nothing(self):
        found = measured(0.0, 0.02, replaced=change_of(0.0, -0.1, 1.0))

        [decided] = decide_use([found], EVIDENCE)

        assert decided.shown_by == ("transplant",)

    @pytest.mark.long
    def test_where_no_feature_is_used_any_is_called_so_as_often_as_it_says(self):
        """Effects that are as large as the least that matters, and no larger."""
        rng = np.random.default_rng(0)
        evidence = EVIDENCE.model_copy(update={"fdr": 0.2})
        tests = []
        for _ in range(1000):
            found = []
            for _ in range(4):
                removal, transplant = (
                    compare_pairs(
                        (rng.normal(0.5, 1.0, 20), np.zeros(20)), (np.zeros(20), np.zeros(20)),
                        np.arange(20), 0.95, 0.5,
                    )
                    for _ in range(2)
                )  # fmt: skip
                one = Counterfactual(removal_of(removal), transplant, False, ())
                found.append(replace(one, p_value=joint_p_value(one, evidence)))
            tests.append(any(one.used for one in decide_use(found, evidence)))

        # By Bonferroni over all eight it were 1 - (1 - 0.2 / 8) ** 8, so 0.18.
        assert 0.15 < np.mean(tests) < 0.2 + 3 * np.sqrt(0.2 * 0.8 / 1000)


def test_a_fill_that_moves_the_margin_little_is_no_removal(cluster_of):
    """A bare tile is calm: filled, it stays so; a patch of a film with the device unsettles it.

    The model does use it, as transplants show: a bare tile calms a film that had the device.
    """
    cohort = cohort_of(CalmEncoder, mapped=120)
    cluster = cohort.cluster(cluster_of, [DEVICE], ~cohort.device)

    found = cohort.measure(cluster)

    removal = found.removal
    least = EVIDENCE.min_effect * removal.spread
    assert removal.typical.change < removal.replaced.change / EVIDENCE.fill_agreement
    assert removal.replaced.interval.low > least
    assert removal.both.interval.low > least  # both together would show it
    assert removal.both.p_value < 1e-6
    assert found.shown_by == ("transplant",)
    assert found.p_value == 2 * found.transplant.p_value
    assert_unsure_without_transplant(found)


class TestHarm:
    """Films with the device, and some without it, are called "heart", of whatever class."""

    def change(self, decisions, low, least=0.1):
        """Return wrong calls: how many are undone, and the least that their margin falls by."""
        fall = Interval(least, 2.0 - least)
        undone = Interval(low, 2 * decisions - low)
        return PairedChange(9, 9, 1.0, fall, 0.0, 1.0, fall, decisions, undone, 0.01)

    def removal(self, called, wrong):
        return Removal(np.zeros(1), np.zeros(1, bool), 0.0, wrong_calls=wrong, called=called)

    def test_harm_is_the_share_of_foreign_films_whose_wrong_call_is_undone(self):
        assert self.removal(0.5, self.change(0.3, 0.1)).harm == pytest.approx(0.15)
        assert np.isnan(self.removal(0.5, None).harm)

    @pytest.mark.parametrize(
        ("called", "decisions", "low", "undoes"),
        [
            (0.5, 0.3, 0.1, True),
            (0.5, 0.3, 0.0, False),  # it may be chance
            (0.25, 0.3, 0.1, False),  # 7.5 %
            (1.0, 0.9 - 0.8, 0.01, True),  # 10 %, but for rounding
        ],
    )
    def test_it_undoes_so_large_a_share_if_that_is_shown(self, called, decisions, low, undoes):
        assert self.removal(called, self.change(decisions, low)).undoes(0.1) == undoes

    def test_calls_that_go_though_the_margin_falls_no_further_than_elsewhere_are_chance(self):
        assert self.removal(0.5, self.change(0.3, 0.1, least=0.01)).undoes(0.1)
        assert not self.removal(0.5, self.change(0.3, 0.1, least=0.0)).undoes(0.1)

    def test_without_wrong_calls_it_undoes_nothing(self):
        assert not self.removal(0.5, None).undoes(0.0)

    def test_it_is_measured_on_films_of_other_classes_that_are_called_so(self, cluster_of):
        cohort = cohort_of(EitherEncoder)
        cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)

        found = cohort.measure(cluster)

        data, held = cohort.data, ~cohort.discovery
        foreign = held & cohort.device & (data.labels != 0)
        assert found.removal.called == (data.predictions[foreign] == 0).mean() == 1.0
        wrong = found.removal.wrong_calls
        assert 5 <= wrong.pairs <= EVIDENCE.max_pairs // 2
        alone = (cohort.device & ~cohort.bystander)[foreign].mean()  # else the bystander holds it
        assert wrong.decisions == pytest.approx(alone, abs=0.25)
        assert found.removal.harm == wrong.decisions

    def test_it_needs_no_film_without_the_feature_that_is_called_so(self, cluster_of):
        """Other places of the same films are the control: filling them undoes nothing."""
        cohort = cohort_of()
        cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)
        assert not (cohort.data.predictions[~cohort.device] == 0).any()

        removal = cohort.measure(cluster).removal

        assert removal.wrong_calls.decisions == 1.0
        assert abs(removal.wrong_calls.control) < 0.1 * removal.spread
        assert removal.undoes(0.1)

    def test_it_equals_a_naive_loop(self, cluster_of):
        """Fill the places of each wrong call and as many beside them; the best of either counts."""
        cohort = cohort_of(cut=True)
        cluster = cohort.cluster(cluster_of, [DEVICE, DEVICE + 1], cohort.device)
        asked, size = [], EVIDENCE.model_copy(update={"max_pairs": 24})
        inputs = prepare_inputs(cohort.model(), 0, 2, cohort.data)
        filled = inputs.like.fill

        class Asked:
            def fill(self, film, box):
                asked.append((film, box))
                return filled(film, box)

        windows = cohort.explore(cluster).windows
        found = compare_wrong_calls(
            replace(inputs, like=Asked()), cluster, windows, ~cohort.discovery, size, 0.1,
            np.random.default_rng(3),
        )  # fmt: skip

        films = list(dict.fromkeys(film for film, _ in asked))
        assert found.pairs == len(films) == 12
        drops, undone = np.zeros((2, 12)), np.zeros((2, 12))
        for at, film in enumerate(films):
            assert cohort.device[film]
            assert not cohort.discovery[film]
            assert cohort.labels[film] != 0 == cohort.data.predictions[film]
            boxes = [box for one, box in asked if one == film]
            own, beside = np.split(np.array(boxes), 2)
            rows = rows_by_film(cluster, cohort.data.region_image, np.array([film]))[film]
            chosen = choose_places(inputs, cluster, rows, windows)
            np.testing.assert_array_equal(own, chosen[: len(own)])
            assert box_shares(own, beside).max() < 0.05
            apart = box_shares(chosen, windows.boxes).max(axis=0) < 0.05
            least = min(windows.usual[windows.boxes.tolist().index(box.tolist())] for box in beside)
            assert (windows.usual[apart] > least).sum() < len(chosen)  # none is left that is more
            before = inputs.untouched(np.array([film])).margin[0]
            for side, places in enumerate((own, beside)):
                after = inputs.margins(filled(film, box) for box in places)
                best = after.margin.argmin()
                drops[side, at] = before - after.margin[best]
                undone[side, at] = not after.decided[best]
        assert found.change == pytest.approx(drops[0].mean(), abs=1e-5)
        assert found.control == pytest.approx(drops[1].mean(), abs=1e-5)
        assert found.decisions == pytest.approx((undone[0] - undone[1]).mean())

    def test_what_does_no_harm_is_not_fitted_and_has_a_place_if_it_travels(self, cluster_of):
        cohort = cohort_of()
        relevant = RelevantPlaces(boxes=((0.25, 0.25, 0.5, 0.5),))
        beside = cohort.cluster(cluster_of, [DEVICE + 1], cohort.device)

        shown = cohort.measure(beside, relevant=relevant)
        harmless = cohort.measure(beside, relevant=relevant, harm=0.1)  # none is shown

        assert shown.used
        assert shown.removal.shares is not None  # gaps show its harm
        assert harmless.used
        assert harmless.travels
        assert harmless.removal.shares is not None  # it may count for the harm of its lack
        fitted = (shown.removal.located != harmless.removal.located).any(axis=1)
        measured = np.isfinite(shown.removal.effect)
        assert 0 < (fitted & measured).sum() <= EVIDENCE.max_fitted


def test_one_pair_does_not_say_how_sharp_a_feature_is(cluster_of):
    cohort = cohort_of()
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)
    hypothesis = Hypothesis(cluster, cohort.discovery, ~cluster.present, cohort.explore(cluster))
    nothing = np.zeros((3, 2))
    sharper = np.array([1.0, 0.0, 1.0])
    filled = FilledPairs([], nothing, nothing, nothing, nothing, 0.0, sharper)
    pairs = FilmPairs(np.array([0, 2, 4]), np.array([6, 8, 10]), [])
    removal = counterfactual._compare_fills(
        cohort.measure(cluster).removal, prepare_inputs(cohort.model(), 0, 2, cohort.data),
        hypothesis, pairs, filled, EVIDENCE,
    )  # fmt: skip

    assert removal.sharper == pytest.approx(2 / 3)
    assert (removal.sharper_interval.low, removal.sharper_interval.high) == (0.0, 1.0)
    assert not removal.is_sharp


def test_what_no_test_shows_is_not_located(cluster_of):
    """Regions carry the feature as before, but their effect is too small for the test."""
    cohort = cohort_of()
    cluster = cohort.cluster(cluster_of, [DEVICE + 1], cohort.device)
    relevant = RelevantPlaces(boxes=((0.25, 0.25, 0.5, 0.5),))

    shown, rough, unshown = (
        cohort.measure(cluster, relevant=relevant, **changes)
        for changes in ({}, {"max_fitted": 0}, {"min_effect": 9.0})
    )

    assert unshown.p_value > EVIDENCE.fdr >= shown.p_value
    assert unshown.removal.carrying == shown.removal.carrying > 10
    assert unshown.removal.shares is None
    assert shown.removal.shares is not None
    np.testing.assert_array_equal(unshown.removal.located, rough.removal.located)
    assert not np.array_equal(unshown.removal.located, shown.removal.located, equal_nan=True)


class TestExploredOnly:
    def explored(self, cluster_of, contrast, half_width, spread=2.0, **changes):
        cohort = cohort_of()
        cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)
        interval = Interval(contrast - half_width, contrast + half_width)
        change = PairedChange(
            30, 28, 9.0, Interval(8.0, 10.0), 0.0, contrast, interval, 0.0, Interval(0.0, 0.0), 1.0
        )
        return replace(cohort.explore(cluster), change=change, spread=spread, **changes)

    @pytest.mark.parametrize(
        ("contrast", "half_width", "worth"),
        [
            (0.5, 0.2, True),  # 0.5 less 0.1 is above a tenth of 2
            (0.31, 0.2, True),
            (0.29, 0.2, False),
            (0.5, 0.7, False),
            (-0.5, 0.1, False),
        ],
    )
    def test_a_standard_error_above_the_least_is_worth_a_test(
        self, cluster_of, contrast, half_width, worth
    ):
        assert is_worth_a_test(self.explored(cluster_of, contrast, half_width), EVIDENCE) == worth

    def test_what_was_not_mapped_enough_is_tested(self, cluster_of):
        explored = replace(self.explored(cluster_of, 0.0, 0.1), change=None)

        assert is_worth_a_test(explored, EVIDENCE)
        assert is_worth_a_test(self.explored(cluster_of, 0.0, np.nan), EVIDENCE)

    def test_it_says_how_small_the_effect_is(self, cluster_of):
        explored = self.explored(cluster_of, 0.1, 0.3)

        found = explored_only(explored, EVIDENCE, folded=False)

        assert not found.used
        assert not found.tested
        assert found.transplant is found.removal.both is None
        assert found.removal.explored is explored.change
        assert found.removal.effect is explored.effect
        assert found.reasons == (
            "An association of the model with its own answer: covering its places on films of the "
            "discovery half moves the margin, beyond films of the same class, by less than the "
            "smallest effect that is counted: 10 % of its spread (evidence.min_effect).",
        )

    def test_films_of_one_margin_have_no_standard_deviation(self, cluster_of):
        explored = self.explored(cluster_of, -0.5, 0.1, spread=0.0)

        assert not is_worth_a_test(explored, EVIDENCE)
        assert not explored_only(explored, EVIDENCE, folded=False).used

    def test_what_is_folded_says_that_another_was_tested(self, cluster_of):
        found = explored_only(self.explored(cluster_of, 1.0, 0.1), EVIDENCE, folded=True)

        assert not found.tested
        assert found.reasons == (
            "Its effect lies in the same place as that of a feature that was tested for both.",
        )

    def test_wrong_calls_are_those_of_the_maps(self, cluster_of):
        explored = self.explored(cluster_of, 1.0, 0.1)

        removal = explored_only(explored, EVIDENCE, folded=True).removal

        assert removal.wrong_calls is explored.wrong_calls
        assert removal.called == explored.called == 1.0


def test_half_of_the_usual_largest_effect_carries_the_feature(cluster_of):
    cohort = cohort_of()
    cluster = cohort.cluster(cluster_of, [DEVICE, DEVICE + 1, 15], cohort.device)
    explored = cohort.explore(cluster)
    effect = np.full(len(cluster.regions), np.nan)
    films = list(explored.rows)[:3]
    for film, effects in zip(
        films, ([4.0, 1.0, 0.9], [2.0, np.nan, -1.0], [1.0, 0.2, 0.0]), strict=True
    ):
        effect[explored.rows[film]] = effects
    rows = {film: explored.rows[film] for film in films}

    removal = explored_only(
        replace(explored, effect=effect, rows=rows), EVIDENCE, folded=True
    ).removal

    assert removal.threshold == 1.0  # half of the median of 4, 2 and 1
    assert removal.carrying == 4
    assert removal.measured == 8
    assert sorted(effect[removal.carries]) == [1, 1, 2, 4]


def test_a_region_that_the_model_does_not_see_sets_no_threshold(cluster_of):
    class CroppingEncoder(Encoder):
        mode = "shortest"  # what of tall films lies above and below the middle is cut off

    cohort = Cohort(CroppingEncoder())
    cohort.boxes[:, 0] = [0, 0, 8, 4]
    tall = np.arange(cohort.n) % 2 == 0
    cohort.sizes[tall] = [2 * SIZE, SIZE]
    cluster = cohort.cluster(cluster_of, [0, DEVICE], cohort.device)
    cohort.boxes[tall, DEVICE, 1::2] += SIZE / 2

    found = cohort.measure(cluster)

    seen = np.isfinite(cohort.explore(cluster).effect)
    assert (~seen & (cluster.regions % 16 == 0)).any()
    assert found.removal.threshold > 0.3
    assert found.used


def test_too_few_films_are_no_test(cluster_of):
    cohort = cohort_of()
    few = cohort.device & (cohort.discovery | (np.cumsum(cohort.device & ~cohort.discovery) <= 6))
    cluster = cohort.cluster(cluster_of, [DEVICE], few)

    found = cohort.measure(cluster)

    removal = found.removal
    assert removal.both is removal.typical is removal.replaced is None
    assert np.isnan(removal.size)
    assert removal.carries.any()  # as the maps say
    assert found.used  # donors and targets are enough
    assert found.shown_by == ("transplant",)
    none = cohort.measure(cluster, min_pairs=200)
    assert not none.used
    assert none.transplant is none.removal.both is none.removal.explored is None
    assert starts(none.reasons) == ["Removal", "Transplant"]
    assert "fewer than 200 films of the confirmation half could be paired" in none.reasons[0]
    assert "fewer than 200 films of other classes" in none.reasons[1]


def test_without_targets_the_removal_decides(cluster_of):
    cohort = Cohort()
    cohort.labels[(cohort.labels != 0) & ~cohort.device] = -1
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)

    found = cohort.measure(cluster)

    assert found.transplant is None
    assert found.used
    assert found.shown_by == ("removal",)
    assert not found.travels
    assert found.reasons == ()


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_feature_of_all_mapped_films_or_of_none_is_not_tested(cluster_of, everywhere):
    cohort = cohort_of()
    present = cohort.device & ~cohort.discovery | (cohort.discovery & everywhere)
    cluster = cohort.cluster(cluster_of, [DEVICE], present)

    found = cohort.measure(cluster)

    assert found.transplant is found.removal.explored is None
    assert found.shown_by == ("removal",)  # which asks nothing of the maps but their windows
    assert (
        "fewer than 10 films of other classes"
        in cohort.measure(cluster, min_effect=9.0).reasons[-1]
    )


def test_films_of_one_gray_leave_no_hole(cluster_of):
    """A film without anything on it, with the feature and without, in either half."""
    cohort = Cohort(mapped=120)  # all of the half
    for device in (False, True):
        for half in (False, True):
            film = np.flatnonzero((cohort.device == device) & (cohort.discovery == half))[0]
            cohort.films[film][:] = 0.4
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)

    found = cohort.measure(cluster, relevant=RelevantPlaces(boxes=((0.25, 0.25, 0.5, 0.5),)))

    assert found.used
    for change in changes_of(found):
        numbers = [v for value in told(change) for v in (
            (value.low, value.high) if isinstance(value, Interval) else (value,)
        )]  # fmt: skip
        assert np.isfinite(numbers).all()
    assert np.isfinite([found.removal.size, found.removal.sharper, found.removal.imbalance]).all()
    assert np.isfinite([found.removal.shares.inside, found.removal.threshold]).all()


def test_a_model_that_says_the_same_of_all_films_uses_nothing(cluster_of):
    class BlindEncoder(Encoder):
        def see(self, images):
            return torch.zeros(len(images))

    cohort = Cohort(BlindEncoder(), n=120)
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)

    found = cohort.measure(cluster)

    assert found.removal.spread == 0
    assert not found.used
    assert np.isnan(found.removal.size)


def test_a_model_that_says_nan_of_a_changed_film_is_named(cluster_of):
    class NanEncoder(Encoder):
        def see(self, images):
            return torch.full((len(images),), torch.nan)

    cohort = Cohort(n=120)
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)
    with pytest.raises(DataError, match="NaN or infinity for films of which a place is filled"):
        cohort.measure(cluster, cohort.model(NanEncoder()))


def test_films_that_take_no_part_are_read_to_fill_others_alone(cluster_of):
    """Of films without a label only those of the bank, a third of 64, and the same ones again."""
    cohort = Cohort()
    cohort.labels[::3] = -1
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)
    assert cohort.logits.shape == (cohort.n, 3)
    model = cohort.model()
    cohort.reads.clear()
    model.like_places(cohort.data).fill(1, np.array([8, 8, 16, 16], np.float32))
    bank = set(cohort.reads)
    cohort.reads.clear()

    found = cohort.measure(cluster)

    assert found.used
    assert 64 <= len(bank) <= 65  # and film 1
    assert {film for film in cohort.reads if film % 3 == 0} <= bank
    assert len(set(cohort.reads) - bank) > 40
    assert np.isnan(found.removal.effect[cohort.data.region_image[cluster.regions] % 3 == 0]).all()


class TestLikePlaces:
    BOX = np.array([8, 8, 16, 16], np.float32)

    def test_all_tests_of_a_cohort_share_them(self):
        cohort = cohort_of()
        model = cohort.model()

        like = model.like_places(cohort.data)

        assert prepare_inputs(model, 0, 2, cohort.data).like is like
        assert model.like_places(replace(cohort.data, predictions=cohort.labels)) is like
        assert model.like_places(replace(cohort.data, patients=np.arange(cohort.n))) is not like
        assert cohort.model().like_places(cohort.data) is not like

    def test_they_are_seeded(self):
        cohort = cohort_of()

        first, again, other = (
            replace(cohort.model(), seed=seed).like_places(cohort.data).fill(3, self.BOX)
            for seed in (0, 0, 1)
        )

        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_frames_are_those_of_the_encoder(self):
        class LetterboxEncoder(Encoder):
            mode = "longest"

        cohort = Cohort(LetterboxEncoder(), n=40)
        tall = np.arange(40) % 4 < 2
        cohort.sizes[tall] = [2 * SIZE, SIZE]
        model = cohort.model()
        frames = np.where(tall[:, None], [SIZE / 4, 0, 3 * SIZE / 4, SIZE], [0, 0, SIZE, SIZE])
        wanted, mixed = (
            LikePlaces(model.read, cohort.data.patients, frames, 0)
            for frames in (frames.astype(np.float32), np.zeros((40, 4), np.float32))
        )

        alike = []
        for film in range(40):
            filled = model.like_places(cohort.data).fill(film, self.BOX)
            np.testing.assert_array_equal(filled, wanted.fill(film, self.BOX))
            alike.append(np.array_equal(filled, mixed.fill(film, self.BOX)))
        assert not all(alike)


def test_the_logits_of_the_audit_change_nothing(cluster_of):
    cohort = Cohort()
    cluster = cohort.cluster(cluster_of, [DEVICE, 9], cohort.device)
    asked, spared = Encoder(), Encoder()

    without = cohort.measure(cluster, cohort.model(asked, audited=False))
    with_them = cohort.measure(cluster, cohort.model(spared))

    films = 2 * without.removal.both.pairs + without.transplant.pairs  # as they are
    assert spared.encoded <= asked.encoded - films
    np.testing.assert_allclose(with_them.removal.effect, without.removal.effect, atol=1e-5)
    np.testing.assert_allclose(with_them.removal.located, without.removal.located, atol=1e-4)
    for one, other in zip(changes_of(with_them), changes_of(without), strict=True):
        assert one.pairs == other.pairs
        assert one.contrast == pytest.approx(other.contrast, abs=1e-5)
        assert one.interval.low == pytest.approx(other.interval.low, abs=1e-5)
        assert one.decisions == other.decisions


def test_the_same_seed_gives_the_same_result_whatever_the_batch(cluster_of):
    cohort = cohort_of()
    cluster = cohort.cluster(cluster_of, [DEVICE, 9], cohort.device)
    encoder = Encoder()

    first = cohort.measure(cluster, cohort.model(encoder, batch_size=1), max_pairs=20)
    again = cohort.measure(cluster, cohort.model(batch_size=7), max_pairs=20)
    other = cohort.measure(cluster, cohort.model(batch_size=7), max_pairs=20, seed=1)

    assert encoder.largest == 1
    np.testing.assert_allclose(first.removal.effect, again.removal.effect, atol=1e-6)
    for a, b, c in zip(changes_of(first), changes_of(again), changes_of(other), strict=True):
        assert a.contrast == pytest.approx(b.contrast, abs=1e-6)
        assert a.interval.low == pytest.approx(b.interval.low, abs=1e-6)
        assert a.contrast != c.contrast
    repeated = cohort.measure(cluster, cohort.model(batch_size=7), max_pairs=20)
    assert [told(c) for c in changes_of(repeated)] == [told(c) for c in changes_of(again)]


def test_a_test_takes_as_many_pictures_as_it_is_said_to_take_at_most(cluster_of):
    cohort = Cohort()
    mapped = [
        np.flatnonzero(cohort.discovery & (cohort.device == device))[:15]
        for device in (True, False)
    ]
    model = cohort.model()
    cohort.maps = map_effects(
        cohort.read,
        model.like_places(cohort.data).fill,
        model.logits,
        np.sort(np.concatenate(mapped)),
        SIZE,
    )
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)
    relevant = RelevantPlaces(boxes=((0.25, 0.25, 0.4, 0.5),))
    counts = []
    for settings in ({"max_fitted": 0}, {"max_fitted": 3}, {"relevant": relevant}):
        encoder = Encoder()
        found = cohort.measure(
            cluster, cohort.model(encoder), effect_films=30, **{"max_fitted": 0} | settings
        )
        assert found.removal.both.pairs == 40
        assert found.transplant.pairs == 15
        counts.append(encoder.encoded)

    most = [most_test_pictures(EVIDENCE.model_copy(update={
        "effect_films": 30, "max_fitted": fitted,
    })) for fitted in (0, 3)]  # fmt: skip
    assert counts[0] == most[0]
    assert counts[0] < counts[1] <= most[1]
    assert counts[0] < counts[2] <= most[0] + most_share_pictures(len(cluster.regions))


def test_features_share_the_films_that_are_held(cluster_of):
    cohort = Cohort()
    clusters = [
        cohort.cluster(cluster_of, [DEVICE], cohort.device),
        cohort.cluster(cluster_of, [BYSTANDER], cohort.bystander),
    ]
    model = cohort.model()
    assert len(cohort.maps.films) == cohort.mapped
    cohort.reads.clear()

    shared = [cohort.measure(cluster, model) for cluster in clusters]

    together = cohort.reads.copy()
    assert len(together) == len(set(together)) > 40
    for cluster, found in zip(clusters, shared, strict=True):
        alone = cohort.measure(cluster)  # another model has films of its own
        np.testing.assert_array_equal(found.removal.effect, alone.removal.effect)
        assert [told(c) for c in changes_of(found)] == [told(c) for c in changes_of(alone)]
    assert len(cohort.reads) > len(together) + len(set(together))


def test_films_are_shown_before_and_after_their_feature_is_taken_out_or_put_in(cluster_of):
    cohort = Cohort()
    cluster = cohort.cluster(cluster_of, [DEVICE], cohort.device)
    found = cohort.measure(cluster)
    order = np.argsort(-np.nan_to_num(found.removal.effect, nan=-np.inf))
    entry = SpuriousCorrelation(
        1, cluster, None, found, None, "shortcut", True, (), (), order.astype(np.int64)
    )
    names = [f"film {film}" for film in range(cohort.n)]
    shown = example_changes(cohort.model(), cohort.data, entry, names)

    assert [one.change for one in shown] == ["removal"] * CHANGED + ["insertion"] * CHANGED
    scores = np.exp(cohort.logits) / np.exp(cohort.logits).sum(axis=1, keepdims=True)
    x0, y0, x1, y1 = cohort.boxes[0, DEVICE]
    for one in shown:
        film = names.index(one.image)
        assert cohort.device[film] == (one.change == "removal")
        assert one.label == cohort.data.classes[cohort.labels[film]]
        assert one.called == cohort.data.classes[cohort.logits[film].argmax()]
        assert one.score == pytest.approx(scores[film].max(), abs=1e-5)
        assert min(one.box[2], x1) > max(one.box[0], x0)
        assert min(one.box[3], y1) > max(one.box[1], y0)
        own = cohort.films[film][
            round(one.box[1]) : round(one.box[3]), round(one.box[0]) : round(one.box[2])
        ]
        brighter = one.patch.mean() / 255 - own.mean()
        assert brighter < -0.05 if one.change == "removal" else brighter > 0.05
    again = example_changes(cohort.model(), cohort.data, entry, names)
    assert [(one.image, one.score_after) for one in again] == [
        (one.image, one.score_after) for one in shown
    ]
    nowhere = replace(entry, counterfactual=replace(found, removal=Removal(
        found.removal.effect, found.removal.carries, 0.0)))  # fmt: skip
    assert example_changes(cohort.model(), cohort.data, nowhere, names) == ()
