"""What answers depend on: planted structures and styles, models that follow none, bad films."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.counterfactual import CounterfactualModel
from ravl_med.evidence.counterfactual.localisation import RelevanceTable, RelevantPlaces
from ravl_med.evidence.dependence import LEAST_FILMS, describe_styles, measure_dependence
from ravl_med.evidence.looking import measure_looking
from ravl_med.evidence.statistics import auroc
from ravl_med.regions.film_structures import Artifact, FilmStructures
from ravl_med.regions.geometry import InputGeometry

SIZE, FILMS, TAU = 32, 120, 0.1
EVIDENCE = EvidenceConfig.model_construct(
    dependence_films=FILMS, looking_films=FILMS, draws=2000, max_style_shift=0.5
)
CLASSES = ("big heart", "marker", "neither")
HEART = (slice(12, 24), slice(10, 22))
RELEVANCE = RelevanceTable({"big heart": RelevantPlaces(anatomy=("cardiac silhouette",))})


def inner(films):
    """Mean gray of the heart, (n,)."""
    return films[:, HEART[0], HEART[1]].mean(axis=(1, 2))


def around(films):
    return films[:, 5:9, 5:27].mean(axis=(1, 2))


def edge(films):
    return films[:, 0].mean(axis=1)


class Encoder:
    """Embeds a film as what `see` says of its gray values (n, S, S), (n, 3)."""

    device = torch.device("cpu")
    info = SimpleNamespace(image_size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)

    def __init__(self, see):
        self.see, self.encoded = see, 0

    def geometry(self, height, width):
        return InputGeometry.of(height, width, SIZE, "squash")

    def encode_image(self, images):
        self.encoded += len(images)
        gray = images[:, 0].numpy().astype(np.float64) * 0.25 + 0.5
        return torch.from_numpy(np.stack(self.see(gray), axis=1).astype(np.float32))


class Cohort:
    """Films of noise on a field with a heart; gain and border differ from film to film."""

    def __init__(self, *, gain=0.0, frame=0, seed=0):
        rng = np.random.default_rng(seed)
        self.labels = np.arange(FILMS) % 3
        self.films = 0.4 + 0.02 * rng.normal(size=(FILMS, SIZE, SIZE))
        self.films[:, HEART[0], HEART[1]] += 0.1 * (self.labels == 0)[:, None, None]
        self.films += gain * rng.normal(size=(FILMS, 1, 1))
        if frame:
            bordered = rng.random(FILMS) < 0.5
            mask = np.pad(np.ones((SIZE - 2 * frame,) * 2), frame) > 0
            self.films[bordered] = np.where(mask, self.films[bordered], 0.0)
        self.films = np.clip(self.films, 0, 1)
        self.devices = range(5)

    def structures(self, film):
        heart, lung, device = (np.zeros((SIZE, SIZE), bool) for _ in range(3))
        heart[HEART], lung[4:10, 4:28] = True, True
        artifacts = ()
        if film in self.devices:
            device[1:3, 1:3] = True
            artifacts = (Artifact("wire", 0.9, (1 / 32, 1 / 32, 3 / 32, 3 / 32)),)
        return FilmStructures(
            {"cardiac silhouette": heart, "left lung": lung}, artifacts, device, device
        )

    def measure(self, see, relevance=RELEVANCE, evidence=EVIDENCE, classes=CLASSES):
        return measure_dependence(*self.parts(see, classes), relevance, evidence)

    def look(self, see, relevance=RELEVANCE, classes=CLASSES, **asked):
        return measure_looking(*self.parts(see, classes), relevance, EVIDENCE, **asked)

    def parts(self, see, classes):
        films, self.encoder = self.films, Encoder(see)

        def read(film):
            return np.repeat((films[film][None].astype(np.float32) - 0.5) / 0.25, 3, axis=0)

        model = CounterfactualModel(
            self.encoder, read, np.eye(len(classes), dtype=np.float32), TAU, 16,
            self.structures,
        )  # fmt: skip
        data = AuditData(
            classes=classes,
            labels=self.labels,
            predictions=np.zeros(FILMS, np.int64),
            patients=np.arange(FILMS) // 2,
            sizes=np.full((FILMS, 2), 64),
            region_image=np.empty(0, np.int64),
            region_boxes=np.empty((0, 4), np.float32),
        )
        return model, data


def by_heart(films):
    """A model that looks at the heart against its surroundings, whatever the exposure."""
    ratio = inner(films) / np.maximum(around(films), 1e-3)
    return ratio, np.full(len(films), 1.1), np.full(len(films), 1.05)


def by_gray(films):
    """A model that raises the marker with the gray of a film."""
    return np.full(len(films), 0.4), films.mean(axis=(1, 2)), np.full(len(films), 0.41)


def by_edge(films):
    return np.full(len(films), 0.3), 0.6 - edge(films), np.full(len(films), 0.31)


def by_chance(films):
    """A fragile model: any change of a film draws other answers."""
    rows = []
    for film in films:
        seed = int(np.abs(film * 1e6).sum()) % 2**32
        rows.append(np.random.default_rng(seed).normal(size=3))
    return tuple(np.array(rows).T)


def cell(found, change, finding="big heart"):
    return next(c for c in found.cells if c.change == change and c.finding == finding)


class TestStructures:
    found = Cohort().measure(by_heart)

    def test_the_finding_goes_with_its_structure(self):
        heart = cell(self.found, "heart")

        assert heart.auroc_before > 0.99
        assert heart.auroc_after == pytest.approx(0.5, abs=0.15)
        assert heart.shift_interval.high < -0.1
        assert heart.flips_interval.low > 0.1
        assert heart.films == FILMS
        assert heart.patients == FILMS // 2
        assert heart.covered == pytest.approx(0.17, abs=0.05)

    def test_what_the_model_does_not_look_at_changes_nothing(self):
        border = cell(self.found, "border")

        assert (border.shift, border.flips) == pytest.approx((0, 0), abs=1e-6)
        assert border.correlation == pytest.approx(1)
        assert border.auroc_after == pytest.approx(border.auroc_before)

    def test_nothing_but_the_border_leaves_chance(self):
        assert cell(self.found, "border alone").auroc_after == pytest.approx(0.5, abs=0.15)

    def test_relevant_places_are_covered_and_left_alone(self):
        assert cell(self.found, "relevant covered").auroc_after < 0.7
        assert cell(self.found, "relevant alone").auroc_after > 0.9
        others = {c.finding for c in self.found.cells if c.change.startswith("relevant")}
        assert others == {"big heart"}

    def test_a_structure_on_few_films_is_not_measured(self):
        devices = cell(self.found, "devices")

        assert devices.films == 5
        assert np.isnan(devices.shift)
        assert devices.note == "fewer than 20 films"
        assert cell(self.found, "right lung").films == 0

    def test_no_style_is_a_finding(self):
        assert self.found.findings == ()


class TestStyles:
    cohort = Cohort(gain=0.05)
    found = cohort.measure(by_gray)

    def test_exposure_that_a_finding_follows_is_named_once(self):
        brightness = {one.finding: one for one in self.found.styles if one.style == "brightness"}
        marker = brightness["marker"]

        assert marker.exceeds
        assert marker.shift == pytest.approx(2.0, abs=0.3)  # the margin is the gray
        assert marker.association > 0.9
        assert marker.spread == pytest.approx(0.05, abs=0.01)
        assert brightness["big heart"].shift < 0
        (text,) = self.found.findings
        assert text.startswith("marker depends on exposure: its margin rises by 2.")
        assert "evidence.max_style_shift" in text
        assert "It moves 2 more." in text

    def test_a_fixed_step_is_also_said_in_natural_deviations(self):
        gamma = next(one for one in self.found.styles if one.style == "gamma")

        assert cell(self.found, "gamma 0.7").steps == pytest.approx(-np.log(0.7) / gamma.spread)
        assert np.isnan(cell(self.found, "blur").steps)

    def test_shift_and_area_are_the_naive_formula(self):
        films, labels = self.cohort.films, self.cohort.labels

        def margin(gray):
            logits = np.stack(by_gray(gray), axis=1) / TAU
            return logits[:, 1] - logsumexp(logits[:, [0, 2]], axis=1), logits.argmax(axis=1) == 1

        (old, before), (new, after) = margin(films), margin(films**0.7)
        found = cell(self.found, "gamma 0.7", "marker")

        assert found.shift == pytest.approx(np.mean(new - old) / old.std(), rel=1e-3)
        assert found.flips == pytest.approx(np.mean(before != after))
        assert found.auroc_after == pytest.approx(auroc(new, labels == 1), abs=1e-3)
        assert found.correlation == pytest.approx(np.corrcoef(old, new)[0, 1], rel=1e-3)

    def test_the_pictures_are_counted(self):
        assert self.found.pictures == self.cohort.encoder.encoded

    def test_collimation_is_named(self):
        found = Cohort(frame=3).measure(by_edge)

        assert [one.style for one in found.styles if one.exceeds and one.finding == "marker"] == [
            "frame"
        ]
        assert found.findings[0].startswith("marker depends on collimation: its margin rises")

    def test_a_fragile_model_scatters_and_is_not_accused(self):
        found = Cohort(gain=0.05).measure(by_chance)

        assert cell(found, "gamma 0.7").flips > 0.3
        assert found.findings == ()

    def test_what_films_do_not_show_by_themselves_is_no_finding(self):
        """The model follows the gray as well, and all films of this cohort have about the same."""

        def see(films):
            both = films.mean(axis=(1, 2)) + inner(films) - around(films)
            return np.full(len(films), 0.4), both, np.full(len(films), 0.41)

        assert Cohort(gain=0.0).measure(see).findings == ()
        assert len(Cohort(gain=0.05).measure(see).findings) == 1

    def test_a_step_below_the_limit_is_no_finding(self):
        most = EVIDENCE.model_copy(update={"max_style_shift": 3.0})
        found = Cohort(gain=0.05).measure(by_gray, evidence=most)

        assert found.findings == ()
        assert found.max_style_shift == 3.0

    def test_a_cause_has_one_sentence_by_the_finding_that_follows_it_most(self):
        styles = [
            replace(one, exceeds=one.style in ("gamma", "brightness")) for one in self.found.styles
        ]

        assert len(describe_styles(styles, 0.5)) == 1
        assert describe_styles([replace(one, exceeds=False) for one in styles], 0.5) == ()


def test_null_films_accuse_nobody():
    """Answers that have nothing to do with exposure: no finding in three cohorts."""
    accused = [len(Cohort(gain=0.05, seed=s).measure(by_heart).findings) for s in range(1, 4)]

    assert accused == [0, 0, 0]


def test_the_same_seed_gives_the_same_numbers():
    assert repr(Cohort(gain=0.05).measure(by_gray)) == repr(Cohort(gain=0.05).measure(by_gray))


def test_films_are_spread_over_classes_and_patients():
    few = EVIDENCE.model_copy(update={"dependence_films": 30})
    found = Cohort().measure(by_heart, evidence=few)

    assert found.films == 30
    assert found.patients >= 25  # of 60; those of three classes are drawn apart


@pytest.mark.parametrize(
    ("relevance", "shown"), [(RELEVANCE, "big heart"), (RelevanceTable({}), "none")]
)
def test_of_two_classes_one_is_shown(relevance, shown):
    cohort = Cohort()
    cohort.labels = (cohort.labels > 0).astype(np.int64)

    found = cohort.measure(
        lambda films: by_heart(films)[:2], relevance, classes=("big heart", "none")
    )

    assert {c.finding for c in found.cells} == {shown}


class TestBadInput:
    def test_too_few_films_are_not_measured(self):
        few = EVIDENCE.model_copy(update={"dependence_films": LEAST_FILMS - 1})

        assert Cohort().measure(by_heart, evidence=few) is None

    def test_films_without_a_label_take_no_part(self):
        cohort = Cohort()
        cohort.labels[:] = -1

        assert cohort.measure(by_heart) is None

    def test_a_film_of_one_gray_value_is_left_out_of_contrast(self):
        cohort = Cohort(gain=0.05)
        cohort.films[7] = 0.3
        found = cohort.measure(by_gray)

        contrast = next(one for one in found.styles if one.style == "contrast")
        assert contrast.films == FILMS - 1

    def test_black_films_are_survived(self):
        cohort = Cohort()
        cohort.films[:] = 0.0
        found = cohort.measure(by_gray)

        assert cell(found, "gamma 0.7").note == "all films are answered alike"
        assert found.findings == ()

    def test_an_answer_that_is_no_number_leaves_its_film_out(self):
        def see(films):
            gray, marker, rest = by_gray(films)
            return gray, np.where(films.min(axis=(1, 2)) > 0.6, np.nan, marker), rest

        found = Cohort(gain=0.05).measure(see)

        assert cell(found, "invert", "marker").films < FILMS
        assert cell(found, "heart", "marker").films == FILMS

    def test_inputs_beyond_the_stated_normalisation_take_the_range_of_the_film(self):
        cohort = Cohort(gain=0.05)
        cohort.films *= 255.0
        found = cohort.measure(lambda films: by_gray(films / 255.0))

        assert np.isfinite(cell(found, "gamma 0.7", "marker").shift)


def condition(found, name):
    return next(c for c in found.conditions if c.condition == name)


def by_two_places(films):
    """A model that calls the big heart by it, and the other two classes by noise in the corner."""
    corner = films[:, 28, 28] - 0.4
    heart = 30 * (inner(films) - around(films) - 0.05)
    return heart, corner, -corner


def answer_alike(films):
    return np.full(len(films), 0.2), np.full(len(films), 0.5), np.full(len(films), 0.1)


class TestLooking:
    places = RelevanceTable(
        {
            "big heart": RelevantPlaces(anatomy=("cardiac silhouette",)),
            "marker": RelevantPlaces(anatomy=("left lung",)),
        }
    )
    found = Cohort().look(by_two_places, places)

    def test_a_model_that_looks_changes_its_answers_with_the_film(self):
        assert self.found.ignores == ""
        assert (self.found.films, self.found.patients) == (FILMS, FILMS // 2)
        own = condition(self.found, "the film")
        assert own.unchanged == 1.0
        assert own.accuracy > 0.6
        swapped = condition(self.found, "another patient, another label")
        same = condition(self.found, "another patient, same label")
        assert swapped.accuracy < own.accuracy - 0.2
        assert same.accuracy == pytest.approx(own.accuracy, abs=0.15)
        assert condition(self.found, "a blank film").auroc == 0.5
        assert swapped.unchanged_interval.high < 0.8

    def test_calls_fall_with_their_own_evidence_alone(self):
        kinds = {(g.finding, g.kind): g for g in self.found.grounding}
        assert kinds["big heart", "direct"].share == 0.0  # none persists
        assert kinds["big heart", "contextual"].share == 0.0  # none falls
        assert kinds["big heart", "direct"].films == 40

    def test_a_call_that_persists_without_its_evidence_is_direct(self):
        def by_border(films):  # films of a big heart have a bright last row
            return 30 * (films[:, 31].mean(axis=1) - 0.6), *np.zeros((2, len(films)))

        cohort = Cohort()
        cohort.films[cohort.labels == 0, 31] = 0.9
        kinds = {(g.finding, g.kind): g for g in cohort.look(by_border, self.places).grounding}
        assert kinds["big heart", "direct"].share == 1.0
        assert kinds["big heart", "contextual"].share == 0.0

    def test_a_model_that_answers_all_films_alike_ignores_them(self):
        found = Cohort().look(answer_alike)
        assert found.ignores.startswith("Ignores the film: 100 % of the answers stay when another")
        assert {c.unchanged for c in found.conditions} == {1.0}

    def test_one_call_for_all_with_margins_that_tell_films_is_looking(self):
        def biased(films):
            return inner(films), np.full(len(films), 3.0), np.full(len(films), 0.1)

        found = Cohort().look(biased)
        assert condition(found, "noise").unchanged == 1.0
        assert found.ignores == ""

    def test_other_words_are_asked_about_the_same_films(self):
        cohort = Cohort()

        def again(pictures):
            encoder = Encoder(by_two_places)
            films = torch.from_numpy(np.stack(list(pictures)))
            return encoder.encode_image(films).numpy() / TAU

        asked = {"same": again, "turned": lambda pictures: -again(pictures)}
        blind = np.array([0.0, 2.0, 1.0], np.float32)
        found = cohort.look(by_two_places, self.places, wordings=asked, blind=blind)
        same, turned = found.wordings
        assert (same.wording, same.unchanged) == ("same", 1.0)
        assert same.correlation == pytest.approx(1.0)
        assert turned.unchanged < 0.6
        assert condition(found, "the question alone").accuracy == pytest.approx(1 / 3)

    def test_too_few_films_say_nothing(self):
        cohort = Cohort()
        cohort.labels = np.where(np.arange(FILMS) < LEAST_FILMS - 1, cohort.labels, -1)
        assert cohort.look(by_two_places) is None
