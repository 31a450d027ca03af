"""What libmtmd makes of a picture: the pinned libmtmd is asked with a placeholder that has the picture's size, so no
pixels and no weights are needed.

Only whether it adds bars or stretches a picture cannot be asked; a table says that for each projector.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from luq_gguf.core.picture_geometry import TILED, Canvas, PictureView, Size, TokenLimits, bars
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.llamacpp.runtime.client import LlamaClient

# Projectors, as clip.projector_type names them, for which a picture in one piece is stretched: image_resize_pad is
# PAD_NONE (tools/mtmd/clip.cpp), or the piece is the overview of tiles, whose image_pad_ov is (clip-model.h). All
# others keep the aspect ratio and have bars.
_STRETCHED = {
    "minimax_m3", "youtuvl", "yasa2", "hunyuanvl", "muse-glimmer",
    "resampler", "minicpmv4_6", "llama4", "internvl", "lfm2", "idefics3",
}  # fmt: skip
_BARS = dict.fromkeys(("mlp", "mlp_norm", "ldp", "ldpv2", "cogvlm"), (122, 116, 104)) | {"janus_pro": (127, 127, 127)}
_OTHERWISE = {"glm5v", "deepseekocr", "deepseekocr2", "deepseek4v"}  # put pictures elsewhere than in the middle
_STACKED = {"granite4_vision"}  # an overview and tiles, all squares, one below the other (tools/mtmd/mtmd-image.cpp)
_CANDIDATES = "clip.vision.image_grid_pinpoints"  # with them LLaVA's projectors have tiles, and an overview too


class LibmtmdEye:
    """libmtmd with a text model's file and an mmproj, of which headers suffice, as a context manager. What it makes of
    a size is asked once. `image_tokens` are --image-min-tokens and --image-max-tokens, None for its own limits. Raises
    RunnerError where the files do not load."""

    def __init__(self, model: Path, mmproj: Path, image_tokens: tuple[int | None, int | None] = (None, None)) -> None:
        metadata = reader.read(mmproj).metadata
        kinds = {metadata.get(key) for key in ("clip.vision.projector_type", "clip.projector_type")}
        self._pads = not kinds & _STRETCHED and not metadata.get(_CANDIDATES)
        self._bars = next((_BARS[kind] for kind in kinds if kind in _BARS), (0, 0, 0))
        self._is_stacked = bool(kinds & _STACKED)
        self._is_known = not kinds & _OTHERWISE
        self._client = LlamaClient(model, mmproj, weights=False, image_tokens=image_tokens)
        self._views: dict[Size, PictureView] = {}

    def __enter__(self) -> LibmtmdEye:
        self._client.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.__exit__(kind, error, trace)

    def view(self, size: Size) -> PictureView:
        """Return what libmtmd makes of a picture of a size."""
        if size not in self._views:
            pieces, n_tokens = self._client.pieces(size)
            if self._is_stacked:
                pieces = ((pieces[0][0],) * 2,) * (pieces[0][1] // pieces[0][0])
            content = bars(size, pieces[0]) if self._pads and len(pieces) == 1 else pieces[0]
            self._views[size] = PictureView.of(size, pieces, n_tokens, content, pads=self._pads)
        return self._views[size]

    def canvas(self, size: Size, resample: str) -> Canvas | None:
        """Return what libmtmd computes of a picture of a size, in pixels; `resample` is the filter that the model's
        family resizes with. None for a picture in tiles, and where it is not known where the picture is put."""
        view = self.view(size)
        if view.how == TILED or not self._is_known:
            return None
        return Canvas(view.size, view.content, resample, self._bars)

    def limits(self, sizes: Iterable[tuple[bool, Size]]) -> TokenLimits | None:
        """Return the fewest and the most tokens of a picture of these sizes, each with whether it is large; None where
        they are the same, so that the size is not dynamic."""
        numbers: dict[bool, list[int]] = {True: [], False: []}
        for is_large, size in sizes:
            numbers[is_large].append(self._client.pieces(size)[1])
        limits = TokenLimits(min(numbers[False]), max(numbers[True]))
        return limits if limits.least < limits.most else None
