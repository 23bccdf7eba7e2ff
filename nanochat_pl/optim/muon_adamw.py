"""MuonAdamW: one optimizer for a whole GPT, Muon for matrices and AdamW for the rest, at any world size.

Groups of kind "muon" hold 2-D weights. Per step:

    gradient ─► momentum (Nesterov) ─► stack same shapes ─► orthogonalize ─► decay, then add, scaled by shape

Groups of kind "adamw" are textbook AdamW, by torch's fused kernel. A rank works on its part of each parameter: all
of it where ranks are equal, a piece where `sharding.py` says so; whole matrices come together for their
orthogonalization only (`exchange.py`). Saved state belongs to a parameter by its name, never to a stack or a rank.
Which parameter goes where is decided in `training/param_groups.py`, how the rates move in `schedule.py`.

Letters: K matrices of one shape, m rows, n columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from nanochat_pl.optim.exchange import Exchange
from nanochat_pl.optim.ownership import balanced_owners, orthogonalization_cost
from nanochat_pl.optim.sharding import Replicated
from nanochat_pl.system.hardware import has_fast_bf16

# (a, b, c) of each iteration X <- a X + (b A + c A^2) X with A = X X^T: Amsel et al. 2025, arXiv:2505.16932,
# for 5 iterations, safety factor 2e-2, cushion 2.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
NORM_MARGIN = 1.01  # singular values must not exceed 1, whatever rounding does
SMALLEST_NORM = 1e-7  # a zero gradient stays zero

KINDS: dict[str, dict[str, Any]] = {
    "muon": {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.0},
    "adamw": {"lr": 1e-3, "betas": (0.8, 0.95), "eps": 1e-10, "weight_decay": 0.0, "fused": True},
}


def orthogonalize(update: Tensor, steps: int = 5, *, dtype: torch.dtype | None = None) -> Tensor:
    """Replace each matrix by (nearly) the nearest semi-orthogonal one: singular values go to 1, zeros stay.

    Args:
        update: (..., m, n) momentum-averaged gradients, any float dtype. Not modified.
        steps: polar iterations, 1 to 5 (the length of the coefficient table).
        dtype: in which to compute; default bfloat16 where the device is fast at it, else float32.

    Returns:
        (..., m, n) in the dtype of `update`.

    Raises:
        ValueError: `update` has fewer than two dimensions (give vectors to AdamW), or `steps` out of range.

    Source:
        Amsel et al. 2025, arXiv:2505.16932 (coefficients); Jordan 2024 (Muon).
    """
    if update.ndim < 2:
        raise ValueError(
            f"orthogonalize: a tensor of shape {tuple(update.shape)} is no matrix; give vectors to AdamW"
        )
    if not 1 <= steps <= len(POLAR_EXPRESS):
        raise ValueError(f"orthogonalize: steps={steps} is not between 1 and {len(POLAR_EXPRESS)}")
    m, n = update.shape[-2:]
    norm = torch.linalg.matrix_norm(update, keepdim=True)
    x = update / (norm * NORM_MARGIN + SMALLEST_NORM)
    x = x.to(dtype or fast_dtype(update.device)).reshape(-1, m, n)  # (K, m, n)
    x = x.mT if m > n else x  # the Gram matrix is the smaller one
    for a, b, c in POLAR_EXPRESS[:steps]:
        gram = x @ x.mT  # (K, r, r), r = min(m, n)
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    x = x.mT if m > n else x
    return x.reshape(update.shape).to(update.dtype)


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype in which `device` multiplies matrices fastest at sufficient precision."""
    return torch.bfloat16 if has_fast_bf16(device.type) else torch.float32


class MuonAdamW(Optimizer):
    """Muon and AdamW behind one `torch.optim.Optimizer`.

    Parameters without a gradient are skipped: neither weight nor state changes by a bit. All ranks must agree which.

    Args:
        groups: dictionaries with `params` (named or not), `kind` ("muon" or "adamw") and settings of that kind in
            `KINDS`. Further keys, such as `name`, are kept. Rate and decay as given become `initial_lr` and
            `initial_weight_decay`, from which a schedule starts.
        orthogonalize_dtype: in which Muon's iterations compute; default as in `orthogonalize`.
        sharding: how weights, gradients and moments lie on the ranks; default: all of them on each.

    Attributes:
        clip_norm: norm over all averaged gradients above which they are scaled down to it; 0 is off.

    Raises:
        ValueError: a group has no known kind, a number is out of range, a Muon parameter is not a matrix, or
            a parameter has fewer than 32 bits.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        orthogonalize_dtype: torch.dtype | None = None,
        sharding: Replicated | None = None,
    ) -> None:
        self.orthogonalize_dtype = orthogonalize_dtype
        self.sharding = sharding or Replicated()
        self.clip_norm = 0.0
        super().__init__(groups, {})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Check a group, fill in its kind's defaults, add it, and deal everything to the ranks anew."""
        kind = param_group.get("kind")
        if kind not in KINDS:
            raise ValueError(
                f"group {param_group.get('name', '')!r}: kind={kind!r} is not one of {sorted(KINDS)}"
            )
        group = KINDS[kind] | param_group
        group = {"initial_lr": group["lr"], "initial_weight_decay": group["weight_decay"]} | group
        _check_numbers(group)
        super().add_param_group(group)
        _check_parameters(self.param_groups[-1])
        self._owners = _owners(self.param_groups, self.sharding.ranks)
        self._exchanges: dict[tuple[Tensor, ...], Exchange] = {}
        self.sharding.place(self.param_groups, self._owners)

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """Return moments and counts of whole parameters by name, and the settings; equal for every sharding.

        Where moments are spread over ranks all of them must call this. The first gets the state, one parameter after
        the other and in main memory; the others get an empty one.
        """
        state = {
            key: {name: self._whole(name, param, value) for name, value in self.state[param].items()}
            for key, param in self._named()
            if param in self.state
        }
        if self.sharding.rank != 0:
            return {}
        keys = iter([key for key, _ in self._named()])
        groups = [group | {"params": [next(keys) for _ in group["params"]]} for group in self.param_groups]
        return {"state": state, "param_groups": groups}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over moments and counts, this rank's part of each; settings are the configuration's, and a schedule's.

        Args:
            state_dict: of this class at any number of ranks; parameters by name, or by number as torch writes them.

        Raises:
            ValueError: it holds other parameters than this optimizer.
        """
        saved = dict(state_dict["state"])
        self.state.clear()
        for number, (key, param) in enumerate(self._named()):
            values = saved.pop(key, None) or saved.pop(number, None)
            if values:
                self.state[param] = {name: self._own(name, param, value) for name, value in values.items()}
        if saved:
            raise ValueError(
                f"the saved optimizer has parameters this one has not: {sorted(map(str, saved))[:3]}"
            )

    def _named(self) -> list[tuple[Any, Tensor]]:
        """Return every parameter with its name, or its number where it has none."""
        params = [param for group in self.param_groups for param in group["params"]]
        names = [name for group in self.param_groups for name in group.get("param_names", ())]
        return list(zip(names or range(len(params)), params, strict=True))

    def _whole(self, name: str, param: Tensor, value: Tensor) -> Tensor | None:
        return value if name == "step" else self.sharding.whole(param, value)

    def _own(self, name: str, param: Tensor, value: Tensor) -> Tensor:
        if name == "step":
            return torch.as_tensor(value, dtype=torch.float32, device=param.device).clone()
        return self.sharding.own_part(param, value)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: computes loss and gradients; called first, with gradients enabled.

        Returns:
            What the closure returned, None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        self.sharding.reduce(_params_of(work))
        self._clip(_params_of(work))
        for kind, update in (("adamw", self._step_adamw), ("muon", self._step_muon)):
            of_kind = [(group, params) for group, params in work if params and group["kind"] == kind]
            for group, params in of_kind:
                update(params, group)
            self.sharding.publish(_params_of(of_kind))
        self.sharding.finish()
        return loss

    def _clip(self, params: list[Tensor]) -> None:
        """Scale the averaged gradients down to `clip_norm`."""
        if not self.clip_norm or not params:
            return
        gradients = [self.sharding.gradient(param) for param in params]
        squares = torch.stack(torch._foreach_norm(gradients)).square().sum()
        norm = self.sharding.added_up(squares).sqrt()
        torch._foreach_mul_(gradients, (self.clip_norm / (norm + 1e-6)).clamp(max=1.0))

    def _step_muon(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Update matrices, those of one shape together."""
        by_shape: dict[Any, list[Tensor]] = defaultdict(list)
        for param in params:
            by_shape[param.shape, param.device, param.dtype].append(param)
        for stack in by_shape.values():
            self._step_stack(stack, group)

    def _step_stack(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Update K matrices of one shape."""
        momentum, lr = group["momentum"], group["lr"]
        weights = [self.sharding.weight(param) for param in params]
        gradients = [self.sharding.gradient(param) for param in params]
        buffers = [self._momentum_buffer(*pair) for pair in zip(params, weights, strict=True)]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        exchange = self._exchange(tuple(params))
        outbox, parts = exchange.packed(gradients)
        torch._foreach_lerp_(parts, buffers, momentum)  # Nesterov: look one step ahead
        matrices = exchange.to_owners(outbox)  # (k, m, n): all K where nothing is shared out
        if len(matrices):
            matrices = orthogonalize(matrices, dtype=self.orthogonalize_dtype)
        updates = exchange.from_owners(matrices, weights)
        m, n = exchange.shape
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
        torch._foreach_add_(weights, updates, alpha=-lr * max(1.0, m / n) ** 0.5)

    def _exchange(self, params: tuple[Tensor, ...]) -> Exchange:
        """Return the way of matrices of one shape to their owners, planned once."""
        if params not in self._exchanges:
            self._exchanges[params] = Exchange(
                tuple(params[0].shape),
                lambda k, rank: self.sharding.part(params[k], rank),
                [self._owners[param] for param in params],
                self.sharding.rank,
                self.sharding.ranks,
            )
        return self._exchanges[params]

    def _momentum_buffer(self, param: Tensor, weight: Tensor) -> Tensor:
        """Return the running average of a parameter's gradients, zero at first; this rank's part."""
        state = self.state[param]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return state["momentum_buffer"]

    def _step_adamw(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of any shape."""
        weights = [self.sharding.weight(param) for param in params]
        states = [self._moments(*pair) for pair in zip(params, weights, strict=True)]
        gradients = [self.sharding.gradient(param) for param in params]
        beta1, beta2 = group["betas"]
        adamw(
            weights,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            maximize=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
        )

    def _moments(self, param: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Return the moments of this rank's part of a parameter and its count of updates, zero at first."""
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
        return state


def _params_of(work: list[tuple[dict[str, Any], list[Tensor]]]) -> list[Tensor]:
    return [param for _, params in work for param in params]


def _owners(groups: list[dict[str, Any]], ranks: int) -> dict[Tensor, int]:
    """Return which rank orthogonalizes each matrix."""
    matrices = [param for group in groups if group["kind"] == "muon" for param in group["params"]]
    costs = [orthogonalization_cost(*param.shape) for param in matrices]
    return dict(zip(matrices, balanced_owners(costs, ranks), strict=True))


def _check_numbers(group: dict[str, Any]) -> None:
    """Refuse settings no run could mean."""
    where = f"group {group.get('name', group['kind'])!r}"
    for key in ("lr", "weight_decay", "eps"):
        if group.get(key, 0.0) < 0.0:
            raise ValueError(f"{where}: {key}={group[key]} is negative")
    for beta in (group["momentum"],) if group["kind"] == "muon" else group["betas"]:
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"{where}: momentum or beta {beta} is not in [0, 1)")


def _check_parameters(group: dict[str, Any]) -> None:
    """Refuse parameters that the group's kind cannot train well."""
    where = f"group {group.get('name', group['kind'])!r}"
    for param in group["params"]:
        if param.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{where}: a parameter is {param.dtype}, in which small updates are lost; "
                "keep float32 weights and compute in bfloat16 (trainer.precision bf16-mixed)"
            )
        if group["kind"] == "muon" and param.ndim != 2:
            raise ValueError(
                f"{where}: shape {tuple(param.shape)} is no matrix; give it to a group of kind 'adamw'"
            )
