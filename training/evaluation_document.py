"""The structure of `evaluation.json`: what a retrain's evaluation found, as plain JSON for reports and model cards.

Scores are in units of their metric, 0.01 = one point; higher is better in every metric except those of `Calibration`.
Contenders are named `base`, `candidate` and, where a version was live, `champion`; every table by contender is in this
order. Rows are the dataset's row numbers, from 1. Labels and groups are the tenant's own words and row numbers lead to
his texts: the document goes where texts may go, and never into logs, job events or metrics.

A key that ends in `| None` is null where the measure has no meaning, and `notes` then says why: pairs have no labels,
hence no classification, no few-shot protocol and no calibration.
"""

from typing import Any, TypedDict

FILE = "evaluation.json"
SCHEMA = 1


class Estimate(TypedDict):
    """A mean of `items` values with its 95 % bootstrap interval, which rests on `clusters` independent draws."""

    mean: float
    low: float
    high: float
    items: int
    clusters: int
    confidence: float


class Rows(TypedDict):
    """How many rows play which part; `items` are the judged queries (distinct anchors, for pairs)."""

    fit: int
    select: int
    judged: int
    items: int
    clusters: int


class LabelRow(TypedDict):
    """One label's precision, recall and F1 among the judged items; `items` of them carry it."""

    label: str
    items: int
    precision: float
    recall: float
    f1: float


class Classification(TypedDict):
    """What one classifier names: accuracy and the macro means over labels; `labels` has the lowest F1 first."""

    accuracy: Estimate
    macro_precision: Estimate
    macro_recall: Estimate
    macro_f1: Estimate
    labels: list[LabelRow]


class Logistic(Classification):
    """As `Classification`; `rows` fitted rows made the classifier, in `iterations` steps."""

    rows: int
    iterations: int
    converged: bool


class FewShotFound(TypedDict):
    """MTEB's protocol: classifiers on `per_label` rows of each label; `sd` is over the experiments."""

    accuracy: float
    sd: float
    experiments: list[float]
    per_label: int


class CalibrationPart(TypedDict):
    """Errors of probabilities, lower is better: `ece` with equal-mass bins; `brier` in [0, 2]."""

    ece: float
    ece_equal_width: float
    brier: float
    log_loss: float
    accuracy: float
    confidence: float


class CurveBin(TypedDict):
    """A point of the reliability diagram: `items` of like confidence, and the share of them named right."""

    items: int
    confidence: float
    accuracy: float


class CalibrationFound(TypedDict):
    """The vote of the ten nearest rows as probabilities, before and after one temperature fitted on selection rows."""

    temperature: float
    before: CalibrationPart
    after: CalibrationPart
    curve_before: list[CurveBin]
    curve: list[CurveBin]


class GroupRow(TypedDict):
    """One group's mean of the primary metric; `judged` is false where it has too few items to be compared."""

    name: str
    score: Estimate
    judged: bool


class GroupsFound(TypedDict):
    """Groups with the lowest mean first, the worst judged one by name, and the mean over all items less its mean."""

    groups: list[GroupRow]
    worst: str | None
    gap: Estimate | None


class PerturbedRow(TypedDict):
    """One kind and severity: mean nDCG@10 of the `drop.items` items it was tried on, and the drop from clean."""

    kind: str
    severity: int
    score: float
    drop: Estimate
    relative_drop: float


class RobustnessFound(TypedDict):
    """nDCG@10 of perturbed texts: `clean` and `score` are means over the same items."""

    clean: float
    score: float
    rows: list[PerturbedRow]


class Shift(TypedDict):
    """How the primary metric holds on items unlike the fitted ones.

    groups_unseen: how many groups the judged rows name, none of which was fitted on; 0 where rows name none.
    rows_with_group: judged rows that name a group.
    far: by contender, the primary on the quarter of items whose nearest fitted text is farthest in the base.
    near: the same of the nearest quarter.
    """

    groups_unseen: int
    rows_with_group: int
    far: dict[str, Estimate]
    near: dict[str, Estimate]


class General(TypedDict):
    """How far a model's view of generic sentences is still the base's; 1 means unchanged.

    neighbor_overlap: share of the ten nearest other sentences that are the base's. similarity_correlation: Spearman's
    correlation of all pairwise cosines with the base's.
    """

    sentences: int
    neighbor_overlap: float
    similarity_correlation: Estimate


class ErrorExample(TypedDict):
    """An item answered wrongly, or nearly so, by row numbers; texts are looked up when a report is drawn.

    `right` is the nearest row with the right answer, `wrong` the nearest with another; `margin` is the difference of
    their cosines to the item. `base_margin` is the same item's margin in the base.
    """

    row: int
    margin: float
    base_margin: float
    right: int | None
    wrong: int | None
    right_cosine: float
    wrong_cosine: float
    label: str | None
    wrong_label: str | None


class ConfusionRow(TypedDict):
    """A label taken for another by the vote of neighbours: how often, and for which share of its items."""

    label: str
    taken_for: str
    items: int
    share: float


class Errors(TypedDict):
    """Items with the smallest margins of at most `looked_at` items, worst first, and the most frequent confusions."""

    looked_at: int
    below_zero: int
    examples: list[ErrorExample]
    confusions: list[ConfusionRow]


class VersionsFound(TypedDict):
    """How differently candidate and champion see the judged items (`probes`) among the fitted ones (`rows`).

    measures: by the names of `monitoring.versions_drift.MEASURES`; 1 means that nothing changed. alike: whether
    neighbours are kept so well that callers will hardly notice. index_serves: whether an index of the champion's
    vectors answers the candidate's queries once they are rotated. words: what to do with such an index.
    """

    probes: int
    rows: int
    measures: dict[str, Estimate]
    alike: bool
    index_serves: bool
    words: str


class Evaluation(TypedDict):
    """The whole document.

    Attributes:
        schema: 1.
        kind: "labelled" or "pairs".
        primary: The metric the gate rules on first; groups and shift are of it.
        contenders: Their names, in order.
        rows: Sizes of the parts.
        metrics: contender -> metric -> mean. Metrics of labelled rows: ndcg_at_10, mrr_at_10, precision_at_10,
            recall_at_1, recall_at_5, recall_at_10, knn_accuracy, nn_accuracy, logistic_accuracy, few_shot_accuracy,
            calibration, robustness; of pairs the retrieval ones, nn_accuracy and robustness.
        differences: rival (base, champion) -> metric -> candidate less rival, on the same items.
        classification: contender -> "knn" and "logistic" -> what was named. None for pairs.
        few_shot: By contender. None for pairs.
        calibration: By contender. None for pairs.
        subgroups: property -> contender -> groups. Properties: `label` (labelled rows), `group` (rows that name one),
            `length` (characters of the text, in quarters), `novelty` (distance in the base from the nearest fitted
            text, in quarters).
        robustness: By contender.
        shift: On items unlike the fitted ones.
        general: By contender.
        errors: By contender.
        versions: Candidate against champion. None where no version was live, or too few rows are judged.
        notes: Sentences on what was not measured, and why.
    """

    schema: int
    kind: str
    primary: str
    contenders: list[str]
    rows: Rows
    metrics: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]
    classification: dict[str, dict[str, Any]] | None
    few_shot: dict[str, FewShotFound] | None
    calibration: dict[str, CalibrationFound] | None
    subgroups: dict[str, dict[str, GroupsFound]]
    robustness: dict[str, RobustnessFound]
    shift: Shift
    general: dict[str, General]
    errors: dict[str, Errors]
    versions: VersionsFound | None
    notes: list[str]
