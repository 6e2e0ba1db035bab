"""KL of allocations of a model that fits in memory several times, measured by running them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import mlx.core as mx
import numpy as np

from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.measurement import Encoder
from bitbudget.app.core.relinearization import Ends
from bitbudget.workers.evaluate import Evaluation
from bitbudget.workers.evaluate.teacher import log_probabilities, score
from bitbudget.workers.fisher.statistics import ModuleStatistics
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.quantize.coding import coded_model, coded_weights, float32_weight

__all__ = ["JUDGING_ROLLOUTS", "PROBING_ROLLOUTS", "Trials"]

PROBING_ROLLOUTS: Final = 8
"""Rollouts that both ends of every group are measured on."""
JUDGING_ROLLOUTS: Final = 24
"""Rollouts, others than those, that whole allocations are compared on: the level on 8 is known to
5 % (one sigma)."""
_SEED: Final = 0xE4D5


class Trials:
    """One original with its rollouts, whose weights are replaced by what allocations store.

    `encoder` codes them; `statistics` are those it needs. Without `judging` rollouts allocations
    can only be probed. `windows`, int32 (sequences, length), take the place of rollouts.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        inventory: Inventory,
        encoder: Encoder,
        statistics: Mapping[str, ModuleStatistics],
        *,
        seed: int,
        judging: int = JUDGING_ROLLOUTS,
        windows: np.ndarray | None = None,
    ) -> None:
        self.checkpoint, self.inventory = checkpoint, inventory
        self.encoder, self.statistics = encoder, statistics
        total = PROBING_ROLLOUTS + judging
        given = {"rollouts": total} if windows is None else {"windows": windows[:total]}
        self._evaluation = Evaluation(checkpoint.folder, **given, seed=seed + _SEED)
        (both,) = self._evaluation.windows.values()
        parts = {"probing": both[:PROBING_ROLLOUTS], "judging": both[PROBING_ROLLOUTS:]}
        self._evaluation.windows = {name: part for name, part in parts.items() if part.size}
        self._taught = self._evaluation.taught
        self._originals: dict[str, np.ndarray] = {}
        self._now: dict[str, Format] = {module.path: KEEP for module in inventory.modules}
        self._coded: dict[str, dict[Format, np.ndarray]] = {}

    def kl(self, formats: Mapping[str, Format]) -> float:
        """Return the KL in nats per token of an allocation on the judging rollouts."""
        self._store(self.inventory.modules, formats)
        return self._kl("judging")

    def probed(self, picks: Sequence[Mapping[str, Format]]) -> Iterator[float]:
        """Yield the KL of every allocation on the probing rollouts.

        A module is coded in all its formats at once, which are held until the last one.
        """
        for module in self.inventory.modules:
            if wanted := {pick[module.path] for pick in picks} - {KEEP}:
                self._coded[module.path] = self._code(module, sorted(wanted))
        for pick in picks:
            self._store(self.inventory.modules, pick)
            yield self._kl("probing")
        self._coded.clear()

    def kl_as_written(self, formats: Mapping[str, Format]) -> float:
        """Return the KL on the judging rollouts of an allocation coded as its checkpoint will be.

        Elsewhere modules are coded each on its own, so that they can be exchanged.
        """
        values = coded_model(
            self.checkpoint, self.inventory, formats, self.encoder, self.statistics
        )
        self._evaluation.original.load_weights(
            [(f"{path}.weight", mx.array(value)) for path, value in values.items()], strict=False
        )
        found = self._kl("judging")
        originals = [
            (f"{m.path}.weight", mx.array(self._original(m))) for m in self.inventory.modules
        ]
        self._evaluation.original.load_weights(originals, strict=False)
        self._now = dict.fromkeys(self._now, KEEP)
        return found

    def ends(
        self, formats: Mapping[str, Format], progress: Callable[[int, int], None] | None = None
    ) -> Ends:
        """Return what each decision group's error costs alone and beside the others."""
        groups = self.inventory.decision_groups()
        everything = self.inventory.modules
        kept = dict.fromkeys(self._now, KEEP)
        total, done = 2 * len(groups), 0
        costs: list[dict[str, float]] = []
        self._store(everything, formats)
        whole = self._kl("probing")
        for others, own in ((formats, kept), (kept, formats)):
            self._store(everything, others)
            found: dict[str, float] = {}
            for name, modules in groups.items():
                self._store(modules, own)
                found[name] = self._kl("probing")
                self._store(modules, others)
                done += 1
                if progress is not None:
                    progress(done, total)
            costs.append(found)
        beside = {name: max(whole - kl, 0.0) for name, kl in costs[0].items()}
        return Ends(whole, alone=costs[1], beside=beside)

    def _kl(self, part: str) -> float:
        model, total, tokens = self._evaluation.original, 0.0, 0
        for batch in self._taught[part]:
            found = score(batch, log_probabilities(model, batch.ids, "a trial allocation")).kl
            total, tokens = total + float(found.sum()), tokens + found.size
        return max(total / tokens, 0.0)

    def _store(self, modules: tuple[Module, ...], formats: Mapping[str, Format]) -> None:
        changed = [m for m in modules if self._now[m.path] != formats[m.path]]
        arrays = [(f"{m.path}.weight", mx.array(self._values(m, formats[m.path]))) for m in changed]
        self._evaluation.original.load_weights(arrays, strict=False)
        self._now |= {module.path: formats[module.path] for module in changed}

    def _values(self, module: Module, format_: Format) -> np.ndarray:
        if format_ == KEEP:
            return self._original(module)
        known = self._coded.get(module.path, {})
        if format_ not in known:
            known = self._coded[module.path] = self._code(module, [format_])
        return known[format_]

    def _code(self, module: Module, formats: Sequence[Format]) -> dict[Format, np.ndarray]:
        known = self.statistics.get(module.path)
        return coded_weights(module, self._original(module), formats, self.encoder, known)

    def _original(self, module: Module) -> np.ndarray:
        if module.path not in self._originals:
            self._originals[module.path] = float32_weight(self.checkpoint, module)
        return self._originals[module.path]
