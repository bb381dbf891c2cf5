"""C2FNet: the two-stage network around any pair of PyTorch segmentation networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from . import _calibration, _checks, _fine_loss, _stages, checkpoint, ops
from ._clock import Clock
from ._fine_loss import FineLoss
from .config import C2FConfig
from .ops.aggregate import OUTPUTS
from .windows import Windows

if TYPE_CHECKING:
    from .engine import Engine

NO_GRAPH: Final = (
    "C2FNet: torch.export and torch.jit.trace would keep the number of patches of one image, which "
    "is decided on the host; export net.coarse and net.fine, and call c2fcore.ops between them"
)


class Details(NamedTuple):
    """What `C2FNet.detailed` returns.

    Attributes:
        labels: uint8 [B, H, W], the refined answer.
        coarse_labels: uint8 [B, H, W], the coarse answer before the second look.
        windows: where the second look went, in full-size pixels.
        seconds: time of each of STAGES; the glue is all but "coarse" and "fine".
    """

    labels: Tensor
    coarse_labels: Tensor
    windows: Windows
    seconds: dict[str, float]


class _Answer(NamedTuple):
    merged: Tensor
    coarse_labels: Tensor | None
    windows: Windows


class C2FNet(nn.Module):
    """Looks twice: a coarse network over the whole image, a fine one where small objects are.

    In eval mode `net(image)` searches the coarse logits for windows with small-object pixels, shows
    these patches (zoomed) to the fine network, and merges both answers. `net.fine_loss(image,
    labels)` trains the fine network. The coarse one is frozen: always in eval mode, without
    gradients.

    Any module will do for either stage; `models.logits_of` lists the output forms. The coarse
    network returns `num_classes` channels at any resolution, the fine one 1 (foreground) or 2
    (background, foreground).

    Sizes are free. The coarse network sees the normalised image, padded with zeros below and on the
    right to the next multiple of its `stride_multiple` (of the config's if it has none), and at
    least to a window. Windows are chosen on the true image alone, so that nothing seen in the
    padding attracts one, and leave it only where the image is smaller than a window. Patches are
    padded likewise for the fine network. The answer has the image's size.

    A batch without any window gets the coarse answer, and the fine network is not run.
    `net.compile()` gives an engine for inference; torch.compile(net) runs it as it is, and says so.

    Attributes:
        coarse: stage 1.
        fine: stage 2; its state_dict holds nothing of stage 1.
        config: may be exchanged for a changed copy: `net.config = net.config.replace(n=64)`.
    """

    def __init__(self, coarse: nn.Module, fine: nn.Module, config: C2FConfig) -> None:
        """Puts two networks together; the coarse one is frozen from here on.

        Raises:
            TypeError: not two modules and a C2FConfig.
            ValueError: the networks share parameters, so that freezing one would freeze the other;
                or one is known to have other channels than it needs.
        """
        super().__init__()
        for name, module in (("coarse", coarse), ("fine", fine)):
            if _checks.network("C2FNet", name, module) is None:
                raise TypeError(f"C2FNet: {name} must be an nn.Module, got None")
        if not isinstance(config, C2FConfig):
            raise TypeError(f"C2FNet: config must be a C2FConfig, got {type(config).__name__}")
        shared = {id(p) for p in coarse.parameters()} & {id(p) for p in fine.parameters()}
        if shared or coarse is fine:
            raise ValueError(
                f"C2FNet: coarse and fine must not share parameters, got {len(shared)} shared"
            )
        for name, module, allowed in (
            ("coarse", coarse, (config.num_classes,)),
            ("fine", fine, (1, 2)),
        ):
            # Networks of models.build know their channels; the others are checked when they answer.
            spec = getattr(module, "c2f_spec", None) or {}
            channels = spec.get("kwargs", {}).get("num_classes", allowed[0])
            if channels not in allowed:
                raise ValueError(
                    f"C2FNet: the {name} network must have {' or '.join(map(str, allowed))} "
                    f"channels, got {channels}"
                )
        self.coarse = coarse
        self.fine = fine
        self.config = config
        self._freeze_coarse()

    def _freeze_coarse(self) -> None:
        self.coarse.eval()
        for parameter in self.coarse.parameters():  # TorchScript has no requires_grad_
            parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> C2FNet:
        """Puts the fine network into training or eval mode; the coarse one stays in eval mode."""
        super().train(mode)
        self._freeze_coarse()
        return self

    def compile(self, **options: Any) -> Engine:  # type: ignore[override]
        """An `Engine` that answers like this network, faster; `Engine` tells the options.

        It works on copies, in eval mode: what is trained afterwards needs a new one. To
        compile a network for training, call `net.fine.compile()`.
        """
        from .engine import Engine

        return Engine(self, **options)

    def fine_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters to train."""
        return self.fine.parameters()

    def forward(
        self, image: Tensor, output: str = "labels", *, labels: Tensor | None = None
    ) -> Tensor:
        """The refined segmentation of a batch, without gradients.

        Logits that are no numbers are read as the ops tell; where all of a pixel are NaN it gets
        class 0. Nothing looks for them: it would cost a pass over the logits at every call, and on
        a GPU a wait. Weights that are no numbers are refused where networks are loaded and by
        `compile`.

        Args:
            image: [B, C, H, W] raw pixel values, uint8/uint16/int16/float16/bfloat16/float32/
                float64; the last is read as float32.
            output: "labels", or "probs" for scores (rule "official": the sums that `ops.aggregate`
                tells).
            labels: if given, `fine_loss(image, labels)` is returned instead, gradients included:
                for wrappers that only call forward(), such as DistributedDataParallel.

        Returns:
            uint8 [B, H, W], or float32 [B, N, H, W].

        Raises:
            RuntimeError: the module, or the fine network by itself, is in training mode.
            ValueError: a shape that does not fit, of the image or of a network's output.
            TypeError: a dtype or an output form that is not known.
            NotImplementedError: called by torch.export or torch.jit.trace.
        """
        if torch.compiler.is_dynamo_compiling():  # of a strict torch.export, too
            from . import _compiled

            answer: Tensor = _compiled.forward(self, image, output, labels)
            return answer
        if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            raise NotImplementedError(NO_GRAPH)
        if labels is not None:
            return self.fine_loss(image, labels)
        return self._infer(image, output, Clock()).merged

    def detailed(self, image: Tensor) -> Details:
        """The refined labels with the coarse ones, the windows and the time of each stage.

        Takes and raises what `forward` does. On a GPU every stage is waited for, which takes
        longer.
        """
        _stages.check_image(image)
        clock = Clock(image.device)
        found = self._infer(image, "labels", clock, keep_coarse=True)
        assert found.coarse_labels is not None
        return Details(found.merged, found.coarse_labels, found.windows, clock.seconds)

    def profile(self, image: Tensor, output: str = "labels") -> tuple[Tensor, dict[str, float]]:
        """The answer of `forward`, and the seconds of each stage as in `Details`."""
        _stages.check_image(image)
        clock = Clock(image.device)
        found = self._infer(image, output, clock)
        return found.merged, clock.seconds

    def fine_loss(
        self, image: Tensor, labels: Tensor, options: FineLoss | None = None, **changes: Any
    ) -> Tensor:
        """Loss of stage 2: is a pixel of a small class or not, inside the windows.

        Binary cross-entropy of the foreground logit (of l1 - l0 for two channels, which is their
        cross-entropy), resized to the labels' native resolution k x k, averaged over all pixels of
        the batch's windows that are not ignored. All patches of the batch pass the fine network at
        once, as batch norm wants it; `n` and the batch size bound the memory. A batch without a
        window gives 0, with zero gradients.

        Args:
            image: [B, C, H, W], as for `forward`.
            labels: [B, H, W] class ids, uint8/int16/int32/int64. `config.ignore_index`, and 255,
                are not counted; other ids outside C are background.
            options: which windows, and the weight of each pixel; `FineLoss()` if not given.
            **changes: fields of `FineLoss` to change, such as windows_from="both".

        Returns:
            A float32 scalar, differentiable in the fine network's parameters.

        Raises:
            ValueError: shapes, devices or options that do not fit.
            TypeError: a dtype or an option that is not known.
        """
        self.coarse.eval()  # even if somebody called net.coarse.train()
        chosen = dataclasses.replace(options or FineLoss(), **changes)
        return _fine_loss.fine_loss(self.coarse, self.fine, self.config, image, labels, chosen)

    def calibrate(self, examples: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        """Sets `fine_slope` and `fine_shift` of the configuration so that p_f means what it says.

        Platt's scaling: among the windows that the second look takes, of the pixels with p_f = 0.8
        close to 80 % shall be small objects. Losses that weigh classes, and windows drawn otherwise
        than at inference, move p_f away from that, and with it what Eq. (1) adds and removes.

        Args:
            examples: batches (image, labels) as `fine_loss` takes them, not augmented; those of the
                training will do.

        Returns:
            Slope and shift; earlier ones are not built on.

        Raises:
            RuntimeError: the module, or the fine network by itself, is in training mode.
            ValueError: no window holds small objects and others, or p_f is no better than chance.
        """
        self._check_eval("calibrate(examples)")
        slope, shift = _calibration.fit(self.coarse, self.fine, self.config, examples)
        self.config = self.config.replace(fine_slope=slope, fine_shift=shift)
        return slope, shift

    def _check_eval(self, purpose: str) -> None:
        """Both networks in eval mode; the fine one may have been put into another by itself.

        Only as a whole: who has its dropout alone draw samples means it.
        """
        self.coarse.eval()
        if self.training or self.fine.training:
            hint = "" if self.training else "; got the fine network in training mode by itself"
            raise RuntimeError(f"C2FNet: call eval() before {purpose}{hint}")

    @torch.no_grad()
    def _infer(
        self, image: Tensor, output: str, clock: Clock, keep_coarse: bool = False
    ) -> _Answer:
        _stages.check_image(image)
        _stages.check_memory("C2FNet", image)
        _checks.choice("C2FNet", "output", output, OUTPUTS)
        self._check_eval("inference, or fine_loss(image, labels) to train")
        config = self.config
        true_size = (image.shape[-2], image.shape[-1])
        with clock.stage("coarse"):
            logits, size = _stages.coarse_logits(self.coarse, image, config)
        with clock.stage("select"):
            frame = _stages.make_frame(image, config)
            windows, labels = _stages.choose_windows(
                logits, size, true_size, frame.size, output == "labels", config
            )
            used: list[int] = windows.num.tolist()  # the one wait for the device
        coarse_labels = None
        if labels is not None and keep_coarse:
            coarse_labels = _stages.crop(labels, true_size).clone()
        if labels is not None and output == "labels" and not any(used):
            return _Answer(_stages.crop(labels, true_size).contiguous(), coarse_labels, windows)
        n = max((1, *used))
        leading = _stages.part(windows, 0, len(used), 0, n)
        fine = self._second_look(frame, leading, used, clock)
        with clock.stage("aggregate"):
            merged: Tensor = ops.aggregate(
                logits,
                fine,
                leading,
                config.small_classes,
                size=size,
                rule=config.rule,
                output=output,
                backend=config.backend,
                _labels=labels if output == "labels" else None,
            )
            merged = _stages.crop(merged, true_size).contiguous()
        return _Answer(merged, coarse_labels, windows)

    def _second_look(
        self, frame: _stages.Frame, windows: Windows, used: list[int], clock: Clock
    ) -> Tensor:
        """Fine logits [B*n, 1 or 2, hf, wf] of the windows, max_batch patches at a time."""
        n = windows.origins.shape[1]
        slots = len(used) * n
        rows = _stages.used_rows(used, n)
        if not rows:
            none = (slots, 1, 1, 1)
            return torch.zeros(none, dtype=torch.float32, device=frame.pixels.device)

        def answers() -> Iterator[Tensor]:
            for start in range(0, len(rows), self.config.max_batch):
                chunk = rows[start : start + self.config.max_batch]
                with clock.stage("extract"):
                    patches = _stages.cut(frame, windows, chunk, self.fine, self.config)
                with clock.stage("fine"):
                    answer = _stages.fine_logits(self.fine, patches, self.config)
                yield answer

        found = _stages.joined(answers(), len(rows))
        if len(rows) == slots:
            return found
        with clock.stage("aggregate"):
            spread = found.new_zeros((slots, *found.shape[1:]))
            spread[torch.tensor(rows, device=found.device)] = found
        return spread

    def save_pretrained(
        self, directory: str | Path, *, include_coarse: bool = True, overwrite: bool = False
    ) -> None:
        """Writes config.json and model.safetensors; see `checkpoint.save`."""
        checkpoint.save(self, directory, include_coarse=include_coarse, overwrite=overwrite)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        coarse: nn.Module | None = None,
        fine: nn.Module | None = None,
        **options: Any,
    ) -> C2FNet:
        """Reads what `save_pretrained` wrote, from a folder or the Hugging Face hub, in eval mode.

        `checkpoint.load` tells the options and the errors.
        """
        coarse, fine, config = checkpoint.load(source, coarse, fine, **options)
        return cls(coarse, fine, config).eval()
