"""Whether a candidate's vectors of generic texts have collapsed next to the base's: limits and reasons.

Always on generic rows, never on the training texts: fitting C classes rightly lowers their rank towards C - 1.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from monitoring.geometry import MAX_ROWS, neighbor_overlap, summary
from monitoring.reasons import Reason

OVERLAP_ROWS: Final = 200
"""Below this many rows ten neighbours are too large a share of them for their overlap to mean anything."""


@dataclass(frozen=True, slots=True)
class GeometryLimits:
    """What blocks a candidate, relative to the base on the same rows (a base may be anisotropic itself).

    max_cosine_rise: of the mean random-pair cosine. min_rank_ratio: of the effective rank. max_uniformity_rise: of
    uniformity. max_first_component: share of variance of the first direction, when it also at least doubled.
    max_norm_error: of a vector's length from 1. min_overlap: of the ten nearest neighbours with the base's.
    warn_cosine_rise: said as a warning, not a block. The default recipe's head on Banking77 raises the cosine of
    foreign texts by 0.01 to 0.03 and uniformity by 0.2; a plain linear head fitted hard by 0.2 to 0.5 and 0.7 to 1.3;
    one fitted to scrambled labels by 0.6 to 0.8 and 2.4 to 2.9.
    """

    max_cosine_rise: float = 0.30
    warn_cosine_rise: float = 0.15
    min_rank_ratio: float = 0.50
    max_uniformity_rise: float = 0.80
    max_first_component: float = 0.30
    max_norm_error: float = 1e-3
    min_overlap: float = 0.35


def geometry_reasons(
    candidate: ArrayLike | None, base: ArrayLike | None, limits: GeometryLimits
) -> tuple[bool, list[Reason], dict[str, Any]]:
    """(collapsed, reasons, numbers) of a candidate's vectors (n, d) of the same generic texts as the base's.

    Without generic rows nothing can be said: one reason that is not ok, and not collapsed.
    """
    if candidate is None or base is None or len(np.asarray(base)) < 2:
        return False, [Reason("geometry_unknown", "no generic rows to measure the geometry on", {}, ok=False)], {}
    ours, theirs = np.asarray(candidate, dtype=np.float32)[:MAX_ROWS], np.asarray(base, dtype=np.float32)[:MAX_ROWS]
    if ours.shape[0] != theirs.shape[0]:
        return False, [Reason("geometry_unknown", "candidate and base have different generic rows", {}, ok=False)], {}
    broken = int((~np.isfinite(ours).all(axis=1)).sum())
    if broken:
        text = f"{broken} of {len(ours)} generic vectors hold a NaN or an infinity"
        return True, [Reason("geometry_not_finite", text, {"rows": broken}, ok=False)], {}

    now, before = summary(ours), summary(theirs)
    overlap = neighbor_overlap(ours, theirs) if len(ours) >= OVERLAP_ROWS else None
    findings = [
        _finding("mean_random_pair_cosine", now, before, limits.max_cosine_rise + before["mean_random_pair_cosine"]),
        _finding("uniformity", now, before, limits.max_uniformity_rise + before["uniformity"]),
        _finding(
            "first_component_share", now, before,
            max(limits.max_first_component, 2 * before["first_component_share"]),
        ),
        _finding("max_norm_error", now, before, max(limits.max_norm_error, before["max_norm_error"])),
        _finding("effective_rank", now, before, limits.min_rank_ratio * before["effective_rank"], above=False),
    ]  # fmt: skip
    facts: dict[str, Any] = {"candidate": dict(now), "base": dict(before), "neighbor_overlap": overlap}
    if overlap is not None:
        kept = overlap >= limits.min_overlap
        text = f"{100 * overlap:.0f} % of the ten nearest neighbours are the base's (at least {limits.min_overlap:.0%})"
        findings.append(
            Reason("neighbor_overlap", text, {"value": overlap, "limit": limits.min_overlap}, ok=kept),
        )
    collapsed = [reason for reason in findings if not reason.ok]
    if collapsed:
        return True, collapsed, facts
    text = (
        f"no collapse on {len(ours)} generic rows: mean random-pair cosine {now['mean_random_pair_cosine']:.3f} "
        f"(base {before['mean_random_pair_cosine']:.3f}), effective rank {now['effective_rank']:.0f} "
        f"(base {before['effective_rank']:.0f}), uniformity {now['uniformity']:.2f} (base {before['uniformity']:.2f})"
    )
    numbers = {name: now[name] for name in ("mean_random_pair_cosine", "effective_rank", "uniformity")}
    reasons = [Reason("geometry_kept", text, numbers, ok=True)]
    rise = now["mean_random_pair_cosine"] - before["mean_random_pair_cosine"]
    if rise > limits.warn_cosine_rise:
        text = f"generic texts lie closer together than in the base (mean cosine {rise:+.2f}): keep to this domain"
        reasons.append(Reason("geometry_warning", text, {"rise": rise, "warn": limits.warn_cosine_rise}, ok=True))
    return False, reasons, facts


def _finding(name: str, now: Any, before: Any, limit: float, *, above: bool = True) -> Reason:
    value = float(now[name])
    ok = value <= limit if above else value >= limit
    words = name.replace("_", " ")
    bound = "at most" if above else "at least"
    text = f"on generic texts, {words} is {value:.3g} (base {before[name]:.3g}); {bound} {limit:.3g} is allowed"
    return Reason(f"geometry_{name}", text, {"value": value, "base": float(before[name]), "limit": limit}, ok=ok)
