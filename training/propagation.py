"""Label propagation: labels of a few texts spread over the graph of nearest neighbours that all texts make together.

Zhou, Bousquet, Lal, Weston and Schoelkopf 2004, "Learning with local and global consistency": with S the symmetrically
normalised graph, `Z <- alpha S Z + (1 - alpha) Y` is repeated, whose limit is `(1 - alpha) (I - alpha S)^-1 Y`. A text
so gets its label from neighbours that may themselves be unlabelled, which reaches further than a vote of labelled ones.
The mass of each label is then brought to its share of the labelled texts (class mass normalisation: Zhu, Ghahramani
and Lafferty, ICML 2003, section 4).
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, diags_array

from monitoring.predictions import Predictions
from monitoring.search import FlatIndex
from training.problem import Indices, Vectors

NEIGHBOURS: Final = 10
ALPHA: Final = 0.95
ROUNDS: Final = 20
SHARPNESS: Final = 3
"""Power of the cosine that is an edge's weight: near neighbours count for much more than middling ones."""
_LEAST: Final = 1e-9


def propagate(labelled: Vectors, labels: Indices, others: Vectors) -> Predictions:
    """What the graph says of texts without a label.

    Args:
        labelled: (n, d) float32 unit rows.
        labels: (n,) their codes, from 0.
        others: (m, d) float32 unit rows.

    Returns:
        Predictions of the m others; its labels are the codes that occur, as strings.
    """
    names = sorted({str(code) for code in labels.tolist()})
    places = {name: place for place, name in enumerate(names)}
    known = np.zeros((len(labelled) + len(others), len(names)), np.float32)
    known[np.arange(len(labelled)), [places[str(code)] for code in labels.tolist()]] = 1.0
    edges = graph(np.concatenate([labelled, others]))
    spread = known
    for _ in range(ROUNDS):
        spread = np.float32(ALPHA) * (edges @ spread) + np.float32(1 - ALPHA) * known
    found = spread[len(labelled) :].astype(np.float64)
    found *= known.mean(axis=0) / np.maximum(found.mean(axis=0), _LEAST)
    return Predictions.of_logits(names, np.log(found + _LEAST))


def graph(vectors: Vectors) -> csr_array:
    """The symmetrically normalised graph (n, n) float32 of each row's NEIGHBOURS nearest others by cosine, no loops."""
    count = len(vectors)
    rows = np.ascontiguousarray(vectors)
    cosines, near = FlatIndex(rows).search(rows, min(NEIGHBOURS + 1, count))
    starts = np.repeat(np.arange(count), near.shape[1])
    weights: npt.NDArray[np.float32] = np.maximum(cosines.ravel(), 0.0) ** SHARPNESS
    apart = near.ravel() != starts
    one_way = csr_array((weights[apart], (starts[apart], near.ravel()[apart])), shape=(count, count))
    both = one_way + one_way.T
    degrees = np.maximum(np.asarray(both.sum(axis=1)).ravel(), _LEAST)
    root = diags_array((1 / np.sqrt(degrees)).astype(np.float32))
    return csr_array(root @ both @ root)
