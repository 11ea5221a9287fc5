"""How large a shift is, with its interval: the measures that decide whether an alarm calls for action."""

from monitoring.alarms import Effect
from monitoring.reference import Reference
from monitoring.statistics import novelty_ratio_interval, total_variation_excess, total_variation_interval
from monitoring.window import Window


def effects(since: Window, reference: Reference, segment: tuple[int, int] | None = None) -> dict[str, Effect]:
    """`novelty_ratio` and `tv_excess` of what was observed since a change; empty for no observation.

    novelty_ratio: rate of novel items over the expected rate; of one segment where its (observations, novel ones) are
    given. tv_excess: total variation of the cells' shares above its null mean. Both with 95 % intervals.
    """
    n, novel = (since.n, since.novel) if segment is None else segment
    n_cal, alpha0 = reference.n_cal, reference.alpha0
    expected = reference.novel_rank / (n_cal + 1)
    found = {}
    if n and expected:
        found["novelty_ratio"] = Effect(novel / n / expected, *novelty_ratio_interval(novel, n, n_cal, alpha0), n)
    if since.n and n_cal:
        excess = total_variation_excess(since.cells, reference.pi, n_cal)
        found["tv_excess"] = Effect(excess, *total_variation_interval(since.cells, reference.pi, n_cal), since.n)
    return found
