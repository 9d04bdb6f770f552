"""Label-free validators: closed forms, directions, errors; the stage that applies them to stored
predictions."""

import json

import numpy as np
import pyarrow as pa
import pytest

from diffadapt.core.artifact import LOGITS_SCHEMA, Rows, Shard
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.pipeline import MethodRow
from diffadapt.core.record import ensemble_logits, softmax
from diffadapt.core.stage import FitJob, InputFile, WorkContext
from diffadapt.metrics import validators as v
from diffadapt.sweeps.objective import objective
from diffadapt.tasks.classification.validate import NAMES, Validate
from diffadapt.train.reporter import LocalReporter
from diffadapt.train.watch import Watcher


def one_hot(labels, classes=4, scale=12.0):
    return scale * np.eye(classes)[labels]


BALANCED = one_hot(np.arange(40) % 4)
COLLAPSED = one_hot(np.zeros(40, int))
UNSURE = np.zeros((40, 4))
SURE = one_hot(np.arange(50) % 10, 10, 3.0)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", ["im", "corrc", "bnm"])
def test_sure_and_balanced_is_better_than_unsure_and_than_collapsed(name):
    assert v.of_logits(name, BALANCED) > v.of_logits(name, UNSURE) + 0.01
    assert v.of_logits(name, BALANCED) > v.of_logits(name, COLLAPSED) + 0.01


@pytest.mark.parametrize("name", ["entropy", "mano"])
def test_sure_is_better_than_unsure(name):
    assert v.of_logits(name, BALANCED) > v.of_logits(name, UNSURE)


def test_closed_forms():
    assert v.entropy(UNSURE) == pytest.approx(-np.log(4), abs=1e-4)
    assert v.im(BALANCED) == pytest.approx(np.log(4), abs=1e-3)
    assert v.im(COLLAPSED) == pytest.approx(0, abs=1e-3)
    assert v.corrc(BALANCED) == pytest.approx(2, abs=1e-3)  # sqrt(4)
    assert v.corrc(UNSURE) == pytest.approx(1)
    assert v.bnm(one_hot(np.arange(40) % 4, scale=50)) == pytest.approx(4 * np.sqrt(10) / 40)
    assert v.mano(one_hot(np.arange(40) % 4, scale=50)) == pytest.approx(4**-0.25)
    assert v.mano_criterion(UNSURE) == pytest.approx(np.log(4))
    taylor = 1 + np.array([[1.0, 0, -1]]) + np.array([[0.5, 0, 0.5]])
    assert v.mano(np.array([[1.0, 0, -1]])) == pytest.approx(((taylor / taylor.sum()) ** 4).mean() ** 0.25)


def test_snd_is_the_same_in_blocks_and_grows_with_density():
    points = RNG.normal(size=(1100, 6))  # more than two blocks
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    similar = unit @ unit.T / 0.05
    np.fill_diagonal(similar, -np.inf)
    q = np.exp(similar - similar.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)
    assert v.snd(points) == pytest.approx(-(q * np.log(q + 1e-5)).sum(1).mean(), rel=1e-12)
    assert v.snd(np.repeat(np.eye(4), 10, 0)) == pytest.approx(
        np.log(9), abs=1e-3
    )  # nine neighbours at the same place
    with pytest.raises(DataError, match="two images"):
        v.snd(np.ones((1, 3)))


def test_classami_sees_whether_predictions_follow_the_clusters():
    labels = np.arange(60) % 3
    features = 10 * np.eye(3)[labels] + RNG.normal(size=(60, 3))
    assert v.classami(one_hot(labels, 3), features) == pytest.approx(1)
    assert v.classami(one_hot(RNG.permutation(labels), 3), features) < 0.2
    with pytest.raises(DataError, match="do not pair"):
        v.classami(one_hot(labels, 3), features[:5])


def test_dev_weighs_errors_by_the_density_ratio():
    errors = np.array([1.0, 0, 0, 1])
    assert v.dev(np.ones(4), errors) == -0.5  # no weights, no control variate
    w = np.array([0.5, 1.5, 1.2, 0.8])
    eta = -np.cov(w * errors, w)[0, 1] / w.var(ddof=1)
    assert v.dev(w, errors) == pytest.approx(-((w * errors).mean() + eta * (w.mean() - 1)))
    assert v.devn(7 * w, errors) == pytest.approx(v.devn(w, errors))  # the weights' scale has no meaning
    source, target = RNG.normal(size=(400, 2)), RNG.normal(size=(300, 2)) + [1.5, 0]
    weights = v.importance_weights(source, target)
    assert weights.shape == (400,) and weights.mean() == pytest.approx(1, abs=0.25)
    assert weights[source[:, 0] > 1].mean() > 5 * weights[source[:, 0] < -1].mean()
    # A model that errs where the target lies is worse than one that errs elsewhere as often.
    labels = (source[:, 1] > 0).astype(int)
    order = np.argsort(source[:, 0])
    near, far = labels.copy(), labels.copy()
    near[order[-60:]] ^= 1
    far[order[:60]] ^= 1
    assert v.dev_of(one_hot(near, 2), labels, source, target) < v.dev_of(
        one_hot(far, 2), labels, source, target
    )


def test_ensv_is_agreement_with_the_mean_prediction():
    labels = np.arange(40) % 4
    half = np.where(np.arange(40) < 20, labels, (labels + 1) % 4)
    scores = v.ensv(np.stack([one_hot(labels), one_hot(labels), one_hot(half)]))
    assert scores.tolist() == [1.0, 1.0, 0.5]
    with pytest.raises(DataError, match="candidates"):
        v.ensv(np.zeros((3, 4)))


def test_mixval_is_the_mean_over_pairs_of_one_class_and_of_two():
    labels = np.array([0, 0, 1, 1])
    partner = np.array([1, 2, 3, 0])  # same, different, same, different
    mixed = np.array([0, 1, 1, 1])  # right, wrong, right, right
    assert v.mixval(one_hot(labels), one_hot(mixed), partner) == pytest.approx((1.0 + 0.5) / 2)
    assert v.mixval(one_hot(labels), one_hot(mixed), np.array([1, 0, 3, 2])) == pytest.approx(
        0.75
    )  # no pair of two classes


def test_values_without_meaning_are_refused():
    with pytest.raises(DataError, match="NaN"):
        v.im(np.array([[np.nan, 0.0]]))
    with pytest.raises(DataError, match="at least one image"):
        v.bnm(np.zeros((0, 3)))


class TestStage:
    def job(self, tmp_path, nodes):
        files = [
            InputFile(node, f"{node}-{i}", None, Shard(str(i), {}))
            for node, shards in nodes.items()
            for i in range(len(shards))
        ]

        def read(file):
            keys, logits, label = nodes[file.node][int(file.shard.key)]
            return Rows(
                pa.table(
                    {
                        "key": keys,
                        "label": [label] * len(keys),
                        "logits": [list(map(float, row)) for row in logits],
                    },
                    schema=LOGITS_SCHEMA,
                )
            )

        return FitJob(
            "validators",
            lambda n: [],
            None,
            "",
            str(tmp_path),
            WorkContext("cpu"),
            LocalReporter(),
            read,
            files=files,
        )

    def nodes(self, label=0):
        keys = [f"t/{i}" for i in range(40)]
        noisy = BALANCED + RNG.normal(size=BALANCED.shape)
        return {
            "dann_on_target": [(keys[:25], BALANCED[:25], label), (keys[25:], BALANCED[25:], label)],
            "mcc_on_target": [(keys[1:][::-1], noisy[1:][::-1], label)],
        }

    def test_scores_every_node_and_their_agreement(self, tmp_path):
        found = Validate(classes=4).fit(self.job(tmp_path, self.nodes()))
        assert json.loads((tmp_path / "validators.json").read_text()) == found
        assert set(found["nodes"]) == {"dann_on_target", "mcc_on_target"}
        assert set(found["nodes"]["dann_on_target"]) == set(NAMES)
        assert found["nodes"]["dann_on_target"]["im"] == pytest.approx(v.im(BALANCED))
        assert found["images"] == {"dann_on_target": 40, "mcc_on_target": 39}
        assert found["ensv"] == {
            "dann_on_target": 1.0,
            "mcc_on_target": 1.0,
        }  # paired by key, whatever the order
        assert "39 images" in found["notes"]["ensv"] and "logits" in found["notes"]["classami"]
        assert set(found["directions"].values()) == {"higher"}

    def test_labels_change_nothing(self, tmp_path):
        nodes = self.nodes()
        other = {n: [(k, z, 3) for k, z, _ in shards] for n, shards in nodes.items()}
        assert Validate().fit(self.job(tmp_path, nodes)) == Validate().fit(self.job(tmp_path, other))

    def test_what_cannot_be_is_said(self, tmp_path):
        with pytest.raises(RecipeError, match="Did you mean 'ensv'"):
            Validate(("envs",)).plan({})
        with pytest.raises(RecipeError, match="stored logits"):
            Validate(("mixval",)).plan({})
        with pytest.raises(DataError, match="4 classes, and the target has 5"):
            Validate(classes=5).fit(self.job(tmp_path, self.nodes()))
        with pytest.raises(DataError, match="no predictions of dann"):
            Validate().fit(self.job(tmp_path, {"dann": [([], [], 0)]}))
        assert Validate().plan({})[0].params == {"nodes": []}


LOGIT_RULES = [name for name, rule in v.VALIDATORS.items() if rule.needs == "logits"]


@pytest.mark.parametrize("name", LOGIT_RULES)
def test_every_place_gives_a_validator_the_same_logits(name):
    """A model judged alone, in a sweep and after an epoch: log-probabilities would turn MaNo's order."""
    images = {f"k{i}": (None, z) for i, z in enumerate(SURE.astype(np.float32))}
    row = MethodRow("row", ("node",))
    alone = v.of_logits(name, SURE.astype(np.float32))
    assert objective(name, [row], {"node": images}, []) == alone
    watcher = object.__new__(Watcher)
    watcher.name, watcher._labels = name, None
    assert watcher._score(SURE.astype(np.float32)) == alone
    twice = MethodRow("row", ("node", "node"))
    assert objective(name, [twice], {"node": images}, []) == pytest.approx(alone, rel=1e-9)


def test_manos_order_is_that_of_logits():
    def value(logits):
        predictions = {"node": {f"k{i}": (None, z) for i, z in enumerate(logits)}}
        return objective("mano", [MethodRow("row", ("node",))], predictions, [])

    noisy = np.random.default_rng(0).normal(0, 1, (50, 10))
    assert value(SURE) > value(noisy)
    log_probabilities = [np.log(softmax(z)) for z in (SURE, noisy)]
    assert v.mano(log_probabilities[0]) < v.mano(log_probabilities[1])  # what a sweep saw before


def test_an_ensembles_logits():
    one, other = np.array([[2.0, 0, -1]]), np.array([[0.0, 5, 1]])
    joint = ensemble_logits([one, other])
    assert softmax(joint) == pytest.approx((softmax(one) + softmax(other)) / 2)
    assert np.log(np.exp(joint).sum()) == pytest.approx(
        (np.log(np.exp(one).sum()) + np.log(np.exp(other).sum())) / 2
    )
    assert (ensemble_logits([one]) == one).all()
