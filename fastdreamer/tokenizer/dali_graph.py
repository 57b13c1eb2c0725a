"""The DALI pipelines: one graph that resamples on either device, and NVDEC's decoder. Importing this imports DALI."""

from __future__ import annotations

from typing import Any

import nvidia.dali.fn
import nvidia.dali.math
import nvidia.dali.types

dali: Any = nvidia.dali  # it makes its operators while it is imported, and its stubs know half of them
fn, types = dali.fn, dali.types

WINDOWS, VIDEO = "windows", "video"  # the pipelines' inputs


def resample_graph(windows: Any, frame_size: tuple[int, int], image_size: int, half: bool, device: str) -> Any:
    """uint8 windows FHWC of frame_size (height, width) to [-1, 1] CFHW at image_size, float32 or float16.

    Cubic a=-0.5, antialiased, clamped: `preprocess` of the tokenizer, within 1/255 everywhere. DALI repeats the border
    pixel where the kernel reaches outside; torch and PIL leave those taps out and divide by the rest's sum, which on
    noise differs by up to 26/255. So zeros are put outside, a frame of ones goes the same way, and one is divided by
    the other. Frames that have the size already are only normalised.

    Passes over memory: zeros outside (on uint8 frames, small), the kernel's two, divide and clamp, and
    crop_mirror_normalize, which scales, casts and transposes at once: the result is written once, as the encoder reads
    it. Folding the last two into one by resampling planes instead (CFHW) was slower on a CPU.

    Args:
        device: "cpu" or "gpu", where `windows` are.
    """
    if frame_size != (image_size, image_size):
        ones = fn.constant(idata=1, shape=(1, *frame_size, 1), dtype=types.UINT8, layout="FHWC", device=device)
        inside = _cubic(ones, frame_size, image_size)
        windows = dali.math.clamp(_cubic(windows, frame_size, image_size) / inside, 0.0, 255.0)
    dtype = types.FLOAT16 if half else types.FLOAT
    return fn.crop_mirror_normalize(windows, mean=[127.5] * 3, std=[127.5] * 3, dtype=dtype, output_layout="CFHW")


def _cubic(frames: Any, frame_size: tuple[int, int], image_size: int) -> Any:
    """Frames resampled as if they lay in a field of zeros; float32, not clamped."""
    height, width = frame_size
    # One pixel is enough: what DALI repeats beyond it is zero too.
    padded = fn.crop(frames, crop=(height + 2.0, width + 2.0), out_of_bounds_policy="pad", fill_values=0.0)
    return fn.resize(
        padded,
        size=(image_size, image_size),
        roi_start=(1.0, 1.0),
        roi_end=(height + 1.0, width + 1.0),
        interp_type=types.INTERP_CUBIC,
        antialias=True,
        dtype=types.FLOAT,
    )


def resample_pipeline(
    frame_size: tuple[int, int], image_size: int, half: bool, device_id: int | None, threads: int, batch: int
) -> Any:
    """A built pipeline over `resample_graph`, fed by name, on a GPU or, with device_id None, on the CPU.

    With exec_dynamic every run has buffers of its own, which live as long as somebody holds them. One run at a time:
    each is fed just before it, so there is nothing to prefetch. On a CPU the input is read where it lies; on a GPU
    DALI keeps a copy of the small uint8 input, because it reads on a stream that torch's allocator does not know.
    """
    device = "cpu" if device_id is None else "gpu"
    pipeline = dali.Pipeline(batch, threads, device_id, exec_dynamic=True, prefetch_queue_depth=1, set_affinity=False)
    with pipeline:
        windows = fn.external_source(
            name=WINDOWS, layout="FHWC", dtype=types.UINT8, ndim=4, device=device, no_copy=device == "cpu"
        )
        pipeline.set_outputs(resample_graph(windows, frame_size, image_size, half, device))
    pipeline.build()
    return pipeline


def decode_pipeline(block: int, device_id: int | None, threads: int = 2) -> Any:
    """A pipeline fed one encoded file: every run gives its next `block` frames (the last run fewer), RGB uint8 FHWC.

    NVDEC decodes on a GPU; with device_id None libav does, VP8, VP9 and MJPEG alone.
    """
    device = "cpu" if device_id is None else "mixed"
    pipeline = dali.Pipeline(1, threads, device_id, exec_dynamic=True, prefetch_queue_depth=1, set_affinity=False)
    with pipeline:
        frames = fn.experimental.inputs.video(
            name=VIDEO, device=device, sequence_length=block, last_sequence_policy="partial", affine=False
        )
        pipeline.set_outputs(frames)
    pipeline.build()
    return pipeline
