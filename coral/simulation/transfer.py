"""What weights are made of others': inherited, crossed, put together, cut.

The rules are those of ``coral.training.transfer``, on a few numbers instead of factors. A parent
passes on its progress, its luck and the directions of its update, as far as they fit.

The mean of weights has the mean of their log-errors, less the more they differ: the ambiguity
decomposition, with weights in the place of predictions. Weights from several runs lie apart in a
space of a few dimensions, children near their parents.

Source: Krogh and Vedelsby 1995 (ambiguity); Wortsman et al. 2022 (soups).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from coral.plan import TrainingPlan, adapted_modules, task_shares, training_digest
from coral.ports import Survey, TrainingJob
from coral.records import Inheritance as Account
from coral.rng import stream
from coral.simulation.profile import Inheritance
from coral.simulation.weights import SimulatedWeights

Shares = Sequence[tuple[float, SimulatedWeights]]
"""Weights of a mean, and what they weigh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Weights that were made of others', before any training of their own.

    Attributes:
        account: what was kept.
        keys: whose they were, and what each weighed.
        note: what went another way than usual, in words.
    """

    weights: SimulatedWeights
    account: Account
    keys: tuple[tuple[str, float], ...]
    note: str = ""


def inherited(
    job: TrainingJob, parents: Sequence[SimulatedWeights], belief: Inheritance, survey: Survey
) -> Made:
    """Return what a child has of one parent or two, the better one first."""
    faded = [_faded(job.plan, parent, belief, survey) for parent in parents]
    alone = _alone(job, faded[0], belief, survey)
    if len(faded) == 1:
        return alone
    cross = _blend if job.plan.inheritance.crossover == "blend" else _layers
    crossed = cross(job, faded[0], faded[1], belief, survey)
    if crossed.account.retained_energy >= job.min_retained_energy:
        return crossed
    if job.plan.inheritance.crossover != "blend" or job.plan.inheritance.mixing == 1:
        return alone
    one, two = (item.trial for item in job.inherits)
    note = (
        f"inherits from trial {one} alone: too little of its blend with trial {two} fits into rank"
        f" {job.plan.adapter.rank}"
    )
    return replace(alone, note=note)


def derived(
    job: TrainingJob, sources: Sequence[SimulatedWeights], belief: Inheritance, survey: Survey
) -> Made:
    """Return the weights of a soup or of a squeezed adapter."""
    how, whole = job.derivation, sources[0]
    assert how is not None
    if how.kind == "soup":
        total = sum(item.weight for item in job.inherits)
        shares = [item.weight / total for item in job.inherits]
        whole = blended(list(zip(shares, sources, strict=True)), belief)
    full = whole.ranks(survey)
    spread = belief.spectrum * whole.breadth
    ranks = {
        name: min(rank, how.rank or _rank_for_energy(how.energy or 1.0, rank, spread))
        for name, rank in full.items()
    }
    retained = {name: energy_share(ranks[name], rank, spread) for name, rank in full.items()}
    made = _with_account(job, whole, retained, len(sources), survey, moments=False)
    lost = belief.squeeze_loss * (1 - made.account.retained_energy)
    errors = {task: min(0.0, error + lost) for task, error in whole.errors.items()}
    small = replace(made.weights, rank=max(ranks.values()), errors=errors)
    return replace(made, weights=small)


def energy_share(rank: int, full: int, spread: float) -> float:
    """Return the share of an update's energy that its first ``rank`` directions hold.

    Energy falls exponentially from direction to direction.

    Args:
        full: rank of the update.
        spread: directions over which what is left falls by a factor e.
    """
    return 1.0 if rank >= full else math.expm1(-rank / spread) / math.expm1(-full / spread)


def _rank_for_energy(energy: float, full: int, spread: float) -> int:
    """Return the smallest rank that holds a share of the energy."""
    ranks = range(1, full)
    return next((rank for rank in ranks if energy_share(rank, full, spread) >= energy), full)


def blended(shares: Shares, belief: Inheritance) -> SimulatedWeights:
    """Return the exact mean of weights: the sum of their updates, at the sum of their ranks.

    Log-errors are means too, less a gain that grows with the distance of the weights from their
    mean. Luck averages out, and the energy spreads over more directions.
    """
    present = [(share, weights) for share, weights in shares if share > 0]
    mean = _mean(present)
    distance = sum(
        share * sum((x - middle) ** 2 for x, middle in zip(w.place, mean.place, strict=True))
        for share, w in present
    )
    squares = [share**2 for share, _ in present]
    farthest = 1 - sum(squares)
    unlike = min(1.0, distance / farthest) if len(present) > 1 else 0.0
    count = sum(squares) ** 2 / sum(square**2 for square in squares)
    gain = belief.diversity * distance
    return replace(
        mean,
        breadth=mean.breadth * (1 + (count - 1) * unlike),
        deviation={task: value - gain for task, value in mean.deviation.items()},
        errors={task: error - gain for task, error in mean.errors.items()},
    )


def _mean(shares: Shares) -> SimulatedWeights:
    """Return the mean of weights without what blending gains; progress is a mean on its log."""
    first = shares[0][1]

    def mean_of(values: Sequence[float]) -> float:
        return math.fsum(share * value for (share, _), value in zip(shares, values, strict=True))

    def progress_of(task: str, part: int) -> float:
        return math.expm1(mean_of([math.log1p(w.progress[task][part]) for _, w in shares]))

    return replace(
        first,
        steps=max(w.steps for _, w in shares),
        teraflops=max(w.teraflops for _, w in shares),
        epochs=max(w.epochs for _, w in shares),
        rank=sum(w.rank for _, w in shares),
        parts=tuple(part for _, w in shares for part in w.parts),
        breadth=mean_of([w.breadth for _, w in shares]),
        place=tuple(map(mean_of, zip(*(w.place for _, w in shares), strict=True))),
        has_moments=False,
        shares={task: mean_of([w.shares[task] for _, w in shares]) for task in first.shares},
        progress={task: (progress_of(task, 0), progress_of(task, 1)) for task in first.shares},
        deviation={task: mean_of([w.deviation[task] for _, w in shares]) for task in first.shares},
        errors={task: mean_of([w.errors[task] for _, w in shares]) for task in first.shares},
        overfitted=mean_of([w.overfitted for _, w in shares]),
        luck=tuple(
            replace(luck, share=share * luck.share) for share, w in shares for luck in w.luck
        ),
    )


def _faded(
    plan: TrainingPlan, parent: SimulatedWeights, belief: Inheritance, survey: Survey
) -> SimulatedWeights:
    """Return a parent's weights as they serve a child's plan.

    Progress fades as the plan gives the tasks other shares, and that of heads where they read
    another pooling.
    """
    shares = task_shares(plan.tasks, [task.name for task in survey.tasks])
    moved = sum(abs(share - parent.shares[name]) for name, share in shares.items()) / 2
    kept = belief.kept * (1 - moved)
    pooled = 1.0 if plan.encoding.pooling == parent.pooling else belief.pooling
    progress = {
        task: (head * kept * pooled, adapter * kept)
        for task, (head, adapter) in parent.progress.items()
    }
    return replace(parent, progress=progress)


def _alone(job: TrainingJob, parent: SimulatedWeights, belief: Inheritance, survey: Survey) -> Made:
    own, rank = _own(job.plan, survey), job.plan.adapter.rank
    full = parent.ranks(survey)
    retained = _retained(full, own, rank, belief.spectrum * parent.breadth)
    shrunk = any(rank < full[name] for name in own & full.keys())
    moments = parent.has_moments and not shrunk
    return _with_account(job, parent, retained, 1, survey, moments=moments)


def _blend(
    job: TrainingJob,
    better: SimulatedWeights,
    other: SimulatedWeights,
    belief: Inheritance,
    survey: Survey,
) -> Made:
    mixing = job.plan.inheritance.mixing
    shares = [(mixing, better), (1 - mixing, other)]
    whole = blended(shares, belief)
    own, rank = _own(job.plan, survey), job.plan.adapter.rank
    retained = _retained(whole.ranks(survey), own, rank, belief.spectrum * whole.breadth)
    parents = sum(share > 0 for share, _ in shares)
    return _with_account(job, whole, retained, parents, survey, moments=False)


def _layers(
    job: TrainingJob,
    better: SimulatedWeights,
    other: SimulatedWeights,
    belief: Inheritance,
    survey: Survey,
) -> Made:
    """Return a child with every layer whole from one of its parents, and the better one's heads."""
    own, rank = _own(job.plan, survey), job.plan.adapter.rank
    keys = [item.key for item in job.inherits]
    rng = stream(job.seed, "layers", training_digest(job.plan), *keys)
    take_other = {n for n in range(survey.depth) if rng.random() >= job.plan.inheritance.mixing}
    from_other = {m.name for m in survey.linear_modules if m.layer in take_other}
    full = {name: r for name, r in better.ranks(survey).items() if name not in from_other}
    others = {name: r for name, r in other.ranks(survey).items() if name in from_other}
    kept = _retained(full, own, rank, belief.spectrum * better.breadth)
    added = _retained(others, own, rank, belief.spectrum * other.breadth)
    widths = _widths(survey)
    ours, theirs = (sum(widths[n] * s for n, s in part.items()) for part in (kept, added))
    share = ours / (ours + theirs) if theirs else 1.0
    used = [(s, weights) for s, weights in ((share, better), (1 - share, other)) if s > 0]
    mean = _mean(used)
    progress = {
        task: (better.progress[task][0], adapter) for task, (_, adapter) in mean.progress.items()
    }
    shrunk = any(rank < r for name, r in (full | others).items() if name in own)
    moments = not shrunk and any(weights.has_moments for _, weights in used)
    steps = max(better.steps, mean.steps)  # its heads alone have seen all of the better one's
    return _with_account(
        job,
        replace(mean, progress=progress, steps=steps),
        kept | added,
        2 if theirs else 1,
        survey,
        moments=moments,
    )


def _own(plan: TrainingPlan, survey: Survey) -> set[str]:
    """Return the modules that a plan adapts."""
    modules = [(module.name, module.layer) for module in survey.linear_modules]
    return set(adapted_modules(plan.adapter, modules, survey.depth))


def _retained(full: Mapping[str, int], own: set[str], rank: int, spread: float) -> dict[str, float]:
    """Return by module the share of its energy that fits into ``rank``; 0 for modules not kept."""
    shares = {each: energy_share(rank, each, spread) for each in set(full.values())}
    return {name: shares[each] if name in own else 0.0 for name, each in full.items()}


def _widths(survey: Survey) -> dict[str, int]:
    """Return what modules weigh: their updates have about as much energy as they have features."""
    return {m.name: m.in_features + m.out_features for m in survey.linear_modules}


def _with_account(
    job: TrainingJob,
    whole: SimulatedWeights,
    retained: Mapping[str, float],
    parents: int,
    survey: Survey,
    *,
    moments: bool,
) -> Made:
    """Return weights of which a share is retained; the adapter's progress shrinks with it."""
    widths = _widths(survey)
    total = sum(widths[name] for name in retained)
    kept = sum(widths[name] * share for name, share in retained.items())
    energy = kept / total if total else 1.0
    return Made(
        weights=replace(
            whole,
            progress={task: (head, energy * own) for task, (head, own) in whole.progress.items()},
            has_moments=moments,
        ),
        account=Account(
            retained_energy=energy,
            by_module={name: round(share, 6) for name, share in retained.items()},
            sources=tuple(item.trial for item in job.inherits[:parents]),
            moments_kept=moments,
        ),
        keys=tuple((item.key, item.weight) for item in job.inherits),
    )
