"""How much of an adapter's change is kept: the largest share that does about as well as the best one."""

import math
from collections.abc import Mapping

from monitoring.quality import Scores

SHARES = (0.5, 0.75, 1.0)


def within_one_error(best: Scores, scores: Scores) -> bool:
    """Whether scores (m,) lose no more to the best ones than one standard error of the paired difference.

    The one-standard-error rule (Breiman et al., Classification and Regression Trees, 1984, section 3.4.3).
    """
    lost = best - scores
    return float(lost.mean()) <= float(lost.std()) / math.sqrt(len(lost))


def largest_good(items: Mapping[float, Scores]) -> float:
    """The largest share whose scores are within one error of the best one's: the fit was for the whole of the change.

    Args:
        items: Share -> (m,) scores of the selection items, in one order for all shares.

    Raises:
        ValueError: There are no shares.
    """
    best = max(items.values(), key=lambda scores: float(scores.mean()))
    return max(share for share, scores in items.items() if within_one_error(best, scores))
